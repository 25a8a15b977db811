"""Text files of other people: reading them, and what must hold in them.

Files may be plain or .gz. What a file gets wrong is a one-line ValueError that
names the file, the line where there is one, and what to do.
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
Corpus = dict[tuple[str, str], str]  # ids of paragraphs by title and text

_NOT_WORDS = re.compile(r'[\W_]+')
_SURROGATE = re.compile('[\ud800-\udfff]')


def find(folder: pathlib.Path, name: str) -> pathlib.Path | None:
  """The file of that name in a folder, plain or else .gz; None without."""
  for path in (folder / name, folder / f'{name}.gz'):
    if path.is_file():
      return path
  return None


def find_all(folder: pathlib.Path, pattern: str) -> dict[str, pathlib.Path]:
  """Files that match a pattern, plain or else .gz, by name without .gz."""
  zipped = {p.name.removesuffix('.gz'): p for p in folder.glob(pattern + '.gz')}
  found = zipped | {p.name: p for p in folder.glob(pattern)}
  return {name: found[name] for name in sorted(found) if found[name].is_file()}


def read(path: pathlib.Path) -> str:
  """The text of a UTF-8 file, unpacked if it is packed."""
  try:
    data = path.read_bytes()
    if path.suffix == '.gz':
      data = gzip.decompress(data)
  except (EOFError, zlib.error, gzip.BadGzipFile) as error:
    raise ValueError(
      f'data file {str(path)!r} is a truncated or damaged .gz ({error}). '
      'Fetch it again, or set --config.data.path to a whole one.'
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
  """The value that a JSON file holds."""
  return _parse(read(path), path, 1)


def read_json_lines(path: pathlib.Path) -> Iterator[tuple[str, dict]]:
  """Where each object of a JSON lines file stands, and the object."""
  for number, line in enumerate(read(path).split('\n'), 1):
    if not line.strip():
      continue
    record = _parse(line, path, number)
    where = f'data file {str(path)!r} line {number}'
    if not isinstance(record, dict):
      raise ValueError(
        f'{where} must be a JSON object, got {_short(record)}. '
        'Write one {...} a line.'
      )
    yield where, record


def read_qrels(path: pathlib.Path) -> Iterator[tuple[str, str, str, int]]:
  """Place, query, document and grade of each line but the header."""
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
    if not grade.is_integer():  # as TREC has them, whom results are handed to
      raise ValueError(
        f'{where}: the score must be a whole number, got {score!r}. '
        'Correct that line.'
      )
    yield where, query, document, int(grade)


def string(record: dict, name: str, where: str, default: str = '') -> str:
  """A field that is text; absent or null gives the default."""
  value = record.get(name)
  if value is None:
    return default
  if not isinstance(value, str):
    raise ValueError(_wrong_field(where, name, 'text', value))
  # A JSON escape can write half a character, which nothing else can.
  return value if value.isascii() else _SURROGATE.sub('\ufffd', value)


def identifier(record: dict, name: str, where: str) -> str:
  """A field that names something: text, or a number that becomes text."""
  value = record.get(name)
  if isinstance(value, int) and not isinstance(value, bool):
    return str(value)
  if not isinstance(value, str) or not value:
    raise ValueError(_wrong_field(where, name, 'an id', value))
  return string(record, name, where)


def items(record: dict, name: str, where: str, kind: type) -> list:
  """A field that is a list of values of one kind; absent or null is empty."""
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
  """A field that is a list of texts, each once, without blank ones."""
  texts = items(record, name, where, str)
  return distinct(_SURROGATE.sub('\ufffd', text) for text in texts)


def answerable(record: dict, where: str) -> bool:
  """Whether a question has an answer; absent or null is yes."""
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
  """Texts in their order, each once, without blank ones."""
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
    'Correct it there, or set --config.data.format if this is another format.'
  )


def _short(value: Any) -> str:
  text = 'nothing' if value is None else repr(value)
  return text if len(text) <= 60 else text[:57] + '...'


def with_gold(
  question: types.Question, grades: Mapping[str, int]
) -> types.Question:
  """The question with other gold documents, each with its grade, best first."""
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
  """Checks what every format must satisfy, and counts what is odd.

  Args:
    name: the path as the user gave it.
    on_empty: 'error', or 'skip' to leave documents without text out.
    documents: the corpus; every document that a question names is in it.
    splits: questions by split.

  Returns:
    The dataset with its notes.

  Raises:
    ValueError: for an empty corpus, an id that occurs twice or, unless they
      are skipped, a document without text.
  """
  notes = []
  where = f'data.path {name!r}'
  _check_once('document', (document.id for document in documents), where)
  for split, questions in splits.items():
    _check_once('question', (q.id for q in questions), f'{where} {split}')
  kept = [document for document in documents if document.text.strip()]
  if len(kept) < len(documents):
    empty = [d.id for d in documents if not d.text.strip()]
    if on_empty == 'error':
      raise ValueError(
        f'document {empty[0]!r} has no text ({len(empty)} of '
        f'{len(documents)} in {where}). '
        'Set --config.data.on_empty=skip to leave such documents out.'
      )
    notes.append(
      f'{_of(len(empty), len(documents), "documents")} without text left out.'
    )
    splits = _without(set(empty), splits, notes)
  if not kept:
    raise ValueError(
      f'{where} has an empty corpus: {len(documents)} documents, 0 with '
      'text. Set --config.data.path to data with documents.'
    )
  bodies = {document.id: document for document in kept}
  for split, questions in splits.items():
    notes += _count(split, questions, bodies)
  return types.Dataset(
    documents=tuple(kept),
    splits={split: tuple(questions) for split, questions in splits.items()},
    notes=tuple(notes),
  )


def _without(empty: set[str], splits: Splits, notes: list[str]) -> Splits:
  """The questions without references to documents that were left out."""
  lost = 0
  found: Splits = {}
  for split, questions in splits.items():
    found[split] = []
    for question in questions:
      names = question.document_ids
      grades = dict(
        zip(names, question.grades or [1] * len(names), strict=True)
      )
      gold = {name: grades[name] for name in names if name not in empty}
      lost += len(names) - len(gold)
      found[split].append(with_gold(question, gold))
  if lost:
    notes.append(f'{lost} references from questions to them left out.')
  return found


def _count(
  split: str,
  questions: list[types.Question],
  documents: Mapping[str, types.Document],
) -> list[str]:
  """Notes on the questions of a split that cannot be learned from in full."""
  bodies: dict[str, tuple[str, str]] = {}

  def stands_in(answer: str, name: str) -> bool:
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
    count['blank'] += not question.text.strip()
    count['silent'] += not question.answers
    count['homeless'] += not gold
    if gold and question.answers:
      stands = [
        any(stands_in(answer, name) for name in gold)
        for answer in question.answers
      ]
      count['absent'] += not all(stands)
      count['lost'] += not any(stands)
  sentences = {
    'absent': 'have an answer that occurs in none of their documents; '
    f'in {count["lost"]:,} of them no answer does.',
    'silent': 'have no answer.',
    'homeless': 'have no gold document.',
    'blank': 'have no text.',
  }
  what = f'questions in {split}'
  return [
    f'{_of(count[key], len(questions), what)} {sentence}'
    for key, sentence in sentences.items()
    if count[key]
  ]


def _of(part: int, whole: int, what: str) -> str:
  return f'{part:,} of {whole:,} {what}'


def _check_once(what: str, names: Iterable[str], where: str) -> None:
  seen: set[str] = set()
  for name in names:
    if name in seen:
      raise duplicate(what, name, where)
    seen.add(name)


def duplicate(what: str, name: str, where: str) -> ValueError:
  """The error that an id occurs twice."""
  return ValueError(
    f'{where}: {what} id {name!r} occurs twice. Give every {what} its own id.'
  )


def unknown(what: str, name: str, where: str, file: pathlib.Path) -> ValueError:
  """The error that an id is used but not in the file of its kind."""
  return ValueError(
    f'{where} names {what} {name!r}, which is not in {file.name}. '
    f'Add it there, or remove that line.'
  )


def add_paragraph(corpus: Corpus, title: str, text: str, name: str = '') -> str:
  """The id of a paragraph, which joins the corpus if it is new."""
  name = name or f'{title or "passage"}#{len(corpus)}'
  return corpus.setdefault((title, text), name)


def documents_of(corpus: Corpus) -> list[types.Document]:
  """The paragraphs in the order in which they joined."""
  return [
    types.Document(id=name, title=title, text=text)
    for (title, text), name in corpus.items()
  ]
