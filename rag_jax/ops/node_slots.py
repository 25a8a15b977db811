"""Which nodes of a trie have a row of their own in a smaller node table.

A node table with a row per node grows with the documents. A smaller one has
rows for the nodes of the upper levels, and for those with many documents below
them. Either condition holds for all nodes above a node for which it holds: so
the way down to a document has nodes with an own row first, and then, perhaps,
nodes without one.
"""

from typing import Any

import jax
import jax.numpy as jnp

from rag_jax import types
from rag_jax.ops import trie as tries
from rag_jax.ops import trie_nodes


@types.struct
class Slots:
  """The row of each node in a smaller node table."""

  rows: jax.Array  # int32[num_nodes]; -1 = it has none
  count: int = types.static()  # rows of the table


@types.struct
class Edges:
  """The edge into each node, in the rows of a whole node table."""

  parent: jax.Array  # int32[num_nodes], row of the node above it; -1 = the root
  code: jax.Array  # int32[num_nodes], the code on the edge
  depth: jax.Array  # int32[num_nodes], 0 = no node has this row


def of_trie(
  trie: tries.Trie, levels: int, documents: int = 0, *, count: int = 0
) -> Slots:
  """Gives rows to the nodes at depths 1 to `levels`, and to large ones.

  Args:
    trie: the docids.
    levels: a node of at most this depth has an own row.
    documents: so has one with at least so many docids below it; 0 = none.
    count: rows of the table, if it has more than the nodes need.

  Returns:
    The slots, numbered in the order of the rows of a whole node table. At least
    one row, so that no table is empty.

  Example:
    >>> import numpy as np
    >>> trie = tries.build(np.array([[1, 0, 0], [0, 2, 5], [1, 1, 1]]))
    >>> trie.num_nodes, tries.depths(trie).tolist()  # three leaves, one node
    (4, [2, 1, 2, 1])
    >>> slots = of_trie(trie, 1)
    >>> slots.rows.tolist(), slots.count
    ([-1, 0, -1, 1], 2)
    >>> of_trie(trie, 0, 2).rows.tolist()
    [-1, -1, -1, 0]
  """
  depth = edges(trie).depth
  own = depth <= levels
  if documents:
    ones = jnp.ones(trie.num_documents, jnp.int32)
    own |= tries.sum_below(trie, ones) >= documents
  own &= depth > 0
  rows = jnp.where(own, jnp.cumsum(own, dtype=jnp.int32) - 1, -1)
  return Slots(rows, max(int(own.sum()), count, 1))


def edges(trie: tries.Trie) -> Edges:
  """The edge into each node.

  Example:
    >>> import numpy as np
    >>> trie = tries.build(np.array([[1, 0, 0], [0, 2, 5], [1, 1, 1]]))
    >>> found = edges(trie)
    >>> found.parent.tolist(), found.code.tolist()
    ([3, -1, 3, -1], [0, 0, 1, 1])
  """
  parent = jnp.full(trie.num_nodes, -1, jnp.int32)
  code = jnp.zeros(trie.num_nodes, jnp.int32)
  depths = code
  for depth in range(1, trie.depth + 1):
    nodes = jnp.arange(trie_nodes.num_edges(trie, depth))
    first = trie.first[depth - 1]
    rows = trie_nodes.rows_of(trie, depth, nodes)
    # Room that is left for nodes has no row.
    rows = jnp.where(nodes < first[-1], rows, trie.num_nodes)
    own = trie.codes[depth - 1][trie.begins[depth - 1] :].astype(jnp.int32)
    code = code.at[rows].set(own, mode='drop')
    depths = depths.at[rows].set(depth, mode='drop')
    if depth > 1:
      inner = jnp.searchsorted(first, nodes, side='right') - 1
      is_leaf = jnp.zeros(inner.shape, bool)
      above = trie_nodes.rows(trie, depth - 1, is_leaf, inner)
      parent = parent.at[rows].set(above, mode='drop')
  return Edges(parent, code, depths)


def ancestors(found: Edges, rows: Any, levels: int) -> jax.Array:
  """The rows of the nodes on the way to some nodes.

  Args:
    found: from `edges`.
    rows: int32[n], rows of a whole node table.
    levels: depth of the trie.

  Returns:
    int32[levels, n]: at each depth from 1 the row of the node; -1 below it.
  """
  way = []
  for depth in range(levels, 0, -1):
    is_here = found.depth[rows] == depth
    way.append(jnp.where(is_here, rows, -1))
    rows = jnp.where(is_here, found.parent[rows], rows)
  return jnp.stack(way[::-1])
