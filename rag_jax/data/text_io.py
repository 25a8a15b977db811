"""Reads and validates the fields of the user's data, and makes a `Dataset`.

Each error is a one-line ValueError that names the file, the line if there is
one, and a remedy.
"""

import collections
import dataclasses
import difflib
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rag_jax import types
from rag_jax.data import text_files

Splits = dict[str, list[types.Question]]
Corpus = dict[tuple[str, str], str]  # (title, text) -> paragraph id

_NOT_WORDS = re.compile(r'[\W_]+')
_SURROGATE = re.compile('[\ud800-\udfff]')
# White space, control and format characters, fillers, and the mark of a
# character that was lost.
_VISIBLE = re.compile(
  r'[^\s\x00-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5'
  r'\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u2800\u3164'
  r'\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffd\U000e0000-\U000e0fff]'
)


def has_text(text: str) -> bool:
  r"""Whether a text shows anything.

  White space, control characters and invisible marks show nothing.

  Example:
    >>> has_text('a'), has_text(' \u200b\ufeff\n')
    (True, False)
  """
  return _VISIBLE.search(text) is not None


def check_names(record: dict, names: Sequence[str], where: str) -> None:
  """Raises a ValueError for a field that is named almost as one that is absent.

  Args:
    record: an object of the data.
    names: the fields that are read.
    where: its location.
  """
  for name in record.keys() - set(names):
    absent = [known for known in names if known not in record]
    near = difflib.get_close_matches(name.lower(), absent, n=1, cutoff=0.85)
    if near:
      raise ValueError(
        f'{where}: field {name!r} is not read, but {near[0]!r} would be. '
        'Correct its name, or remove it.'
      )


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
  if not isinstance(value, str) or not has_text(value):
    raise ValueError(_wrong_field(where, name, 'an id', value))
  return string(record, name, where)


def items(
  record: dict, name: str, where: str, kind: type, *, required: bool = False
) -> list:
  """Reads a list of items of type `kind`; empty if absent and not required."""
  value = record.get(name)
  if value is None and not required:
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


def required(record: dict, name: str, where: str) -> str:
  """Reads a text field that must be there; it may be blank."""
  if record.get(name) is None:
    raise ValueError(_wrong_field(where, name, 'text', None))
  return string(record, name, where)


def flag(record: dict, name: str, where: str) -> bool | None:
  """Reads a field that is true or false; None if it is absent or null."""
  value = record.get(name)
  if value is not None and not isinstance(value, bool):
    raise ValueError(_wrong_field(where, name, 'true or false', value))
  return value


def mapping(record: dict, name: str, where: str) -> dict:
  """Reads a field that is an object; absent or null is empty."""
  value = record.get(name)
  if value is not None and not isinstance(value, dict):
    raise ValueError(_wrong_field(where, name, 'an object', value))
  return value or {}


def answerable(record: dict, where: str) -> bool:
  """Reads the field `answerable`; absent or null means True."""
  value = flag(record, 'answerable', where)
  if value is False and record.get('answers'):
    raise ValueError(
      f'{where}: a question that is not answerable must have no answers, got '
      f'{text_files.short(record["answers"])}. Correct one of the two.'
    )
  return value is not False


def distinct(texts: Any) -> tuple[str, ...]:
  """Drops duplicates and blank texts; keeps the order."""
  return tuple(dict.fromkeys(text for text in texts if has_text(text)))


def _wrong_field(where: str, name: str, wanted: str, value: Any) -> str:
  return (
    f'{where}: field {name!r} must be {wanted}, got {text_files.short(value)}. '
    'Correct it, or set --config.data.format if the format is another one.'
  )


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
  kept = [document for document in documents if has_text(document.text)]
  if len(kept) < len(documents):
    empty = [d.id for d in documents if not has_text(d.text)]
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
    count['no text'] += not has_text(question.text)
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
