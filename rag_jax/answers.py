"""Answers and retrieved documents as plain Python values."""

import dataclasses
import math
from typing import Any

from rag_jax import types


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
  """A retrieved document with its scores.

  Attributes:
    document: the document.
    codes: its docid.
    log_probability: log-probability of the docid by the ID decoder, nats.
    score: score by the ranker, nats.
    weight: weight by the ranker, 0 to 1; those of a question sum to 1.
  """

  document: types.Document
  codes: tuple[int, ...]
  log_probability: float
  score: float
  weight: float

  def to_dict(self, *, text: bool = True) -> dict[str, Any]:
    """The candidate as JSON-serialisable values.

    Args:
      text: whether to include the text of the document, beside id and title.

    Example:
      >>> document = types.Document(id='a', title='Cats', text='A cat sleeps.')
      >>> Candidate(
      ...   document=document, codes=(3, 1), log_probability=-0.5, score=2.0,
      ...   weight=1.0,
      ... ).to_dict(text=False)  # doctest: +NORMALIZE_WHITESPACE
      {'document': {'id': 'a', 'title': 'Cats'}, 'codes': [3, 1],
       'log_probability': -0.5, 'score': 2.0, 'weight': 1.0}
    """
    return {
      'document': _document(self.document, text),
      'codes': list(self.codes),
      'log_probability': _number(self.log_probability),
      'score': _number(self.score),
      'weight': _number(self.weight),
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
  """The answer to one question.

  Attributes:
    question: the question.
    text: the answer; '' if the system abstained or has no trained reader.
    probability: of the best answer, 0 to 1, even if the system abstained.
    abstained: whether the system gave no answer.
    document: the document with the answer; for a reader that generates from
      all documents, the one with the largest weight; None without a trained
      reader.
    span: start and end (exclusive) of the answer in `document.text`,
      characters; None if the answer was generated or is in the title.
    candidates: the retrieved documents, largest weight first.
    notes: what of the question was not used, if anything.
    score: calibrated probability that the best answer is right; None without a
      calibrator.
    certified: whether the certificate covers the answer; None without one.
    cited: documents 1, 2, ... that the marks [1], [2], ... in the answer cite;
      empty for a reader without citations.
  """

  question: str
  text: str
  probability: float
  abstained: bool
  document: types.Document | None
  span: tuple[int, int] | None
  candidates: tuple[Candidate, ...]
  notes: tuple[str, ...] = ()
  score: float | None = None
  certified: bool | None = None
  cited: tuple[types.Document, ...] = ()

  def to_dict(self, *, text: bool = True) -> dict[str, Any]:
    """The answer as JSON-serialisable values.

    Args:
      text: whether to include texts of documents, beside ids and titles.

    Returns:
      The fields by name, except that `text` is called 'answer'; `span` is a
      list of two numbers or None.

    Example:
      >>> document = types.Document(id='a', text='A cat sleeps.')
      >>> Answer(
      ...   question='Who sleeps?', text='cat', probability=0.75,
      ...   abstained=False, document=document, span=(2, 5), candidates=(),
      ... ).to_dict()  # doctest: +NORMALIZE_WHITESPACE
      {'question': 'Who sleeps?', 'answer': 'cat', 'probability': 0.75,
       'score': None, 'certified': None, 'abstained': False,
       'document': {'id': 'a', 'title': '', 'text': 'A cat sleeps.'},
       'span': [2, 5], 'cited': [], 'candidates': [], 'notes': []}
    """
    source = self.document
    return {
      'question': self.question,
      'answer': self.text,
      'probability': _number(self.probability),
      'score': None if self.score is None else _number(self.score),
      'certified': self.certified,
      'abstained': self.abstained,
      'document': None if source is None else _document(source, text),
      'span': None if self.span is None else list(self.span),
      'cited': [_document(document, text) for document in self.cited],
      'candidates': [c.to_dict(text=text) for c in self.candidates],
      'notes': list(self.notes),
    }


def unanswered(question: str, candidates: tuple[Candidate, ...]) -> Answer:
  """The answer of a system without a trained reader."""
  return Answer(
    question=question,
    text='',
    probability=0.0,
    abstained=True,
    document=None,
    span=None,
    candidates=candidates,
  )


def _document(document: types.Document, text: bool) -> dict[str, str]:
  """Id, title and, if wanted, text of a document."""
  fields = {'id': document.id, 'title': document.title}
  if document.parent:
    fields['parent'] = document.parent
  return fields | {'text': document.text} if text else fields


def _number(value: float) -> float | None:
  """A float32 with its nine digits; None if not finite, as JSON requires."""
  return float(f'{value:.9g}') if math.isfinite(value) else None
