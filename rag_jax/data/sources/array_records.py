"""Documents in ArrayRecord files, one JSON object a record.

A folder of NAME.array_record, with the fields of documents.jsonl, read in the
order of their names. `rag-jax corpus encode` writes such files, too.
"""

import dataclasses
import json
import pathlib
from collections.abc import Iterator, Sequence

from array_record.python import array_record_module

from rag_jax import files, types
from rag_jax.data import text_files
from rag_jax.data.sources import base, beside, records, tables

SUFFIX = '.array_record'
_OPTIONS = 'group_size:64,zstd'
_BATCH = 1024  # records at a time


def find(folder: pathlib.Path) -> list[pathlib.Path]:
  """The files of a folder, by name."""
  return sorted(folder.glob(f'*{SUFFIX}'))


def read(folder: pathlib.Path, options: base.Options) -> base.Content:
  """Reads all documents of a folder, and questions beside them."""
  paths = find(folder)
  if not paths:
    raise ValueError(
      f'data.path {str(folder)!r} holds no *{SUFFIX}. Set --config.data.path '
      'to a folder with such files, or --config.data.format.'
    )
  rows = (row for path in paths for row in read_records(path))
  documents = list(tables.read_documents(folder, rows, options))
  references = base.References(options)
  splits, notes = beside.read(
    folder, {d.id for d in documents}, paths[0].name, options, references
  )
  return base.Content(
    documents=documents,
    splits=splits,
    notes=[*notes, *references.notes()],
  )


def read_records(path: pathlib.Path) -> Iterator[records.Record]:
  """Yields (location for error messages, object) for each record."""
  for number, data in enumerate(_read(path)):
    where = f'data file {str(path)!r} record {number}'
    try:
      record = json.loads(data, object_pairs_hook=text_files.distinct)
    except (ValueError, RecursionError) as error:
      raise ValueError(
        f'{where} is not valid JSON ({str(error)[:80]}). Write one JSON object '
        'a record.'
      ) from error
    if not isinstance(record, dict):
      raise ValueError(
        f'{where} must be a JSON object, got {text_files.short(record)}. Write '
        'one JSON object a record.'
      )
    yield where, record


def _read(path: pathlib.Path) -> Iterator[bytes]:
  """Yields the records of a file."""
  try:
    reader = array_record_module.ArrayRecordReader(str(path))
    count = reader.num_records()
    for first in range(0, count, _BATCH):
      yield from reader.read(first, min(first + _BATCH, count))
    reader.close()
  except Exception as error:  # the library raises RuntimeError and others
    reason = (str(error) or type(error).__name__).splitlines()[0][:120]
    raise ValueError(
      f'data file {str(path)!r} cannot be read as ArrayRecord ({reason}). '
      'Write or fetch it again.'
    ) from error


def write(path: pathlib.Path, documents: Sequence[types.Document]) -> None:
  """Writes documents, the same bytes for the same documents."""
  with files.creating(path) as partial:
    writer = array_record_module.ArrayRecordWriter(str(partial), _OPTIONS)
    for document in documents:
      fields = dataclasses.asdict(document)
      kept = {name: value for name, value in fields.items() if value}
      writer.write(json.dumps(kept, ensure_ascii=False).encode())
    writer.close()
