"""BEIR: corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv."""

import pathlib

from rag_jax import types
from rag_jax.data import text_files, text_io
from rag_jax.data.sources import base, judgements

_METADATA = ('answers', 'answer_patterns', 'answerable')


def read(folder: pathlib.Path, options: base.Options) -> base.Content:
  """Reads a BEIR folder; each qrels file is a split.

  Without judgements, all queries are the split 'test', without gold documents.
  Without queries there are no questions.
  """
  corpus = base.need(folder, 'corpus.jsonl')
  documents = base.read_documents(corpus, '_id', options)
  files = text_files.find_all(folder / 'qrels', '*.tsv')
  if not files and not text_files.find(folder, 'queries.jsonl'):
    return base.Content(documents=documents)
  source = base.need(folder, 'queries.jsonl')
  questions = read_queries(source, options)
  if not files:
    return base.Content(
      documents=documents,
      splits={'test': list(questions.values())},
      notes=[f'{str(folder)!r} holds no qrels/*.tsv, so no gold documents.'],
    )
  references = base.References(options)
  known = {document.id for document in documents}
  splits = {
    name.removesuffix('.tsv'): judgements.judged(
      file,
      options,
      questions,
      known,
      references,
      names=(source.name, corpus.name),
    )
    for name, file in files.items()
  }
  return base.Content(
    documents=documents, splits=splits, notes=list(references.notes())
  )


def read_queries(
  path: pathlib.Path, options: base.Options
) -> dict[str, types.Question]:
  """Reads queries.jsonl; answers are in `metadata`."""
  questions: dict[str, types.Question] = {}
  for where, record in text_files.read_json_lines(path, options.max_file_gib):
    text_io.check_names(record, ('_id', 'text', 'metadata'), where)
    metadata = text_io.mapping(record, 'metadata', where)
    text_io.check_names(metadata, _METADATA, where)
    question = types.Question(
      id=text_io.identifier(record, '_id', where),
      text=text_io.required(record, 'text', where),
      answers=text_io.strings(metadata, 'answers', where),
      answerable=text_io.answerable(metadata, where),
      answer_patterns=text_io.strings(metadata, 'answer_patterns', where),
    )
    if question.id in questions:
      raise text_io.duplicate('question', question.id, where)
    questions[question.id] = question
  return questions
