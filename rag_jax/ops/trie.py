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

Few large arrays are read a level, each once and a whole slice at a time
(`reads` says why).

Where a level has few nodes, one of them with many codes below it, as the first
levels do, nodes keep a bit for every code too (`docid_layout.Capacity.dense`):
a model that scores all codes need not gather there.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rag_jax.ops import checks, docid_layout, docid_packing, reads, trie_nodes

# Users know them by these names.
Trie = trie_nodes.Trie
Beams = trie_nodes.Beams
Frontier = trie_nodes.Frontier


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
      docid, `where` has another length, or something does not fit the capacity.

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
  trie = Trie(
    **docid_packing.arrays(layout, capacity, rows),
    begins=capacity.tails[: len(capacity.nodes)],
    branching=capacity.branching,
    num_values=capacity.num_values,
    num_documents=capacity.documents,
  )
  return jax.device_put(trie)  # all at once: each by itself takes long


def check_codes(trie: Trie, codes: Any, *, axes: int = 3) -> jax.Array:
  """Docids as an array int[..., L] of so many axes, or a ValueError."""
  codes = checks.integers(codes, 'codes')
  if codes.ndim != axes or codes.shape[-1] != trie.length:
    wanted = ('B, K, ' if axes == 3 else 'N, ') + str(trie.length)
    raise ValueError(
      f'codes must be docids [{wanted}], with all codes of the trie, got shape '
      f'{list(codes.shape)}. Take rows of what the trie was built from.'
    )
  return codes


def root(batch_size: int) -> Beams:
  """One beam a query, at the root."""
  zeros = jnp.zeros((batch_size, 1), jnp.int32)
  return Beams(nodes=zeros, ended=zeros > 0, codes=zeros, rows=zeros)


def span(trie: Trie, level: int, beams: Beams) -> tuple[jax.Array, jax.Array]:
  """First child of each beam and number of children; 0 and 1 for a leaf."""
  if level >= trie.depth:
    return jnp.zeros_like(beams.nodes), jnp.ones_like(beams.nodes)
  nodes = jnp.where(beams.ended, 0, beams.nodes)
  bounds = reads.slices(trie.first[level], nodes, 2)
  first, count = bounds[..., 0], bounds[..., 1] - bounds[..., 0]
  return jnp.where(beams.ended, 0, first), jnp.where(beams.ended, 1, count)


def tail(trie: Trie, level: int, beams: Beams) -> jax.Array:
  """The next code of beams that have ended, int32[B, K]; others get any."""
  leaves = jnp.where(beams.ended, beams.nodes, 0)
  if level >= trie.depth:
    return trie_nodes.rest(trie, leaves)[..., level - trie.depth]
  if not trie.begins[level]:
    return jnp.zeros_like(beams.nodes)
  return reads.slices(trie.codes[level], leaves, 1)[..., 0].astype(jnp.int32)


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
  offsets = reads.count(width, 3)
  where = offsets < count[..., None]
  ended = beams.ended[..., None]
  if level >= trie.depth:
    tokens = tail(trie, level, beams)[..., None]
    children = jnp.zeros_like(tokens)
  else:
    # Children lie side by side: whole slices are read, several times as fast
    # on a CPU as reading each by its index.
    begin = jnp.where(beams.ended, beams.nodes, trie.begins[level] + first)
    tokens = reads.slices(trie.codes[level], begin, width).astype(jnp.int32)
    edges = jnp.where(where, first[..., None] + offsets, 0)
    children = trie_nodes.rows_of(trie, level + 1, edges)
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
  words = reads.lines(present, jnp.where(beams.ended, 0, beams.nodes))
  if trie.begins[level]:  # some may have ended: their tail alone goes on
    number, below = trie_nodes.word_of(tail(trie, level, beams)[..., None])
    places = reads.count(words.shape[-1], 3)
    own = jnp.where(places == number, below + 1, 0)
    words = jnp.where(ended, own, words)
  if alive is not None:
    words = jnp.where(alive[..., None], words, 0)
  exists = trie_nodes.unpack(words, len(codes))
  first, _ = span(trie, level, beams)
  # Read by models that score nodes alone; under jit not worked out for others.
  edges = first[..., None] + jnp.cumsum(exists, axis=-1, dtype=jnp.int32) - 1
  edges = jnp.where(exists, edges, 0)
  children = trie_nodes.rows_of(trie, level + 1, edges)
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
  rank = trie_nodes.rank_of(present, codes)
  first, count = span(trie, level, beams)
  return first + jnp.minimum(rank, count - 1)


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
  is_leaf, number = trie_nodes.locate(
    trie, level + 1, jnp.where(beams.ended, 0, nodes)
  )
  return Beams(
    nodes=jnp.where(beams.ended, beams.nodes, number),
    ended=beams.ended | is_leaf,
    codes=codes,
    rows=jnp.where(
      beams.ended, beams.rows, trie_nodes.rows(trie, level + 1, is_leaf, number)
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
  allowed = checks.allowed(allowed, trie.num_documents)
  in_order = jnp.atleast_2d(allowed)[:, trie.documents]
  flags: list[jax.Array] = []
  for depth in range(trie.depth, 0, -1):
    nodes = jnp.arange(trie_nodes.num_edges(trie, depth))
    is_leaf, number = trie_nodes.locate(trie, depth, nodes)
    own = in_order[:, jnp.where(is_leaf, number, 0)]
    if flags:
      counts = jnp.cumsum(flags[-1], axis=1, dtype=jnp.int32)
      counts = jnp.pad(counts, ((0, 0), (1, 0)))[:, trie.first[depth]]
      below = counts[:, 1:] > counts[:, :-1]
      above = below[:, jnp.where(is_leaf, 0, number)]
      own = jnp.where(is_leaf[None], own, above)
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
  return trie_nodes.below(trie, values, largest=False)


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
  return trie_nodes.below(trie, values.T, largest=True).T


def depths(trie: Trie) -> jax.Array:
  """Depth of each node, int32[num_nodes] in the rows of a node table.

  Rows of documents that are not in the trie have depth 0.
  """
  found = jnp.zeros(trie.num_nodes, jnp.int32)
  for depth in range(trie.depth, 0, -1):
    nodes = jnp.arange(
      trie_nodes.num_edges(trie, depth) - trie.branching[depth - 1]
    )
    found = found.at[trie_nodes.rows_of(trie, depth, nodes)].set(depth)
  return found


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
  codes = check_codes(trie, codes).astype(jnp.int32)
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
