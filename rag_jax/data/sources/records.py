"""Records of JSON, JSON lines, CSV, TSV and Parquet files, one at a time."""

import ast
import csv
import io
import json
import pathlib
from collections.abc import Iterator
from typing import Any

from rag_jax.data import text_files, text_io
from rag_jax.data.sources import base

Record = tuple[str, dict[str, Any]]  # location for error messages, and fields
SUFFIXES = ('.json', '.jsonl', '.ndjson', '.csv', '.tsv', '.parquet')
_MOST_CHARACTERS = 2**31 - 1  # of a field of a CSV file
_BATCH = 1024  # rows of Parquet at a time


def suffix(path: pathlib.Path) -> str:
  """The ending of a file name before .gz or .zst, such as '.csv'."""
  return pathlib.PurePath(text_files.bare(path.name)).suffix.lower()


def read(
  path: pathlib.Path, options: base.Options, columns: tuple[str, ...] = ()
) -> Iterator[Record]:
  """Yields the records of a file.

  Args:
    path: a file with an ending of `SUFFIXES`, perhaps with .gz or .zst.
    options: the maximum size.
    columns: names of the columns of a CSV or TSV file without a header.

  Raises:
    ValueError: if the file is damaged, or a record is no object.
  """
  kind = suffix(path)
  if kind == '.json':
    return _json(path, options.max_file_gib)
  if kind == '.csv':
    return _table(path, options.max_file_gib, ',', columns)
  if kind == '.tsv':
    return _table(path, options.max_file_gib, '\t', columns)
  if kind == '.parquet':
    return _parquet(path, options.max_file_gib)
  return text_files.read_json_lines(path, options.max_file_gib)


def _json(path: pathlib.Path, max_gib: float) -> Iterator[Record]:
  """The items of a JSON list, JSON lines, or one object as a single record."""
  with text_files.open(path, max_gib) as file:
    first = file.readline()
    more = any(line.strip() for line in file) if first[:1] == b'{' else False
  if more:
    try:
      is_lines = isinstance(json.loads(first), dict)
    except ValueError:
      is_lines = False
    if is_lines:
      yield from text_files.read_json_lines(path, max_gib)
      return
  value = text_files.read_json(path, max_gib)
  where = f'data file {str(path)!r}'
  if isinstance(value, dict):
    yield where, value
    return
  for i, record in enumerate(value if isinstance(value, list) else [value]):
    at = f'{where} record {i}'
    if not isinstance(record, dict):
      raise ValueError(
        f'{at} must be a JSON object, got {text_files.short(record)}. '
        'Correct it, or set --config.data.path to another file.'
      )
    yield at, record


def _table(
  path: pathlib.Path, max_gib: float, delimiter: str, columns: tuple[str, ...]
) -> Iterator[Record]:
  """Rows of a CSV or TSV file; with `columns` there are no quotes in a TSV."""
  csv.field_size_limit(_MOST_CHARACTERS)
  raw = bool(columns) and delimiter == '\t'
  names = list(columns)
  where = f'data file {str(path)!r}'
  with text_files.open(path, max_gib) as file:
    text = io.TextIOWrapper(file, encoding='utf-8-sig', newline='')
    rows = csv.reader(
      text,
      delimiter=delimiter,
      quoting=csv.QUOTE_NONE if raw else csv.QUOTE_MINIMAL,
      strict=not raw,
    )
    while True:
      try:
        row = next(rows, None)
      except UnicodeDecodeError as error:
        raise ValueError(
          f'{where} is not UTF-8 after line {rows.line_num} (byte '
          f'0x{error.object[error.start]:02x}). Convert the file with '
          'iconv -t UTF-8.'
        ) from error
      except csv.Error as error:
        raise ValueError(
          f'{where} line {rows.line_num} is no valid row ({error}). Correct '
          'its quotation marks: a field that holds one is put in quotation '
          'marks, and its own are doubled.'
        ) from error
      if row is None:
        break
      if not row:
        continue
      if not names:
        names = [name.strip() for name in row]
        if len(set(names)) < len(names):
          raise ValueError(
            f'{where} must name each column once in its first line, got '
            f'{text_files.short(names)}. Correct that line.'
          )
        continue
      at = f'{where} line {rows.line_num}'
      if len(row) != len(names):
        raise ValueError(
          f'{at} must have {len(names)} fields ({", ".join(names)[:60]}), got '
          f'{len(row)}. Correct that line, or the quotation marks before it.'
        )
      yield at, dict(zip(names, row, strict=True))


def _parquet(path: pathlib.Path, max_gib: float) -> Iterator[Record]:
  """Rows of a Parquet file, read in batches."""
  where = f'data file {str(path)!r}'
  try:
    from pyarrow import ArrowException, parquet
  except ImportError as error:
    raise text_files.missing('pyarrow', 'parquet', where) from error
  with text_files.open(path, max_gib):  # checks the file
    pass
  try:
    with parquet.ParquetFile(path) as file:
      number = 0
      for batch in file.iter_batches(_BATCH):
        for row in batch.to_pylist():
          yield f'{where} row {number}', row
          number += 1
  except (ArrowException, OSError) as error:
    reason = str(error).splitlines()[0][:80]
    raise ValueError(
      f'{where} cannot be read as Parquet ({reason}). Fetch it again, or set '
      '--config.data.path to an intact one.'
    ) from error


class Fields:
  """Fields of records by their names here, whatever the files call them."""

  def __init__(self, options: base.Options, path: pathlib.Path):
    """Names from `data.fields`; the path is for errors."""
    self._names, self._path = options.names, path
    self._checked: set[str] = set()

  def named(self, record: dict[str, Any], known: tuple[str, ...]) -> dict:
    """A record with the names of this project, and all other fields.

    Raises:
      ValueError: if the first record lacks a field that `data.fields` names.
    """
    if not self._names:
      return record
    found = dict(record)
    for name in known:
      own = self._names.get(name)
      if own is None:
        continue
      if own and own not in record and name not in self._checked:
        raise ValueError(
          f'data.fields has {name}={own}, but data file {str(self._path)!r} '
          f'has the fields {", ".join(map(str, record))[:200]}. '
          'Set --config.data.fields.'
        )
      self._checked.add(name)
      found.pop(name, None)
      if own in record:
        found[name] = record[own]
    return found

  def is_set(self, name: str) -> bool:
    """Whether `data.fields` names this field."""
    return name in self._names


def many(record: dict[str, Any], name: str, where: str) -> tuple[str, ...]:
  """Reads a field that lists texts, in any of the usual forms.

  A list; a text that is a list in JSON or Python, as in CSV; one text or
  number; or SQuAD's {"text": [...]}.

  Example:
    >>> many({'answers': '["a", "b"]'}, 'answers', '')
    ('a', 'b')
    >>> many({'answers': 1969}, 'answers', '')
    ('1969',)
  """
  value = record.get(name)
  if isinstance(value, dict) and 'text' in value:
    value = value['text']
  if isinstance(value, str):
    value = _list(value)
  elif isinstance(value, (int, float)) and not isinstance(value, bool):
    value = [value]
  return text_io.strings({name: value}, name, where)


def _list(text: str) -> list:
  """A list that is written in JSON or Python, or the text as one item."""
  plain = text.strip()
  if plain[:1] == '[' and plain[-1:] == ']':
    try:
      value = json.loads(plain, parse_float=text_files.Number)
    except ValueError:
      try:
        value = ast.literal_eval(plain)
      except (ValueError, SyntaxError, MemoryError, RecursionError):
        value = None
    if isinstance(value, list):
      return value
  return [text]
