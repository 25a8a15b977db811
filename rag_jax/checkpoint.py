"""Checkpoints of training, stored with Orbax.

One process saves (`open`, `save`, `close`); any number of others may `load` at
the same time, which writes nothing. A checksum of each array is saved with it
and verified when it is loaded.
"""

import dataclasses
import json
import logging
import os
import pathlib
import re
import shutil
import sys
import warnings
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from rag_jax import console, distributed

METADATA = '_CHECKPOINT_METADATA'  # Orbax's file, in JSON
ASIDE = 'damaged-'  # prefix of the folder of a checkpoint that is damaged
Parts = Mapping[str, Any]


@dataclasses.dataclass
class Checkpointer:
  """What saves checkpoints into a folder; type of `open`."""

  directory: pathlib.Path
  orbax: ocp.training.Checkpointer
  saving: int | None = None  # step of the save in the background


@dataclasses.dataclass(frozen=True)
class Loaded:
  """A checkpoint.

  Attributes:
    step: number of its step.
    parts: name -> pytree of arrays.
    notes: the plain values that were saved with it.
  """

  step: int
  parts: dict[str, Any]
  notes: dict[str, Any]


def open(directory: str | os.PathLike[str], *, keep: int = 2) -> Checkpointer:
  """Opens a folder of checkpoints that keeps the newest `keep`.

  It deletes what an earlier process has left half-written, so at most one
  process may have the folder open; see `lock.hold`.

  Raises:
    ValueError: if the folder cannot be written.
  """
  path = pathlib.Path(directory).resolve()
  _quieten_orbax()
  preservation = ocp.training.preservation_policies
  try:
    path.mkdir(parents=True, exist_ok=True)
    orbax = ocp.training.Checkpointer(
      str(path),
      preservation_policy=preservation.LatestN(keep),
      cleanup_tmp_directories=True,
    )
  except Exception as error:  # Orbax raises many kinds of errors
    raise ValueError(
      f'folder {str(path)!r} cannot be written ({_reason(error)}). '
      'Permit writing, or set another --workdir.'
    ) from error
  return Checkpointer(path, orbax)


def save(
  checkpointer: Checkpointer,
  step: int,
  parts: Parts,
  notes: Mapping[str, Any] | None = None,
  *,
  remedy: str = '',
) -> None:
  """Saves in the background; a kill meanwhile keeps earlier checkpoints.

  Args:
    checkpointer: from `open`.
    step: number of the step; skipped if the newest checkpoint has it.
    parts: name -> pytree of arrays, which can be loaded separately.
    notes: JSON values to save with them.
    remedy: what to do about arrays that are not finite.

  Raises:
    ValueError: if an array is not finite, which is not saved, or if the files
      cannot be written. Earlier checkpoints are kept.
  """
  wait(checkpointer)
  latest = latest_step(checkpointer)
  if latest is not None and latest >= step:
    return
  notes = dict(notes or {})
  arrays = named(parts)
  bad = [name for name, array in arrays.items() if not _is_finite(array)]
  if bad:
    kept = 'none is' if latest is None else f'that of step {latest} is'
    raise ValueError(
      f'{bad[0]} is not finite at step {step} (of {len(arrays)} arrays, '
      f'{len(bad)} are not). No checkpoint of it is saved; {kept} kept. '
      f'{remedy}'.rstrip()
    )
  checksums = {name: _checksum(array) for name, array in arrays.items()}
  metadata = {
    'checksums': checksums,
    'notes': notes,
    'notes_checksum': _text_checksum(notes),
  }
  checkpointer.saving = step
  try:
    # Without force Orbax skips this save if another is in progress.
    checkpointer.orbax.save_checkpointables_async(
      step, dict(parts), force=True, custom_metadata=metadata
    )
  except Exception as error:
    raise _unsaved(checkpointer, error) from error


def wait(checkpointer: Checkpointer) -> None:
  """Waits until the save in the background is complete.

  Raises:
    ValueError: if it has failed. Earlier checkpoints are kept.
  """
  if checkpointer.saving is None:
    return
  try:
    checkpointer.orbax._manager.wait_until_finished()
  except Exception as error:
    raise _unsaved(checkpointer, error) from error
  checkpointer.saving = None


def close(checkpointer: Checkpointer) -> None:
  """Waits until all saves are complete, and closes the folder.

  Raises:
    ValueError: if a save has failed. Earlier checkpoints are kept.
  """
  wait(checkpointer)
  try:
    checkpointer.orbax.close()
  except Exception as error:
    raise _unsaved(checkpointer, error) from error


def latest_step(checkpointer: Checkpointer) -> int | None:
  """The step of the newest checkpoint, or None if there is none."""
  latest = checkpointer.orbax.latest
  return None if latest is None else latest.step


def steps(directory: str | os.PathLike[str]) -> list[int]:
  """The steps of the checkpoints in a folder, ascending; writes nothing."""
  try:
    names = os.listdir(directory)
  except (FileNotFoundError, NotADirectoryError):
    return []
  return sorted(int(name) for name in names if name.isdecimal())


def load(
  directory: str | os.PathLike[str],
  parts: Parts | Callable[[int], Parts],
  *,
  on_host: bool = False,
) -> Loaded | None:
  """Loads parts of the newest checkpoint that is whole; writes nothing.

  Another process may save in the meantime. If it deletes the checkpoint that is
  being read, a newer one is loaded. If the newest is damaged, that is printed,
  and the one before is loaded.

  Args:
    directory: folder of the checkpoints.
    parts: name -> pytree of arrays or shapes with the structure to load, and
      optionally shardings; or a function that returns them for a step. None as
      the value loads the saved structure onto the first device.
    on_host: whether None loads it as arrays of the host.

  Returns:
    The checkpoint, or None if there is none.

  Raises:
    ValueError: if every checkpoint is damaged or has another structure.
  """
  _quieten_orbax()
  directory = pathlib.Path(directory).resolve()  # as Orbax asks
  failed: dict[int, Exception] = {}
  while True:
    known = steps(directory)
    left = [step for step in known if step not in failed]
    if not left:
      break
    step = left[-1]
    try:
      wanted = parts(step) if callable(parts) else parts
      found = _read(directory / str(step), step, wanted, on_host)
    except Exception as error:  # Orbax raises many kinds of errors
      if step in steps(directory):
        failed[step] = error
      continue
    for other in sorted(failed.keys() & set(steps(directory)), reverse=True):
      if other > step:
        console.note(
          f'checkpoint of step {other} in {str(directory)!r} is damaged '
          f'({_reason(failed[other])}); that of step {step} is loaded'
        )
    return found
  if not failed:
    return None
  step = max(failed)
  raise ValueError(
    f'checkpoint of step {step} in {str(directory)!r} cannot be loaded '
    f'({_reason(failed[step])}), and there is no other. Delete this folder to '
    'train from the start, use another --workdir, or the configuration that '
    'the run had.'
  ) from failed[step]


def set_aside(directory: str | os.PathLike[str], after: int) -> None:
  """Renames the checkpoints after a step, which `load` found damaged."""
  with distributed.first_then_others('set-aside'):
    late = [step for step in steps(directory) if step > after]
    for step in late if distributed.is_first() else ():
      aside = pathlib.Path(directory) / f'{ASIDE}{step}'
      shutil.rmtree(aside, ignore_errors=True)
      os.replace(pathlib.Path(directory) / str(step), aside)


def _read(path: pathlib.Path, step: int, parts: Parts, on_host: bool) -> Loaded:
  """Loads one checkpoint, and verifies it.

  Raises:
    Exception: of any kind if it is damaged or has another structure.
  """
  about = ocp.checkpointables_metadata(str(path))
  metadata = dict(about.custom_metadata or {})
  if not metadata:  # of an earlier version, unless the file is damaged
    json.loads((path / METADATA).read_text(encoding='utf-8'))
  missing = [name for name in parts if about.metadata.get(name) is None]
  if missing:
    raise ValueError(f'{missing[0]} is missing or cannot be read')
  saved = _of_host if on_host else _on_first_device
  abstract = {
    name: jax.tree.map(saved, about.metadata[name])
    if part is None
    else jax.tree.map(_abstract, part)
    for name, part in parts.items()
  }
  found = dict(ocp.load_checkpointables(str(path), abstract))
  for name, wanted in abstract.items():  # Orbax drops empty subtrees
    loaded: Any = jax.tree.structure(found[name])
    if loaded != jax.tree.structure(wanted):
      raise ValueError(f'{name} has another structure')
  notes = metadata.get('notes', {})
  if metadata:
    if metadata['notes_checksum'] != _text_checksum(notes):
      raise ValueError('checksum of its notes differs')
    checksums = metadata['checksums']
    for name, array in named(found).items():
      if checksums[name] != _checksum(array):
        raise ValueError(f'checksum of {name} differs')
  else:
    console.note(
      f'checkpoint of step {step} is of an earlier version: no checksums'
    )
  return Loaded(step, found, notes)


def identity(step: int, params: Any) -> str:
  """What tells a checkpoint apart: its step and a CRC-32 of its parameters."""
  checksums = {name: _checksum(array) for name, array in named(params).items()}
  return f'step {step} ({_text_checksum(checksums):08x})'


def named(tree: Any) -> dict[str, np.ndarray]:
  """Arrays of a pytree on the host by names such as 'reader/out/kernel'.

  Example:
    >>> list(named({'a': {'b': np.ones(2)}}))
    ['a/b']
  """
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): (
      distributed.on_host(leaf)
    )
    for path, leaf in leaves
  }


def _is_finite(array: np.ndarray) -> bool:
  kind = np.issubdtype(array.dtype, np.integer) or array.dtype == bool
  return bool(kind or np.isfinite(array).all())


def _checksum(array: np.ndarray) -> int:
  """CRC-32 of an array's dtype, shape and bytes."""
  head = zlib.crc32(f'{array.dtype}{array.shape}'.encode())
  flat = np.ascontiguousarray(array).reshape(-1)
  return zlib.crc32(flat.view(np.uint8).data, head) if flat.size else head


def _text_checksum(values: Mapping[str, Any]) -> int:
  return zlib.crc32(json.dumps(values, sort_keys=True).encode())


def _unsaved(checkpointer: Checkpointer, error: Exception) -> ValueError:
  step, checkpointer.saving = checkpointer.saving, None
  kept = [own for own in steps(checkpointer.directory) if own != step]
  resumes = f'step {kept[-1]}, which is kept' if kept else 'the start'
  return ValueError(
    f'checkpoint of step {step} cannot be saved in '
    f'{str(checkpointer.directory)!r} ({_reason(error)}). Free disk space or '
    f'permit writing; the same command then resumes from {resumes}.'
  )


def _reason(error: BaseException) -> str:
  """Why something failed, in a few words out of errors of many lines."""
  chain: BaseException | None = error
  text = ''
  while chain is not None:
    if isinstance(chain, OSError) and chain.errno:
      return os.strerror(chain.errno)
    text += f'{chain}\n'
    chain = chain.__cause__ or chain.__context__
  if code := re.search(r"os_error_code='(\d+)'", text):  # of TensorStore
    return os.strerror(int(code[1]))
  lines = [re.sub(r'\s+', ' ', own).strip() for own in text.splitlines()]
  first = next(filter(None, lines), '')
  return f'{type(error).__name__}: {first[:200]}'.rstrip(': ')


def _quieten_orbax() -> None:
  """Leaves out what Orbax prints, on 1,000 lines, about errors it raises too.

  Its reads go on for a moment after an error, and fail in threads and tasks
  that nothing waits for.
  """
  logging.getLogger('absl').addFilter(_is_not_of_orbax)
  logging.getLogger('asyncio').addFilter(_is_not_of_orbax)
  warnings.filterwarnings(
    'ignore', r"coroutine '.*_background_load' was never", RuntimeWarning
  )
  warnings.filterwarnings('ignore', 'Sharding info not provided', UserWarning)
  if sys.excepthook is not _show_exception:
    global _excepthook
    _excepthook, sys.excepthook = sys.excepthook, _show_exception


_excepthook = sys.excepthook


def _show_exception(kind: Any, error: BaseException, trace: Any) -> None:
  """`sys.excepthook`, which TensorStore calls where nothing waits for it."""
  if str(error) != 'Event loop is closed':
    _excepthook(kind, error, trace)


def _is_not_of_orbax(record: logging.LogRecord) -> bool:
  """Whether to log."""
  if record.name == 'asyncio':
    error = record.exc_info[1] if record.exc_info else None
    return 'tensorstore_spec' not in str(error)
  return f'{os.sep}orbax{os.sep}' not in record.pathname


def _on_first_device(x: Any) -> jax.ShapeDtypeStruct:
  """Shape and dtype of a saved array, placed on the first device."""
  return _abstract(jax.ShapeDtypeStruct(x.shape, x.dtype))


def _of_host(x: Any) -> np.ndarray:
  """Shape and dtype of a saved array, to be read onto the host."""
  return np.empty(x.shape, x.dtype)


def _abstract(x: Any) -> jax.ShapeDtypeStruct:
  """Shape, dtype and sharding of an array; default: the first device."""
  sharding = getattr(x, 'sharding', None)
  if sharding is None:
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
