"""Tokens of documents that are smaller than int32, or stay on the host.

Both are read as an array is, `tokens[rows]`, which gives int32 on the device.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rag_jax import types
from rag_jax.ops import split_rows

BLOCK = 65_536  # rows in memory at once


@types.struct
class Packed:
  """Tokens on the device in a smaller type.

  Example:
    >>> tokens = Packed(jnp.array([[5, 7], [9, 0]], jnp.uint16))
    >>> tokens[jnp.array([1])].tolist(), tokens[0].dtype
    ([[9, 0]], dtype('int32'))
  """

  tokens: jax.Array  # uint8 or uint16[N, P]

  @property
  def shape(self) -> tuple[int, ...]:
    """N and P."""
    return self.tokens.shape

  def __len__(self) -> int:
    """N."""
    return self.tokens.shape[0]

  def __getitem__(self, rows: Any) -> jax.Array:
    """Tokens int32[..., P] of rows int32[...]."""
    return self.tokens[rows].astype(jnp.int32)

  def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
    """All tokens, int32."""
    return np.asarray(self.tokens).astype(dtype or np.int32)


@types.struct
class OnHost:
  """Tokens in the memory or in a memory-mapped file of the host.

  A compiled function fetches the rows that it reads, after the search that
  chooses them, by a callback. For one device: others would wait for it.
  """

  host: 'Rows' = types.static()

  @property
  def shape(self) -> tuple[int, ...]:
    """N and P."""
    return self.host.array.shape

  def __len__(self) -> int:
    """N."""
    return self.host.array.shape[0]

  def __getitem__(self, rows: Any) -> jax.Array:
    """Tokens int32[..., P] of rows int32[...], without a gradient."""
    rows = jax.lax.stop_gradient(jnp.asarray(rows))
    shape = jax.ShapeDtypeStruct((*rows.shape, self.shape[1]), jnp.int32)
    return jax.pure_callback(
      self.host.take, shape, rows, vmap_method='expand_dims'
    )

  def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
    """All tokens, int32."""
    return np.asarray(self.host.array).astype(dtype or np.int32)


class Rows:
  """An array of the host; each object is equal to itself alone."""

  def __init__(self, array: np.ndarray):
    """Integers [N, P], perhaps memory-mapped."""
    self.array = array

  def take(self, rows: Any) -> np.ndarray:
    """Rows as int32; one out of range is the first or last, as on a device."""
    own = np.asarray(rows)
    own = np.where(own < 0, own + len(self.array), own)
    own = np.clip(own, 0, len(self.array) - 1)
    return self.array[own].astype(np.int32)


Table = jax.Array | Packed | OnHost


def make(
  tokens: np.ndarray, *, on_host: bool = False, placed: bool = True
) -> Table:
  """Tokens for an index: an array if they are int32, otherwise a table.

  Args:
    tokens: int[N, P].
    on_host: whether they stay on the host, see `OnHost`.
    placed: whether they are put on the default device; if not, the arrays are
      those of NumPy, until a mesh divides them.
  """
  if on_host:
    return OnHost(Rows(tokens))
  place: Any = jnp.asarray if placed else np.asarray
  if tokens.dtype == np.int32:
    return place(tokens)
  if tokens.dtype in (np.uint8, np.uint16):
    return Packed(place(tokens))
  return place(tokens.astype(np.int32))


def block(tokens: Table, start: Any, size: int) -> jax.Array:
  """Rows from `start` on, int32[size, P], inside a compiled function."""
  if isinstance(tokens, Packed | OnHost | split_rows.Rows):
    return tokens[start + jnp.arange(size)]
  return jax.lax.dynamic_slice(tokens, (start, 0), (size, tokens.shape[1]))


def lengths(tokens: Any) -> np.ndarray:
  """Tokens of each document, int64[N]; devices count those of their rows."""
  rows = tokens.tokens if isinstance(tokens, Packed) else tokens
  if isinstance(rows, split_rows.Rows):
    where: Any = rows.array.sharding
    count = jax.jit(
      lambda x: (x != types.PAD).sum(axis=1, dtype=jnp.int32),
      out_shardings=where.update(spec=jax.sharding.PartitionSpec()),
    )
    return np.asarray(count(rows.array), np.int64)[: len(rows)]
  found = [(part != types.PAD).sum(axis=1) for part in host_blocks(tokens)]
  return np.concatenate([np.zeros(0, np.int64), *found])


def host_blocks(tokens: Any) -> Iterator[np.ndarray]:
  """All tokens in blocks of rows, int32, on the host."""
  if isinstance(tokens, OnHost):
    array = tokens.host.array
  elif isinstance(tokens, Packed):
    array = np.asarray(tokens.tokens)
  else:
    array = np.asarray(tokens)
  for start in range(0, len(array), BLOCK):
    yield np.asarray(array[start : start + BLOCK]).astype(np.int32)
