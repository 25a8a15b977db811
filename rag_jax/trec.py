"""Ranked lists, and run and qrels files in TREC format.

A run file has lines `question Q0 document rank score tag`, one per retrieved
document. A qrels file has lines `question 0 document grade`, one per gold
document. trec_eval, ir-measures and other tools read both.
"""

import dataclasses
import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from rag_jax import types
from rag_jax.ops import grouping

# White space and control characters, and '%' before two hexadecimal digits.
_UNSAFE = re.compile(r'[\s\x00-\x1f\x7f]|%(?=[0-9A-Fa-f]{2})')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
  """The ranking of a system for n questions, best document first.

  Attributes:
    rows: int[n, K], rows of documents in the corpus.
    scores: float32[n, K], scores by the system, non-increasing along a row.
    where: bool[n, K], True = a returned document.
  """

  rows: np.ndarray
  scores: np.ndarray
  where: np.ndarray

  def __post_init__(self) -> None:
    """Raises a ValueError if scores increase along a row or are not finite."""
    low = np.where(self.where, self.scores, np.inf)
    least = np.minimum.accumulate(low, axis=1)
    rises = self.where & (self.scores > least)
    if rises.any() or not np.isfinite(self.scores[self.where]).all():
      raise ValueError(
        'scores of a run must be finite and must not increase along a row, got '
        f'{self.scores[rises.any(axis=1)][:1].tolist()}. Sort the documents by '
        'score.'
      )


def groups(
  documents: Sequence[types.Document | None],
) -> np.ndarray | None:
  """Row -> first row of the same document, int32[N]; None without passages.

  Example:
    >>> documents = [
    ...   types.Document(id='a#1', text='x', parent='a'),
    ...   types.Document(id='b', text='y'),
    ...   types.Document(id='a#2', text='z', parent='a'),
    ... ]
    >>> groups(documents).tolist()
    [0, 1, 0]
  """
  if not any(d is not None and d.parent for d in documents):
    return None
  first: dict[str, int] = {}
  rows = np.arange(len(documents), dtype=np.int32)
  for row, document in enumerate(documents):
    if document is not None:
      rows[row] = first.setdefault(document.source, row)
  return rows


def by_document(run: Run, groups: np.ndarray | None, *, depth: int = 0) -> Run:
  """A ranking of documents from one of passages: the best passage counts.

  Args:
    run: rankings of n questions.
    groups: from `groups`; None returns the rankings.
    depth: maximum documents per question; 0 = all.

  Returns:
    The rankings with the first row of each document, and the score of its best
    passage; no document occurs twice.

  Example:
    >>> run = Run(
    ...   rows=np.array([[2, 0, 1]]), scores=np.array([[3.0, 2.0, 1.0]]),
    ...   where=np.array([[True, True, True]]),
    ... )
    >>> found = by_document(run, np.array([0, 1, 0]))
    >>> found.rows[found.where].tolist(), found.scores[found.where].tolist()
    ([0, 1], [3.0, 1.0])
  """
  if groups is None:
    return run
  rows, places = grouping.by_group(np.where(run.where, run.rows, -1), groups)
  kept = slice(depth or None)
  scores = np.take_along_axis(run.scores, places, axis=1)
  return Run(
    rows=rows[:, kept], scores=scores[:, kept], where=rows[:, kept] >= 0
  )


def run_lines(
  run: Run,
  questions: Sequence[types.Question],
  documents: Sequence[types.Document | None],
  *,
  tag: str,
) -> Iterator[str]:
  """Yields the lines of a run file.

  Tools sort by score and break ties by the id of the document, some in
  ascending order (MS MARCO) and some in descending order (trec_eval). Ties are
  therefore written with slightly decreasing scores, so that every tool keeps
  the order of the system; see `strictly_falling`.

  Args:
    run: rankings of n questions.
    questions: n questions.
    documents: the corpus, by row; a passage is written as its document.
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
  names = [None if d is None else escape(d.source) for d in documents]
  rows, scores = run.rows.tolist(), run.scores.astype(np.float32)
  for place, question in enumerate(questions):
    where = run.where[place]
    kept = [row for row, real in zip(rows[place], where, strict=True) if real]
    start = f'{escape(question.id)} Q0'
    falling = strictly_falling(scores[place][where]).tolist()
    for rank, (row, score) in enumerate(zip(kept, falling, strict=True), 1):
      # Nine digits represent a float32 exactly.
      yield f'{start} {names[row]} {rank} {score:.9g} {tag}\n'


def qrels_lines(
  questions: Iterable[types.Question],
  documents: Iterable[types.Document | None],
) -> Iterator[str]:
  """Yields the lines of a qrels file.

  Args:
    questions: questions with gold documents and optional grades; default 1.
    documents: the corpus; gold documents that are not in it are left out, and a
      passage is written as its document.

  Example:
    >>> question = types.Question(
    ...   id='q', text='Who?', document_ids=('b', 'a'), grades=(2, 1)
    ... )
    >>> documents = [types.Document(id=x, text=x) for x in ('a', 'b')]
    >>> print(''.join(qrels_lines([question], documents)), end='')
    q 0 b 2
    q 0 a 1
  """
  sources = {d.id: d.source for d in documents if d is not None}
  for question in questions:
    found: dict[str, int] = {}
    for name, grade in grades(question).items():
      if name in sources:
        source = sources[name]
        found[source] = max(grade, found.get(source, grade))
    for name, grade in found.items():
      yield f'{escape(question.id)} 0 {escape(name)} {grade}\n'


def grades(question: types.Question) -> dict[str, int]:
  """Id -> relevance grade of each gold document of a question."""
  names = question.document_ids
  return dict(zip(names, question.grades or (1,) * len(names), strict=False))


def strictly_falling(scores: np.ndarray) -> np.ndarray:
  """Makes scores strictly decreasing.

  Args:
    scores: float32[K], non-increasing.

  Returns:
    float32[K]: the scores; each one that is not below its predecessor becomes
    the next smaller float32.

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
  """An id as one field, with white space percent-encoded as in a URL.

  Distinct ids stay distinct; `urllib.parse.unquote` restores them.

  Example:
    >>> escape('New York#3'), escape('100%'), escape('a%20b')
    ('New%20York#3', '100%', 'a%2520b')
  """
  return _UNSAFE.sub(
    lambda found: ''.join(f'%{byte:02X}' for byte in found[0].encode()), name
  )
