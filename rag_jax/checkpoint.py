"""Checkpoints by Orbax."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any, TypeAlias

import jax
from orbax.checkpoint import v1 as ocp

Checkpointer: TypeAlias = ocp.training.Checkpointer  # type of `open`


def open(directory: str | os.PathLike[str], *, keep: int = 2) -> Checkpointer:
  """Opens a folder of checkpoints; the newest `keep` are kept."""
  preservation = ocp.training.preservation_policies
  return ocp.training.Checkpointer(
    str(pathlib.Path(directory).resolve()),
    preservation_policy=preservation.LatestN(keep),
    cleanup_tmp_directories=True,
  )


def save(
  checkpointer: Checkpointer, step: int, parts: Mapping[str, Any]
) -> None:
  """Saves in the background; a kill on the way leaves the last one intact.

  Args:
    checkpointer: from `open`.
    step: its number.
    parts: pytrees of arrays by name, which can be restored one by one.
  """
  latest = checkpointer.latest
  if latest is None or latest.step < step:
    # Without force Orbax skips a save while another is on its way.
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
    parts: by name, arrays or shapes of the same structure; where they carry
      shardings, what is loaded gets them. None takes a part in the structure
      that was saved, on the first device, whatever devices had saved it.

  Returns:
    The parts, or None if there is no checkpoint.

  Raises:
    ValueError: if it is damaged or has another structure.
  """
  latest = checkpointer.latest
  if latest is None:
    return None
  try:
    stored = checkpointer.checkpointables_metadata(latest.step).metadata
    abstract = {
      name: jax.tree.map(_anywhere if part is None else ocp_shape, own)
      for name, part in parts.items()
      for own in [stored[name] if part is None else part]
    }
    found = dict(checkpointer.load_checkpointables(latest.step, abstract))
    for name, own in abstract.items():  # Orbax leaves out what was empty
      loaded: Any = jax.tree.structure(found[name])
      if loaded != jax.tree.structure(own):
        raise ValueError(f'{name} has another structure')
    return found
  except Exception as error:  # Orbax raises many kinds
    reason = str(error).strip().splitlines()[0] if str(error).strip() else ''
    raise ValueError(
      f'checkpoint of step {latest.step} cannot be loaded '
      f'({type(error).__name__}: {reason[:200]}). '
      'Use another --workdir, or the configuration it was made with.'
    ) from error


def close(checkpointer: Checkpointer) -> None:
  """Waits for what is being saved."""
  checkpointer.close()


def _anywhere(x: Any) -> jax.ShapeDtypeStruct:
  """Shape and dtype of what other devices may have saved."""
  return ocp_shape(jax.ShapeDtypeStruct(x.shape, x.dtype))


def ocp_shape(x: Any) -> jax.ShapeDtypeStruct:
  """Shape, dtype and sharding of an array; the first device without one."""
  sharding = getattr(x, 'sharding', None)
  if sharding is None:
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
