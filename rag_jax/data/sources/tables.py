"""Documents in JSON lines, CSV, TSV or Parquet, with questions beside them.

A folder of documents.jsonl (or .csv, .tsv, .parquet), MS MARCO's collection.tsv
or DPR's psgs_w100.tsv, with the questions that `beside` finds.
"""

import pathlib
from collections.abc import Iterator
from typing import Any

from rag_jax import types
from rag_jax.data import text_files, text_io
from rag_jax.data.sources import base, beside, records

# Names of files with documents -> columns, where there is no header.
NAMES: dict[str, tuple[str, ...]] = {
  'documents.jsonl': (),
  'documents.csv': (),
  'documents.tsv': (),
  'documents.parquet': (),
  'collection.tsv': ('id', 'text'),
  'psgs_w100.tsv': (),
  'corpus.csv': (),
  'corpus.tsv': (),
  'corpus.parquet': (),
}


def find(folder: pathlib.Path) -> str | None:
  """Name of the file with the documents; None if there is none."""
  names = (name for name in NAMES if text_files.find(folder, name))
  return next(names, None)


def reader(name: str = '') -> base.Reader:
  """The reader of a folder with this file of documents; '' = with any."""

  def read(folder: pathlib.Path, options: base.Options) -> base.Content:
    return _read(folder, options, name or find(folder) or 'documents.jsonl')

  return read


def _read(
  folder: pathlib.Path, options: base.Options, name: str
) -> base.Content:
  path = base.need(folder, name)
  read_rows = records.read(path, options, NAMES[name])
  documents = list(read_documents(path, read_rows, options))
  references = base.References(options)
  splits, notes = beside.read(
    folder, {d.id for d in documents}, name, options, references
  )
  return base.Content(
    documents=documents,
    splits=splits,
    notes=[*notes, *references.notes()],
  )


def read_documents(
  path: pathlib.Path, rows: Iterator[records.Record], options: base.Options
) -> Iterator[types.Document]:
  """Yields the documents of records with id, title, text and summary."""
  fields = records.Fields(options, path)
  seen: set[str] = set()
  for number, (where, own) in enumerate(rows, 1):
    record = fields.named(own, base.DOCUMENT_FIELDS)
    text_io.check_names(record, base.DOCUMENT_FIELDS, where)
    document = document_of(record, where, fields, number)
    if number == 1 and not {'text', 'title'} & record.keys():
      raise no_text(where, own)
    if document.id in seen:
      raise text_io.duplicate('document', document.id, where)
    seen.add(document.id)
    yield document


def no_text(where: str, record: dict[str, Any]) -> ValueError:
  """The error that the first record has neither text nor title."""
  return ValueError(
    f'{where} has neither text nor title, but {", ".join(record)[:200]}. '
    "Set --config.data.fields='text=NAME' with the name of the text."
  )


def document_of(
  record: dict[str, Any], where: str, fields: records.Fields, number: int
) -> types.Document:
  """One document; `id=` of `data.fields` numbers the documents."""
  if 'id' not in record and fields.is_set('id'):
    name = str(number)
  else:
    name = text_io.identifier(record, 'id', where)
  return types.Document(
    id=name,
    title=text_io.string(record, 'title', where),
    text=text_io.string(record, 'text', where),
    summary=text_io.string(record, 'summary', where),
  )
