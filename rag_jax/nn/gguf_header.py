"""Checks the header of a GGUF file before it is read.

Every count and length must fit into the file, so that a damaged or hostile
header costs neither time nor memory.
"""

import os
import struct
from typing import BinaryIO

MAX_FIELDS = 10_000
MAX_TENSORS = 100_000
MAX_VALUES = 2_000_000  # of all metadata together; a large vocabulary has 1e6
_MAX_DIMS = 8
_STRING, _ARRAY = 8, 9  # types of metadata
# Bytes of a value of each other type.
_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}


def check(path: str | os.PathLike[str]) -> None:
  """Raises a ValueError, without the name of the file, on a wrong header.

  Args:
    path: the file.

  Raises:
    ValueError: if it is no GGUF file, ends too early, or declares more than it
      can hold.
  """
  with open(path, 'rb') as file:
    _Header(file, os.fstat(file.fileno()).st_size).walk()


class _Header:
  """Walks over a header; keeps count of the values."""

  def __init__(self, file: BinaryIO, size: int):
    self.file, self.size, self.values = file, size, 0
    self.order = '<'

  def walk(self) -> None:
    """Goes over all metadata and all descriptions of tensors."""
    if (magic := self.take(4)) != b'GGUF':
      raise ValueError(f'it begins with {magic!r}, not GGUF')
    version = self.take(4)
    self.order = '>' if version[:2] == b'\0\0' else '<'
    tensors, fields = self.number('Q'), self.number('Q')
    _limit(tensors, MAX_TENSORS, 'tensors')
    _limit(fields, MAX_FIELDS, 'fields')
    for _ in range(fields):
      self.string()
      self.value(self.number('I'))
    for _ in range(tensors):
      self.string()
      dims = self.number('I')
      _limit(dims, _MAX_DIMS, 'dimensions of a tensor')
      self.take(8 * dims + 4 + 8)  # dimensions, type, offset

  def value(self, kind: int) -> None:
    """Goes over a value of metadata."""
    if kind == _STRING:
      self.string()
    elif kind == _ARRAY:
      kind, count = self.number('I'), self.number('Q')
      self.values += count
      _limit(self.values, MAX_VALUES, 'values')
      if kind == _STRING:
        for _ in range(count):
          self.string()
      else:
        self.skip(count * _width(kind))
    else:
      self.skip(_width(kind))

  def string(self) -> None:
    self.skip(self.number('Q'))

  def number(self, form: str) -> int:
    data = self.take(struct.calcsize(form))
    return struct.unpack(self.order + form, data)[0]

  def take(self, count: int) -> bytes:
    data = self.file.read(count)
    if len(data) < count:
      raise ValueError('it ends within its header')
    return data

  def skip(self, count: int) -> None:
    if count > self.size - self.file.tell():
      raise ValueError(
        f'its header declares {count:,} bytes more than there are'
      )
    self.file.seek(count, os.SEEK_CUR)


def _limit(count: int, most: int, what: str) -> None:
  if count > most:
    raise ValueError(
      f'its header declares {count:,} {what}, the limit is {most:,}'
    )


def _width(kind: int) -> int:
  if kind not in _BYTES:  # also an array within an array
    raise ValueError(f'its header declares metadata of the unknown type {kind}')
  return _BYTES[kind]
