"""Ranked lists, and the files in which TREC's tools exchange them.

A run file has a line a document, `question Q0 document rank score tag`; a qrels
file a line a gold document, `question 0 document grade`. trec_eval, ir-measures
and others read both.
"""

import dataclasses
import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from rag_jax import types

# What would end a field, and what could be taken for an escape.
_UNSAFE = re.compile(r'[\s\x00-\x1f\x7f]|%(?=[0-9A-Fa-f]{2})')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
  """What a system returned for n questions, best first.

  Attributes:
    rows: int[n, K], rows of documents in the corpus.
    scores: float32[n, K], the system's own; they do not rise along a row.
    where: bool[n, K], True = a document that was returned.
  """

  rows: np.ndarray
  scores: np.ndarray
  where: np.ndarray

  def __post_init__(self) -> None:
    """Raises a ValueError if the scores are no order of the documents."""
    low = np.where(self.where, self.scores, np.inf)
    least = np.minimum.accumulate(low, axis=1)
    rises = self.where & (self.scores > least)
    if rises.any() or not np.isfinite(self.scores[self.where]).all():
      raise ValueError(
        'scores of a run must be finite and fall from the first document to '
        f'the last, got {self.scores[rises.any(axis=1)][:1].tolist()}. Sort '
        'the documents by score.'
      )


def run_lines(
  run: Run,
  questions: Sequence[types.Question],
  documents: Sequence[types.Document | None],
  *,
  tag: str,
) -> Iterator[str]:
  """Lines of a run file.

  Tools sort by score, and order equal scores by the id of the document, some
  upwards (MS MARCO's) and some downwards (trec_eval). A score that is not below
  the one before it is therefore written as the next smaller float32, so that
  every tool sees the order in which the system returned the documents.

  Args:
    run: n rows.
    questions: n of them.
    documents: the corpus, by row.
    tag: name of the system, without white space.

  Example:
    >>> run = Run(
    ...   rows=np.array([[1, 0]]),
    ...   scores=np.array([[2.5, 1.0]], np.float32),
    ...   where=np.array([[True, True]]),
    ... )
    >>> questions = [types.Question(id='q', text='Who barks?')]
    >>> documents = [types.Document(id=x, text=x) for x in ('cat', 'a dog')]
    >>> print(''.join(run_lines(run, questions, documents, tag='BM25')), end='')
    q Q0 a%20dog 1 2.5 BM25
    q Q0 cat 2 1 BM25
  """
  names = [None if d is None else escape(d.id) for d in documents]
  rows, scores = run.rows.tolist(), run.scores.astype(np.float32)
  for place, question in enumerate(questions):
    own = run.where[place]
    kept = [row for row, real in zip(rows[place], own, strict=True) if real]
    start = f'{escape(question.id)} Q0'
    falling = strictly_falling(scores[place][own]).tolist()
    for rank, (row, score) in enumerate(zip(kept, falling, strict=True), 1):
      # Nine digits tell any two float32 apart.
      yield f'{start} {names[row]} {rank} {score:.9g} {tag}\n'


def qrels_lines(
  questions: Iterable[types.Question], names: Iterable[str]
) -> Iterator[str]:
  """Lines of a qrels file.

  Args:
    questions: with their gold documents and perhaps grades; 1 otherwise.
    names: ids of the documents that can be found; others are left out.

  Example:
    >>> question = types.Question(
    ...   id='q', text='Who?', document_ids=('b', 'a'), grades=(2, 1)
    ... )
    >>> print(''.join(qrels_lines([question], ['a', 'b'])), end='')
    q 0 b 2
    q 0 a 1
  """
  known = frozenset(names)
  for question in questions:
    for name, grade in grades(question).items():
      if name in known:
        yield f'{escape(question.id)} 0 {escape(name)} {grade}\n'


def grades(question: types.Question) -> dict[str, int]:
  """The grade of each gold document of a question, by its id."""
  names = question.document_ids
  return dict(zip(names, question.grades or (1,) * len(names), strict=False))


def strictly_falling(scores: np.ndarray) -> np.ndarray:
  """Scores of which none is as large as the one before.

  Args:
    scores: float32[K], not rising.

  Returns:
    float32[K]: the scores, or the next smaller numbers where they are equal.

  Example:
    >>> found = strictly_falling(np.array([2, 1, 1, 0], np.float32))
    >>> [f'{score:.9g}' for score in found.tolist()]
    ['2', '1', '0.99999994', '0']
  """
  if (np.diff(scores) < 0).all():
    return scores
  found = scores.copy()
  for place in range(1, len(found)):
    below = np.nextafter(found[place - 1], np.float32(-np.inf))
    found[place] = min(found[place], below)
  return found


def escape(name: str) -> str:
  """An id as one field: white space is written as in a URL.

  No two ids become equal, and `urllib.parse.unquote` gives them back.

  Example:
    >>> escape('New York#3'), escape('100%'), escape('a%20b')
    ('New%20York#3', '100%', 'a%2520b')
  """
  return _UNSAFE.sub(
    lambda found: ''.join(f'%{byte:02X}' for byte in found[0].encode()), name
  )
