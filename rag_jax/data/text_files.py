"""Reads the user's text files, plain, .gz or .zst, line by line.

Each error is a one-line ValueError that names the file, the line if there is
one, and a remedy.
"""

import contextlib
import gzip
import io
import json
import pathlib
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

MAX_GIB = 8.0
PACKED = ('.gz', '.zst')  # endings of packed files
_GIB = 2**30
_GZIP = 31  # the parameter of zlib for this format
# Text is packed to a third or a tenth of its size, what is made to fill a
# memory to a thousandth. The first number of bytes is always fine.
_MIN_BOMB, _MAX_RATIO = 64 * 2**20, 100
_PIECE = 2**16  # bytes at a time
_SAMPLE = 2**28  # unpacked bytes from which the rest of a file is estimated
_ZST_PIECE = 2**10  # one such piece may unpack to 32 MiB


class Number(float):
  """A number of a JSON file that keeps how it is written.

  Example:
    >>> str(Number('2.50')), Number('2.50') + 1
    ('2.50', 3.5)
  """

  def __new__(cls, text: str) -> 'Number':
    """A number from its text."""
    number = super().__new__(cls, text)
    number.text = text  # type: ignore[attr-defined]
    return number

  def __str__(self) -> str:
    """The text in the file."""
    return self.text  # type: ignore[attr-defined]


def bare(name: str) -> str:
  """A file name without .gz or .zst."""
  return name.removesuffix('.gz').removesuffix('.zst')


def find(folder: pathlib.Path, name: str) -> pathlib.Path | None:
  """The path of a file in a folder, plain, .gz or .zst; None if missing."""
  for path in (folder / name, *(folder / f'{name}{end}' for end in PACKED)):
    if _is_there(path):
      return path
  return None


def find_all(folder: pathlib.Path, pattern: str) -> dict[str, pathlib.Path]:
  """Name without .gz or .zst -> path of each match; plain files come first."""
  found: dict[str, pathlib.Path] = {}
  for end in (*reversed(PACKED), ''):
    found |= {bare(path.name): path for path in folder.glob(pattern + end)}
  return {name: found[name] for name in sorted(found) if _is_there(found[name])}


def _is_there(path: pathlib.Path) -> bool:
  """Whether `open` can read it or says what is wrong with it."""
  return path.exists() and not path.is_dir()


@contextlib.contextmanager
def open(path: pathlib.Path, max_gib: float) -> Iterator[BinaryIO]:
  """Opens a regular file, decompressed if it ends in .gz or .zst.

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
    if path.suffix not in PACKED:
      with path.open('rb') as file:
        yield file
    elif path.suffix == '.gz':
      _check_size(path, max_gib, _gzip_sizes(path))
      with gzip.open(path, 'rb') as unpacked:
        yield unpacked  # type: ignore[misc]  # reads as a BinaryIO does
    else:
      _check_size(path, max_gib, _zst_sizes(path))
      with path.open('rb') as file:
        reader = (
          _zstandard(path)
          .ZstdDecompressor()
          .stream_reader(file, read_across_frames=True)
        )
        yield io.BufferedReader(reader)  # type: ignore[misc]
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


def _check_size(
  path: pathlib.Path, max_gib: float, sizes: Iterator[tuple[int, int]]
) -> None:
  """Raises a ValueError if a packed file holds too much.

  To unpack all of a file of many GiB would take a minute. So it is refused as
  soon as two samples in a row say that the whole exceeds the limit.

  Args:
    path: the file.
    max_gib: as in `open`.
    sizes: bytes read and bytes unpacked so far, while the file is unpacked.
  """
  size, last_packed, last_count, over = path.stat().st_size, 0, 0, 0
  for packed, count in sizes:
    if count - last_count >= _SAMPLE:
      ratio = (count - last_count) / max(packed - last_packed, 1)
      last_packed, last_count = packed, count
      estimate = count + ratio * (size - packed)
      over = over + 1 if estimate > max_gib * _GIB else 0
      if over == 2:
        when = f' once it is unpacked (about {estimate / _GIB:.0f} GiB)'
        raise _too_large(path, max_gib, when)
    if count > max_gib * _GIB:
      raise _too_large(path, max_gib, ' once it is unpacked')
    if count > max(_MIN_BOMB, _MAX_RATIO * packed):
      tool = {'.gz': 'gunzip', '.zst': 'unzstd'}[path.suffix]
      raise ValueError(
        f'data file {str(path)!r} unpacks to more than {_MAX_RATIO} times '
        'its size, as hardly any but a hostile one does. Fetch it again '
        f'from a source that you trust, or unpack it with {tool} if it is '
        'sound.'
      )


def _gzip_sizes(path: pathlib.Path) -> Iterator[tuple[int, int]]:
  """Counts the bytes in a .gz, without keeping them."""
  packed = count = 0
  stream = zlib.decompressobj(_GZIP)
  with path.open('rb') as file:
    while piece := file.read(_PIECE):
      packed += len(piece)
      while piece:
        count += len(stream.decompress(piece, _PIECE))
        yield packed - len(stream.unconsumed_tail), count
        piece = stream.unconsumed_tail
        if stream.eof:  # members may follow each other, and zeros the last
          piece = stream.unused_data.lstrip(b'\0')
          stream = zlib.decompressobj(_GZIP)


def _zst_sizes(path: pathlib.Path) -> Iterator[tuple[int, int]]:
  """Counts the bytes in a .zst; a truncated or damaged one is an error."""
  library = _zstandard(path)
  unpacker = library.ZstdDecompressor()
  packed = count = 0
  stream = None
  try:
    with path.open('rb') as file:
      while piece := file.read(_ZST_PIECE):
        packed += len(piece)
        while piece:
          stream = stream or unpacker.decompressobj()
          count += len(stream.decompress(piece))
          yield packed, count
          piece = b''
          if stream.eof:  # frames may follow each other
            piece, stream = stream.unused_data, None
  except library.ZstdError as error:
    raise _damaged_zst(path, error) from error
  if stream is not None or not packed:
    raise _damaged_zst(path, 'its end is missing')


def _damaged_zst(path: pathlib.Path, reason: object) -> ValueError:
  return ValueError(
    f'data file {str(path)!r} is a truncated or damaged .zst ({reason}). '
    'Fetch it again, or set --config.data.path to an intact one.'
  )


def _zstandard(path: pathlib.Path) -> Any:
  try:
    import zstandard
  except ImportError as error:
    raise missing('zstandard', 'zst', f'data file {str(path)!r}') from error
  return zstandard


def missing(library: str, extra: str, where: str) -> ValueError:
  """The error that an optional library is not installed."""
  return ValueError(
    f'{where} needs the library {library}, which is not installed. Install it '
    f"with pip install 'rag_jax[{extra}]', or with pip install {library}."
  )


def _too_large(path: pathlib.Path, max_gib: float, when: str) -> ValueError:
  return ValueError(
    f'data file {str(path)!r} has more than {max_gib:g} GiB{when}, the limit '
    'data.max_file_gib. Set --config.data.max_file_gib to a larger number if '
    'the file is sound and fits into memory.'
  )


def read_text(path: pathlib.Path, max_gib: float) -> str:
  """Reads a UTF-8 text file, without a byte order mark."""
  with open(path, max_gib) as file:
    return _decode(file.read(), path, 1)


def read_json(path: pathlib.Path, max_gib: float) -> Any:
  """Reads a JSON file."""
  return _parse(read_text(path, max_gib), path, 1)


def read_json_lines(
  path: pathlib.Path, max_gib: float
) -> Iterator[tuple[str, dict]]:
  """Yields (location for error messages, object) for each JSON line."""
  for number, line in lines(path, max_gib):
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


def short(value: Any) -> str:
  """A value as it stands in an error."""
  text = 'nothing' if value is None else repr(value)
  return text if len(text) <= 60 else text[:57] + '...'


def lines(path: pathlib.Path, max_gib: float) -> Iterator[tuple[int, str]]:
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


def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  """The object of these fields; a ValueError if one occurs twice."""
  found = dict(pairs)
  if len(found) < len(pairs):
    names = [name for name, _ in pairs]
    twice = next(name for name in names if names.count(name) > 1)
    raise ValueError(f'field {twice!r} occurs twice in an object')
  return found


def _parse(text: str, path: pathlib.Path, first_line: int) -> Any:
  try:
    return json.loads(text, parse_float=Number, object_pairs_hook=distinct)
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
