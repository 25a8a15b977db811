"""Checkpoints by Orbax."""

import os
import pathlib
from typing import Any, TypeAlias

import jax
from orbax.checkpoint import v1 as ocp

Checkpointer: TypeAlias = ocp.training.Checkpointer  # type of `open`

_NAME = 'state'


def open(directory: str | os.PathLike[str], *, keep: int = 2) -> Checkpointer:
  """Opens a folder of checkpoints; the newest `keep` are kept."""
  preservation = ocp.training.preservation_policies
  return ocp.training.Checkpointer(
    str(pathlib.Path(directory).resolve()),
    preservation_policy=preservation.LatestN(keep),
    cleanup_tmp_directories=True,
  )


def save(checkpointer: Checkpointer, step: int, state: Any) -> None:
  """Saves in the background; a kill on the way leaves the last one intact."""
  latest = checkpointer.latest
  if latest is None or latest.step < step:
    # Without force Orbax skips a save while another is on its way.
    checkpointer.save_checkpointables_async(step, {_NAME: state}, force=True)


def restore(checkpointer: Checkpointer, state: Any) -> tuple[int, Any] | None:
  """Loads the newest checkpoint.

  Args:
    checkpointer: from `open`.
    state: arrays or shapes of the same structure; where they carry shardings,
      what is loaded gets them.

  Returns:
    Its step and the state, or None if there is no checkpoint.

  Raises:
    ValueError: if it is damaged or has another structure.
  """
  latest = checkpointer.latest
  if latest is None:
    return None
  abstract = jax.tree.map(ocp_shape, state)
  try:
    loaded = checkpointer.load_checkpointables(latest.step, {_NAME: abstract})
  except Exception as error:  # Orbax raises many kinds
    reason = str(error).strip().splitlines()[0] if str(error).strip() else ''
    raise ValueError(
      f'checkpoint of step {latest.step} cannot be loaded '
      f'({type(error).__name__}: {reason[:200]}). '
      'Use another --workdir, or the configuration it was made with.'
    ) from error
  return latest.step, loaded[_NAME]


def close(checkpointer: Checkpointer) -> None:
  """Waits for what is being saved."""
  checkpointer.close()


def ocp_shape(x: Any) -> jax.ShapeDtypeStruct:
  """Shape, dtype and sharding of an array; the first device without one."""
  sharding = getattr(x, 'sharding', None)
  if sharding is None:
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
