"""TREC topics: <top> with <num> and <title>, or <topic number="...">."""

import html
import pathlib
import re
from collections.abc import Iterator

from rag_jax import types
from rag_jax.data import text_files, text_io
from rag_jax.data.sources import base

_TOPIC = re.compile(r'<top(?:ic)?\b([^>]*)>(.*?)</top(?:ic)?>', re.S | re.I)
_NUMBER = re.compile(r'<num>\s*(?:Number:)?\s*([^\s<]+)', re.I)
_ATTRIBUTE = re.compile(r'number\s*=\s*["\']?([^"\'\s>]+)', re.I)
# Old topics leave out the ends of their fields.
_FIELDS = [
  re.compile(rf'<{name}>\s*(?:{label})?\s*([^<]*)', re.I)
  for name, label in (('title', 'Topic:'), ('query', ''), ('desc', r'.*?:'))
]


def read(path: pathlib.Path, options: base.Options) -> Iterator[types.Question]:
  """Yields a question per topic: its title, its query or its description.

  Raises:
    ValueError: if there is no topic, or one lacks a number or a text.
  """
  text = text_files.read_text(path, options.max_file_gib)
  seen: set[str] = set()
  for match in _TOPIC.finditer(text):
    line = text.count('\n', 0, match.start()) + 1
    where = f'data file {str(path)!r} line {line}'
    number = _ATTRIBUTE.search(match[1]) or _NUMBER.search(match[2])
    found = (field.search(match[2]) for field in _FIELDS)
    texts = (' '.join(html.unescape(own[1]).split()) for own in found if own)
    question = next(filter(text_io.has_text, texts), '')
    if number is None or not question:
      raise ValueError(
        f'{where}: a topic must have a <num> and a <title>, got '
        f'{text_files.short(match[0])}. Correct it.'
      )
    if number[1] in seen:
      raise text_io.duplicate('question', number[1], where)
    seen.add(number[1])
    yield types.Question(id=number[1], text=question)
  if not seen:
    raise ValueError(
      f'data file {str(path)!r} holds no <top> or <topic>. Correct it, or give '
      'it a name without topics.'
    )
