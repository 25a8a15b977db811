"""FiD's lists: questions with answers and retrieved passages (ctxs)."""

from collections.abc import Iterator

from rag_jax import types
from rag_jax.data import text_io
from rag_jax.data.sources import base, records


def read(
  found: Iterator[records.Record],
  corpus: text_io.Corpus,
  options: base.Options,
  references: base.References,
) -> Iterator[types.Question]:
  """Yields the questions; all passages form the corpus, none is gold."""
  del options, references
  for where, record in found:
    text_io.check_names(record, ('question', 'answers', 'ctxs'), where)
    for context in text_io.items(record, 'ctxs', where, dict, required=True):
      text_io.check_names(context, ('title', 'text'), where)
      text_io.add_paragraph(
        corpus,
        text_io.string(context, 'title', where),
        text_io.string(context, 'text', where),
        text_io.identifier(context, 'id', where) if 'id' in context else '',
      )
    # `target` is the answer that FiD trains on, so it comes first.
    target = records.many(record, 'target', where)
    answers = records.many(record, 'answers', where)
    yield types.Question(
      id=text_io.identifier(record, 'id', where) if 'id' in record else '',
      text=text_io.required(record, 'question', where),
      answers=text_io.distinct((*target, *answers)),
    )
