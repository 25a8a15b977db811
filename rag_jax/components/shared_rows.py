r"""Vectors of trie nodes of which only some have a row of their own.

A node with an own row has the vector of that row, $\hat u$ (of unit length with
cosines). The vector of any other node is

$x_c = x_{parent(c)} + C_{\ell, v}$,

with v the code on the edge into it and $\ell$ its level: it adds up rows of a
codebook that all nodes of a level share, from the nearest node above that has a
row, or from 0. $C_{\ell, v}$ starts as the mean of $d - x_{parent}$ over the
documents d below such nodes, so that $x_c$ is what residual quantisation knows
about them. The score of the node is $h \cdot x_c$, not normalised again.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rag_jax.components import query_encoder
from rag_jax.ops import beam, node_slots, split_rows
from rag_jax.ops import trie as tries

Params = dict[str, Any]
Place = tuple[jax.Array, jax.Array]  # int32[B, K, 1] rows, float32[B, K, 1, D]


def init(
  trie: tries.Trie,
  slots: node_slots.Slots,
  vectors: jax.Array,
  *,
  levels: int,
  unit: bool,
) -> tuple[jax.Array, Params]:
  """The initial table and codebook.

  Args:
    trie: the docids.
    slots: the nodes that have a row.
    vectors: float32[N, D], vectors of the documents.
    levels: nodes of at most this depth have a row; no codebook is theirs.
    unit: whether the vectors have unit length.

  Returns:
    The table float32[slots.count, D], means of the documents below each node,
    of unit length if `unit`; and {'codebook': number of a level, from 0 ->
    float32[V, D]}, or {}.
  """
  count, width = slots.count, vectors.shape[1]
  way = node_slots.edges(trie)
  rows = jnp.arange(trie.num_documents)
  nodes = node_slots.ancestors(way, rows, trie.depth)
  place = jnp.where(nodes >= 0, slots.rows[nodes], count)
  place = jnp.where(place >= 0, place, count)  # of no own row: dropped
  table, total = jnp.zeros((count, width)), jnp.zeros(count)
  for own in place:
    table = table.at[own].add(vectors, mode='drop')
    total = total.at[own].add(1, mode='drop')
  if unit:
    table = query_encoder.normalise(table)
    vectors = query_encoder.normalise(vectors)
  else:
    table /= jnp.maximum(total, 1)[:, None]
  books = {}
  x = jnp.zeros_like(vectors)
  for level in range(levels, trie.length):
    size = trie.num_values[level]
    book = jnp.zeros((size, width))
    if level < trie.depth:
      if level:  # the nearest node above that has an own row
        above = jnp.minimum(place[level - 1], count - 1)
        x = jnp.where((place[level - 1] < count)[:, None], table[above], x)
      code = way.code[jnp.maximum(nodes[level], 0)]
      shares = (nodes[level] >= 0) & (place[level] == count)
      code = jnp.where(shares, code, size)
      number = jnp.zeros(size).at[code].add(1, mode='drop')
      book = book.at[code].add(vectors - x, mode='drop')
      book /= jnp.maximum(number, 1)[:, None]
      x = x + book.at[code].get(mode='fill', fill_value=0)
    books[str(level)] = book
  return table, {'codebook': books} if books else {}


def start(batch_size: int, width: int) -> Place:
  """The place of the root, for the cache of a search."""
  return jnp.full((batch_size, 1, 1), -1), jnp.zeros((batch_size, 1, 1, width))


def follow(
  decoder: Params,
  slots: node_slots.Slots,
  before: Place,
  rows: jax.Array,
  codes: jax.Array,
  level: int,
  *,
  unit: bool,
) -> Place:
  """The place of nodes, from those of the nodes above them.

  Args:
    decoder: parameters of the ID decoder.
    slots: the nodes that have a row.
    before: one level above; also of those that have not moved since.
    rows: int32[B, K], of the nodes in a whole node table.
    codes: int32[B, K], the codes on the edges into them.
    level: depth of the nodes; 0 = the root.
    unit: whether rows count as unit vectors.

  Returns:
    The rows, and the vectors of the nodes.
  """
  above, vectors = before
  if not level:
    return before
  x = vectors[:, :, 0]
  book = _book(decoder, level - 1)
  moved = x if book is None else x + book[codes]
  place = slots.rows[rows]
  own = _rows(decoder['table'], place, unit)
  moved = jnp.where((place >= 0)[..., None], own, moved)
  x = jnp.where(rows[..., None] == above, x, moved)
  return rows[..., None], x[:, :, None]


def _book(decoder: Params, level: int) -> jax.Array | None:
  """The codebook of a level; None if all of its nodes have rows."""
  return decoder.get('codebook', {}).get(str(level))


def edge_products(
  states: jax.Array,
  decoder: Params,
  slots: node_slots.Slots,
  frontier: tries.Frontier,
  place: Place,
  own: Callable[[jax.Array], jax.Array],
  *,
  table_has_more: bool,
) -> jax.Array:
  """Products of states float32[B, K, D] with the nodes behind edges.

  Args:
    states: the states of the beams.
    decoder: parameters of the ID decoder.
    slots: the nodes that have a row.
    frontier: where the beams stand, and the edges.
    place: from `follow`, of where they stand.
    own: rows of the table int32[B, K, C] -> products with them.
    table_has_more: whether nodes of a level with a codebook may have rows.

  Returns:
    float32[B, K, C].
  """
  here = jnp.einsum('bkd,bkd->bk', states, place[1][:, :, 0])[..., None]
  book = _book(decoder, frontier.level)
  found = None
  if book is not None:
    found = here + beam.take(split_rows.dot(states, book), frontier.tokens)
  if found is None or table_has_more:
    rows = slots.rows[frontier.children]
    more = own(jnp.maximum(rows, 0))
    found = more if found is None else jnp.where(rows >= 0, more, found)
  if not frontier.level:
    return found
  ended = frontier.children == frontier.nodes[..., None]
  return jnp.where(ended, here, found)


def _rows(table: Any, place: jax.Array, unit: bool) -> jax.Array:
  """Rows of the table, float32[..., D]; any for nodes that have none."""
  found = table[jnp.maximum(place, 0)].astype(jnp.float32)
  return query_encoder.normalise(found) if unit else found


def document_vectors(
  decoder: Params,
  trie: tries.Trie,
  slots: node_slots.Slots,
  codes: jax.Array,
  *,
  unit: bool,
) -> jax.Array:
  """Vectors of documents with docids int[B, K, L], float32[B, K, D]."""
  batch_size, count, _ = codes.shape
  width = decoder['table'].shape[-1]
  rows, vectors = start(batch_size, width)
  place = jnp.repeat(rows, count, axis=1), jnp.repeat(vectors, count, axis=1)
  for frontier in tries.walk(trie, codes):
    rows, code = frontier.children[..., 0], frontier.tokens[..., 0]
    place = follow(
      decoder, slots, place, rows, code, frontier.level + 1, unit=unit
    )
  return place[1][:, :, 0]


def node_vectors(
  decoder: Params,
  trie: tries.Trie,
  slots: node_slots.Slots,
  rows: jax.Array,
  *,
  unit: bool,
) -> jax.Array:
  """Vectors of nodes int32[n] by rows of a whole node table, float32[n, D].

  A row that no node has gives zeros. One of its own is not normalised.
  """
  way = node_slots.edges(trie)
  x = jnp.zeros((len(rows), decoder['table'].shape[1]))
  for level, nodes in enumerate(node_slots.ancestors(way, rows, trie.depth)):
    here = jnp.maximum(nodes, 0)
    book = _book(decoder, level)
    moved = x if book is None else x + book[way.code[here]]
    place = slots.rows[here]
    own = _rows(decoder['table'], place, unit)
    moved = jnp.where((place >= 0)[:, None], own, moved)
    x = jnp.where((nodes >= 0)[:, None], moved, x)
  place = slots.rows[rows]
  own = _rows(decoder['table'], place, unit=False)
  return jnp.where((place >= 0)[:, None], own, x)


def all_products(
  states: jax.Array,
  own: jax.Array,
  decoder: Params,
  trie: tries.Trie,
  slots: node_slots.Slots,
) -> jax.Array:
  """Products of states float32[B, K, D] with all nodes, [B, K, num_nodes].

  Args:
    states: the states.
    own: float32[B, K, slots.count], products with the rows of the table.
    decoder: parameters of the ID decoder.
    trie: the docids.
    slots: the nodes that have a row.
  """
  way = node_slots.edges(trie)
  found = jnp.where(slots.rows >= 0, own[..., jnp.maximum(slots.rows, 0)], 0.0)
  for level in range(trie.depth):
    book = _book(decoder, level)
    if book is None:
      continue
    shares = (way.depth == level + 1) & (slots.rows < 0)
    code = jnp.where(shares, way.code, 0)
    more = split_rows.dot(states, book)[..., code]
    if level:
      more += found[..., jnp.maximum(way.parent, 0)]
    found = jnp.where(shares, more, found)
  return found
