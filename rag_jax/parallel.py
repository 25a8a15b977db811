"""Data parallelism: one train step on many devices, by jit or by pmap.

Both run the same function, `step(state, batch, index, *, axis_name, shard)`.
With jit, the batch is sharded over a mesh and the compiler inserts the sums
over devices. With pmap, each device runs the step on its rows and calls psum.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

MODES = ('jit', 'pmap')
AXIS = 'data'


def check_mode(mode: str) -> None:
  """Raises a ValueError if `mode` is not one of `MODES`."""
  if mode not in MODES:
    raise ValueError(
      f'train.parallel must be one of {", ".join(MODES)}, got {mode!r}. '
      'Set --config.train.parallel.'
    )


def check_batch(batch_size: int, *, field: str) -> None:
  """Raises a ValueError if the batch size is no multiple of the devices."""
  count = jax.device_count()
  if batch_size % count:
    raise ValueError(
      f'{field} must be a multiple of the {count} devices, got {batch_size}. '
      f'Set --config.{field}.'
    )


def mesh() -> jax.sharding.Mesh:
  """All devices on one axis, for data parallelism."""
  return jax.make_mesh(
    (jax.device_count(),),
    (AXIS,),
    axis_types=(jax.sharding.AxisType.Auto,),
  )


def compile_step(
  step: Callable[..., Any], *, mode: str = 'jit'
) -> Callable[..., Any]:
  """Compiles a train step for all devices.

  Args:
    step: pure function (state, batch, index, *, axis_name, shard) -> (state,
      metrics).
    mode: 'jit' or 'pmap'.

  Returns:
    A function (state, batch, index) -> (state, metrics) on global arrays; the
    state is donated with 'jit'.
  """
  check_mode(mode)
  if mode == 'pmap':
    return _by_pmap(step)
  devices = mesh()
  whole = NamedSharding(devices, PartitionSpec())
  rows = NamedSharding(devices, PartitionSpec(AXIS))
  return jax.jit(
    step,
    in_shardings=(whole, rows, whole),
    out_shardings=(whole, whole),
    donate_argnums=0,
  )


def replicate(tree: Any, *, mode: str = 'jit') -> Any:
  """Places a pytree as a compiled step of a mode returns it.

  Under `jit` that is a copy on every device of the mesh. A first state that is
  placed otherwise would compile the step twice.
  """
  if mode == 'pmap':
    return tree
  return jax.device_put(tree, NamedSharding(mesh(), PartitionSpec()))


def _by_pmap(step: Callable[..., Any]) -> Callable[..., Any]:
  count = jax.local_device_count()

  @functools.partial(
    jax.pmap, axis_name=AXIS, in_axes=(None, 0, None), out_axes=None
  )
  def run(state, batch, index):
    shard = (jax.lax.axis_index(AXIS), count)
    return step(state, batch, index, axis_name=AXIS, shard=shard)

  def split(x):
    x = np.asarray(x)
    return x.reshape(count, -1, *x.shape[1:])

  def whole_step(state, batch, index):
    return run(state, jax.tree.map(split, batch), index)

  return whole_step


def sum_over(tree: Any, axis_name: str | None) -> Any:
  """Sums a pytree over the devices of a pmap; under jit it is unchanged."""
  if axis_name is None:
    return tree
  return jax.tree.map(lambda x: jax.lax.psum(jnp.asarray(x), axis_name), tree)
