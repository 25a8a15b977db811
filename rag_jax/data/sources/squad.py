"""SQuAD v1.1 and v2: an object with pages, paragraphs and questions."""

from collections.abc import Iterator

from rag_jax import types
from rag_jax.data import text_files, text_io
from rag_jax.data.sources import base, records

_FIELDS = ('id', 'question', 'answers', 'is_impossible')


def read(
  found: Iterator[records.Record],
  corpus: text_io.Corpus,
  options: base.Options,
  references: base.References,
) -> Iterator[types.Question]:
  """Yields the questions; an impossible one has no gold document."""
  del options, references
  for where, value in found:
    for i, page in enumerate(text_io.items(value, 'data', where, dict)):
      at = f'{where} data[{i}]'
      title = text_io.string(page, 'title', at).replace('_', ' ')
      parts = text_io.items(page, 'paragraphs', at, dict, required=True)
      for j, part in enumerate(parts):
        yield from _paragraph(part, title, f'{at}.paragraphs[{j}]', corpus)


def _paragraph(
  part: dict, title: str, where: str, corpus: text_io.Corpus
) -> Iterator[types.Question]:
  name = text_io.add_paragraph(
    corpus, title, text_io.required(part, 'context', where)
  )
  for record in text_io.items(part, 'qas', where, dict, required=True):
    text_io.check_names(record, _FIELDS, where)
    answers = text_io.items(record, 'answers', where, dict)
    texts = (text_io.answer(answer, 'text', where) for answer in answers)
    impossible = text_io.flag(record, 'is_impossible', where) is True
    if impossible and answers:
      raise ValueError(
        f'{where}: a question with is_impossible must have no answers, got '
        f'{text_files.short(answers)}. Correct one of the two.'
      )
    yield types.Question(
      id=text_io.identifier(record, 'id', where),
      text=text_io.required(record, 'question', where),
      answers=() if impossible else text_io.distinct(texts),
      document_ids=() if impossible else (name,),
      answerable=not impossible,
    )
