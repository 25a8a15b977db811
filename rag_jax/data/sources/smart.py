"""SMART collections, such as Cranfield and CACM: .I, .T, .W and qrels."""

import collections
import dataclasses
import gzip
import pathlib
import re
import zlib
from collections.abc import Iterator

from rag_jax import types
from rag_jax.data import text_files, text_io
from rag_jax.data.sources import base

_BEST = 5  # Cranfield's grades are 1 (best) to 4, and 5 for no interest
Record = tuple[str, str, dict[str, str]]  # location, id, field -> text


def find(folder: pathlib.Path) -> list[pathlib.Path]:
  """The files of a folder that begin with .I and a number."""
  found = []
  for path in sorted(folder.iterdir()):
    if not path.is_file() or path.suffix == '.zst':
      continue
    try:
      with (gzip.open if path.suffix == '.gz' else open)(path, 'rb') as file:
        begins = file.read(16)
    except (OSError, EOFError, zlib.error):  # its reader says what is wrong
      continue
    if re.match(rb'\.I\s+\d+', begins):
      found.append(path)
  return found


def read(folder: pathlib.Path, options: base.Options) -> base.Content:
  """Reads documents, queries and qrels of a folder; all queries are 'test'.

  Raises:
    ValueError: if there is not one file of documents and one of queries.
  """
  files = find(folder)
  queries = [p for p in files if re.search('qry|quer', p.name.lower())]
  corpora = [path for path in files if path not in queries]
  if len(corpora) != 1 or len(queries) > 1:
    names = ', '.join(path.name for path in files) or 'none'
    raise ValueError(
      f'data.path {str(folder)!r} must hold one SMART file of documents and at '
      f'most one of queries, with qry or query in its name, got {names}. '
      'Move other files away.'
    )
  notes: list[str] = []
  documents = [
    types.Document(id=name, title=fields.get('T', ''), text=fields.get('W', ''))
    for _, name, fields in _records(corpora[0], options)
  ]
  notes += _unread(corpora[0], options)
  if not queries:
    return base.Content(documents=documents, notes=notes)
  questions = [
    types.Question(id=name, text=fields.get('W') or fields.get('T', ''))
    for _, name, fields in _records(queries[0], options)
  ]
  references = base.References(options)
  known = {document.id for document in documents}
  for path in sorted(folder.iterdir()):
    name = path.name.lower()
    if 'rel' in name and 'readme' not in name and path not in files:
      questions = _judged(
        path, options, questions, known, references, corpora[0].name, notes
      )
      break
  return base.Content(
    documents=documents,
    splits={'test': questions},
    notes=[*notes, *references.notes()],
  )


def _records(path: pathlib.Path, options: base.Options) -> Iterator[Record]:
  """Yields the records of a file, each with its fields."""
  where, name, letter = '', '', ''
  fields: dict[str, list[str]] = {}
  for number, line in text_files.lines(path, options.max_file_gib):
    head = re.match(r'\.I\s+(\S+)\s*$', line)
    if head:
      if where:
        yield where, name, _joined(fields)
      where = f'data file {str(path)!r} line {number}'
      # Queries of Cranfield are numbered 001, its documents 1.
      name = head[1].lstrip('0') or head[1]
      fields, letter = {}, ''
    elif re.match(r'\.[A-Z]\s*$', line):
      letter = line[1]
    elif letter:
      fields.setdefault(letter, []).append(line.strip())
  if where:
    yield where, name, _joined(fields)


def _joined(fields: dict[str, list[str]]) -> dict[str, str]:
  return {key: ' '.join(lines).strip() for key, lines in fields.items()}


def _unread(path: pathlib.Path, options: base.Options) -> Iterator[str]:
  """A note on the fields that are no text."""
  counts = collections.Counter(
    key for _, _, own in _records(path, options) for key in own
  )
  others = sorted(counts.keys() - {'T', 'W'})
  if others:
    yield (
      f'Of {path.name} the fields .T (title) and .W (text) are read, not '
      f'{", ".join(f".{key}" for key in others)}.'
    )


def _judged(
  path: pathlib.Path,
  options: base.Options,
  questions: list[types.Question],
  documents: set[str],
  references: base.References,
  source: str,
  notes: list[str],
) -> list[types.Question]:
  """The questions with the gold documents of a file of qrels.

  Lines are `query document grade`, with 1 the best grade of up to 4 or 5;
  `query document 0 0` without grades, as in CACM; or TREC's `query 0 document
  grade`. Queries are numbered by .I, or else by their order in the file.
  """
  lines = [
    (f'data file {str(path)!r} line {number}', line.split())
    for number, line in text_files.lines(path, options.max_file_gib)
    if line.strip()
  ]
  for where, own in lines:
    numbers = all(re.fullmatch(r'-?\d+(\.0*)?', x) for x in own)
    if not numbers or len(own) not in (3, 4):
      raise ValueError(
        f'{where} must be a query, a document and a grade, got '
        f'{text_files.short(" ".join(own))}. Correct that line.'
      )
  is_trec = all(len(own) == 4 and own[1] == '0' for _, own in lines)
  rows = []
  for where, own in lines:
    if is_trec:
      rows.append((where, own[0], own[2], int(float(own[3]))))
    elif len(own) == 4:
      rows.append((where, own[0], own[1], 1))
    else:
      rows.append((where, own[0], own[1], int(float(own[2]))))
  if not is_trec and max((row[3] for row in rows), default=0) > 1:
    rows = [
      (where, query, name, _BEST - grade if grade > 0 else 0)
      for where, query, name, grade in rows
    ]
    notes.append(
      f'Grades of {path.name} are read as {_BEST} minus the grade, since 1 is '
      'the best one in SMART; below 1 is not relevant.'
    )
  by_id = {question.id: i for i, question in enumerate(questions)}
  asked = {int(query) for _, query, _, _ in rows}
  places = {str(i + 1): i for i in range(len(questions))}
  if by_id != places and max(asked, default=0) <= len(questions):
    notes.append(
      f'{path.name} numbers the queries 1 to {len(questions)} in the order of '
      'their file, not by .I; the ids of the questions are these numbers.'
    )
    by_id = places
  grades: list[dict[str, int]] = [{} for _ in questions]
  for where, query, name, grade in rows:
    query, name = query.lstrip('0'), name.lstrip('0')
    if not references.known('question', query, by_id, where, 'the queries'):
      continue
    if grade > 0 and references.known(
      'document', name, documents, where, source
    ):
      gold = grades[by_id[query]]
      gold[name] = max(grade, gold.get(name, 0))
  ids = {place: name for name, place in by_id.items()}
  return [
    text_io.with_gold(dataclasses.replace(question, id=ids[i]), grades[i])
    for i, question in enumerate(questions)
  ]
