r"""Updates a node table when documents are added to or deleted from an index.

Documents and inner nodes keep their rows; new ones get unused rows. When
documents are added or deleted below an inner node, its vector $u$ is rotated by
the rotation that takes the old mean direction of the documents below it to the
new one:

$u' = u - (a + b) \frac{\langle a + b, u \rangle}{1 + \langle a, b \rangle} +
2 b \langle a, u \rangle$,

with $a = S / |S|$ and $b = S' / |S'|$, where $S$ and $S'$ are the sums of the
unit vectors of the documents below the node before and after the change. An
untrained node has $u = a$ and becomes $b$. A trained node keeps its norm and
its angle to the mean direction.

If a node has more documents below it than the sample size, $S$ (after a
deletion, $S'$) is estimated. Its norm is $\sqrt{k + k (k - 1) c}$ for k
documents, with c the mean cosine of pairs in the sample. Its direction is that
of $u$, an approximation for a trained node, or after a deletion that of the
sample.
"""

import dataclasses
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from rag_jax.components import query_encoder
from rag_jax.ops import docid_layout, docid_order

SAMPLED = 8192  # sampled documents per change; 4 to 64 per node


class Nodes(Protocol):
  """The inner nodes of a trie without its root, one array per level."""

  @property
  def order(self) -> docid_order.Order:
    """The sorted docids of the documents in the index."""

  @property
  def spans(self) -> tuple[np.ndarray, ...]:
    """int[m, 2], start and end in `order` of the documents below each node."""

  @property
  def rows(self) -> tuple[np.ndarray, ...]:
    """int32[m], row of each node in the node table."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Change:
  """Rows of the node table that an addition or a deletion affects."""

  documents: np.ndarray  # int32[M], rows of the added documents, in order
  nodes: np.ndarray  # int32[n], rows of the new inner nodes
  below: np.ndarray  # int32[m], documents below the new nodes, node by node
  owners: np.ndarray  # int32[m], index into `nodes` for each of `below`
  rotated: np.ndarray  # int32[j], rows of nodes that gain or lose documents
  counts: np.ndarray  # int32[j], unchanged documents below each of `rotated`
  sample: np.ndarray  # int32[j, s], sample of these documents, -1 = padding
  changed: np.ndarray  # int32[p], documents gained or lost, node by node
  changed_owners: np.ndarray  # int32[p], index into `rotated` for each
  sign: int  # 1 = documents were added, -1 = documents were deleted


def assign_rows(
  order: docid_order.Order,
  spans: tuple[np.ndarray, ...],
  before: Nodes | None,
  capacity: docid_layout.Capacity,
) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
  """Assigns node table rows to inner nodes; existing nodes keep their rows.

  Args:
    order: the sorted docids of the documents in the index.
    spans: per level, start and end in `order` below each inner node.
    before: the nodes before the change, with their rows; None = no nodes.
    capacity: of the trie.

  Returns:
    Per level: the row of each node, and its index in `before`, -1 = new.
  """
  rows_by_level, previous_by_level = [], []
  for level, level_spans in enumerate(spans):
    rows = np.full(len(level_spans), -1, np.int32)
    previous = np.full(len(level_spans), -1)
    if before is not None and level < len(before.spans):
      old_prefixes = before.order.prefixes(level + 1, before.spans[level][:, 0])
      new_prefixes = order.prefixes(level + 1, level_spans[:, 0])
      begin, end = docid_order.find(old_prefixes, new_prefixes)
      previous = np.where(end > begin, begin, -1)
      rows[previous >= 0] = before.rows[level][previous[previous >= 0]]
    rows_by_level.append(rows)
    previous_by_level.append(previous)
  used = np.zeros(capacity.num_nodes - capacity.documents, bool)
  for rows in rows_by_level:
    used[rows[rows >= 0] - capacity.documents] = True
  free = np.flatnonzero(~used).astype(np.int32) + capacity.documents
  start = 0
  for rows in rows_by_level:
    count = int((rows < 0).sum())
    rows[rows < 0] = free[start : start + count]
    start += count
  return tuple(rows_by_level), tuple(previous_by_level)


def above(spans: np.ndarray, places: np.ndarray) -> np.ndarray:
  """The ancestor of each document at a level, int[...]; -1 = none.

  Args:
    spans: int[m, 2], start and end in the order of the nodes of the level.
    places: int[...], positions of the documents in the order.
  """
  node = np.searchsorted(spans[:, 0], places, side='right') - 1
  return np.where(places < spans[node, 1], node, -1)


def describe(
  before: Nodes,
  after: Nodes,
  previous: tuple[np.ndarray, ...],
  documents: np.ndarray,
  *,
  sign: int,
) -> Change:
  """The change of the node table for `update`.

  Args:
    before: the nodes before the change.
    after: the nodes after the change.
    previous: from `assign_rows`.
    documents: int[M], the documents added or deleted.
    sign: 1 = they were added, -1 = they were deleted.
  """
  containing = after if sign > 0 else before
  positions = np.flatnonzero(np.isin(containing.order.rows, documents))
  without = before if sign > 0 else after
  new_nodes, below, rotated, changed = [], [], [], []
  unchanged = np.zeros((0, 2), np.int64)  # spans of `rotated` in `without`
  for level, (spans, rows, old) in enumerate(
    zip(after.spans, after.rows, previous, strict=True)
  ):
    new_nodes.append(rows[old < 0])
    below.append(_inside(after.order, spans[old < 0]))
    if level >= len(before.spans):
      continue
    # Index of each node in `without`; -1 for new and for removed nodes.
    if sign > 0:
      index = old
    else:
      index = np.full(len(before.spans[level]), -1)
      index[old] = np.arange(len(old))
    node = above(containing.spans[level], positions)
    node = np.where(node < 0, -1, index[node])
    known = node >= 0
    nodes, owners = np.unique(node[known], return_inverse=True)
    rotated.append(without.rows[level][nodes])
    changed.append((containing.order.rows[positions[known]], owners))
    unchanged = np.concatenate([unchanged, without.spans[level][nodes]])
  all_below, owners = _numbered(below, new_nodes)
  all_changed, changed_owners = _numbered(changed, rotated)
  added = documents if sign > 0 else documents[:0]
  return Change(
    documents=added.astype(np.int32),
    nodes=_concatenated(new_nodes),
    below=all_below,
    owners=owners,
    rotated=_concatenated(rotated),
    counts=(unchanged[:, 1] - unchanged[:, 0]).astype(np.int32),
    sample=_sample(without.order, unchanged),
    changed=all_changed,
    changed_owners=changed_owners,
    sign=sign,
  )


def update(
  table: jax.Array,
  change: Change,
  vectors: np.ndarray | None = None,
  *,
  donate: bool = False,
  unit: bool = True,
) -> jax.Array:
  """Applies a change of the index to its node table.

  Args:
    table: float[num_nodes, D].
    change: from `live.add` or `live.delete`. Apply several changes in the order
      in which they were made.
    vectors: float32[M, D], vectors of the added documents; None after a
      deletion.
    donate: whether to overwrite the memory of `table` instead of copying it;
      `table` must not be used afterwards.
    unit: whether vectors have unit length.

  Returns:
    A new table. Added documents get their vectors, new inner nodes the unit
    mean of the documents below them. Nodes that gain or lose documents are
    rotated, see the module's docstring; a zero row is set to the unit mean.
    All other rows are unchanged. If `unit` is False, means are no unit means,
    and nodes are moved instead of rotated.

  Raises:
    ValueError: if the table has fewer rows than the index, or there is not one
      vector per added document.

  Example:
    >>> table = jnp.array([[1.0, 0.0], [0.0, 0.0], [1.0, 0.0]])  # node is last
    >>> none, one = np.zeros(0, np.int32), np.array([1])
    >>> added = Change(documents=one, nodes=none, below=none, owners=none,
    ...                rotated=np.array([2]), counts=one,
    ...                sample=np.array([[0]]), changed=one,
    ...                changed_owners=np.array([0]), sign=1)
    >>> update(table, added, np.array([[0.0, 1.0]])).round(3).tolist()
    [[1.0, 0.0], [0.0, 1.0], [0.7070000171661377, 0.7070000171661377]]

  Reference:
    Mardia and Jupp, Directional Statistics, 2000: mean direction and resultant
    length.
  """
  size, width = table.shape
  rows = np.concatenate([change.documents, change.nodes, change.rotated])
  if rows.max(initial=-1) >= size:
    raise ValueError(
      f'table must have one row per node of the index, got {size} rows and '
      f'a change of row {rows.max()}. Give the node table of this index.'
    )
  if vectors is None:
    vectors = np.zeros((0, width), np.float32)
  if vectors.shape != (len(change.documents), width):
    raise ValueError(
      f'vectors must have shape {(len(change.documents), width)}, one row per '
      f'added document, got {vectors.shape}. Encode these documents with the '
      'encoder of the table.'
    )
  sample = np.where(change.sample < 0, size, change.sample)
  return (_update_in_place if donate else _update)(
    table,
    padded((change.documents, size), (np.asarray(vectors, np.float32), 0)),
    padded((change.nodes, size)),
    padded((change.below, size), (change.owners, size)),
    padded((change.rotated, size), (change.counts, 0), (sample, size)),
    padded((change.changed, size), (change.changed_owners, size)),
    jnp.float32(change.sign),
    unit=unit,
  )


def padded(*pairs: tuple[np.ndarray, Any]) -> list[jax.Array]:
  """Pads arrays to a power of two, to limit the number of compilations.

  Args:
    *pairs: arrays of equal length, each with its fill value.
  """
  size = _padded_size(len(pairs[0][0]))
  arrays = []
  for array, fill in pairs:
    whole = np.full((size, *array.shape[1:]), fill, array.dtype)
    whole[: len(array)] = array
    arrays.append(jnp.asarray(whole))
  return arrays


def _padded_size(count: int) -> int:
  return max(16, 1 << max(count - 1, 1).bit_length())


def _inside(
  order: docid_order.Order, spans: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Documents in each span of an order, and the index of each one's span."""
  sizes = spans[:, 1] - spans[:, 0]
  owners = np.repeat(np.arange(len(spans)), sizes)
  before = np.cumsum(sizes) - sizes
  places = np.arange(len(owners)) + (spans[:, 0] - before)[owners]
  return order.rows[places], owners


def _sample(order: docid_order.Order, spans: np.ndarray) -> np.ndarray:
  """Evenly spaced documents of each span, int32[n, s]; -1 = padding."""
  most = np.clip(SAMPLED // _padded_size(len(spans)), 4, 64)
  sizes = (spans[:, 1] - spans[:, 0])[:, None]
  taken = np.minimum(sizes, most)
  number = np.arange(most)
  places = spans[:, :1] + (2 * number + 1) * sizes // (2 * taken)
  places = np.minimum(places, len(order.rows) - 1)
  return np.where(number < taken, order.rows[places], -1).astype(np.int32)


def _numbered(
  parts: list[tuple[np.ndarray, np.ndarray]], nodes: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
  """Concatenates the levels; owners become indices into all nodes."""
  starts = np.cumsum([0, *map(len, nodes)])
  owners = [own + start for (_, own), start in zip(parts, starts, strict=False)]
  return _concatenated([part for part, _ in parts]), _concatenated(owners)


def _concatenated(parts: list[np.ndarray]) -> np.ndarray:
  """One int32 array, empty if there are no parts."""
  if not parts:
    return np.zeros(0, np.int32)
  return np.concatenate(parts).astype(np.int32)


def _apply(table, added, nodes, below, rotated, changed, sign, *, unit):
  documents, vectors = added
  table = table.at[documents].set(vectors.astype(table.dtype), mode='drop')
  (nodes,) = nodes
  if unit:
    means = query_encoder.normalise(_sums(table, *below, len(nodes)))
  else:
    total, count = _totals(table, *below, len(nodes))
    means = total / jnp.maximum(count, 1)
  table = table.at[nodes].set(means.astype(table.dtype), mode='drop')
  rows, counts, sample = rotated
  old = _get(table, rows)
  if not unit:
    total, count = _totals(table, *changed, len(rows))
    before = jnp.where(sign > 0, counts[:, None], counts[:, None] + count)
    after = jnp.maximum(before + sign * count, 1)
    new = (before * old + sign * total) / after
    return table.at[rows].set(new.astype(table.dtype), mode='drop')
  # A scan over the sample: gathering all of it would set the peak memory.
  total, _ = jax.lax.scan(
    lambda total, row: (total + query_encoder.normalise(_get(table, row)), ()),
    jnp.zeros_like(old),
    sample.T,
  )
  count = (sample < len(table)).sum(-1)
  cosine = ((total * total).sum(-1) - count) / jnp.maximum(
    count * (count - 1), 1
  )
  length = jnp.sqrt(counts + counts * (counts - 1.0) * jnp.maximum(cosine, 0))
  is_zero = (old == 0).all(-1, keepdims=True)
  direction = jnp.where(is_zero | (sign < 0), total, old)
  whole = (counts <= count)[:, None]
  without = jnp.where(
    whole, total, length[:, None] * query_encoder.normalise(direction)
  )
  containing = without + _sums(table, *changed, len(rows))
  before, after = (
    query_encoder.normalise(jnp.where(sign > 0, x, y))
    for x, y in ((without, containing), (containing, without))
  )
  new = _rotate(jnp.where(is_zero, before, old), before, after)
  return table.at[rows].set(new.astype(table.dtype), mode='drop')


def _rotate(x, a, b):
  """Rotates rows by the rotation from unit vectors a to b, float32[j, D].

  Rows are unchanged where a and b are opposite or one of them is zero.
  """

  def dot(x, y):
    return (x * y).sum(-1, keepdims=True)

  cosine, square = dot(a, b), dot(a, a) * dot(b, b)
  is_known = (1 + cosine > 1e-3) & (square > 0.5)
  partial = x - (a + b) * dot(a + b, x) / jnp.where(is_known, 1 + cosine, 1)
  return jnp.where(is_known, partial + 2 * b * dot(a, x), x)


def _sums(table, rows, owners, count):
  """Sums of the normalised rows per owner, float32[count, D]."""
  units = query_encoder.normalise(_get(table, rows))
  return jax.ops.segment_sum(units, owners, count)


def _totals(table, rows, owners, count):
  """Sums of the rows per owner, float32[count, D], and their numbers."""
  real = (rows < len(table)).astype(jnp.float32)[:, None]
  total = jax.ops.segment_sum(_get(table, rows), owners, count)
  return total, jax.ops.segment_sum(real, owners, count)


def _get(table, rows):
  """Rows as float32; padding, past the end of the table, gives zeros."""
  return table.at[rows].get(mode='fill', fill_value=0).astype(jnp.float32)


_update = jax.jit(_apply, static_argnames='unit')
_update_in_place = jax.jit(_apply, static_argnames='unit', donate_argnums=0)
