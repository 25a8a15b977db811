"""Capacity of a live index, and the node table after a change of capacity.

A node table has one row per document slot, then as many for each further docid
of a document, then one per inner node. More capacity adds document slots:
documents keep their rows, further docids and inner nodes get others.
"""

from collections.abc import Sequence
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from rag_jax.index import docids, further, node_table
from rag_jax.index import index as indexes
from rag_jax.ops import docid_layout, docid_order


class Live(node_table.Nodes, Protocol):
  """The part of a `live.LiveIndex` that gives the rows of its nodes."""

  @property
  def index(self) -> indexes.Index:
    """The arrays for compiled functions."""


def plan_capacity(
  layout: docid_layout.Layout,
  config: docids.DocidConfig,
  quantiser: docids.Quantiser,
  capacity: int,
) -> docid_layout.Capacity:
  """Capacity of each level of the trie for a given number of documents.

  It assumes that new documents get docids distributed as those so far.

  Args:
    layout: layout of the current trie.
    config: the docid scheme.
    quantiser: the quantiser that assigns docids to new documents.
    capacity: maximum number of documents.

  Returns:
    1.25 times the number of nodes per level expected in proportion to the
    documents, plus a constant; and branching of at least twice the current
    maximum, or more in proportion.
  """
  tight = docid_layout.tight(layout)
  factor = capacity / len(layout.documents)
  length = len(tight.num_values)
  most = {
    'string': 10,
    'title': len(quantiser.get('words', ())) + 1,
  }.get(config.scheme, config.num_codes)
  values = [max(n, most) for n in tight.num_values]
  values[-1] = max(256, _scaled(tight.num_values[-1], factor))
  nodes, parents, branching = [], [], []
  for level in range(length):
    has = level < len(tight.nodes)
    some = tight.nodes[level] if has else 0
    more = int(1.25 * factor * some) + capacity // 16 + 64
    nodes.append(min(capacity, more))
    some = tight.parents[level] if has else 0
    above = nodes[-2] if level else 1
    more = int(1.25 * factor * some) + capacity // 32 + 64
    parents.append(min(above, more))
    some = tight.branching[level] if has else 1
    branching.append(min(values[level], max(64, _scaled(some, factor))))
  return docid_layout.Capacity(
    documents=capacity,
    nodes=tuple(nodes),
    parents=tuple(parents),
    tails=(0, *(capacity,) * (length - 1)),
    branching=tuple(branching),
    num_values=tuple(values),
  )


def _scaled(count: int, factor: float) -> int:
  return int(np.ceil(max(2.0, factor) * count))


def move(
  table: jax.Array | np.ndarray,
  before: indexes.Index | Live,
  after: indexes.Index | Live,
) -> jax.Array:
  """Reorders the rows of a node table for an index with another capacity.

  Args:
    table: [num_nodes, ...] of any dtype, one row per node of `before`: a node
      table, its optimiser state, or `index.gold_nodes`.
    before: the index of the table.
    after: the index with more capacity, from `live.from_index` or
      `live.resize`.

  Returns:
    [num_nodes, ...], one row per node of `after`. Documents keep their rows,
    inner nodes have the rows of `after`, and unused rows are zero.

  Raises:
    ValueError: if the table does not have one row per node of `before`, or the
      two indexes hold different documents (after `live.add` or `live.delete`).

  Example:
    >>> tokens = np.arange(3)[:, None] + 1
    >>> before = indexes.from_codes(tokens, np.array([[0, 0], [0, 1], [1, 0]]))
    >>> table = jnp.array([1.0, 2.0, 3.0, 9.0])  # three documents, one node
    >>> move(table, before, before).tolist()
    [1.0, 2.0, 3.0, 9.0]
    >>> from rag_jax.index import docids, live
    >>> config = docids.DocidConfig(scheme='random', num_levels=1)
    >>> after = live.from_index(before, {}, config, capacity=5)
    >>> move(table, before, after)[:7].tolist()
    [1.0, 2.0, 3.0, 0.0, 0.0, 9.0, 0.0]
  """
  table = jnp.asarray(table)
  old, new = _node_rows(before), _node_rows(after)
  if len(table) != old.count:
    raise ValueError(
      f'table must have one row per node of `before` ({old.count}), got '
      f'{len(table)}. Give the node table of that index.'
    )
  if not old.same_documents(new):
    raise ValueError(
      'before and after must hold the same documents with the same docids, got '
      f'{len(old.order.rows)} and {len(new.order.rows)} documents that differ. '
      'Move the table first, then add or delete documents and apply each '
      'change by node_table.update.'
    )
  moved = jnp.zeros((new.count, *table.shape[1:]), table.dtype)
  return moved.at[new.rows].set(table[old.rows])


def widen(
  tables: Sequence[jax.Array], after: indexes.Index | Live
) -> tuple[jax.Array, ...]:
  """Pads codebooks with zero rows to the number of codes of a larger index.

  Args:
    tables: L x float[V, D], the codebook of each level, of an ID decoder with
      the output 'codebook'.
    after: the index with more capacity.

  Returns:
    L x float[V, D] with the V of `after`; new rows are zero.

  Raises:
    ValueError: if there is not one table per level, or a table has more rows
      than `after` has codes.

  Example:
    >>> tokens, codes = np.array([[1], [2]]), np.array([[0], [4]])
    >>> [table] = widen([jnp.ones((3, 2))], indexes.from_codes(tokens, codes))
    >>> table.tolist()
    [[1.0, 1.0], [1.0, 1.0], [1.0, 1.0], [0.0, 0.0], [0.0, 0.0]]
  """
  index = after if isinstance(after, indexes.Index) else after.index
  sizes = index.trie.num_values
  given = tuple(map(len, tables))
  if len(given) != len(sizes) or any(
    n > size for n, size in zip(given, sizes, strict=True)
  ):
    raise ValueError(
      f'tables must be one per level, with at most {sizes} rows, got {given}. '
      'Give the codebooks of this index before its capacity was increased.'
    )
  return tuple(
    jnp.pad(table, ((0, size - len(table)), (0, 0)))
    for table, size in zip(tables, sizes, strict=True)
  )


class _NodeRows:
  """The rows of an index's nodes in its node table."""

  def __init__(
    self,
    order: docid_order.Order,
    inner: Sequence[np.ndarray],
    trie_rows: int,
    capacity: int,
  ):
    self.order = order  # sorted docids of the documents in the index
    self.rows = np.concatenate([order.rows, *inner])
    self.count = trie_rows
    # Document and number of its docid, which more capacity does not change.
    self.docids = np.stack([order.rows % capacity, order.rows // capacity])

  def same_documents(self, other: '_NodeRows') -> bool:
    """Whether the other has the same documents with the same docids."""
    mine, theirs = self.order, other.order
    everything = np.arange(len(mine.rows))
    return (
      np.array_equal(self.docids, other.docids)
      and len(mine.bits) == len(theirs.bits)
      and all(
        np.array_equal(
          mine.code(level, everything), theirs.code(level, everything)
        )
        for level in range(len(mine.bits))
      )
    )


def _node_rows(index: indexes.Index | Live) -> _NodeRows:
  """The rows of the nodes, in an order that depends only on the docids."""
  if not isinstance(index, indexes.Index):
    index_rows = index.index.trie.num_nodes
    capacity = len(index.index.alive)
    return _NodeRows(index.order, index.rows, index_rows, capacity)
  alive, trie = np.asarray(index.alive), index.trie
  codes = further.leaf_codes(np.asarray(index.codes), index.further)
  living = np.flatnonzero(further.leaf_where(alive, index.further))
  order = docid_order.sort(codes[living], rows=living)
  layout = docid_layout.from_order(
    order, num_values=trie.num_values, num_documents=trie.num_documents
  )
  inner, start = [], trie.num_documents
  for level, spans in enumerate(layout.spans):
    if trie.rows is None:
      inner.append(np.arange(start, start + len(spans)))
    else:
      inner.append(np.asarray(trie.rows[level])[: len(spans)])
    start += len(trie.first[level + 1]) - 1
  return _NodeRows(order, inner, trie.num_nodes, len(alive))
