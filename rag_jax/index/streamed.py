"""Files of an index whose largest arrays are never whole in memory."""

import dataclasses
import hashlib
import os
import pathlib
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from rag_jax import files

_PIECE = 2**24  # bytes in memory at once


@dataclasses.dataclass(frozen=True)
class Array:
  """An array that comes in blocks of rows.

  Attributes:
    shape: of the whole array.
    dtype: of all blocks.
    blocks: a function that starts an iterator over its blocks, in order.
  """

  shape: tuple[int, ...]
  dtype: np.dtype
  blocks: Callable[[], Iterator[np.ndarray]]


def read(
  path: str | os.PathLike[str], names: Iterable[str], *, mapped: str
) -> dict[str, np.ndarray]:
  """Reads a file of `index.write`, one array of it memory-mapped.

  If `path` is compressed, the array is written to a file beside it, unless that
  is there: its name has the checksum of `path`, so it is never that of another
  index.

  Args:
    path: the file.
    names: arrays that it must hold.
    mapped: the name of the array.

  Raises:
    ValueError: if the file is missing or damaged, or an array is missing.
  """
  path = pathlib.Path(path)
  try:
    with zipfile.ZipFile(path) as file:
      found = {name.removesuffix('.npy') for name in file.namelist()}
      checksum = str(_member(file, 'checksum'))
      missing = sorted(set(names) - found)
      if missing:
        raise ValueError(f'no array {missing[0]}')
      copy = path.with_name(f'{path.stem}-{mapped}-{checksum[:16]}.npy')
      info = file.getinfo(f'{mapped}.npy')
      if info.compress_type != zipfile.ZIP_STORED and not copy.exists():
        _extract(file, mapped, copy)
      arrays = {
        name: _member(file, name) for name in found - {'checksum', mapped}
      }
    if info.compress_type == zipfile.ZIP_STORED:
      arrays[mapped] = _map(path, info)
    else:
      arrays[mapped] = np.load(copy, mmap_mode='r')
    if checksum_of(arrays) != checksum:
      copy.unlink(missing_ok=True)
      raise ValueError('its checksum differs')
  except Exception as error:  # NumPy and zipfile raise many types
    reason = (str(error) or type(error).__name__).splitlines()[0]
    raise ValueError(
      f'index file {str(path)!r} cannot be read ({reason[:200]}). Use another '
      '--workdir, or build the index again.'
    ) from error
  return arrays


def checksum_of(arrays: dict[str, np.ndarray]) -> str:
  """The SHA-256 of names, shapes and values, which are read in pieces."""
  digest = hashlib.sha256()
  for name in sorted(arrays):
    array = arrays[name]
    digest.update(name.encode())
    digest.update(str(array.shape).encode())
    flat = np.atleast_1d(array)
    rows = max(_PIECE // max(flat[:1].nbytes, 1), 1)
    for start in range(0, len(flat), rows):
      part = np.ascontiguousarray(flat[start : start + rows])
      digest.update(part.tobytes())
  return digest.hexdigest()


def _member(file: zipfile.ZipFile, name: str) -> np.ndarray:
  with file.open(f'{name}.npy') as stream:
    return np.lib.format.read_array(stream)


def _map(path: pathlib.Path, info: zipfile.ZipInfo) -> np.memmap:
  """Maps an array that is not compressed."""
  with path.open('rb') as file:
    file.seek(info.header_offset)
    # The header of a member has 30 bytes, then its name and extra fields.
    lengths = struct.unpack('<HH', file.read(30)[26:])
    file.seek(sum(lengths), os.SEEK_CUR)
    np.lib.format.read_magic(file)
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    return np.memmap(path, dtype, 'r', file.tell(), shape)


def _extract(file: zipfile.ZipFile, name: str, copy: pathlib.Path) -> None:
  """Writes an array of a .npz to a file of its own."""
  with (
    files.creating(copy) as partial,
    partial.open('wb') as target,
    file.open(f'{name}.npy') as stream,
  ):
    shutil.copyfileobj(stream, target, _PIECE)


def whole(array: np.ndarray) -> Array:
  """An array that is in memory, as one block."""
  array = np.asarray(array)
  return Array(array.shape, array.dtype, lambda: iter([array]))


def write(path: str | os.PathLike[str], arrays: dict[str, Array]) -> None:
  """Writes arrays to a .npz file that `index.read` reads, atomically.

  They are not compressed: `read` then maps them, and to pack the tokens of 21
  million passages would take minutes.

  Args:
    path: the file; an existing one is replaced.
    arrays: name -> array.

  Raises:
    ValueError: if the blocks of an array do not make its shape.
  """
  digest = hashlib.sha256()  # as `checksum_of`
  with (
    files.replacing(pathlib.Path(path)) as partial,
    zipfile.ZipFile(partial, 'w') as file,
  ):
    for name in sorted(arrays):
      array = arrays[name]
      digest.update(name.encode())
      digest.update(str(array.shape).encode())
      _write_member(file, name, array, digest)
    checksum = whole(np.asarray(digest.hexdigest()))
    _write_member(file, 'checksum', checksum, hashlib.sha256())


def _write_member(file: zipfile.ZipFile, name: str, array: Array, digest):
  # The date of `ZipInfo` is fixed, so that the bytes do not depend on the time.
  member = zipfile.ZipInfo(f'{name}.npy')
  with file.open(member, 'w', force_zip64=True) as stream:
    np.lib.format.write_array_header_1_0(
      stream,
      {
        'descr': np.lib.format.dtype_to_descr(array.dtype),
        'fortran_order': False,
        'shape': array.shape,
      },
    )
    count = 0
    for block in array.blocks():
      data = np.ascontiguousarray(block, array.dtype).tobytes()
      digest.update(data)
      stream.write(data)
      count += len(data)
  size = int(np.prod(array.shape, dtype=np.int64)) * array.dtype.itemsize
  if count != size:
    raise ValueError(
      f'array {name!r} must have {size:,} bytes as {array.dtype}'
      f'{list(array.shape)}, got blocks of {count:,}. Give all rows.'
    )
