"""HotpotQA: questions with paragraphs and supporting facts."""

from collections.abc import Iterator
from typing import Any

from rag_jax import types
from rag_jax.data import text_files, text_io
from rag_jax.data.sources import base, records


def read(
  found: Iterator[records.Record],
  corpus: text_io.Corpus,
  options: base.Options,
  references: base.References,
) -> Iterator[types.Question]:
  """Yields the questions; paragraphs with a supporting fact are gold."""
  del options
  for where, record in found:
    ids: dict[str, str] = {}
    for title, sentences in _pairs(record, 'context', 'sentences', where):
      text = sentences
      if isinstance(sentences, list):
        text = ''.join(str(sentence) for sentence in sentences)
      if not isinstance(text, str):
        raise ValueError(
          f"{where}: field 'context' must have a list of sentences for each "
          f'title, got {text_files.short(sentences)}. Correct it.'
        )
      ids[title] = text_io.add_paragraph(corpus, title, text)
    facts = _pairs(record, 'supporting_facts', 'sent_id', where)
    titles = dict.fromkeys(title for title, _ in facts)
    key = '_id' if '_id' in record else 'id'
    yield types.Question(
      id=text_io.identifier(record, key, where),
      text=text_io.required(record, 'question', where),
      answers=records.many(record, 'answer', where),
      document_ids=text_io.distinct(
        ids[title]
        for title in titles
        if references.known('document', title, ids, where, 'its context')
      ),
    )


def _pairs(
  record: dict[str, Any], name: str, second: str, where: str
) -> list[tuple[str, Any]]:
  """(title, value) pairs: a list of lists, or an object of two lists."""
  value = record.get(name)
  if isinstance(value, dict):
    titles = text_io.items(value, 'title', f'{where}.{name}', str)
    values = value.get(second)
    value = list(zip(titles, values or [None] * len(titles), strict=False))
  pairs = list(value) if isinstance(value, (list, tuple)) else []
  if value is not None and not isinstance(value, list):
    raise ValueError(_wrong(where, name, value))
  for pair in pairs:
    if len(pair) != 2 or not isinstance(pair[0], str):
      raise ValueError(_wrong(where, name, pair))
  return [(pair[0], pair[1]) for pair in pairs]


def _wrong(where: str, name: str, value: Any) -> str:
  return (
    f'{where}: field {name!r} must be a list of pairs of a title and its '
    f'content, got {text_files.short(value)}. Correct it, or set '
    '--config.data.format if the format is another one.'
  )
