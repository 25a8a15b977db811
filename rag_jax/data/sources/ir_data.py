"""Datasets of the package ir_datasets, which downloads them."""

import dataclasses
import pathlib
from typing import Any

from rag_jax import types
from rag_jax.data import text_files, text_io
from rag_jax.data.sources import base

PREFIX = 'ir_datasets:'
_TITLES = ('title',)
_TEXTS = ('text', 'body', 'abstract', 'description')


def read(path: pathlib.Path, options: base.Options) -> base.Content:
  """Reads a dataset and the datasets below it that have judgements.

  `ir_datasets:beir/nfcorpus` has the documents, and its splits are
  beir/nfcorpus/train, /dev and /test; `ir_datasets:beir/nfcorpus/test` has that
  split alone.
  """
  name = str(path).removeprefix(PREFIX)
  try:
    import ir_datasets
  except ImportError as error:
    where = f"data.path '{PREFIX}{name}'"
    raise text_files.missing('ir_datasets', 'ir-datasets', where) from error
  try:
    dataset = ir_datasets.load(name)
    documents = [_document(row) for row in dataset.docs_iter()]
    below = [
      other for other in ir_datasets.registry if other.startswith(f'{name}/')
    ]
    parts = {_split(name): dataset} if dataset.has_queries() else {}
    for other in below:
      part = ir_datasets.load(other)
      if part.has_queries() and part.has_qrels():
        parts[other.removeprefix(f'{name}/')] = part
    references = base.References(options)
    ids = {document.id for document in documents}
    splits = {
      split: _questions(part, ids, split, references)
      for split, part in parts.items()
    }
  except ValueError:
    raise
  except Exception as error:  # unknown names and downloads share no class
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    raise ValueError(
      f"data.path '{PREFIX}{name}' cannot be loaded ({reason[:120]}). Set "
      f'--config.data.path={PREFIX}NAME to a dataset of ir_datasets that has '
      'documents.'
    ) from error
  return base.Content(
    documents=documents, splits=splits, notes=list(references.notes())
  )


def _split(name: str) -> str:
  last = name.rpartition('/')[2]
  return last if last in ('train', 'dev', 'test', 'validation') else 'test'


def _document(row: Any) -> types.Document:
  """The first of the usual fields of title and text, or `default_text`."""

  def first(names):
    return next((str(getattr(row, x)) for x in names if hasattr(row, x)), '')

  title, text = first(_TITLES), first(_TEXTS)
  if not text and not title:
    text = row.default_text()
  return types.Document(id=row.doc_id, title=title, text=text)


def _questions(
  part: Any, ids: set[str], split: str, references: base.References
) -> list[types.Question]:
  questions = {
    row.query_id: types.Question(id=row.query_id, text=_question_text(row))
    for row in part.queries_iter()
  }
  if not part.has_qrels():
    return list(questions.values())
  gold: dict[str, dict[str, int]] = {}
  where = f'the judgements of {split}'
  for row in part.qrels_iter():
    if not references.known(
      'question', row.query_id, questions, where, 'its queries'
    ):
      continue
    own = gold.setdefault(row.query_id, {})
    if row.relevance > 0 and references.known(
      'document', row.doc_id, ids, where, 'its documents'
    ):
      own[row.doc_id] = max(int(row.relevance), own.get(row.doc_id, 0))
  return [
    text_io.with_gold(dataclasses.replace(questions[name]), own)
    for name, own in gold.items()
  ]


def _question_text(row: Any) -> str:
  for name in ('text', 'title', 'query'):
    if hasattr(row, name):
      return str(getattr(row, name))
  return row.default_text()
