"""Files of cached vectors, which processes may read and write together.

NAME.npy              the vectors
NAME.json             their shape, dtype, key and checksum
NAME-RANDOM.partial   what one process has encoded so far
NAME-RANDOM.npy.new, NAME-RANDOM.json.new   files before their rename

A process writes files of its own and renames them when they are whole, so the
last one to finish wins. It holds a lock on its partial file, which the system
releases when the process ends, however it ends: a partial file without a lock
belongs to nobody, and the next process takes it over.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import secrets
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from rag_jax import console, files

try:
  import fcntl
except ImportError:  # Windows: no locks, so nobody's partial file is taken over
  fcntl = None  # type: ignore[assignment]

_DIGEST = hashlib.sha256().digest_size
_NEW = ('.npy.new', '.json.new')


def load(path: pathlib.Path, key: str, shape: tuple[int, int]) -> Any:
  """The cached vectors, or None with a note if they are damaged.

  Args:
    path: NAME.npy.
    key: hash of what was encoded.
    shape: the expected shape.

  Returns:
    float32 of that shape; None if there is no usable file.
  """
  expected = _about(key, shape)
  with contextlib.ExitStack() as stack:
    try:
      with _locked_folder(path.parent):  # so that the two files belong together
        file = stack.enter_context(path.open('rb'))
        note = path.with_suffix('.json').read_bytes()
    except FileNotFoundError:
      return _again(path, 'has no note beside it') if path.exists() else None
    except OSError as error:
      return _again(path, f'cannot be read ({error.strerror})')
    try:
      about = json.loads(note)
      checksum = about.pop('sha256')
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
      return _again(path, 'has a damaged note beside it')
    if about != expected:
      return _again(path, f'holds {about}, not {expected}')
    if hashlib.file_digest(file, 'sha256').hexdigest() != checksum:
      return _again(path, 'is damaged: its checksum differs')
    file.seek(0)
    try:
      vectors = np.load(file)
    except (ValueError, EOFError, MemoryError):
      return _again(path, 'is no array')
    if vectors.shape != shape or vectors.dtype != np.float32:
      return _again(path, f'holds {vectors.dtype}{list(vectors.shape)}')
    return vectors


def write(
  path: pathlib.Path,
  key: str,
  shape: tuple[int, int],
  blocks: Iterator[np.ndarray],
) -> None:
  """Writes vectors that come in blocks, for `load`; replaces what is there.

  Args:
    path: NAME.npy; its folder is created if missing.
    key: hash of what was encoded.
    shape: of all vectors.
    blocks: float32[., W], in order.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  new = path.with_name(f'{path.stem}-{secrets.token_hex(8)}{_NEW[0]}')
  digest = hashlib.sha256()
  try:
    with new.open('w+b') as file:
      np.lib.format.write_array_header_1_0(
        file, {'descr': '<f4', 'fortran_order': False, 'shape': shape}
      )
      file.seek(0)
      digest.update(file.read())
      for block in blocks:
        data = np.ascontiguousarray(block, np.float32).tobytes()
        digest.update(data)
        file.write(data)
    about = _about(key, shape) | {'sha256': digest.hexdigest()}
    with _locked_folder(path.parent):
      os.replace(new, path)
      files.write(path.with_suffix('.json'), json.dumps(about) + '\n')
  finally:
    new.unlink(missing_ok=True)


class Partial:
  """Batches of vectors that one process appends to a file of its own.

  Each batch is followed by its checksum, so what a killed process wrote is
  read up to the first damaged batch.
  """

  def __init__(self, path: pathlib.Path):
    """Takes over the longest file that no process owns, or makes a new one.

    Args:
      path: NAME.npy.
    """
    self._target, self._published = path, False
    files = sorted(path.parent.glob(f'{path.stem}-*.partial'))
    owned = [own for own in map(_own, files) if own is not None]
    owned.sort(key=lambda own: os.fstat(own[1].fileno()).st_size)
    self._path, self._file = owned.pop() if owned else _create(path)
    for shorter, file in owned:
      _remove(shorter)
      file.close()

  def read(self, sizes: Sequence[int], width: int) -> Iterator[np.ndarray]:
    """Yields the intact batches, in order; later ones are dropped.

    Args:
      sizes: rows of each batch of the corpus.
      width: values of a row.

    Yields:
      float32[rows, width].
    """
    end = 0
    self._file.seek(0)
    for rows in sizes:
      size = 4 * rows * width
      data = self._file.read(size + _DIGEST)
      if len(data) < size + _DIGEST or data[size:] != _digest(data[:size]):
        break
      yield np.frombuffer(data[:size], np.float32).reshape(rows, width)
      end += len(data)
    self._file.seek(end)
    self._file.truncate()

  def append(self, batch: np.ndarray) -> None:
    """Writes the next batch."""
    data = np.ascontiguousarray(batch, np.float32).tobytes()
    self._file.write(data + _digest(data))
    self._file.flush()

  def publish(self, key: str, vectors: np.ndarray) -> None:
    """Writes all vectors and their note, both whole or not at all.

    Args:
      key: hash of what was encoded.
      vectors: float32[N, W].
    """
    new = [self._path.with_suffix(suffix) for suffix in _NEW]
    with new[0].open('w+b') as file:
      np.save(file, vectors)
      file.seek(0)
      checksum = hashlib.file_digest(file, 'sha256').hexdigest()
    about = _about(key, vectors.shape) | {'sha256': checksum}
    new[1].write_text(json.dumps(about) + '\n', encoding='utf-8')
    with _locked_folder(self._target.parent):
      os.replace(new[0], self._target)
      os.replace(new[1], self._target.with_suffix('.json'))
    self._published = True

  def close(self) -> None:
    """Releases the file; removes it if its vectors are published."""
    if self._published:
      _remove(self._path)
    self._file.close()


def _about(key: str, shape: tuple[int, ...]) -> dict[str, Any]:
  return {'key': key, 'shape': list(shape), 'dtype': 'float32'}


def _again(path: pathlib.Path, problem: str) -> None:
  console.note(
    f'file {str(path)!r} {problem}. The documents are encoded again.'
  )


def _digest(data: bytes) -> bytes:
  return hashlib.sha256(data).digest()


def _create(path: pathlib.Path) -> tuple[pathlib.Path, Any]:
  """A new partial file, open and locked."""
  while True:
    own = path.with_name(f'{path.stem}-{secrets.token_hex(8)}.partial')
    file = own.open('x+b')
    if _lock(file) is not False:
      return own, file
    file.close()  # another process took it for an abandoned one


def _own(path: pathlib.Path) -> tuple[pathlib.Path, Any] | None:
  """A partial file, open and locked; None if it may have an owner."""
  try:
    file = path.open('r+b')
  except OSError:  # removed in between, or of another user
    return None
  # The owner may have removed the file between `open` and the lock.
  if _lock(file) and path.exists():
    return path, file
  file.close()
  return None


def _remove(path: pathlib.Path) -> None:
  """Removes a partial file, and files that its process did not rename."""
  for suffix in (*_NEW, '.partial'):
    path.with_suffix(suffix).unlink(missing_ok=True)


def _lock(file: Any) -> bool | None:
  """Locks a file until it is closed.

  Returns:
    Whether the lock is held now; None where there are no locks.
  """
  if fcntl is None:
    return None
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    return False
  except OSError:
    return None
  return True


@contextlib.contextmanager
def _locked_folder(folder: pathlib.Path) -> Iterator[None]:
  """Holds a lock on a folder for a moment, where the system has such locks."""
  if fcntl is None:
    yield
    return
  descriptor = os.open(folder, os.O_RDONLY)
  try:
    with contextlib.suppress(OSError):
      fcntl.flock(descriptor, fcntl.LOCK_EX)
    yield
  finally:
    os.close(descriptor)
