"""DPR's training files: questions with positive and negative passages."""

from collections.abc import Iterator

from rag_jax import types
from rag_jax.data import text_io
from rag_jax.data.sources import base, records

_CONTEXTS = ('positive_ctxs', 'negative_ctxs', 'hard_negative_ctxs')


def read(
  found: Iterator[records.Record],
  corpus: text_io.Corpus,
  options: base.Options,
  references: base.References,
) -> Iterator[types.Question]:
  """Yields the questions; positive and negative passages form the corpus."""
  del options, references
  for where, record in found:
    text_io.check_names(record, ('question', 'answers', *_CONTEXTS), where)
    gold = []
    for kind in _CONTEXTS:
      for context in text_io.items(record, kind, where, dict):
        text_io.check_names(context, ('title', 'text'), where)
        key = 'passage_id' if 'passage_id' in context else 'psg_id'
        name = text_io.add_paragraph(
          corpus,
          text_io.string(context, 'title', where),
          text_io.string(context, 'text', where),
          text_io.identifier(context, key, where) if key in context else '',
        )
        if kind == 'positive_ctxs':
          gold.append(name)
    yield types.Question(
      id='',
      text=text_io.required(record, 'question', where),
      answers=text_io.strings(record, 'answers', where),
      document_ids=text_io.distinct(gold),
    )
