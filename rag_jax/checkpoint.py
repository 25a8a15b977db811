"""Checkpoints of training, stored with Orbax."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any, TypeAlias

import jax
from orbax.checkpoint import v1 as ocp

Checkpointer: TypeAlias = ocp.training.Checkpointer  # type of `open`


def open(directory: str | os.PathLike[str], *, keep: int = 2) -> Checkpointer:
  """Opens a folder of checkpoints that keeps the newest `keep`."""
  preservation = ocp.training.preservation_policies
  return ocp.training.Checkpointer(
    str(pathlib.Path(directory).resolve()),
    preservation_policy=preservation.LatestN(keep),
    cleanup_tmp_directories=True,
  )


def save(
  checkpointer: Checkpointer, step: int, parts: Mapping[str, Any]
) -> None:
  """Saves in the background; a kill meanwhile keeps earlier checkpoints.

  Args:
    checkpointer: from `open`.
    step: number of the step; skipped if the newest checkpoint has it.
    parts: name -> pytree of arrays, which can be restored separately.
  """
  latest = checkpointer.latest
  if latest is None or latest.step < step:
    # Without force Orbax skips this save if another is in progress.
    checkpointer.save_checkpointables_async(step, dict(parts), force=True)


def latest_step(checkpointer: Checkpointer) -> int | None:
  """The step of the newest checkpoint, or None if there is none."""
  latest = checkpointer.latest
  return None if latest is None else latest.step


def restore(
  checkpointer: Checkpointer, parts: Mapping[str, Any]
) -> dict[str, Any] | None:
  """Loads parts of the newest checkpoint.

  Args:
    checkpointer: from `open`.
    parts: name -> pytree of arrays or shapes with the structure to load, and
      optionally shardings. None as the value loads the saved structure onto the
      first device, whatever devices it was saved from.

  Returns:
    The parts, or None if there is no checkpoint.

  Raises:
    ValueError: if the checkpoint is damaged or has another structure.
  """
  latest = checkpointer.latest
  if latest is None:
    return None
  try:
    stored = checkpointer.checkpointables_metadata(latest.step).metadata
    abstract = {
      name: jax.tree.map(_on_first_device, stored[name])
      if part is None
      else jax.tree.map(_abstract, part)
      for name, part in parts.items()
    }
    found = dict(checkpointer.load_checkpointables(latest.step, abstract))
    for name, wanted in abstract.items():  # Orbax drops empty subtrees
      loaded: Any = jax.tree.structure(found[name])
      if loaded != jax.tree.structure(wanted):
        raise ValueError(f'{name} has another structure')
    return found
  except Exception as error:  # Orbax raises many kinds of errors
    reason = str(error).strip().splitlines()[0] if str(error).strip() else ''
    raise ValueError(
      f'checkpoint of step {latest.step} cannot be loaded '
      f'({type(error).__name__}: {reason[:200]}). '
      'Use another --workdir, or the configuration that the run had.'
    ) from error


def close(checkpointer: Checkpointer) -> None:
  """Waits until all saves are finished."""
  checkpointer.close()


def _on_first_device(x: Any) -> jax.ShapeDtypeStruct:
  """Shape and dtype of a saved array, placed on the first device."""
  return _abstract(jax.ShapeDtypeStruct(x.shape, x.dtype))


def _abstract(x: Any) -> jax.ShapeDtypeStruct:
  """Shape, dtype and sharding of an array; default: the first device."""
  sharding = getattr(x, 'sharding', None)
  if sharding is None:
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
