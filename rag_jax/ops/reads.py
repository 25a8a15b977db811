"""Reads by indices that are known to be in range, and how they are quick.

On a CPU, XLA splits over threads whatever reads from half a megabyte or more,
however little of it, and to wake one takes longer than what a few beams need.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

FEW = 16  # slices that are read one by one
SPLIT = 1 << 19  # bytes from which on XLA splits what reads them over threads


def get(x: jax.Array, *index: jax.Array | int) -> jax.Array:
  """x[index], for indices that are known to be in range."""
  return x.at[index].get(mode='promise_in_bounds')


def take(x: jax.Array, index: jax.Array) -> jax.Array:
  """Gathers along the last axis by indices that are known to be in range."""
  return jnp.take_along_axis(x, index, axis=-1, mode='promise_in_bounds')


def count(size: int, ndim: int) -> jax.Array:
  """0 to size - 1 along the last of so many axes."""
  return jnp.arange(size).reshape((1,) * (ndim - 1) + (size,))


def reorder(cache: Any, parents: jax.Array) -> Any:
  """Gathers the beams of a cache by int32[B, K] parents."""
  rows = jnp.arange(parents.shape[0])[:, None]
  return jax.tree.map(
    lambda x: x.at[rows, parents].get(mode='promise_in_bounds'), cache
  )


def slices(x: jax.Array, start: jax.Array, width: int) -> jax.Array:
  """Gathers x[start : start + width] for int32[...] starts; [..., width]."""
  read = functools.partial(
    jax.lax.dynamic_slice, slice_sizes=(width,), allow_negative_indices=False
  )
  return _each(lambda start: read(x, (start,)), x, start)


def lines(x: jax.Array, row: jax.Array) -> jax.Array:
  """Gathers x[row] for int32[...] rows of x[n, width]; [..., width]."""
  read = functools.partial(
    jax.lax.dynamic_slice,
    slice_sizes=(1, x.shape[1]),
    allow_negative_indices=False,
  )
  return _each(lambda row: read(x, (row, jnp.zeros_like(row)))[0], x, row)


def _each(
  read: Callable[[jax.Array], jax.Array], x: jax.Array, place: jax.Array
) -> jax.Array:
  """What `read` gets out of x at each place int32[...]; [..., width].

  On a CPU, XLA splits a gather from a large array over threads, and to wake one
  takes longer than to read a few slices. It does not split slices.
  """
  # How many there are is not known where a program is exported for any batch.
  few = isinstance(place.size, int) and place.size <= FEW and x.nbytes >= SPLIT
  if not few or jax.default_backend() != 'cpu':
    many = jax.vmap(read)
    for _ in place.shape[1:]:
      many = jax.vmap(many)
    return many(place)
  # XLA joins at most eight in one loop, so these are joined in two steps, along
  # different axes or it would take them for one. An odd one is read twice.
  half = (place.size + 1) // 2
  places = jnp.resize(place, (2, half))
  halves = [jnp.concatenate([read(one) for one in row]) for row in places]
  parts = jnp.stack(halves).reshape(2 * half, -1)
  return parts[: place.size].reshape(*place.shape, -1)
