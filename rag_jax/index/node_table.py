r"""Rows of a node table that follow the documents of a live index.

Documents and inner nodes keep their rows while they are there; new ones get
rows that nobody uses. The row of a node that documents come to, or go from, is
rotated as the mean direction of the documents below is, and keeps its length:

$u' = u - (a + b) \frac{\langle a + b, u \rangle}{1 + \langle a, b \rangle} +
2 b \langle a, u \rangle$,

from $a = S / |S|$ to $b = S' / |S'|$, where $S$ and $S'$ are the sums of the
unit vectors of the documents below before and after. Untrained, $u$ is $a$ and
becomes $b$; what training made of it, its angle to $a$, stays.

Where more documents are below than are looked at, $S$ (after a deletion $S'$)
is estimated: its length from the mean cosine c of pairs of a sample of the k
documents, $\sqrt{k + k (k - 1) c}$; its direction is taken to be that of $u$,
which training may have changed, and after a deletion that of the sample.
"""

import dataclasses
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from rag_jax.components import query_encoder
from rag_jax.ops import docid_layout, docid_order

SAMPLED = 8192  # documents that are looked at in a change, 4 to 64 a node


class Nodes(Protocol):
  """The inner nodes of a trie below its root, a level each."""

  @property
  def order(self) -> docid_order.Order:
    """The living docids."""

  @property
  def spans(self) -> tuple[np.ndarray, ...]:
    """int[m, 2], places in the order below each node."""

  @property
  def rows(self) -> tuple[np.ndarray, ...]:
    """int32[m], row of each node in the node table."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Change:
  """Rows of the node table that have to do with documents that came or went."""

  documents: np.ndarray  # int32[M], rows of the documents added, in order
  nodes: np.ndarray  # int32[n], rows of the inner nodes that are new
  below: np.ndarray  # int32[m], documents below these, node after node
  owners: np.ndarray  # int32[m], which of `nodes` each is below
  turned: np.ndarray  # int32[j], rows of nodes that some came to or went from
  counts: np.ndarray  # int32[j], documents below that neither came nor went
  sample: np.ndarray  # int32[j, s], these or some of them, -1 = no more
  moved: np.ndarray  # int32[p], documents that came or went, node after node
  moved_owners: np.ndarray  # int32[p], which of `turned` each is or was below
  sign: int  # 1 = they came, -1 = they went


def number(
  order: docid_order.Order,
  spans: tuple[np.ndarray, ...],
  before: Nodes | None,
  room: docid_layout.Capacity,
) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
  """Gives inner nodes their rows; those that were there keep theirs.

  Args:
    order: the living docids.
    spans: a level each, places in it below each inner node.
    before: the nodes that have rows; None = there are none.
    room: of the trie.

  Returns:
    A level each: the rows, and which node of the level each was before, -1 for
    none.
  """
  numbers, places = [], []
  for level, own_spans in enumerate(spans):
    own = np.full(len(own_spans), -1, np.int32)
    place = np.full(len(own_spans), -1)
    if before is not None and level < len(before.spans):
      was = before.order.prefixes(level + 1, before.spans[level][:, 0])
      now = order.prefixes(level + 1, own_spans[:, 0])
      begin, end = docid_order.find(was, now)
      place = np.where(end > begin, begin, -1)
      own[place >= 0] = before.rows[level][place[place >= 0]]
    numbers.append(own)
    places.append(place)
  used = np.zeros(room.num_nodes - room.documents, bool)
  for own in numbers:
    used[own[own >= 0] - room.documents] = True
  free = np.flatnonzero(~used).astype(np.int32) + room.documents
  start = 0
  for own in numbers:
    count = int((own < 0).sum())
    own[own < 0] = free[start : start + count]
    start += count
  return tuple(numbers), tuple(places)


def above(spans: np.ndarray, places: np.ndarray) -> np.ndarray:
  """The node of a level that is above each place, int[...]; -1 = none.

  Args:
    spans: int[m, 2], of the nodes of a level.
    places: int[...], in the order.
  """
  node = np.searchsorted(spans[:, 0], places, side='right') - 1
  return np.where(places < spans[node, 1], node, -1)


def describe(
  before: Nodes,
  after: Nodes,
  places: tuple[np.ndarray, ...],
  documents: np.ndarray,
  *,
  sign: int,
) -> Change:
  """What `update` needs to know of documents that came or went.

  Args:
    before: the nodes without those that came, with those that went.
    after: the nodes as they are now.
    places: from `number`.
    documents: int[M], those that came or went.
    sign: 1 = they came, -1 = they went.
  """
  with_them = after if sign > 0 else before
  moving = np.flatnonzero(np.isin(with_them.order.rows, documents))
  without = before if sign > 0 else after
  fresh, below, turned, moved = [], [], [], []
  others = np.zeros((0, 2), np.int64)  # spans of `turned`, without those moved
  for level, (spans, rows, place) in enumerate(
    zip(after.spans, after.rows, places, strict=True)
  ):
    fresh.append(rows[place < 0])
    below.append(_inside(after.order, spans[place < 0]))
    if level >= len(before.spans):
      continue
    # By the number of the node among those without them; new nodes, and those
    # that are no more, have none.
    if sign > 0:
      numbers = place
    else:
      numbers = np.full(len(before.spans[level]), -1)
      numbers[place] = np.arange(len(place))
    node = above(with_them.spans[level], moving)
    node = np.where(node < 0, -1, numbers[node])
    known = node >= 0
    nodes, owners = np.unique(node[known], return_inverse=True)
    turned.append(without.rows[level][nodes])
    moved.append((with_them.order.rows[moving[known]], owners))
    others = np.concatenate([others, without.spans[level][nodes]])
  all_below, owners = _numbered(below, fresh)
  all_moved, moved_owners = _numbered(moved, turned)
  came = documents if sign > 0 else documents[:0]
  return Change(
    documents=came.astype(np.int32),
    nodes=_concatenated(fresh),
    below=all_below,
    owners=owners,
    turned=_concatenated(turned),
    counts=(others[:, 1] - others[:, 0]).astype(np.int32),
    sample=_sample(without.order, others),
    moved=all_moved,
    moved_owners=moved_owners,
    sign=sign,
  )


def update(
  table: jax.Array,
  change: Change,
  vectors: np.ndarray | None = None,
  *,
  donate: bool = False,
) -> jax.Array:
  """Lets the rows of a node table follow a change.

  Args:
    table: float[num_nodes, D].
    change: from `live.add` or `live.delete`; several are followed in the order
      in which they were made.
    vectors: float32[M, D], of the documents added, unit length; None after
      documents were deleted.
    donate: whether the memory of `table` may be written over; it is of no use
      afterwards then, and no time goes into a copy.

  Returns:
    A new table: documents that were added get their vectors, new inner nodes
    the unit mean of the documents below. Nodes that documents came to or went
    from turn, see the module's docstring; a zero row has no direction to turn,
    and becomes the unit mean too. All other rows stay.

  Raises:
    ValueError: if the table has fewer rows than the index, or there is not a
      vector for each document that was added.

  Example:
    >>> table = jnp.array([[1.0, 0.0], [0.0, 0.0], [1.0, 0.0]])  # node is last
    >>> none, one = np.zeros(0, np.int32), np.array([1])
    >>> came = Change(documents=one, nodes=none, below=none, owners=none,
    ...               turned=np.array([2]), counts=one,
    ...               sample=np.array([[0]]), moved=one,
    ...               moved_owners=np.array([0]), sign=1)
    >>> update(table, came, np.array([[0.0, 1.0]])).round(3).tolist()
    [[1.0, 0.0], [0.0, 1.0], [0.7070000171661377, 0.7070000171661377]]

  Reference:
    Mardia and Jupp, Directional Statistics, 2000: mean direction and resultant
    length.
  """
  size, width = table.shape
  rows = np.concatenate([change.documents, change.nodes, change.turned])
  if rows.max(initial=-1) >= size:
    raise ValueError(
      f'table must have a row for each node of the index, got {size} rows and '
      f'a change of row {rows.max()}. Give the table of this index.'
    )
  if vectors is None:
    vectors = np.zeros((0, width), np.float32)
  if vectors.shape != (len(change.documents), width):
    raise ValueError(
      f'vectors must have shape {(len(change.documents), width)}, one a '
      f'document that was added, got {vectors.shape}. Encode these documents '
      'with the encoder of the table.'
    )
  sample = np.where(change.sample < 0, size, change.sample)
  return (_update_in_place if donate else _update)(
    table,
    padded((change.documents, size), (np.asarray(vectors, np.float32), 0)),
    padded((change.nodes, size)),
    padded((change.below, size), (change.owners, size)),
    padded((change.turned, size), (change.counts, 0), (sample, size)),
    padded((change.moved, size), (change.moved_owners, size)),
    jnp.float32(change.sign),
  )


def padded(*pairs: tuple[np.ndarray, Any]) -> list[jax.Array]:
  """Arrays filled up to a power of two, so that few shapes are compiled.

  Args:
    *pairs: arrays of one length, and what to fill each up with.
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
  """Documents in each span of an order, and which span each is in."""
  sizes = spans[:, 1] - spans[:, 0]
  owners = np.repeat(np.arange(len(spans)), sizes)
  before = np.cumsum(sizes) - sizes
  places = np.arange(len(owners)) + (spans[:, 0] - before)[owners]
  return order.rows[places], owners


def _sample(order: docid_order.Order, spans: np.ndarray) -> np.ndarray:
  """Documents in each span, evenly spread, int32[n, s]; -1 = no more."""
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
  """Documents and their owners, these numbered over the nodes of all levels."""
  starts = np.cumsum([0, *map(len, nodes)])
  owners = [own + start for (_, own), start in zip(parts, starts, strict=False)]
  return _concatenated([part for part, _ in parts]), _concatenated(owners)


def _concatenated(parts: list[np.ndarray]) -> np.ndarray:
  """One int32 array; of no parts, an empty one."""
  if not parts:
    return np.zeros(0, np.int32)
  return np.concatenate(parts).astype(np.int32)


def _follow(table, added, nodes, below, turned, moved, sign):
  documents, vectors = added
  table = table.at[documents].set(vectors.astype(table.dtype), mode='drop')
  (nodes,) = nodes
  means = query_encoder.normalise(_sums(table, *below, len(nodes)))
  table = table.at[nodes].set(means.astype(table.dtype), mode='drop')
  rows, counts, sample = turned
  old = _get(table, rows)
  # One after the other: all at once would be the most memory that is needed.
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
  with_them = without + _sums(table, *moved, len(rows))
  before, after = (
    query_encoder.normalise(jnp.where(sign > 0, x, y))
    for x, y in ((without, with_them), (with_them, without))
  )
  new = _rotate(jnp.where(is_zero, before, old), before, after)
  return table.at[rows].set(new.astype(table.dtype), mode='drop')


def _rotate(x, a, b):
  """Rotates rows as it takes to get from unit vectors a to b, float32[j, D].

  Rows stay where these are opposite, or one of them is zero.
  """

  def dot(x, y):
    return (x * y).sum(-1, keepdims=True)

  cosine, square = dot(a, b), dot(a, a) * dot(b, b)
  is_known = (1 + cosine > 1e-3) & (square > 0.5)
  turned = x - (a + b) * dot(a + b, x) / jnp.where(is_known, 1 + cosine, 1)
  return jnp.where(is_known, turned + 2 * b * dot(a, x), x)


def _sums(table, rows, owners, count):
  """Sums of the unit vectors of rows by their owners, float32[count, D]."""
  units = query_encoder.normalise(_get(table, rows))
  return jax.ops.segment_sum(units, owners, count)


def _get(table, rows):
  """Rows in float32; zeros for those past the end, which are padding."""
  return table.at[rows].get(mode='fill', fill_value=0).astype(jnp.float32)


_update = jax.jit(_follow)
_update_in_place = jax.jit(_follow, donate_argnums=0)
