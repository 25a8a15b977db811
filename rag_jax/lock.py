"""The lock of a workdir: one process at a time writes into it.

The lock is `flock` on the file `lock` in the workdir, which the kernel releases
when the process ends in any way. On file systems without flock, the file itself
is the lock, and names process and machine; the file of a process that does not
run any more counts for nothing.
"""

import contextlib
import errno
import json
import os
import pathlib
import socket
import time
from collections.abc import Iterator

from rag_jax import distributed, files

try:
  import fcntl
except ImportError:  # Windows
  fcntl = None  # type: ignore[assignment]

FILE = 'lock'
WAIT = 0.05  # seconds between two attempts
_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


class Held(ValueError):
  """Another process holds the lock."""


@contextlib.contextmanager
def hold(workdir: pathlib.Path, *, wait: float = 0.0) -> Iterator[None]:
  """Holds the lock of a workdir; creates the folder if it is missing.

  A created folder that is still empty at the end is removed, so that a failed
  run leaves no files.

  Args:
    workdir: folder of a run.
    wait: seconds to wait for another process.

  Of the processes of one run, the first holds it for all.

  Raises:
    Held: if another process still holds the lock.
    ValueError: if the folder cannot be written.
  """
  if not distributed.is_first():
    yield
    return
  made = _make(workdir)
  path = workdir / FILE
  try:
    file = _acquire(path, time.monotonic() + wait)
  except OSError as error:
    _remove(made)
    raise unwritable(workdir, error) from error
  try:
    yield
  finally:
    with contextlib.suppress(OSError):  # removed before it is released
      path.unlink()
    os.close(file)
    _remove(made)


def unwritable(workdir: pathlib.Path, error: OSError) -> ValueError:
  """The error that a workdir cannot be written, in one line."""
  return ValueError(
    f'workdir {str(workdir)!r} cannot be written ({files.reason(error)}). '
    'Set --workdir to a writable folder, or free disk space.'
  )


def _make(folder: pathlib.Path) -> list[pathlib.Path]:
  """Creates a folder; returns the created folders, deepest first."""
  try:
    if folder.exists() and not folder.is_dir():
      raise ValueError(
        f'workdir {str(folder)!r} is a file. Set --workdir to a folder.'
      )
    chain = [folder, *folder.parents]
    made = [path for path in chain if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise unwritable(folder, error) from error
  return made


def _remove(folders: list[pathlib.Path]) -> None:
  with contextlib.suppress(OSError):  # not empty
    for folder in folders:
      folder.rmdir()


def _acquire(path: pathlib.Path, deadline: float) -> int:
  """The open file that holds the lock."""
  while True:
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
      if _locked(file, path):
        os.ftruncate(file, 0)
        os.pwrite(file, json.dumps(_owner()).encode(), 0)
        return file
      holder = os.pread(file, 1000, 0)
    except BaseException:
      os.close(file)
      raise
    os.close(file)
    if time.monotonic() >= deadline:
      raise Held(
        f'workdir {str(path.parent)!r} is being written by {_name(holder)}. '
        'Wait until it has ended, or set another --workdir.'
      )
    time.sleep(WAIT)


def _locked(file: int, path: pathlib.Path) -> bool:
  """Whether an open file is the lock, and this process holds it now."""
  try:
    if fcntl is None:
      raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    return False
  except OSError as error:
    if error.errno not in _UNSUPPORTED:
      raise
    return _locked_by_name(file)
  try:  # the holder before may have removed the file in the meantime
    return os.path.samestat(os.fstat(file), os.stat(path))
  except FileNotFoundError:
    return False


def _locked_by_name(file: int) -> bool:
  """Whether a file without flock names no process that still runs."""
  try:
    owner = json.loads(os.pread(file, 1000, 0))
    host, process = owner['host'], int(owner['process'])
  except (ValueError, TypeError, KeyError):
    return True  # empty, or cut off by a kill
  if host != socket.gethostname():
    return False
  try:
    os.kill(process, 0)
  except ProcessLookupError:
    return True
  except PermissionError:
    return False
  return False


def _owner() -> dict[str, object]:
  return {'process': os.getpid(), 'host': socket.gethostname()}


def _name(text: bytes) -> str:
  """The process that a lock file names, in words."""
  try:
    owner = json.loads(text)
    return f'process {owner["process"]} on {owner["host"]}'
  except (ValueError, TypeError, KeyError):
    return 'another process'
