"""Writes the files of an index block by block: no array is whole in memory."""

import dataclasses
import hashlib
import os
import pathlib
import zipfile
from collections.abc import Callable, Iterator

import numpy as np

from rag_jax import files


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


def whole(array: np.ndarray) -> Array:
  """An array that is in memory, as one block."""
  array = np.asarray(array)
  return Array(array.shape, array.dtype, lambda: iter([array]))


def write(path: str | os.PathLike[str], arrays: dict[str, Array]) -> None:
  """Writes arrays to a .npz file that `index.read` reads, atomically.

  Args:
    path: the file; an existing one is replaced.
    arrays: name -> array.

  Raises:
    ValueError: if the blocks of an array do not make its shape.
  """
  digest = hashlib.sha256()  # as in `index`, of what the file holds
  with (
    files.replacing(pathlib.Path(path)) as partial,
    zipfile.ZipFile(
      partial, 'w', zipfile.ZIP_DEFLATED, compresslevel=1
    ) as file,
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
  member.compress_type = zipfile.ZIP_DEFLATED
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
