"""Reads and validates the fields of the user's data.

Each error is a one-line ValueError that names the file, the line if there is
one, and a remedy.
"""

import dataclasses
import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from rag_jax import types
from rag_jax.data import text_files

Splits = dict[str, list[types.Question]]
Corpus = dict[tuple[str, str], str]  # (title, text) -> paragraph id

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


def answer(record: dict, name: str, where: str) -> str:
  """Reads an answer: text, or a number as it is written in the file."""
  return _plain(record.get(name), name, where)


def _plain(value: Any, name: str, where: str) -> str:
  """A text, or the text of a number."""
  if isinstance(value, (int, float)) and not isinstance(value, bool):
    return str(value)
  if not isinstance(value, str):
    raise ValueError(_wrong_field(where, name, 'text', value))
  return _SURROGATE.sub('\ufffd', value)


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
      wanted = 'lists' if kind is list else 'objects'
      raise ValueError(_wrong_field(where, name, f'a list of {wanted}', item))
  return value


def strings(record: dict, name: str, where: str) -> tuple[str, ...]:
  """Reads a field that lists texts or numbers; drops duplicates and blanks."""
  value = record.get(name)
  if value is not None and not isinstance(value, list):
    raise ValueError(_wrong_field(where, name, 'a list', value))
  return distinct(_plain(item, name, where) for item in value or ())


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


def duplicate(what: str, name: str, where: str) -> ValueError:
  """The error for a duplicate id."""
  return ValueError(
    f'{where}: {what} id {name!r} occurs twice. Give every {what} a unique id.'
  )


def unknown(what: str, name: str, where: str, file: str) -> ValueError:
  """The error for an id that is not in the file that defines such ids."""
  return ValueError(
    f'{where} names {what} {name!r}, which is not in {file}. Add it there, '
    'remove that line, or set --config.data.on_dangling=skip.'
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
