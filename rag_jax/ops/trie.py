"""A path-compressed trie over docids, as flat arrays that live on the device.

A node with one docid below it is a leaf, however many codes of the docid are
left: those codes, its tail, are kept as they are. So there are about as many
nodes as it takes to tell the docids apart, not one a prefix.

Nodes of one depth are numbered in the sorted order of their prefixes. The
children of a node lie side by side, so a child's number is the first child's
number plus an offset and no next-state column is stored. One bit a node tells
inner nodes from leaves; counting bits numbers either kind. Leaves are numbered
by the depth at which they end, then in sorted order, so that a level's tail is
indexed by the number of the leaf.

Few large arrays are read a level, each once and a whole slice at a time: on a
CPU, XLA splits over threads whatever reads from half a megabyte or more,
however little of it, and to wake one takes longer than what a few beams need.

Where a level has few nodes, one of them with many codes below it, as the first
levels do, nodes keep a bit for every code too (`docid_layout.Capacity.dense`):
a model that scores all codes need not gather there.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from rag_jax.ops import docid_layout, docid_order

WORD = 32  # bits of a word
FEW = 16  # slices that are read one by one
SPLIT = 1 << 19  # bytes from which on XLA splits what reads them over threads


@flax.struct.dataclass
class Trie:
  """A packed trie; depth 0 is the root.

  There are D levels with inner nodes, n[d] nodes at depth d whose parent is an
  inner node, m[d] of them inner nodes themselves, and N docids of L codes.
  Codes are uint8, uint16 or int32, as small as they fit; C, the most children
  that a node of a level has, are added so that no slice runs over the end.
  """

  # D x uint[begins[d] + n[d + 1] + C]: the next code of each leaf that has
  # ended, then the code on the edge into each node.
  codes: tuple[jax.Array, ...]
  first: tuple[jax.Array, ...]  # D x int32[m[d] + 1], first child; CSR
  # D - 1 x uint32[ceil(n / 32), 2], for the nodes at depths 1 to D - 1: a bit
  # a node, 1 = inner node, and the number of inner nodes before them.
  inner: tuple[jax.Array, ...]
  # D x uint32[m[d], ceil(V / 32)], a bit a code; None where there is none.
  present: tuple[jax.Array | None, ...]
  ended: jax.Array  # int32[D + 1], leaves that end at depth d or above
  # uint[leaves, L - D], the codes of each leaf from depth D on, where all have
  # ended; of the widest type of these levels.
  rest: jax.Array
  documents: jax.Array  # int32[N], the docid (row of `codes`) at each leaf
  rows: tuple[jax.Array, ...] | None  # D - 1 x int32[m[d]], see `Frontier`
  # D, where the edges of a level begin in `codes`; 0 = no leaf has ended.
  begins: tuple[int, ...] = flax.struct.field(pytree_node=False)
  branching: tuple[int, ...] = flax.struct.field(pytree_node=False)
  num_values: tuple[int, ...] = flax.struct.field(pytree_node=False)
  num_documents: int = flax.struct.field(pytree_node=False)  # rows of leaves

  @property
  def depth(self) -> int:
    """D, levels at which a search has a choice."""
    return len(self.codes)

  @property
  def num_nodes(self) -> int:
    """Rows of a node table: documents, then inner nodes below the root."""
    parents = sum(first.shape[0] - 1 for first in self.first[1:])
    return self.num_documents + parents

  @property
  def length(self) -> int:
    """L, codes in a docid."""
    return self.depth + self.rest.shape[1]


@flax.struct.dataclass
class Beams:
  """Where beams stand: inner nodes of one depth, and leaves above it."""

  nodes: jax.Array  # int32[B, K], number among the inner nodes, or of a leaf
  ended: jax.Array  # bool[B, K], True = at a leaf
  codes: jax.Array  # int32[B, K], the code on the edge into it
  rows: jax.Array  # int32[B, K], its row in a node table


@flax.struct.dataclass
class Frontier:
  """The edges that leave where beams stand, padded to the widest node.

  Rows number all nodes but the root, for models that keep a vector a node:
  the leaf of document n is row n, inner nodes come after the documents.
  """

  nodes: jax.Array  # int32[B, K], row of the node where each beam stands
  codes: jax.Array  # int32[B, K], the code on the edge into it
  children: jax.Array  # int32[B, K, C], row of the node at the end of each edge
  tokens: jax.Array  # int32[B, K, C], the code on each edge; any without one
  where: jax.Array  # bool[B, K, C], True = this edge exists and is allowed
  level: int = flax.struct.field(pytree_node=False)
  # Where the edges are all codes in their order, C = V: `where`, a bit a code,
  # uint32[B, K, ceil(V / 32)].
  present: jax.Array | None = None

  @property
  def all_codes(self) -> bool:
    """Whether the edges are all codes in their order."""
    return self.present is not None


def build(
  codes: np.ndarray,
  *,
  where: np.ndarray | None = None,
  capacity: docid_layout.Capacity | None = None,
) -> Trie:
  """Packs docids into a trie.

  Args:
    codes: int[N, L], one docid a document, in any order.
    where: bool[N], True = this row is in the trie; None takes all.
    capacity: room to leave; None leaves none.

  Returns:
    The trie, on the default device.

  Raises:
    ValueError: if there is no docid, a code is negative, two documents share a
      docid, or something does not fit the capacity.

  Example:
    >>> trie = build(np.array([[1, 0, 0], [0, 2, 5], [1, 1, 1]]))
    >>> trie.depth, trie.branching, trie.num_nodes
    (2, (2, 2), 4)
    >>> trie.documents.tolist()
    [1, 0, 2]
  """
  return pack(docid_layout.lay_out(codes, where=where), capacity=capacity)


def pack(
  layout: docid_layout.Layout,
  *,
  capacity: docid_layout.Capacity | None = None,
  rows: tuple[np.ndarray, ...] | None = None,
) -> Trie:
  """Puts a layout on the device.

  Args:
    layout: what `docid_layout.lay_out` worked out.
    capacity: room to leave; None leaves none.
    rows: row of each inner node in a node table, a level each; None numbers
      them after the documents.
  """
  if capacity is None:
    capacity = docid_layout.tight(layout)
  docid_layout.check_fits(layout, capacity)
  depth = len(capacity.nodes)

  def padded(parts, sizes):
    arrays = []
    for level, size in enumerate(sizes):
      part = parts[level] if level < len(parts) else np.zeros(1, np.int32)
      array = np.full(size, part[-1] if len(part) else 0, np.int32)
      array[: min(len(part), size)] = part[:size]
      arrays.append(array)
    return tuple(arrays)

  ended: Any = np.full(depth + 1, layout.ended[-1], np.int32)
  ended[: len(layout.ended)] = layout.ended
  trie = Trie(
    codes=tuple(_join_codes(layout, level, capacity) for level in range(depth)),
    first=padded(layout.first, [n + 1 for n in capacity.parents]),
    inner=tuple(
      _pack_bits(layout.inner[level] if level < len(layout.inner) else (), size)
      for level, size in enumerate(capacity.nodes[:-1])
    ),
    present=tuple(
      _pack_codes(layout, level, capacity) if has else None
      for level, has in enumerate(capacity.dense)
    ),
    ended=ended,
    rest=_join_rest(layout, capacity),
    documents=padded([layout.documents], [capacity.documents])[0],
    rows=None if rows is None else padded(rows, capacity.parents[1:]),
    begins=capacity.tails[:depth],
    branching=capacity.branching,
    num_values=capacity.num_values,
    num_documents=capacity.documents,
  )
  return jax.device_put(trie)  # all at once: each by itself takes long


def memory(trie: Trie) -> int:
  """Bytes that the arrays of a trie take on the device."""
  return sum(math.prod(x.shape) * x.itemsize for x in jax.tree.leaves(trie))


def root(batch_size: int) -> Beams:
  """One beam a query, at the root."""
  zeros = jnp.zeros((batch_size, 1), jnp.int32)
  return Beams(nodes=zeros, ended=zeros > 0, codes=zeros, rows=zeros)


def span(trie: Trie, level: int, beams: Beams) -> tuple[jax.Array, jax.Array]:
  """First child of each beam and number of children; 0 and 1 for a leaf."""
  if level >= trie.depth:
    return jnp.zeros_like(beams.nodes), jnp.ones_like(beams.nodes)
  nodes = jnp.where(beams.ended, 0, beams.nodes)
  bounds = _slices(trie.first[level], nodes, 2)
  first, count = bounds[..., 0], bounds[..., 1] - bounds[..., 0]
  return jnp.where(beams.ended, 0, first), jnp.where(beams.ended, 1, count)


def tail(trie: Trie, level: int, beams: Beams) -> jax.Array:
  """The next code of beams that have ended, int32[B, K]; others get any."""
  leaves = jnp.where(beams.ended, beams.nodes, 0)
  if level >= trie.depth:
    return rest(trie, leaves)[..., level - trie.depth]
  if not trie.begins[level]:
    return jnp.zeros_like(beams.nodes)
  return _slices(trie.codes[level], leaves, 1)[..., 0].astype(jnp.int32)


def documents(trie: Trie, leaves: jax.Array) -> jax.Array:
  """The document at each leaf int32[...], int32[...]."""
  if leaves.ndim == 2:  # of beams
    return _slices(trie.documents, leaves, 1)[..., 0]
  return _get(trie.documents, leaves)


def rest(trie: Trie, leaves: jax.Array) -> jax.Array:
  """Codes of leaves from depth D on, int32[B, K, L - D]."""
  if not trie.rest.shape[1]:
    return jnp.zeros((*leaves.shape, 0), jnp.int32)
  return _lines(trie.rest, leaves).astype(jnp.int32)


def expand(
  trie: Trie,
  level: int,
  beams: Beams,
  *,
  allowed: tuple[jax.Array, ...] | None = None,
  alive: jax.Array | None = None,
) -> Frontier:
  """Gathers the edges that leave beams; a leaf has one, with its next code.

  Args:
    trie: the trie.
    level: depth of the beams, from 0.
    beams: where they stand.
    allowed: what `allow` returned; None allows every document.
    alive: bool[B, K], beams that any edge leaves; None = all.

  Returns:
    Their `Frontier`; C is the widest branching of the level.
  """
  first, count = span(trie, level, beams)
  width = trie.branching[level] if level < trie.depth else 1
  if alive is not None:
    count = jnp.where(alive, count, 0)
  offsets = jnp.arange(width)
  where = offsets < count[..., None]
  ended = beams.ended[..., None]
  if level >= trie.depth:
    tokens = tail(trie, level, beams)[..., None]
    children = jnp.zeros_like(tokens)
  else:
    # Children lie side by side: whole slices are read, several times as fast
    # on a CPU as reading each by its index.
    begin = jnp.where(beams.ended, beams.nodes, trie.begins[level] + first)
    tokens = _slices(trie.codes[level], begin, width).astype(jnp.int32)
    edges = jnp.where(where, first[..., None] + offsets, 0)
    children = _rows(trie, level + 1, *locate(trie, level + 1, edges))
    if allowed is not None:
      flags = jnp.broadcast_to(
        allowed[level], (edges.shape[0], allowed[level].shape[1])
      )
      own = jax.vmap(lambda row, index: row[index])(flags, edges)
      where = where & (own | ended)
  return Frontier(
    nodes=beams.rows,
    codes=beams.codes,
    children=jnp.where(ended, beams.rows[..., None], children),
    tokens=tokens,
    where=where,
    level=level,
  )


def expand_codes(
  trie: Trie, level: int, beams: Beams, *, alive: jax.Array | None = None
) -> Frontier:
  """As `expand`, with an edge for every code, for models that score them all.

  Args:
    trie: the trie.
    level: depth of the beams; one that keeps a bit a code, where
      `trie.present[level]` is not None.
    beams: where they stand.
    alive: as for `expand`.

  Returns:
    Their `Frontier`; C is V, the edges are the codes in their order, and those
    that lead nowhere have `where` False.
  """
  codes = jnp.arange(trie.num_values[level])
  present = trie.present[level]
  assert present is not None  # the level keeps a bit a code
  ended = beams.ended[..., None]
  words = _lines(present, jnp.where(beams.ended, 0, beams.nodes))
  if trie.begins[level]:  # some may have ended: their tail alone goes on
    number, below = _word(tail(trie, level, beams)[..., None])
    places = jnp.arange(words.shape[-1])
    words = jnp.where(ended, (places == number) * (below + 1), words)
  if alive is not None:
    words = jnp.where(alive[..., None], words, 0)
  bits = (words[..., None] >> jnp.arange(WORD, dtype=jnp.uint32)) & 1
  exists = bits.reshape(*words.shape[:-1], -1)[..., : len(codes)] > 0
  first, _ = span(trie, level, beams)
  # Read by models that score nodes alone; under jit not worked out for others.
  edges = first[..., None] + jnp.cumsum(exists, axis=-1, dtype=jnp.int32) - 1
  edges = jnp.where(exists, edges, 0)
  children = _rows(trie, level + 1, *locate(trie, level + 1, edges))
  return Frontier(
    nodes=beams.rows,
    codes=beams.codes,
    children=jnp.where(ended, beams.rows[..., None], children),
    tokens=jnp.broadcast_to(codes, exists.shape),
    where=exists,
    level=level,
    present=words,
  )


def child(
  trie: Trie,
  level: int,
  beams: Beams,
  present: jax.Array,
  codes: jax.Array,
) -> jax.Array:
  """The node behind one code of each beam, at a level that keeps a bit a code.

  Args:
    trie: the trie.
    level: depth of the beams.
    beams: where they stand.
    present: uint32[B, K, ceil(V / 32)], the codes that exist there, as
      `expand_codes` read them.
    codes: int32[B, K].

  Returns:
    int32[B, K], for `descend`; any number where the code leads nowhere.
  """
  number, partial = _word(codes)
  places = jnp.arange(present.shape[-1])
  keep = jnp.where(
    places < number[..., None],
    jnp.uint32(0xFFFFFFFF),
    jnp.where(places == number[..., None], partial[..., None], jnp.uint32(0)),
  )
  rank = jax.lax.population_count(present & keep).astype(jnp.int32).sum(-1)
  first, count = span(trie, level, beams)
  return first + jnp.minimum(rank, count - 1)


def _word(bits: jax.Array) -> tuple[jax.Array, jax.Array]:
  """The word that holds each bit int32[...], and one with all bits below it."""
  mask = (jnp.uint32(1) << (bits & (WORD - 1)).astype(jnp.uint32)) - 1
  return bits >> (WORD.bit_length() - 1), mask


def locate(
  trie: Trie, depth: int, nodes: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Tells inner nodes of a depth from leaves, and numbers either kind.

  Returns:
    True where it is a leaf, and the number among the inner nodes of its depth
    or among all leaves.
  """
  above = trie.ended[depth - 1]
  if depth == trie.depth:
    return jnp.ones(nodes.shape, bool), nodes + above
  number, mask = _word(nodes)
  bits = trie.inner[depth - 1]
  if nodes.ndim == 2:  # of beams
    pairs = _lines(bits, number)
    word, before = pairs[..., 0], pairs[..., 1]
  else:  # of edges or all: two numbers are read quicker than pairs
    word, before = (_get(bits, number, column) for column in (0, 1))
  rank = (before + jax.lax.population_count(word & mask)).astype(jnp.int32)
  is_leaf = word & (mask + 1) == 0
  return is_leaf, jnp.where(is_leaf, above + nodes - rank, rank)


def descend(
  trie: Trie, level: int, beams: Beams, nodes: jax.Array, codes: jax.Array
) -> Beams:
  """Moves beams along edges.

  Args:
    trie: the trie.
    level: depth of the beams.
    beams: where they stand.
    nodes: int32[B, K], the child of each that has not ended.
    codes: int32[B, K], the code on its edge.
  """
  is_leaf, number = locate(trie, level + 1, jnp.where(beams.ended, 0, nodes))
  return Beams(
    nodes=jnp.where(beams.ended, beams.nodes, number),
    ended=beams.ended | is_leaf,
    codes=codes,
    rows=jnp.where(
      beams.ended, beams.rows, _rows(trie, level + 1, is_leaf, number)
    ),
  )


def allow(trie: Trie, allowed: jax.Array) -> tuple[jax.Array, ...]:
  """Pushes an allow-list up the trie, for `expand`.

  Args:
    trie: the trie.
    allowed: bool[N] or bool[B, N], True = this document may be returned.

  Returns:
    D x bool[1 or B, n[d + 1] + C], True = an allowed document is below it.
  """
  in_order = jnp.atleast_2d(allowed)[:, trie.documents]
  flags: list[jax.Array] = []
  for depth in range(trie.depth, 0, -1):
    nodes = jnp.arange(_num_edges(trie, depth))
    is_leaf, number = locate(trie, depth, nodes)
    own = in_order[:, jnp.where(is_leaf, number, 0)]
    if flags:
      counts = jnp.cumsum(flags[-1], axis=1, dtype=jnp.int32)
      counts = jnp.pad(counts, ((0, 0), (1, 0)))[:, trie.first[depth]]
      below = counts[:, 1:] > counts[:, :-1]
      own = jnp.where(is_leaf, own, below[:, jnp.where(is_leaf, 0, number)])
    flags.append(own)
  return tuple(reversed(flags))


def sum_below(trie: Trie, values: jax.Array) -> jax.Array:
  """Sums what documents have over the documents below each node.

  Args:
    trie: the trie.
    values: float[N, ...], one a document.

  Returns:
    float[num_nodes, ...] in the rows of a node table: the documents' own
    values, then the sums of the inner nodes.
  """
  return _below(trie, values, largest=False)


def max_below(trie: Trie, values: jax.Array) -> jax.Array:
  """The best that documents below each node have, for a search to plan ahead.

  Args:
    trie: the trie.
    values: float[B, N], one a query and document; those of documents that are
      not in the trie count for no node but their own row.

  Returns:
    float[B, num_nodes] in the rows of a node table: the documents' own values,
    then the maxima of the inner nodes; -inf for a row without documents.

  Example:
    >>> trie = build(np.array([[1, 0, 0], [0, 2, 5], [1, 1, 1]]))
    >>> max_below(trie, jnp.array([[3.0, 9.0, 4.0]])).tolist()
    [[3.0, 9.0, 4.0, 4.0]]

  Reference:
    Zeng et al., Planning Ahead in Generative Retrieval: Guiding Autoregressive
    Generation through Simultaneous Decoding, 2024.
  """
  # Whole rows of queries are reduced: vectors on a CPU.
  return _below(trie, values.T, largest=True).T


def _below(trie: Trie, values: jax.Array, *, largest: bool) -> jax.Array:
  """Sums or maxima of float[N, ...] over the documents below each node."""
  segments = jax.ops.segment_max if largest else jax.ops.segment_sum
  shape = (trie.num_nodes, *values.shape[1:])
  table = jnp.full(shape, -jnp.inf if largest else 0, values.dtype)
  table = table.at[: len(values)].set(values)
  for depth in range(trie.depth, 1, -1):
    nodes = jnp.arange(_num_edges(trie, depth))
    first = trie.first[depth - 1]
    parents = jnp.searchsorted(first, nodes, side='right') - 1
    own = table[_rows(trie, depth, *locate(trie, depth, nodes))]
    inner = jnp.arange(first.shape[0] - 1)
    rows = table.at[_rows(trie, depth - 1, jnp.zeros(inner.shape, bool), inner)]
    # Room left for nodes shares a row with a real one, to which its empty
    # segment must do nothing.
    found = segments(own, parents, len(inner))
    table = rows.max(found) if largest else rows.add(found)
  return table


def depths(trie: Trie) -> jax.Array:
  """Depth of each node, int32[num_nodes] in the rows of a node table.

  Rows of documents that are not in the trie have depth 0.
  """
  found = jnp.zeros(trie.num_nodes, jnp.int32)
  for depth in range(trie.depth, 0, -1):
    nodes = jnp.arange(_num_edges(trie, depth) - trie.branching[depth - 1])
    found = found.at[_rows(trie, depth, *locate(trie, depth, nodes))].set(depth)
  return found


def _num_edges(trie: Trie, depth: int) -> int:
  """n[depth] + C, nodes that there is room for and what a slice runs over."""
  return trie.codes[depth - 1].shape[0] - trie.begins[depth - 1]


def walk(trie: Trie, codes: jax.Array) -> tuple[Frontier, ...]:
  """The way down to given docids, one `Frontier` a level, of one edge each.

  Args:
    trie: the trie.
    codes: int[B, K, L], docids.

  Returns:
    D frontiers of shape [B, K, 1]: the edge that each docid takes, the leaf
    itself below its end. Where a docid leaves the trie, `where` is False from
    that level on; codes after the end of a leaf are not compared.

  Example:
    >>> trie = build(np.array([[1, 0, 0], [0, 2, 5], [1, 1, 1]]))
    >>> way = walk(trie, jnp.array([[[1, 1, 1]]]))
    >>> [frontier.children.item() for frontier in way]
    [3, 2]
  """
  codes = codes.astype(jnp.int32)
  zeros = jnp.zeros(codes.shape[:2], jnp.int32)
  beams = Beams(nodes=zeros, ended=zeros > 0, codes=zeros, rows=zeros)
  exists = jnp.ones(codes.shape[:2], bool)
  frontiers = []
  for level in range(trie.depth):
    frontier = expand(trie, level, beams)
    own = codes[..., level]
    same = (frontier.tokens == own[..., None]) | beams.ended[..., None]
    same = same & frontier.where
    offset = jnp.argmax(same, axis=-1)
    exists = exists & same.any(axis=-1)
    child = jnp.take_along_axis(frontier.children, offset[..., None], axis=-1)
    frontiers.append(
      dataclasses.replace(
        frontier, children=child, tokens=own[..., None], where=exists[..., None]
      )
    )
    first, _ = span(trie, level, beams)
    beams = descend(trie, level, beams, first + offset, own)
  return tuple(frontiers)


def _rows(
  trie: Trie, depth: int, is_leaf: jax.Array, number: jax.Array
) -> jax.Array:
  """Rows of nodes in a node table."""
  leaf = documents(trie, jnp.where(is_leaf, number, 0))
  if depth == trie.depth:
    return leaf
  inner = jnp.where(is_leaf, 0, number)
  if trie.rows is not None:
    inner = trie.rows[depth - 1][inner]
  else:
    sizes = [first.shape[0] - 1 for first in trie.first[1:depth]]
    inner = inner + trie.num_documents + sum(sizes)
  return jnp.where(is_leaf, leaf, inner)


def _get(x: jax.Array, *index: jax.Array | int) -> jax.Array:
  """x[index], for indices that are known to be in range."""
  return x.at[index].get(mode='promise_in_bounds')


def _slices(x: jax.Array, start: jax.Array, width: int) -> jax.Array:
  """Gathers x[start : start + width] for int32[...] starts; [..., width]."""
  read = functools.partial(
    jax.lax.dynamic_slice, slice_sizes=(width,), allow_negative_indices=False
  )
  return _each(lambda start: read(x, (start,)), x, start)


def _lines(x: jax.Array, row: jax.Array) -> jax.Array:
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
  few = place.size <= FEW and x.nbytes >= SPLIT
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
  slices = jnp.stack(halves).reshape(2 * half, -1)
  return slices[: place.size].reshape(*place.shape, -1)


def _join_codes(
  layout: docid_layout.Layout, level: int, capacity: docid_layout.Capacity
) -> Any:
  """The next codes of leaves that have ended, then those on the edges."""
  begin = capacity.tails[level]
  size = begin + capacity.nodes[level] + capacity.branching[level]
  dtype = docid_order.code_type(capacity.num_values[level])
  codes: Any = np.zeros(size, dtype)
  codes[: len(layout.tails[level])] = layout.tails[level]
  if level < len(layout.tokens):  # room for more levels is empty
    own = layout.tokens[level]
    codes[begin : begin + len(own)] = own
  return codes


def _join_rest(
  layout: docid_layout.Layout, capacity: docid_layout.Capacity
) -> Any:
  """Codes after all leaves have ended, those of a leaf side by side."""
  count, dtype = capacity.rest
  tails = layout.tails[len(capacity.nodes) :]
  rest = np.zeros((count, len(tails)), dtype)
  for level, tail in enumerate(tails):
    rest[: len(tail), level] = tail
  return rest


def _pack_codes(
  layout: docid_layout.Layout, level: int, capacity: docid_layout.Capacity
) -> Any:
  """A bit for every code below the nodes of a level."""
  size = math.ceil(capacity.num_values[level] / WORD) * WORD
  bits = np.zeros((capacity.parents[level], size), bool)
  if level < len(layout.first):  # room for more levels is empty
    first = layout.first[level]
    parents = np.repeat(np.arange(len(first) - 1), np.diff(first))
    bits[parents, layout.tokens[level]] = True
  return np.packbits(bits, axis=1, bitorder='little').view('<u4')


def _pack_bits(flags, size: int) -> Any:
  """Packs booleans, padded with False, each word beside what comes before."""
  padded = np.zeros(math.ceil(size / WORD) * WORD, bool)
  padded[: len(flags)] = flags
  words: Any = np.packbits(padded, bitorder='little').view('<u4')
  counts: Any = padded.reshape(-1, WORD).sum(axis=1, dtype=np.uint32)
  before = np.cumsum(counts, dtype=np.uint32) - counts
  return np.stack([words, before], axis=1)
