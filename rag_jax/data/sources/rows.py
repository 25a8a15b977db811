"""Rows with a document, a question or both, such as SQuAD's rows of a hub."""

import pathlib
from collections.abc import Iterator
from typing import Any

from rag_jax import types
from rag_jax.data import text_io
from rag_jax.data.sources import base, beside, records

_ALL = (*base.DOCUMENT_FIELDS, *base.QUESTION_FIELDS)


def read(
  found: Iterator[records.Record],
  corpus: text_io.Corpus,
  options: base.Options,
  references: base.References,
) -> Iterator[types.Question]:
  """Yields the questions; the text of a row is its gold document.

  `context` is read as `text` if there is no `text`. The `id` of a row with a
  question is that of the question, unless `data.fields` names `question_id`.
  A row whose `answers` are an object with an empty list (SQuAD v2) cannot be
  answered.
  """
  del references
  fields = records.Fields(options, pathlib.Path('data'))
  for where, own in found:
    record = fields.named(own, _ALL)
    if 'text' not in record and 'context' in record:
      record = {**record, 'text': record['context']}
    text_io.check_names(record, (*_ALL, 'context'), where)
    has_question = record.get('question') is not None
    name = ''
    if _shows(record):
      own_id = '' if has_question and 'question_id' not in record else 'id'
      has_id = bool(own_id) and record.get('id') is not None
      name = text_io.add_paragraph(
        corpus,
        text_io.string(record, 'title', where).replace('_', ' '),
        text_io.string(record, 'text', where),
        text_io.identifier(record, 'id', where) if has_id else '',
      )
    if has_question:
      if 'question_id' not in record and 'id' in record:
        record['question_id'] = record['id']
      yield _question(record, where, name)


def _shows(record: dict[str, Any]) -> bool:
  return any(
    isinstance(record.get(x), str) and text_io.has_text(record[x])
    for x in ('text', 'title')
  )


def _question(record: dict[str, Any], where: str, gold: str) -> types.Question:
  answers = record.get('answers')
  if isinstance(answers, dict) and not list(answers.get('text') or ()):
    record = record | {'answers': None, 'answerable': False}
  question = beside.question_of(record, where, '')
  if gold and question.answerable:
    return text_io.with_gold(question, {gold: 1})
  return question
