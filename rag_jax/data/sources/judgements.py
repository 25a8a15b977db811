"""Relevance judgements (qrels): tab-separated as in BEIR, or TREC's columns."""

import pathlib
import re
from collections.abc import Callable, Container, Iterator, Mapping

from rag_jax import types
from rag_jax.data import text_files, text_io
from rag_jax.data.sources import base

_GRADE = re.compile(r'[+-]?[0-9]{1,9}(\.0*)?')
_NUMBER = re.compile(r'[+-]?([0-9.]+(e[+-]?[0-9]+)?|inf|nan|infinity)', re.I)


def read(
  path: pathlib.Path, max_gib: float, is_known: Callable[[str, str], bool]
) -> Iterator[tuple[str, str, str, int]]:
  """Yields (location, query id, document id, grade); skips a header.

  A line has query id, document id and grade with tabs between, or TREC's four
  columns: query id, 0, document id and grade, with any white space between.

  Args:
    path: the file.
    max_gib: as in `text_files.open`.
    is_known: whether a query or a document has such an id. The first line is a
      header if it has no number as the last of its fields and no known id.
  """
  for number, line in text_files.lines(path, max_gib):
    where = f'data file {str(path)!r} line {number}'
    if not line.strip():
      continue
    fields = [field.strip() for field in line.split('\t')]
    if len(fields) == 1:
      fields = line.split() if len(line.split()) == 4 else fields
    if len(fields) == 4:
      del fields[1]
    if len(fields) != 3 or not _NUMBER.fullmatch(fields[2]):
      if number == 1 and len(fields) == 3 and not is_known(*fields[:2]):
        continue
      raise ValueError(
        f'{where} must be query-id, corpus-id and score with tabs between '
        "(or TREC's four columns), "
        f'got {line.rstrip()[:60]!r}. Correct that line.'
      )
    query, document, score = fields
    if not _GRADE.fullmatch(score):  # TREC qrels have integer grades
      raise ValueError(
        f'{where}: the score must be a whole number of at most 9 digits, got '
        f'{text_files.short(score)}. Correct that line.'
      )
    yield where, query, document, int(float(score))


def judged(
  path: pathlib.Path,
  options: base.Options,
  questions: Mapping[str, types.Question],
  documents: Container[str],
  references: base.References,
  *,
  names: tuple[str, str],
) -> list[types.Question]:
  """The questions of a file of judgements, with their gold documents.

  A document of grade 0 or less is not gold, and need not be in the corpus.

  Args:
    path: the file.
    options: the maximum size.
    questions: id -> question.
    documents: ids of the corpus.
    references: checks the ids.
    names: what defines questions and documents, for errors.

  Returns:
    The questions in the order of the file.

  Raises:
    ValueError: for a malformed line, an unknown id, or two grades of one pair.
  """

  def is_known(query: str, document: str) -> bool:
    return query in questions or document in documents

  gold: dict[str, dict[str, int]] = {}
  rows = read(path, options.max_file_gib, is_known)
  for where, query, document, grade in rows:
    if not references.known('question', query, questions, where, names[0]):
      continue
    own = gold.setdefault(query, {})
    if grade > 0 and not references.known(
      'document', document, documents, where, names[1]
    ):
      continue
    if own.setdefault(document, grade) != grade:
      raise ValueError(
        f'{where}: the score of {query!r} and {document!r} was '
        f'{own[document]} before, got {grade}. Remove one of the lines.'
      )
  return [
    text_io.with_gold(
      questions[query], {d: grade for d, grade in own.items() if grade > 0}
    )
    for query, own in gold.items()
  ]
