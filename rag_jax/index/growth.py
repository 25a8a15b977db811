"""Room for an index to grow in, and what moves when it gets more of it.

Documents keep their rows in an index that gets more room; inner nodes come
after all the documents that there is room for, so theirs change.
"""

from collections.abc import Sequence
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from rag_jax.index import docids, node_table
from rag_jax.index import index as indexes
from rag_jax.ops import docid_layout, docid_order


class Live(node_table.Nodes, Protocol):
  """As much of a `live.LiveIndex` as tells the rows of its nodes."""

  @property
  def index(self) -> indexes.Index:
    """What compiled functions take."""


def room(
  layout: docid_layout.Layout,
  config: docids.DocidConfig,
  quantiser: docids.Quantiser,
  capacity: int,
) -> docid_layout.Capacity:
  """Room at every level for as many documents, named as those so far.

  Args:
    layout: of the trie so far.
    config: the docid scheme.
    quantiser: what names new documents.
    capacity: documents that there will be room for.

  Returns:
    A quarter more nodes a level than a proportional share of them, and some;
    the widest node may become twice as wide, or wider in proportion.
  """
  tight = docid_layout.tight(layout)
  factor = capacity / len(layout.documents)
  length = len(tight.num_values)
  most = {
    'string': 10,
    'title': len(quantiser.get('words', ())) + 1,
  }.get(config.scheme, config.num_codes)
  values = [max(n, most) for n in tight.num_values]
  values[-1] = max(256, _wider(tight.num_values[-1], factor))
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
    branching.append(min(values[level], max(64, _wider(some, factor))))
  return docid_layout.Capacity(
    documents=capacity,
    nodes=tuple(nodes),
    parents=tuple(parents),
    tails=(0, *(capacity,) * (length - 1)),
    branching=tuple(branching),
    num_values=tuple(values),
  )


def _wider(count: int, factor: float) -> int:
  return int(np.ceil(max(2.0, factor) * count))


def move(
  table: jax.Array | np.ndarray,
  before: indexes.Index | Live,
  after: indexes.Index | Live,
) -> jax.Array:
  """Takes what nodes have to the rows that they have in another index.

  Args:
    table: [num_nodes, ...] of any dtype, a row a node of `before`: a node
      table, what an optimiser keeps for it, or `index.gold_nodes`.
    before: the index that it belongs to.
    after: the index with more room, from `live.from_index` or `live.resize`.

  Returns:
    [num_nodes, ...] for `after`: documents keep their rows, inner nodes get
    theirs, and all rows that nobody uses are zero.

  Raises:
    ValueError: if the table has not a row for each node of `before`, or the two
      do not hold the same documents, as after `live.add` or `live.delete`.

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
  old, new = _numbers(before), _numbers(after)
  if len(table) != old.count:
    raise ValueError(
      f'table must have a row for each node of the index ({old.count}), got '
      f'{len(table)}. Give the table of the index before.'
    )
  if not old.same_documents(new):
    raise ValueError(
      'before and after must hold the same documents by the same docids, got '
      f'{len(old.order.rows)} and {len(new.order.rows)} documents that differ. '
      'Move the table first, then add and delete, and let node_table.update '
      'follow.'
    )
  moved = jnp.zeros((new.count, *table.shape[1:]), table.dtype)
  return moved.at[new.rows].set(table[old.rows])


def widen(
  tables: Sequence[jax.Array], after: indexes.Index | Live
) -> tuple[jax.Array, ...]:
  """Gives codebooks a row for every code that there is room for.

  Args:
    tables: L x float[V, D], a row a code of each level, as an ID decoder with
      the output 'codebook' has them.
    after: the index with more room.

  Returns:
    L x float[V, D] with the V of `after`; new rows are zero.

  Raises:
    ValueError: if there is not one table a level, or one has more rows than
      there are codes.

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
      f'tables must be one a level, with at most {sizes} rows, got {given}. '
      'Give the codebooks of this index before it got more room.'
    )
  return tuple(
    jnp.pad(table, ((0, size - len(table)), (0, 0)))
    for table, size in zip(tables, sizes, strict=True)
  )


class _Numbers:
  """The rows that the nodes of an index have in a table."""

  def __init__(
    self,
    order: docid_order.Order,
    inner: Sequence[np.ndarray],
    trie_rows: int,
  ):
    self.order = order  # of the living documents
    self.rows = np.concatenate([order.rows, *inner])
    self.count = trie_rows

  def same_documents(self, other: '_Numbers') -> bool:
    """Whether the other has these documents, by the same docids."""
    ours, theirs = self.order, other.order
    everything = np.arange(len(ours.rows))
    return (
      np.array_equal(ours.rows, theirs.rows)
      and len(ours.bits) == len(theirs.bits)
      and all(
        np.array_equal(
          ours.code(level, everything), theirs.code(level, everything)
        )
        for level in range(len(ours.bits))
      )
    )


def _numbers(holder: indexes.Index | Live) -> _Numbers:
  """Nodes in an order that depends on the docids alone, by their rows."""
  if not isinstance(holder, indexes.Index):
    return _Numbers(holder.order, holder.rows, holder.index.trie.num_nodes)
  trie, codes = holder.trie, np.asarray(holder.codes)
  living = np.flatnonzero(np.asarray(holder.alive))
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
  return _Numbers(order, inner, trie.num_nodes)
