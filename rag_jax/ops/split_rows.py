"""Tables whose rows are split over devices, and how they are read.

Batches are split over the axes `BATCH` of a mesh, tables over its axis `SPLIT`.
A read sends the requested row numbers to the devices that share a table, and
gets back the rows, or products with them: never the table. Without a mesh, or
where the batch cannot be divided, JAX reads as it likes.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from rag_jax import types

BATCH = ('data', 'fsdp')  # axes that divide a batch
SPLIT = 'fsdp'  # axis that divides a table


@types.struct
class Rows:
  """A table of n rows, with rows added so that the devices divide it.

  It reads like an array: `rows[index]`, for int32[B, ...] of any axes.

  Example:
    >>> rows = Rows(jnp.arange(8.0).reshape(4, 2), length=3)
    >>> rows.shape, rows[jnp.array([[2], [0]])].tolist()
    ((3, 2), [[[4.0, 5.0]], [[0.0, 1.0]]])
  """

  array: jax.Array  # [m, ...], m >= n
  length: int = types.static()

  @property
  def shape(self) -> tuple[int, ...]:
    """Shape without the added rows."""
    return self.length, *self.array.shape[1:]

  @property
  def dtype(self) -> Any:
    """Type of the values."""
    return self.array.dtype

  def __len__(self) -> int:
    """Number of rows, without those added."""
    return self.length

  def __getitem__(self, index: Any) -> jax.Array:
    """The rows of an index, [*index.shape, ...]."""
    if not isinstance(index, jax.Array | np.ndarray):
      return self.array[: self.length][index]
    index = jnp.where(index < 0, index + self.length, index)
    return lookup(self.array, index)

  def __array__(
    self, dtype: Any = None, copy: bool | None = None
  ) -> np.ndarray:
    """The table on the host."""
    del copy
    return np.asarray(self.array, dtype)[: self.length]


@types.struct
class Columns:
  """Numbers of each question and row, divided by `columns`; see `take`."""

  values: jax.Array  # float32[B', m], on a device those of all that share them
  columns: jax.Array  # int32[n], where each row lies

  def take(self, rows: jax.Array) -> jax.Array:
    """Numbers of rows int32[B, C], for the questions of this device."""
    return take(self.values, self.columns[rows])

  def __mul__(self, factor: Any) -> 'Columns':
    """All numbers times a factor."""
    return dataclasses.replace(self, values=self.values * factor)

  __rmul__ = __mul__


def size(*axes: str) -> int:
  """Number of devices along axes of the mesh of the context; 1 without one."""
  mesh = jax.sharding.get_abstract_mesh()
  return math.prod(mesh.shape.get(axis, 1) for axis in axes)


def _is_manual() -> bool:
  """Whether this is traced for one device, inside a `jax.shard_map`."""
  return SPLIT in jax.sharding.get_abstract_mesh().manual_axes


def lookup(table: jax.Array, index: jax.Array) -> jax.Array:
  """table[index], for int32[B, ...] or int32[] in range; [B, ..., *rest]."""

  def read(own, index):
    own_index, mine = places(len(own), index)
    found = own[own_index]
    mine = mine.reshape(mine.shape + (1,) * (found.ndim - mine.ndim))
    return jnp.where(mine, found, jnp.zeros((), found.dtype))

  if not index.ndim:  # one row, as under vmap
    return lookup(table, index[None])[0]
  return exchange(read, table, index) if _divides(index) else table[index]


def every_row(table: 'jax.Array | Rows') -> jax.Array:
  """All rows of a table, on each device; for small ones."""
  if isinstance(table, Rows):
    return table[jnp.arange(len(table))]
  return table


def by_columns(table: jax.Array) -> jax.Array:
  """A table [m, D] that is made in columns, by the devices that share tables.

  Left to itself, the compiler may make all of it on each of them.
  """
  count = size(SPLIT)
  if count == 1 or table.shape[1] % count:
    return table
  return jax.lax.with_sharding_constraint(table, PartitionSpec(None, SPLIT))


def products(
  table: jax.Array,
  states: jax.Array,
  rows: jax.Array,
  *,
  scale: Callable[[jax.Array], jax.Array] | None = None,
) -> jax.Array:
  """Products of states with rows of a table, each made where its row lies.

  Args:
    table: float32[m, D].
    states: float32[B, K, D].
    rows: int32[B, K, C], rows of the table.
    scale: vectors [..., D] -> factors [...] of their products; None = 1.

  Returns:
    float32[B, K, C]; these alone are exchanged, and the states.
  """

  def multiply(states, vectors):
    found = jnp.einsum('bkd,bkcd->bkc', states, vectors)
    return found * scale(vectors) if scale else found

  def read(own, states, rows):
    place, mine = places(len(own), rows)
    return jnp.where(mine, multiply(states, own[place]), 0.0)

  if not _divides(states):
    return multiply(states, table[rows])
  return exchange(read, table, states, rows)


def dot(states: jax.Array, table: jax.Array) -> jax.Array:
  """Products float32[..., m] of states [..., D] with rows [m, D].

  Of rows in bfloat16, states are rounded to it too: the table is not copied,
  where the device multiplies them.
  """
  if table.dtype == states.dtype:
    return states @ table.T
  return jnp.matmul(
    states.astype(table.dtype), table.T, preferred_element_type=states.dtype
  )


def all_products(table: jax.Array, states: jax.Array) -> jax.Array:
  """Products of states [B, ..., D] with all rows [m, D], split like the rows.

  Each device has the columns of its own rows, for the questions of all devices
  that share the table. `take` reads from the result.
  """
  if _is_manual():
    return dot(gather(states), table)
  if not _divides(states):
    return dot(states, table)
  shared = PartitionSpec('data')
  states = jax.lax.with_sharding_constraint(states, shared)
  columns = PartitionSpec('data', *(None,) * (states.ndim - 2), SPLIT)
  return jax.lax.with_sharding_constraint(dot(states, table), columns)


def take(values: jax.Array, index: jax.Array) -> jax.Array:
  """Reads columns [B, ..., C] of `all_products` [B, ..., m]."""

  def read(own, index):
    index = gather(index)
    place, mine = places(own.shape[-1], index)
    found = jnp.take_along_axis(own, place, axis=-1)
    found = jnp.where(mine, found, 0.0)
    return jax.lax.psum_scatter(found, SPLIT, tiled=True)

  if _is_manual():
    return read(values, index)
  if not _divides(index):
    return jnp.take_along_axis(values, index, axis=-1)
  columns = PartitionSpec('data', *(None,) * (values.ndim - 2), SPLIT)
  batch = PartitionSpec(BATCH)
  run = jax.shard_map(read, in_specs=(columns, batch), out_specs=batch)
  return run(values, index)


def whole(values: jax.Array) -> jax.Array:
  """All columns of `all_products`, for the questions of this device."""
  if _is_manual():
    return jax.lax.all_to_all(
      values, SPLIT, split_axis=0, concat_axis=values.ndim - 1, tiled=True
    )
  if not _divides(values):
    return values
  return jax.lax.with_sharding_constraint(values, PartitionSpec(BATCH))


def gather(x: jax.Array) -> jax.Array:
  """Arrays [B, ...] of all devices that share a table, inside a `shard_map`."""
  return jax.lax.all_gather(x, SPLIT, tiled=True)


def _divides(x: jax.Array) -> bool:
  """Whether the devices share a table and divide a batch."""
  if size(SPLIT) == 1:
    return False
  return _is_manual() or x.shape[0] % size(*BATCH) == 0


def places(count: int, index: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Places of an index among the rows of this device, and which it has."""
  place = index - jax.lax.axis_index(SPLIT) * count
  mine = (place >= 0) & (place < count)
  return jnp.where(mine, place, 0), mine


def exchange(
  read: Callable[..., jax.Array], table: Any, *batch: jax.Array
) -> jax.Array:
  """What `read` finds on the one device that has a row, 0 on the others.

  Args:
    read: (own part of the table, *batch of all devices) -> [B', ...].
    table: rows; inside a `jax.shard_map` any pytree, the own part.
    *batch: [B, ...] each, of the questions of this device.

  Returns:
    [B, ...], the sum of what the devices find.
  """

  def run(own, *batch):
    shared = [gather(x) for x in batch]
    return jax.lax.psum_scatter(read(own, *shared), SPLIT, tiled=True)

  if _is_manual():
    return run(table, *batch)
  rows = PartitionSpec(BATCH)
  specs = (PartitionSpec(SPLIT), *(rows for _ in batch))
  return jax.shard_map(run, in_specs=specs, out_specs=rows)(table, *batch)
