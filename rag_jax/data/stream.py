"""The documents of a corpus, one at a time: no step holds them all.

It reads what `formats` reads as documents beside questions: a folder with
corpus.jsonl (BEIR), documents.jsonl (or .csv, .tsv, .parquet), collection.tsv
(MS MARCO), psgs_w100.tsv (DPR) or ArrayRecord files; plain, .gz or .zst.
"""

import dataclasses
import math
import pathlib
import zlib
from collections.abc import Iterator

from rag_jax import types
from rag_jax.data import assemble, text_files, text_io
from rag_jax.data.sources import array_records, base, records, tables

NAMES = ('corpus.jsonl', *tables.NAMES)
_PIECE = 2**20  # bytes at a time


def find(folder: pathlib.Path) -> list[pathlib.Path]:
  """The files with the documents of a folder.

  Raises:
    ValueError: if there is none.
  """
  for name in NAMES:
    path = text_files.find(folder, name)
    if path is not None:
      return [path]
  found = array_records.find(folder)
  if not found:
    raise ValueError(
      f'data.path {str(folder)!r} holds no corpus that can be read in blocks. '
      f'Set --config.data.path to a folder with one of {", ".join(NAMES)} or '
      f'*{array_records.SUFFIX}.'
    )
  return found


def documents(
  folder: pathlib.Path, options: base.Options
) -> Iterator[types.Document]:
  """Yields the documents of a folder, in the order of its files.

  Args:
    folder: the folder.
    options: as for `formats.load`. There is no limit on the size of a file.

  Yields:
    Documents, or passages if `passage_words` is above 0. Two of them may have
    the same id: no set of ids is kept.

  Raises:
    ValueError: if a file is missing or damaged, or a document is invalid.
  """
  options = dataclasses.replace(options, max_file_gib=math.inf)
  words, overlap = options.passages(0)
  for document in _documents(folder, options):
    if not assemble.shows(document):
      if options.on_empty == 'error':
        raise ValueError(
          f'document {document.id!r} in data.path {str(folder)!r} has no text. '
          'Set --config.data.on_empty=skip to skip such documents.'
        )
      continue
    if words:
      yield from assemble.cut([document], {}, words=words, overlap=overlap)
    else:
      yield document


def _documents(
  folder: pathlib.Path, options: base.Options
) -> Iterator[types.Document]:
  number = 0
  for path in find(folder):
    name = text_files.bare(path.name)
    if path.suffix == array_records.SUFFIX:
      rows = array_records.read_records(path)
    else:
      rows = records.read(path, options, tables.NAMES.get(name, ()))
    key = '_id' if name == 'corpus.jsonl' else 'id'
    names = (key, *base.DOCUMENT_FIELDS[1:])
    fields = records.Fields(options, path)
    for where, own in rows:
      number += 1
      record = own if key == '_id' else fields.named(own, base.DOCUMENT_FIELDS)
      text_io.check_names(record, names, where)
      if number == 1 and not {'text', 'title'} & record.keys():
        raise tables.no_text(where, own)
      if key == '_id':
        record = record | {'id': text_io.identifier(record, key, where)}
      yield tables.document_of(record, where, fields, number)


def summary(folder: pathlib.Path) -> dict[str, list[int]]:
  """Name -> bytes and CRC-32 of each file, which tell a corpus from others.

  Raises:
    ValueError: if a file of lines ends in the middle of a line.
  """
  found = {}
  for path in find(folder):
    checksum = size = 0
    with path.open('rb') as file:
      while piece := file.read(_PIECE):
        checksum, size = zlib.crc32(piece, checksum), size + len(piece)
    if records.suffix(path) not in ('.parquet', array_records.SUFFIX):
      _check_end(path)
    found[path.name] = [size, checksum]
  return found


def _check_end(path: pathlib.Path) -> None:
  """Raises a ValueError if a file of lines ends in the middle of a line."""
  last = b''
  with text_files.open(path, math.inf) as file:
    if path.suffix not in text_files.PACKED:
      file.seek(max(path.stat().st_size - 1, 0))
    while piece := file.read(_PIECE):
      last = piece[-1:]
  if last not in (b'', b'\n'):
    raise ValueError(
      f'data file {str(path)!r} ends in the middle of a line. Fetch it again, '
      'or add a line feed if its last line is whole: '
      f"echo >> '{text_files.bare(path.name)}'"
    )
