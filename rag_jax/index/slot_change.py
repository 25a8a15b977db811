"""A node table with rows for some nodes only, after a change of the documents.

Which nodes have a row depends on the trie alone (`node_slots`), so a change may
give a node a row, or take it. What a node without a row has is its vector of
the codebook (`shared_rows`). The codebook itself does not change.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rag_jax.components import shared_rows
from rag_jax.index import growth, node_table
from rag_jax.index import index as indexes
from rag_jax.ops import node_slots

SPARE = 64  # rows more than needed, and a quarter of what is needed


def room(needed: int, has: int) -> int:
  """Rows of a table for so many, which has some already.

  Example:
    >>> room(100, 0), room(100, 189), room(190, 189)
    (189, 189, 301)
  """
  return has if needed <= has else needed * 5 // 4 + SPARE


def move(
  table: jax.Array,
  before: indexes.Index | growth.Live,
  after: growth.Live,
) -> jax.Array:
  """As `growth.move`, for a table with rows for some nodes.

  Args:
    table: float32[before.slots.count, D].
    before: the index of the table, with slots.
    after: the same documents, with more capacity and with slots.
  """
  old, new = _slots(before), _slots(after)
  places = growth.move(old.rows + 1, before, after)  # 0 = an unused row
  own = np.flatnonzero(np.asarray(new.rows) >= 0)
  moved = jnp.zeros((new.count, table.shape[1]), table.dtype)
  return moved.at[new.rows[own]].set(table[places[own] - 1])


def widened(decoder: dict[str, Any], after: indexes.Index) -> dict[str, Any]:
  """The codebook with zero rows for the codes of an index with more capacity.

  Args:
    decoder: parameters of the ID decoder; it may have no codebook.
    after: the index.

  Returns:
    {'codebook': level -> float32[V, D]}, or {}.
  """
  sizes = after.trie.num_values
  books = {
    level: jnp.pad(book, ((0, sizes[int(level)] - len(book)), (0, 0)))
    for level, book in decoder.get('codebook', {}).items()
  }
  return {'codebook': books} if books else {}


def update(
  decoder: dict[str, Any],
  before: indexes.Index,
  after: indexes.Index,
  change: node_table.Change,
  vectors: np.ndarray | None,
  *,
  unit: bool,
) -> jax.Array:
  """As `node_table.update`, for a table with rows for some nodes.

  Args:
    decoder: parameters of the ID decoder, before the change.
    before: the index before, with slots.
    after: the index after, of the same capacity, with slots.
    change: from `live.add` or `live.delete`.
    vectors: float32[M, D] of the added documents; None after a deletion.
    unit: whether vectors have unit length.

  Returns:
    The table float32[after.slots.count, D]. A node that has lost its row, and
    then gets one again, starts from its vector of the codebook.
  """
  old, new = (np.asarray(_slots(x).rows) for x in (before, after))
  table = decoder['table']
  kept = np.flatnonzero((old >= 0) & (new >= 0))
  fresh = np.flatnonzero((old < 0) & (new >= 0))
  names = ('documents', 'nodes', 'below', 'rotated', 'sample', 'changed')
  used = [np.asarray(getattr(change, name)).ravel() for name in names]
  rows = np.unique(np.concatenate([*used, fresh]))
  rows = rows[rows >= 0].astype(np.int32)
  [padded] = node_table.padded((rows, 0))
  few = _vectors(decoder, before.trie, _slots(before), padded, unit=unit)
  numbers: dict[str, Any] = {
    name: np.where(values < 0, -1, np.searchsorted(rows, values))
    for name in names
    for values in [np.asarray(getattr(change, name))]
  }
  few = node_table.update(
    few, dataclasses.replace(change, **numbers), vectors, unit=unit
  )
  found = jnp.zeros((_slots(after).count, table.shape[1]), table.dtype)
  found = found.at[new[kept]].set(table[old[kept]])
  own = np.flatnonzero(new[rows] >= 0)
  return found.at[new[rows[own]]].set(few[own])


_vectors = jax.jit(shared_rows.node_vectors, static_argnames='unit')


def _slots(index: indexes.Index | growth.Live) -> node_slots.Slots:
  index = index if isinstance(index, indexes.Index) else index.index
  assert index.slots is not None  # of callers
  return index.slots
