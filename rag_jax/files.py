"""Files that are written whole or not at all."""

import contextlib
import errno
import os
import pathlib
import secrets
from collections.abc import Iterator

from rag_jax import distributed

# What a file system without hard links says.
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
  """Yields a path beside `path`; at the end, its file replaces that of `path`.

  After an error, `path` is unchanged and the other file is gone.
  """
  path = pathlib.Path(path)
  partial = path.with_name(path.name + '.partial')
  try:
    yield partial
    os.replace(partial, path)
  except BaseException:
    with contextlib.suppress(OSError):
      partial.unlink(missing_ok=True)
    raise


@contextlib.contextmanager
def creating(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
  """Yields a path beside `path`; at the end, its file becomes `path`.

  For processes that may make the same file at the same time: each writes a file
  of its own, and the first that is done wins. A later one leaves `path` as it
  is. A process that is killed leaves a file NAME.RANDOM.partial.
  """
  path = pathlib.Path(path)
  partial = path.with_name(f'{path.name}.{secrets.token_hex(4)}.partial')
  try:
    yield partial
    try:
      os.link(partial, path)
    except FileExistsError:
      pass
    except OSError as error:
      if error.errno not in _NO_LINKS:
        raise
      os.replace(partial, path)
  finally:
    with contextlib.suppress(OSError):
      partial.unlink(missing_ok=True)


def write(path: str | os.PathLike[str], data: str | bytes) -> None:
  """Writes text, in UTF-8, or bytes to a file, atomically.

  Of several processes, only the first writes.
  """
  if not distributed.is_first():
    return
  with replacing(path) as partial:
    if isinstance(data, str):
      partial.write_text(data, encoding='utf-8')
    else:
      partial.write_bytes(data)


def reason(error: OSError) -> str:
  """Why an operation failed, without the path."""
  return os.strerror(error.errno) if error.errno else str(error)
