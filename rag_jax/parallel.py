"""One train step on many devices: by jit over a mesh, or by pmap.

All run the same function, `step(state, batch, index, *, axis_name, shard)`.
With jit, arrays are placed on a mesh (`placement`), and the compiler inserts
the sums over devices. With pmap, each device runs the step on its rows and
calls psum.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from rag_jax import distributed, per_device, placement
from rag_jax.ops import split_rows

MODES = ('jit', 'pmap')


def check_mode(mode: str) -> None:
  """Raises a ValueError if `mode` is not one of `MODES`."""
  if mode not in MODES:
    raise ValueError(
      f'train.parallel must be one of {", ".join(MODES)}, got {mode!r}. '
      'Set --config.train.parallel.'
    )


def check_mesh(text: str, mode: str = 'jit') -> None:
  """Raises a ValueError if a mesh does not fit the devices or the mode."""
  count = jax.device_count()
  if mode == 'pmap' and (text or distributed.count() > 1):
    got = f'train.mesh={text!r}' if text else f'{distributed.count()} processes'
    raise ValueError(
      f'train.parallel=pmap is data parallelism in one process, got {got}. '
      'Set --config.train.parallel=jit.'
    )
  found = placement.sizes(text)
  product = math.prod(found.values())
  if text and product != count:
    rest = product // found.get(placement.AXIS, 1)
    remedy = 'leave out --config.train.mesh'
    if count % rest == 0:
      others = [f'{n}={s}' for n, s in found.items() if n != placement.AXIS]
      remedy = ','.join([f'data={count // rest}', *others])
      remedy = f'set --config.train.mesh={remedy}'
    raise ValueError(
      f'train.mesh {text!r} needs {product} devices, got {count}. '
      f'{remedy[0].upper()}{remedy[1:]}.'
    )


def run_mesh(mode: str, mesh: str = '') -> jax.sharding.Mesh | None:
  """The mesh of a run; None with pmap, or for another number of devices.

  Args:
    mode: 'jit' or 'pmap'.
    mesh: the field `train.mesh`.
  """
  counts = placement.sizes(mesh)
  if counts and math.prod(counts.values()) != jax.device_count():
    return None
  return None if mode == 'pmap' else placement.mesh(mesh)


def divides_tables(mode: str, mesh: str) -> bool:
  """Whether the devices of a run divide the tables of documents."""
  devices = run_mesh(mode, mesh)
  return devices is not None and devices.shape[split_rows.SPLIT] > 1


def check_batch(
  batch_size: int, *, field: str, mesh: str = '', parts: int = 1
) -> None:
  """Raises a ValueError if the devices do not divide a batch.

  Args:
    batch_size: questions of a batch.
    field: name of the field, for the message.
    mesh: the field `train.mesh`.
    parts: parts of the batch that are processed one after another.
  """
  count = jax.device_count() // placement.sizes(mesh).get('model', 1)
  parts = parts if count > 1 else 1
  if batch_size % (count * parts):
    most = -(-batch_size // (count * parts)) * count * parts
    what = f'the {count} devices'
    if parts > 1:
      what += f' times train.accumulate ({parts})'
    raise ValueError(
      f'{field} must be a multiple of {what}, got {batch_size}. '
      f'Set --config.{field}={most}.'
    )


def compile_step(
  step: Callable[..., Any], *, mode: str = 'jit', mesh: str = ''
) -> Callable[..., Any]:
  """Compiles a train step for all devices.

  Args:
    step: pure function (state, batch, index, *, axis_name, shard) -> (state,
      metrics).
    mode: 'jit' or 'pmap'.
    mesh: the field `train.mesh`, for 'jit'.

  Returns:
    A function (state, batch, index) -> (state, metrics); the state is donated
    with 'jit'. Each process passes the whole batch, and keeps its part. State
    and index are placed on the devices if they are not there (`placement`).
  """
  check_mode(mode)
  if mode == 'pmap':
    return _by_pmap(step)
  devices = placement.mesh(mesh)
  if devices.size == 1:
    whole = NamedSharding(devices, PartitionSpec())
    return jax.jit(
      step,
      in_shardings=(whole, whole, whole),
      out_shardings=(whole, whole),
      donate_argnums=0,
    )
  return _Step(step, devices)


class _Step:
  """A train step on a mesh of several devices; compiled in its first call."""

  def __init__(self, step: Callable[..., Any], devices: jax.sharding.Mesh):
    self._step, self.devices = step, devices
    self._index: tuple[Any, Any] = (None, None)
    self._compiled: Any = None

  def _ready(self, state: Any, batch: Any, index: Any) -> tuple[Any, Any, Any]:
    """The arguments, placed on the devices."""
    if index is not self._index[0]:
      self._index = index, placement.place_index(index, self.devices)
    if placement.mesh_of(state) != self.devices:
      state = placement.place(state, self.devices)
    if self._compiled is None:
      whole = NamedSharding(self.devices, PartitionSpec())
      self._compiled = jax.jit(
        self._step,
        out_shardings=(placement.shardings(state, self.devices), whole),
        donate_argnums=0,
      )
    return state, placement.place_batch(batch, self.devices), self._index[1]

  def __call__(self, state: Any, batch: Any, index: Any) -> Any:
    arguments = self._ready(state, batch, index)
    with jax.set_mesh(self.devices):
      return self._compiled(*arguments)

  def lower(self, state: Any, batch: Any, index: Any) -> Any:
    """The lowered program, of which benchmarks count the communication."""
    arguments = self._ready(state, batch, index)
    with jax.set_mesh(self.devices):
      return self._compiled.lower(*arguments)


def call(
  function: Callable[..., Any],
  params: Any,
  batch: Any,
  index: Any,
  allowed: Any = None,
) -> Any:
  """Runs a compiled function on questions; returns arrays on the host.

  If the parameters lie on the devices of several processes, all have to call
  it, with the whole batch.

  Args:
    function: (params, batch, index, allowed) -> pytree of arrays.
    params: parameters, on one device or on a mesh.
    batch: the questions.
    index: the corpus.
    allowed: bool[N], documents that may be returned; None = all.
  """
  arguments: tuple[Any, ...] = () if allowed is None else (allowed,)
  devices = placement.mesh_of(params)
  if devices is None or devices.size == 1:
    return jax.device_get(function(params, batch, index, *arguments))
  whole = NamedSharding(devices, PartitionSpec())
  arguments = tuple(placement.put(x, whole) for x in arguments)
  index = placement.place_index(index, devices)
  count = len(jax.tree.leaves(batch)[0])
  more = -count % (devices.size // devices.shape['model'])
  if more:  # the devices divide what they get
    batch = jax.tree.map(
      lambda x: np.pad(x, ((0, more), *((0, 0),) * (x.ndim - 1)), mode='edge'),
      batch,
    )
  batch = placement.place_batch(batch, devices)
  with jax.set_mesh(devices):
    run = _for_mesh(function, devices)
    found = jax.device_get(run(params, batch, index, *arguments))
  return jax.tree.map(lambda x: x[:count], found)


def call_whole(
  function: Callable[..., Any], params: Any, batch: Any, index: Any
) -> Any:
  """As `call`, for gradients: every device computes all questions.

  The parameters have to fit on a device.
  """
  devices = placement.mesh_of(params)
  if devices is None or devices.size == 1:
    return jax.device_get(function(params, batch, index))
  params = placement.stored(params, index.table_rows)
  index = placement.place_index(index, devices)
  whole = NamedSharding(devices, PartitionSpec())
  params, batch = jax.tree.map(
    lambda x: placement.put(x, whole), (params, batch)
  )
  with jax.set_mesh(devices):
    run = _for_mesh(function, devices, per_device.all_questions)
    return jax.device_get(run(params, batch, index))


@functools.cache
def _for_mesh(
  function: Callable[..., Any],
  devices: jax.sharding.Mesh,
  each: Callable[..., Any] = per_device.each_question,
) -> Callable[..., Any]:
  """A compiled function, compiled for parameters on a mesh.

  Each process gets whole results. Left to the compiler, where they lie may
  differ between two processes that compile or read from a cache.
  """
  plain = getattr(function, '__wrapped__', function)  # without its options

  def run(params, batch, index, *rest):
    return each(plain, params, batch, index, *rest)

  whole = NamedSharding(devices, PartitionSpec())
  return jax.jit(run, out_shardings=whole)


def _by_pmap(step: Callable[..., Any]) -> Callable[..., Any]:
  count = jax.local_device_count()

  @functools.partial(
    jax.pmap, axis_name=placement.AXIS, in_axes=(None, 0, None), out_axes=None
  )
  def run(state, batch, index):
    shard = (jax.lax.axis_index(placement.AXIS), count)
    return step(state, batch, index, axis_name=placement.AXIS, shard=shard)

  def split(x):
    x = np.asarray(x)
    return x.reshape(count, -1, *x.shape[1:])

  def whole_step(state, batch, index):
    return run(state, jax.tree.map(split, batch), index)

  return whole_step


def sum_over(tree: Any, axis_name: str | tuple[str, ...] | None) -> Any:
  """Sums a pytree over the devices of a pmap; under jit it is unchanged."""
  if axis_name is None:
    return tree
  return jax.tree.map(lambda x: jax.lax.psum(jnp.asarray(x), axis_name), tree)
