"""The arrays of a trie, and what one of its nodes is numbered and named.

`trie` explains how nodes are numbered, and walks along them.
"""

import jax
import jax.numpy as jnp

from rag_jax import types
from rag_jax.ops import docid_packing, reads

WORD = docid_packing.WORD


@types.struct
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
  begins: tuple[int, ...] = types.static()
  branching: tuple[int, ...] = types.static()
  num_values: tuple[int, ...] = types.static()
  num_documents: int = types.static()  # rows of leaves

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


@types.struct
class Beams:
  """Where beams stand: inner nodes of one depth, and leaves above it."""

  nodes: jax.Array  # int32[B, K], number among the inner nodes, or of a leaf
  ended: jax.Array  # bool[B, K], True = at a leaf
  codes: jax.Array  # int32[B, K], the code on the edge into it
  rows: jax.Array  # int32[B, K], its row in a node table


@types.struct
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
  level: int = types.static()
  # Where the edges are all codes in their order, C = V: `where`, a bit a code,
  # uint32[B, K, ceil(V / 32)].
  present: jax.Array | None = None

  @property
  def all_codes(self) -> bool:
    """Whether the edges are all codes in their order."""
    return self.present is not None


def num_edges(trie: Trie, depth: int) -> int:
  """n[depth] + C, nodes that there is room for and what a slice runs over."""
  return trie.codes[depth - 1].shape[0] - trie.begins[depth - 1]


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
  number, mask = word_of(nodes)
  bits = trie.inner[depth - 1]
  if nodes.ndim == 2:  # of beams
    pairs = reads.lines(bits, number)
    word, before = pairs[..., 0], pairs[..., 1]
  else:  # of edges or all: two numbers are read quicker than pairs
    word, before = (reads.get(bits, number, column) for column in (0, 1))
  rank = (before + jax.lax.population_count(word & mask)).astype(jnp.int32)
  is_leaf = word & (mask + 1) == 0
  return is_leaf, jnp.where(is_leaf, above + nodes - rank, rank)


def documents(trie: Trie, leaves: jax.Array) -> jax.Array:
  """The document at each leaf int32[...], int32[...]."""
  if leaves.ndim == 2:  # of beams
    return reads.slices(trie.documents, leaves, 1)[..., 0]
  return reads.get(trie.documents, leaves)


def rest(trie: Trie, leaves: jax.Array) -> jax.Array:
  """Codes of leaves from depth D on, int32[B, K, L - D]."""
  if not trie.rest.shape[1]:
    return jnp.zeros((*leaves.shape, 0), jnp.int32)
  return reads.lines(trie.rest, leaves).astype(jnp.int32)


def rows(
  trie: Trie, depth: int, is_leaf: jax.Array, number: jax.Array
) -> jax.Array:
  """Rows in a node table of what `locate` has numbered."""
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


def rows_of(trie: Trie, depth: int, nodes: jax.Array) -> jax.Array:
  """Rows of the nodes of a depth in a node table."""
  return rows(trie, depth, *locate(trie, depth, nodes))


def below(trie: Trie, values: jax.Array, *, largest: bool) -> jax.Array:
  """Sums or maxima of float[N, ...] over the documents below each node."""
  segments = jax.ops.segment_max if largest else jax.ops.segment_sum
  shape = (trie.num_nodes, *values.shape[1:])
  table = jnp.full(shape, -jnp.inf if largest else 0, values.dtype)
  table = table.at[: len(values)].set(values)
  for depth in range(trie.depth, 1, -1):
    nodes = jnp.arange(num_edges(trie, depth))
    first = trie.first[depth - 1]
    parents = jnp.searchsorted(first, nodes, side='right') - 1
    own = table[rows_of(trie, depth, nodes)]
    inner = jnp.arange(first.shape[0] - 1)
    places = table.at[
      rows(trie, depth - 1, jnp.zeros(inner.shape, bool), inner)
    ]
    # Room left for nodes shares a row with a real one, to which its empty
    # segment must do nothing.
    found = segments(own, parents, len(inner))
    table = places.max(found) if largest else places.add(found)
  return table


def word_of(bits: jax.Array) -> tuple[jax.Array, jax.Array]:
  """The word that holds each bit int32[...], and one with all bits below it."""
  mask = (jnp.uint32(1) << (bits & (WORD - 1)).astype(jnp.uint32)) - 1
  return bits >> (WORD.bit_length() - 1), mask


def unpack(words: jax.Array, count: int) -> jax.Array:
  """The first bits of uint32[..., n], a bit a code; bool[..., count]."""
  shifts = reads.count(WORD, words.ndim + 1).astype(jnp.uint32)
  bits = (words[..., None] >> shifts) & 1
  return bits.reshape(*words.shape[:-1], -1)[..., :count] > 0


def rank_of(words: jax.Array, codes: jax.Array) -> jax.Array:
  """How many bits of uint32[..., n] stand before those of codes int32[...]."""
  number, partial = word_of(codes)
  places = reads.count(words.shape[-1], words.ndim)
  keep = jnp.where(
    places < number[..., None],
    jnp.uint32(0xFFFFFFFF),
    jnp.where(places == number[..., None], partial[..., None], jnp.uint32(0)),
  )
  return jax.lax.population_count(words & keep).astype(jnp.int32).sum(-1)
