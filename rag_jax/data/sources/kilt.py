"""KILT: questions with provenance, and a knowledge source of pages."""

import pathlib
from collections.abc import Container, Iterator

from rag_jax import types
from rag_jax.data import text_files, text_io
from rag_jax.data.sources import base, question_files, records

_KNOWLEDGE = '*knowledge*source*'


def find(folder: pathlib.Path) -> pathlib.Path | None:
  """The file with the pages in a folder; None if there is none."""
  return next(iter(text_files.find_all(folder, _KNOWLEDGE).values()), None)


def read(folder: pathlib.Path, options: base.Options) -> base.Content:
  """Reads a knowledge source and the files of questions beside it."""
  source = find(folder) if folder.is_dir() else None
  if source is None:
    raise ValueError(
      f'data.path {str(folder)!r} holds no {_KNOWLEDGE}, the pages of KILT, '
      'such as kilt_knowledgesource.json. Set --config.data.path to a folder '
      'with it and the files of questions.'
    )
  documents = list(_pages(source, options))
  ids = {document.id for document in documents}
  references = base.References(options)
  splits: text_io.Splits = {}
  for name, path in question_files.find(folder).items():
    if path != source:
      splits.setdefault(question_files.split_of(name), []).extend(
        _questions(path, options, ids, source.name, references)
      )
  return base.Content(
    documents=documents, splits=splits, notes=list(references.notes())
  )


def _pages(
  path: pathlib.Path, options: base.Options
) -> Iterator[types.Document]:
  """Yields the pages; their paragraphs are separated by empty lines."""
  for where, record in records.read(path, options):
    key = 'wikipedia_id' if 'wikipedia_id' in record else '_id'
    text = record.get('text')
    if not isinstance(text, str):
      parts = text_io.strings(record, 'text', where)
      text = '\n\n'.join(part.strip() for part in parts)
    yield types.Document(
      id=text_io.identifier(record, key, where),
      title=text_io.string(record, 'wikipedia_title', where)
      or text_io.string(record, 'title', where),
      text=text,
    )


def _questions(
  path: pathlib.Path,
  options: base.Options,
  ids: Container[str],
  source: str,
  references: base.References,
) -> Iterator[types.Question]:
  """Yields the questions; the pages of their provenance are gold."""
  for where, record in records.read(path, options):
    text_io.check_names(record, ('id', 'input', 'output'), where)
    answers, gold = [], []
    for output in text_io.items(record, 'output', where, dict):
      if output.get('answer') is not None:
        answers.append(text_io.answer(output, 'answer', where))
      for own in text_io.items(output, 'provenance', where, dict):
        if own.get('wikipedia_id') is None:
          continue
        name = text_io.identifier(own, 'wikipedia_id', where)
        if name not in gold and references.known(
          'document', name, ids, where, source
        ):
          gold.append(name)
    yield types.Question(
      id=text_io.identifier(record, 'id', where),
      text=text_io.required(record, 'input', where),
      answers=text_io.distinct(answers),
      document_ids=tuple(gold),
    )
