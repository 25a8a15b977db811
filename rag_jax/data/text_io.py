"""Reads and validates the user's data files, plain or .gz.

Each error is a one-line ValueError that names the file, the line if there is
one, and a remedy.
"""

import collections
import dataclasses
import gzip
import json
import pathlib
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rag_jax import types

Splits = dict[str, list[types.Question]]
Corpus = dict[tuple[str, str], str]  # (title, text) -> paragraph id

_NOT_WORDS = re.compile(r'[\W_]+')
_SURROGATE = re.compile('[\ud800-\udfff]')


def find(folder: pathlib.Path, name: str) -> pathlib.Path | None:
  """The path of a file in a folder, plain or else .gz; None if missing."""
  for path in (folder / name, folder / f'{name}.gz'):
    if path.is_file():
      return path
  return None


def find_all(folder: pathlib.Path, pattern: str) -> dict[str, pathlib.Path]:
  """Name without .gz -> path of each match; a plain file precedes its .gz."""
  zipped = {p.name.removesuffix('.gz'): p for p in folder.glob(pattern + '.gz')}
  found = zipped | {p.name: p for p in folder.glob(pattern)}
  return {name: found[name] for name in sorted(found) if found[name].is_file()}


def read(path: pathlib.Path) -> str:
  """Reads a UTF-8 text file, decompressed if it ends in .gz."""
  try:
    data = path.read_bytes()
    if path.suffix == '.gz':
      data = gzip.decompress(data)
  except (EOFError, zlib.error, gzip.BadGzipFile) as error:
    raise ValueError(
      f'data file {str(path)!r} is a truncated or damaged .gz ({error}). '
      'Fetch it again, or set --config.data.path to an intact one.'
    ) from error
  except OSError as error:
    raise ValueError(
      f'data file {str(path)!r} cannot be read ({error.strerror}). '
      'Set --config.data.path to a readable one.'
    ) from error
  try:
    return data.decode('utf-8-sig')
  except UnicodeDecodeError as error:
    line = data.count(b'\n', 0, error.start) + 1
    raise ValueError(
      f'data file {str(path)!r} line {line} is not UTF-8 '
      f'(byte 0x{data[error.start]:02x}). '
      'Convert the file with iconv -t UTF-8.'
    ) from error


def read_json(path: pathlib.Path) -> Any:
  """Reads a JSON file."""
  return _parse(read(path), path, 1)


def read_json_lines(path: pathlib.Path) -> Iterator[tuple[str, dict]]:
  """Yields (location for error messages, object) for each JSON line."""
  for number, line in enumerate(read(path).split('\n'), 1):
    if not line.strip():
      continue
    record = _parse(line, path, number)
    where = f'data file {str(path)!r} line {number}'
    if not isinstance(record, dict):
      raise ValueError(
        f'{where} must be a JSON object, got {_short(record)}. '
        'Write one {...} per line.'
      )
    yield where, record


def read_qrels(path: pathlib.Path) -> Iterator[tuple[str, str, str, int]]:
  """Yields (location, query id, document id, grade); skips a header."""
  for number, line in enumerate(read(path).split('\n'), 1):
    fields = line.rstrip('\r').split('\t')
    where = f'data file {str(path)!r} line {number}'
    if fields == ['']:
      continue
    try:
      query, document, score = fields
      grade = float(score)
    except ValueError as error:
      if number > 1:
        raise ValueError(
          f'{where} must be query-id, corpus-id and score with tabs between, '
          f'got {line[:60]!r}. Correct that line.'
        ) from error
      continue
    if not grade.is_integer():  # TREC qrels have integer grades
      raise ValueError(
        f'{where}: the score must be a whole number, got {score!r}. '
        'Correct that line.'
      )
    yield where, query, document, int(grade)


def string(record: dict, name: str, where: str, default: str = '') -> str:
  """Reads a text field; absent or null gives the default."""
  value = record.get(name)
  if value is None:
    return default
  if not isinstance(value, str):
    raise ValueError(_wrong_field(where, name, 'text', value))
  # JSON escapes can encode a lone surrogate, which is not valid Unicode.
  return value if value.isascii() else _SURROGATE.sub('\ufffd', value)


def identifier(record: dict, name: str, where: str) -> str:
  """Reads an id field: text, or an integer that is converted to text."""
  value = record.get(name)
  if isinstance(value, int) and not isinstance(value, bool):
    return str(value)
  if not isinstance(value, str) or not value:
    raise ValueError(_wrong_field(where, name, 'an id', value))
  return string(record, name, where)


def items(record: dict, name: str, where: str, kind: type) -> list:
  """Reads a list field with items of type `kind`; absent or null is empty."""
  value = record.get(name)
  if value is None:
    return []
  if not isinstance(value, list):
    raise ValueError(_wrong_field(where, name, 'a list', value))
  for item in value:
    if not isinstance(item, kind):
      wanted = 'texts' if kind is str else 'objects'
      raise ValueError(_wrong_field(where, name, f'a list of {wanted}', item))
  return value


def strings(record: dict, name: str, where: str) -> tuple[str, ...]:
  """Reads a field that lists texts; drops duplicates and blank texts."""
  texts = items(record, name, where, str)
  return distinct(_SURROGATE.sub('\ufffd', text) for text in texts)


def answerable(record: dict, where: str) -> bool:
  """Reads the field `answerable`; absent or null means True."""
  value = record.get('answerable')
  if value is not None and not isinstance(value, bool):
    raise ValueError(_wrong_field(where, 'answerable', 'true or false', value))
  if value is False and record.get('answers'):
    raise ValueError(
      f'{where}: a question that is not answerable must have no answers, got '
      f'{record["answers"]!r}. Correct one of the two.'
    )
  return value is not False


def distinct(texts: Any) -> tuple[str, ...]:
  """Drops duplicates and blank texts; keeps the order."""
  return tuple(dict.fromkeys(text for text in texts if text.strip()))


def _parse(text: str, path: pathlib.Path, first_line: int) -> Any:
  try:
    return json.loads(text)
  except (json.JSONDecodeError, RecursionError) as error:
    line, problem = first_line, 'nested too deeply'
    if isinstance(error, json.JSONDecodeError):
      line, problem = first_line + error.lineno - 1, error.msg
    raise ValueError(
      f'data file {str(path)!r} line {line} is not valid JSON ({problem}). '
      'Correct that line, or fetch the file again.'
    ) from error


def _wrong_field(where: str, name: str, wanted: str, value: Any) -> str:
  return (
    f'{where}: field {name!r} must be {wanted}, got {_short(value)}. '
    'Correct it, or set --config.data.format if the format is another one.'
  )


def _short(value: Any) -> str:
  text = 'nothing' if value is None else repr(value)
  return text if len(text) <= 60 else text[:57] + '...'


def with_gold(
  question: types.Question, grades: Mapping[str, int]
) -> types.Question:
  """Sets a question's gold documents and grades, highest grade first."""
  names = sorted(grades, key=lambda name: -grades[name])
  values = tuple(grades[name] for name in names)
  return dataclasses.replace(
    question,
    document_ids=tuple(names),
    grades=values if set(values) - {1} else (),
  )


def finish(
  name: str, on_empty: str, documents: list[types.Document], splits: Splits
) -> types.Dataset:
  """Makes a `Dataset`: validates it and writes its notes.

  Args:
    name: the path as the user gave it.
    on_empty: what to do with documents without text: 'error', or 'skip'.
    documents: the corpus; it contains all gold documents.
    splits: questions by split.

  Returns:
    The dataset with its notes.

  Raises:
    ValueError: for an empty corpus, a duplicate id or, with on_empty='error',
      a document without text.
  """
  notes = []
  where = f'data.path {name!r}'
  _check_unique('document', (document.id for document in documents), where)
  for split, questions in splits.items():
    _check_unique('question', (q.id for q in questions), f'{where} {split}')
  kept = [document for document in documents if document.text.strip()]
  if len(kept) < len(documents):
    empty = [d.id for d in documents if not d.text.strip()]
    if on_empty == 'error':
      raise ValueError(
        f'document {empty[0]!r} has no text ({len(empty)} of '
        f'{len(documents)} in {where}). '
        'Set --config.data.on_empty=skip to skip such documents.'
      )
    notes.append(
      f'{_of(len(empty), len(documents), "documents")} have no text and are '
      'skipped.'
    )
    splits = _drop_gold(set(empty), splits, notes)
  if not kept:
    raise ValueError(
      f'{where} has an empty corpus: {len(documents)} documents, 0 with '
      'text. Set --config.data.path to data with documents.'
    )
  bodies = {document.id: document for document in kept}
  for split, questions in splits.items():
    notes += _notes(split, questions, bodies)
  return types.Dataset(
    documents=tuple(kept),
    splits={split: tuple(questions) for split, questions in splits.items()},
    notes=tuple(notes),
  )


def _drop_gold(empty: set[str], splits: Splits, notes: list[str]) -> Splits:
  """Removes skipped documents from the gold documents of all questions."""
  dropped = 0
  found: Splits = {}
  for split, questions in splits.items():
    found[split] = []
    for question in questions:
      names = question.document_ids
      grades = dict(
        zip(names, question.grades or [1] * len(names), strict=True)
      )
      gold = {name: grades[name] for name in names if name not in empty}
      dropped += len(names) - len(gold)
      found[split].append(with_gold(question, gold))
  if dropped:
    notes.append(f'{dropped:,} gold references to skipped documents removed.')
  return found


def _notes(
  split: str,
  questions: list[types.Question],
  documents: Mapping[str, types.Document],
) -> list[str]:
  """Notes on questions that lack a text, an answer or a gold document."""
  bodies: dict[str, tuple[str, str]] = {}

  def occurs(answer: str, name: str) -> bool:
    if name not in bodies:
      document = documents[name]
      body = f'{document.title} . {document.text}'.lower()
      bodies[name] = body, _NOT_WORDS.sub('', body)
    plain, words = bodies[name]
    wanted = _NOT_WORDS.sub('', answer.lower())
    return wanted in words if wanted else answer.lower().strip() in plain

  count: collections.Counter[str] = collections.Counter()
  for question in questions:
    gold = question.document_ids
    count['no text'] += not question.text.strip()
    count['no answer'] += not question.answers
    count['no gold'] += not gold
    if gold and question.answers:
      found = [
        any(occurs(answer, name) for name in gold)
        for answer in question.answers
      ]
      count['some absent'] += not all(found)
      count['all absent'] += not any(found)
  sentences = {
    'some absent': 'have an answer that occurs in none of their gold '
    f'documents; in {count["all absent"]:,} of them no answer does.',
    'no answer': 'have no answer.',
    'no gold': 'have no gold document.',
    'no text': 'have no text.',
  }
  what = f'questions in {split}'
  return [
    f'{_of(count[key], len(questions), what)} {sentence}'
    for key, sentence in sentences.items()
    if count[key]
  ]


def _of(part: int, whole: int, what: str) -> str:
  return f'{part:,} of {whole:,} {what}'


def _check_unique(what: str, names: Iterable[str], where: str) -> None:
  seen: set[str] = set()
  for name in names:
    if name in seen:
      raise duplicate(what, name, where)
    seen.add(name)


def duplicate(what: str, name: str, where: str) -> ValueError:
  """The error for a duplicate id."""
  return ValueError(
    f'{where}: {what} id {name!r} occurs twice. Give every {what} a unique id.'
  )


def unknown(what: str, name: str, where: str, file: pathlib.Path) -> ValueError:
  """The error for an id that is not in the file that defines such ids."""
  return ValueError(
    f'{where} names {what} {name!r}, which is not in {file.name}. '
    f'Add it there, or remove that line.'
  )


def add_paragraph(corpus: Corpus, title: str, text: str, name: str = '') -> str:
  """Adds a paragraph to the corpus unless it is there; returns its id."""
  name = name or f'{title or "passage"}#{len(corpus)}'
  return corpus.setdefault((title, text), name)


def documents_of(corpus: Corpus) -> list[types.Document]:
  """The paragraphs of a corpus, in the order in which they were added."""
  return [
    types.Document(id=name, title=title, text=text)
    for (title, text), name in corpus.items()
  ]
