"""Checkpoints by Orbax, and whose workdir it is."""

import json
import os
import pathlib
from collections.abc import Collection, Iterator
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
    checkpointer.save_checkpointables_async(step, {_NAME: state})


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
  """Shape, dtype and, where there is one, sharding of an array."""
  sharding = getattr(x, 'sharding', None)
  return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)


def claim_workdir(
  workdir: str | os.PathLike[str],
  config: dict[str, Any],
  *,
  may_change: Collection[str],
) -> None:
  """Writes config.json on the first run, and checks it on the next.

  Args:
    workdir: the folder; made if it is not there.
    config: nested plain values.
    may_change: dotted names of fields that may differ between runs.

  Raises:
    ValueError: if the folder belongs to another experiment or to somebody
      else; nothing has been written then.
  """
  workdir = pathlib.Path(workdir)
  if workdir.exists() and not workdir.is_dir():
    raise ValueError(
      f'workdir {str(workdir)!r} is a file. Set --workdir to a folder.'
    )
  path = workdir / 'config.json'
  if not path.exists():
    if workdir.exists() and any(workdir.iterdir()):
      raise ValueError(
        f'workdir {str(workdir)!r} holds files but no config.json, so it is '
        'not of an experiment. Set --workdir to a new or empty folder.'
      )
    workdir.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix('.partial')
    partial.write_text(json.dumps(config, indent=2) + '\n', encoding='utf-8')
    os.replace(partial, path)
    return
  try:
    stored = dict(_flatten(json.loads(path.read_text(encoding='utf-8'))))
  except ValueError as error:
    raise ValueError(
      f'{str(path)!r} is damaged ({error}). Set another --workdir.'
    ) from error
  ours = dict(_flatten(json.loads(json.dumps(config))))
  for name in sorted(stored.keys() | ours.keys()):
    if stored.get(name) != ours.get(name) and name not in may_change:
      raise ValueError(
        f'workdir {str(workdir)!r} holds an experiment with {name}='
        f'{stored.get(name)!r}, got {ours.get(name)!r}. Set another '
        f'--workdir, or --config.{name}={stored.get(name)}.'
      )


def _flatten(values: dict[str, Any], prefix: str = '') -> Iterator:
  for name, value in values.items():
    if isinstance(value, dict):
      yield from _flatten(value, f'{prefix}{name}.')
    else:
      yield prefix + name, value
