"""Files that are written whole or not at all."""

import contextlib
import os
import pathlib
from collections.abc import Iterator

from rag_jax import distributed


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
