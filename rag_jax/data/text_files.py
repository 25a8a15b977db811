"""Reads the user's text files, plain or .gz, line by line.

Each error is a one-line ValueError that names the file, the line if there is
one, and a remedy.
"""

import contextlib
import gzip
import json
import pathlib
import re
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

MAX_GIB = 8.0
_GIB = 2**30
_GZIP = 31  # the parameter of zlib for this format
# Text is packed to a third or a tenth of its size, what is made to fill a
# memory to a thousandth. The first number of bytes is always fine.
_MIN_BOMB, _MAX_RATIO = 64 * 2**20, 100
_PIECE = 2**16  # bytes at a time
_GRADE = re.compile(r'[+-]?[0-9]{1,9}(\.0*)?')
_NUMBER = re.compile(r'[+-]?([0-9.]+(e[+-]?[0-9]+)?|inf|nan|infinity)', re.I)


def find(folder: pathlib.Path, name: str) -> pathlib.Path | None:
  """The path of a file in a folder, plain or else .gz; None if missing."""
  for path in (folder / name, folder / f'{name}.gz'):
    if _is_there(path):
      return path
  return None


def find_all(folder: pathlib.Path, pattern: str) -> dict[str, pathlib.Path]:
  """Name without .gz -> path of each match; a plain file precedes its .gz."""
  zipped = {p.name.removesuffix('.gz'): p for p in folder.glob(pattern + '.gz')}
  found = zipped | {p.name: p for p in folder.glob(pattern)}
  return {name: found[name] for name in sorted(found) if _is_there(found[name])}


def _is_there(path: pathlib.Path) -> bool:
  """Whether `open` can read it or says what is wrong with it."""
  return path.exists() and not path.is_dir()


@contextlib.contextmanager
def open(path: pathlib.Path, max_gib: float) -> Iterator[BinaryIO]:
  """Opens a regular file, decompressed if it ends in .gz.

  Args:
    path: the file.
    max_gib: most GiB that it may hold once it is unpacked.

  Raises:
    ValueError: if it is no regular file, cannot be read, is damaged or holds
      too much; also while the caller reads.
  """
  try:
    if not path.is_file():
      raise ValueError(
        f'data file {str(path)!r} is not a regular file, such as a pipe or a '
        'device. Write its content to a file first, and set --config.data.path '
        'to that.'
      )
    if path.stat().st_size > max_gib * _GIB:
      raise _too_large(path, max_gib, '')
    if path.suffix != '.gz':
      with path.open('rb') as file:
        yield file
      return
    _check_unpacked(path, max_gib)
    with gzip.open(path, 'rb') as unpacked:
      yield unpacked  # type: ignore[misc]  # reads as a BinaryIO does
  except (EOFError, zlib.error, gzip.BadGzipFile) as error:
    raise ValueError(
      f'data file {str(path)!r} is a truncated or damaged .gz ({error}). '
      'Fetch it again, or set --config.data.path to an intact one.'
    ) from error
  except OSError as error:
    raise ValueError(
      f'data file {str(path)!r} cannot be read ({error.strerror}). '
      'Set --config.data.path to a readable one.'
    ) from error


def _check_unpacked(path: pathlib.Path, max_gib: float) -> None:
  """Counts the bytes in a .gz, without keeping them."""
  packed = count = 0
  stream = zlib.decompressobj(_GZIP)
  with path.open('rb') as file:
    while piece := file.read(_PIECE):
      packed += len(piece)
      while piece:
        count += len(stream.decompress(piece, _PIECE))
        if count > max_gib * _GIB:
          raise _too_large(path, max_gib, ' once it is unpacked')
        if count > max(_MIN_BOMB, _MAX_RATIO * packed):
          raise ValueError(
            f'data file {str(path)!r} unpacks to more than {_MAX_RATIO} times '
            'its size, as hardly any but a hostile one does. Fetch it again '
            'from a source that you trust, or unpack it with gunzip if it is '
            'sound.'
          )
        piece = stream.unconsumed_tail
        if stream.eof:  # members may follow each other, and zeros the last
          piece = stream.unused_data.lstrip(b'\0')
          stream = zlib.decompressobj(_GZIP)


def _too_large(path: pathlib.Path, max_gib: float, when: str) -> ValueError:
  return ValueError(
    f'data file {str(path)!r} has more than {max_gib:g} GiB{when}, the limit '
    'data.max_file_gib. Set --config.data.max_file_gib to a larger number if '
    'the file is sound and fits into memory.'
  )


def read_json(path: pathlib.Path, max_gib: float) -> Any:
  """Reads a JSON file."""
  with open(path, max_gib) as file:
    data = file.read()
  return _parse(_decode(data, path, 1), path, 1)


def read_json_lines(
  path: pathlib.Path, max_gib: float
) -> Iterator[tuple[str, dict]]:
  """Yields (location for error messages, object) for each JSON line."""
  for number, line in _lines(path, max_gib):
    if not line.strip():
      continue
    record = _parse(line, path, number)
    where = f'data file {str(path)!r} line {number}'
    if not isinstance(record, dict):
      raise ValueError(
        f'{where} must be a JSON object, got {short(record)}. '
        'Write one {...} per line.'
      )
    yield where, record


def read_qrels(
  path: pathlib.Path, max_gib: float, is_known: Callable[[str, str], bool]
) -> Iterator[tuple[str, str, str, int]]:
  """Yields (location, query id, document id, grade); skips a header.

  Args:
    path: the file.
    max_gib: as in `open`.
    is_known: whether a query or a document has such an id. The first line is a
      header if it has three fields, no number as the last and no known id.
  """
  for number, line in _lines(path, max_gib):
    fields = [field.strip() for field in line.split('\t')]
    where = f'data file {str(path)!r} line {number}'
    if fields == ['']:
      continue
    if len(fields) != 3 or not _NUMBER.fullmatch(fields[2]):
      if number == 1 and len(fields) == 3 and not is_known(*fields[:2]):
        continue
      raise ValueError(
        f'{where} must be query-id, corpus-id and score with tabs between, '
        f'got {line.rstrip()[:60]!r}. Correct that line.'
      )
    query, document, score = fields
    if not _GRADE.fullmatch(score):  # TREC qrels have integer grades
      raise ValueError(
        f'{where}: the score must be a whole number of at most 9 digits, got '
        f'{short(score)}. Correct that line.'
      )
    yield where, query, document, int(float(score))


def short(value: Any) -> str:
  """A value as it stands in an error."""
  text = 'nothing' if value is None else repr(value)
  return text if len(text) <= 60 else text[:57] + '...'


def _lines(path: pathlib.Path, max_gib: float) -> Iterator[tuple[int, str]]:
  """Yields (number, text) of each line, which ends at a line feed alone."""
  with open(path, max_gib) as file:
    for number, line in enumerate(file, 1):
      yield number, _decode(line.removesuffix(b'\n'), path, number)


def _decode(data: bytes, path: pathlib.Path, first_line: int) -> str:
  """The text of bytes that begin at this line; drops a byte order mark."""
  try:
    return data.decode('utf-8-sig' if first_line == 1 else 'utf-8')
  except UnicodeDecodeError as error:
    line = first_line + data.count(b'\n', 0, error.start)
    raise ValueError(
      f'data file {str(path)!r} line {line} is not UTF-8 '
      f'(byte 0x{error.object[error.start]:02x}). '
      'Convert the file with iconv -t UTF-8.'
    ) from error


def _parse(text: str, path: pathlib.Path, first_line: int) -> Any:
  try:
    return json.loads(text)
  except (ValueError, RecursionError) as error:
    line, problem = first_line, 'nested too deeply'
    if isinstance(error, json.JSONDecodeError):
      line, problem = first_line + error.lineno - 1, error.msg
    elif isinstance(error, ValueError):  # a number of thousands of digits
      problem = str(error).split(';')[0]
    raise ValueError(
      f'data file {str(path)!r} line {line} is not valid JSON ({problem}). '
      'Correct that line, or fetch the file again.'
    ) from error
