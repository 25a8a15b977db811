"""A trie over docids, as flat arrays that live on the device.

Nodes of one depth are numbered in the sorted order of their prefixes, so the
children of a node lie side by side and a child's number is the first child's
number plus an offset: no next-state column is stored. The leaves under a node
are a range too, which makes pushing an allow-list up the trie a subtraction.
"""

import math

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np


@flax.struct.dataclass
class Trie:
  """A packed trie; depth 0 is the root, depth L the leaves.

  `n[l]` is the number of nodes at depth l. Fields hold one entry a level;
  `branching` is the most children a node has, `num_values` one more than the
  largest code.
  """

  tokens: tuple[jax.Array, ...]  # L x int32[n[l + 1]], edge into each node
  children: tuple[jax.Array, ...]  # L x int32[n[l] + 1], first child; CSR
  leaves: tuple[jax.Array, ...]  # L x int32[n[l] + 1], first leaf; CSR
  paths: jax.Array  # int32[N, L], the node at depth l + 1 of each document
  documents: jax.Array  # int32[N], the document at each leaf
  branching: tuple[int, ...] = flax.struct.field(pytree_node=False)
  num_values: tuple[int, ...] = flax.struct.field(pytree_node=False)

  @property
  def depth(self) -> int:
    """Number of codes in a docid."""
    return len(self.tokens)

  @property
  def sizes(self) -> tuple[int, ...]:
    """Number of nodes at depths 1 to L."""
    return tuple(tokens.shape[0] for tokens in self.tokens)


@flax.struct.dataclass
class Frontier:
  """The edges that leave a set of nodes, padded to the widest node."""

  nodes: jax.Array  # int32[B, K], nodes of depth `level`
  codes: jax.Array  # int32[B, K], the code on the edge into each node
  children: jax.Array  # int32[B, K, C], nodes of depth `level` + 1
  tokens: jax.Array  # int32[B, K, C], the code on each edge
  where: jax.Array  # bool[B, K, C], True = this edge exists and is allowed
  level: int = flax.struct.field(pytree_node=False)


def build(codes: np.ndarray) -> Trie:
  """Packs docids into a trie.

  Args:
    codes: int[N, L], one docid a document, in any order. Docids shorter than L
      are padded with any one code: an edge without a sibling costs nothing.

  Returns:
    The trie, on the default device.

  Raises:
    ValueError: if there is no document, a code is negative, or two documents
      share a docid.

  Example:
    >>> trie = build(np.array([[1, 0], [0, 2], [1, 1]]))
    >>> trie.sizes, trie.branching
    ((2, 3), (2, 2))
    >>> trie.documents.tolist()
    [1, 0, 2]
  """
  codes = np.asarray(codes)
  if codes.ndim != 2 or not codes.size:
    raise ValueError(
      f'codes must be a non-empty [N, L] array, got shape {codes.shape}. '
      'Build them with rag_jax.index.docids.'
    )
  if codes.min() < 0:
    raise ValueError(
      f'codes must be at least 0, got {codes.min()}. Number codes from 0.'
    )
  num_documents, length = codes.shape
  order = np.lexsort(codes.T[::-1])  # the last key is the primary one
  ordered = codes[order]
  changed = ordered[1:] != ordered[:-1]
  # starts_node[i, l]: row i opens a new node at depth l + 1.
  starts_node = np.ones((num_documents, length), bool)
  starts_node[1:] = np.logical_or.accumulate(changed, axis=1)
  if not starts_node[:, -1].all():
    row = int(np.argmin(starts_node[:, -1]))
    raise ValueError(
      f'docids must be unique, but documents {order[row - 1]} and {order[row]} '
      f'both have {ordered[row].tolist()}. Use docids.append_uniqueness(codes).'
    )
  node_of_row = np.cumsum(starts_node, axis=0) - 1  # [N, L]
  tokens, children, leaves = [], [], []
  parent_rows = np.array([0])  # the first leaf of every node at depth l
  for level in range(length):
    rows = np.flatnonzero(starts_node[:, level])
    tokens.append(ordered[rows, level].astype(np.int32))
    first = np.append(node_of_row[parent_rows, level], len(rows))
    children.append(first.astype(np.int32))
    leaves.append(np.append(parent_rows, num_documents).astype(np.int32))
    parent_rows = rows
  paths = np.empty((num_documents, length), np.int32)
  paths[order] = node_of_row
  return Trie(
    tokens=tuple(map(jnp.asarray, tokens)),
    children=tuple(map(jnp.asarray, children)),
    leaves=tuple(map(jnp.asarray, leaves)),
    paths=jnp.asarray(paths),
    documents=jnp.asarray(order, jnp.int32),
    branching=tuple(int(np.diff(c).max()) for c in children),
    num_values=tuple(int(n) for n in codes.max(axis=0) + 1),
  )


def memory(trie: Trie) -> int:
  """Bytes that the arrays of a trie take on the device."""
  return sum(math.prod(x.shape) * 4 for x in jax.tree.leaves(trie))


def allowed_leaves(trie: Trie, allowed: jax.Array) -> jax.Array:
  """Counts allowed leaves before each leaf, for `expand`.

  Args:
    trie: the trie.
    allowed: bool[N] or bool[B, N], True = this document may be returned.

  Returns:
    int32[1 or B, N + 1], exclusive running counts in leaf order.
  """
  in_order = jnp.atleast_2d(allowed)[:, trie.documents].astype(jnp.int32)
  return jnp.pad(jnp.cumsum(in_order, axis=1), ((0, 0), (1, 0)))


def expand(
  trie: Trie,
  level: int,
  nodes: jax.Array,
  *,
  allowed: jax.Array | None = None,
) -> Frontier:
  """Gathers the children of nodes.

  Args:
    trie: the trie.
    level: depth of `nodes`, from 0.
    nodes: int32[B, K], nodes at that depth.
    allowed: what `allowed_leaves` returned; None allows every document.

  Returns:
    Their `Frontier`; C is the widest branching of the level.
  """
  first = trie.children[level][nodes]
  last = trie.children[level][nodes + 1]
  children = first[..., None] + jnp.arange(trie.branching[level])
  where = children < last[..., None]
  children = jnp.where(where, children, 0)
  if allowed is not None:
    if level + 1 < trie.depth:
      bounds = trie.leaves[level + 1]
      begin, end = bounds[children], bounds[children + 1]
    else:
      begin, end = children, children + 1
    counts = jnp.broadcast_to(allowed, (nodes.shape[0], allowed.shape[1]))
    take = jax.vmap(lambda row, index: row[index])
    where = where & (take(counts, end) > take(counts, begin))
  codes = jnp.zeros_like(nodes)
  if level:
    codes = trie.tokens[level - 1][nodes]
  return Frontier(
    nodes=nodes,
    codes=codes,
    children=children,
    tokens=trie.tokens[level][children],
    where=where,
    level=level,
  )
