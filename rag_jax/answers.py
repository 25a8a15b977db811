"""What a question gets from a system, as plain Python values."""

import dataclasses
import math
from typing import Any

from rag_jax import types


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
  """A document that was decoded and ranked.

  Attributes:
    document: the document.
    codes: its docid.
    log_probability: of the docid, nats, as the ID decoder scores it.
    score: the ranker's, nats.
    weight: its share of the answer, 0 to 1; all candidates' sum to 1.
  """

  document: types.Document
  codes: tuple[int, ...]
  log_probability: float
  score: float
  weight: float

  def to_dict(self, *, text: bool = True) -> dict[str, Any]:
    """The candidate as values that JSON has.

    Args:
      text: whether the document's text is in it; its id and title always are.

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
    question: what was asked.
    text: the answer; '' if the system abstained or has no trained reader.
    probability: of the answer, 0 to 1, given also where it was withheld.
    abstained: whether no answer is given.
    document: the document that the answer is from; of a reader that mixes
      documents, the one with the largest weight; None without a reader.
    span: first character of the answer in `document.text`, and the one past
      its last; None if it was written, or stands in the title.
    candidates: the documents, largest weight first.
  """

  question: str
  text: str
  probability: float
  abstained: bool
  document: types.Document | None
  span: tuple[int, int] | None
  candidates: tuple[Candidate, ...]

  def to_dict(self, *, text: bool = True) -> dict[str, Any]:
    """The answer as values that JSON has, for `json.dumps`.

    Args:
      text: whether the documents' texts are in it; ids and titles always are.

    Returns:
      The fields by name, but `text` is called 'answer'; `span` is a list of
      two numbers or None.

    Example:
      >>> document = types.Document(id='a', text='A cat sleeps.')
      >>> Answer(
      ...   question='Who sleeps?', text='cat', probability=0.75,
      ...   abstained=False, document=document, span=(2, 5), candidates=(),
      ... ).to_dict()  # doctest: +NORMALIZE_WHITESPACE
      {'question': 'Who sleeps?', 'answer': 'cat', 'probability': 0.75,
       'abstained': False,
       'document': {'id': 'a', 'title': '', 'text': 'A cat sleeps.'},
       'span': [2, 5], 'candidates': []}
    """
    cited = self.document
    return {
      'question': self.question,
      'answer': self.text,
      'probability': _number(self.probability),
      'abstained': self.abstained,
      'document': None if cited is None else _document(cited, text),
      'span': None if self.span is None else list(self.span),
      'candidates': [own.to_dict(text=text) for own in self.candidates],
    }


def _document(document: types.Document, text: bool) -> dict[str, str]:
  """What is shown of a document."""
  own = {'id': document.id, 'title': document.title}
  return own | {'text': document.text} if text else own


def _number(value: float) -> float | None:
  """The float32 in the nine digits that it has; None where JSON has none."""
  return float(f'{value:.9g}') if math.isfinite(value) else None
