"""A lexicon whose postings are divided over devices, by documents.

A device has the postings of neighbouring leaves of the trie, and so of whole
subtrees. For the questions of all devices that share the lexicon, it adds up
BM25 of its own documents, and finds the best of them below each node. Only
nodes on the border of two devices, fewer than D for each border, have leaves on
several; their maxima are exchanged. All other numbers stay where they are, and
a search asks for those of the nodes that it looks at.

A device has no more scores than with a whole lexicon: those of p times the
questions, for a p-th of the documents. See `split_rows` for the mesh.

A document with further docids has leaves on several devices, and its postings
on each of these, once. So a device has between a p-th of the postings and all.
"""

from collections.abc import Collection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rag_jax import types
from rag_jax.ops import lexical, postings, split_rows, trie_nodes


@types.struct
class Lexicon:
  """A `lexical.Lexicon` over p devices; inside `jax.shard_map`, one part.

  A device numbers its documents and the nodes above them, below W: documents
  first, then nodes from the deepest level up. It has as many numbers and
  postings as the device with the most of them.
  """

  first: split_rows.Rows  # int32[p * (V + 1)], as of the own lexicon
  documents: split_rows.Rows  # int32[p * (P + WINDOW)], own numbers
  impacts: split_rows.Rows  # float32[p * (P + WINDOW)]
  parents: split_rows.Rows  # int32[p * W], the node above; W = the root
  border: split_rows.Rows  # int32[p * S], nodes on a border; W = not here
  places: jax.Array  # int32[num_nodes], device * W + number
  blocks: tuple[int, ...] = types.static()  # leaves, nodes of each level
  count: int = types.static()  # documents of a device, with postings
  longest: int = types.static()  # most postings of a word
  first_pair: int = types.static()  # as of `lexical.Lexicon`
  # int32[p * blocks[0]], the document of each leaf, in its own numbers; None =
  # each document has one leaf, and its number
  owners: split_rows.Rows | None = None


class _Level(NamedTuple):
  """Inner nodes of a depth, in their order."""

  rows: np.ndarray  # int64[n], rows of a node table
  begin: np.ndarray  # int64[n], the first leaf below, depth first
  end: np.ndarray  # int64[n], behind the last leaf below
  parents: np.ndarray  # int64[n], number of the node above in its level


class _Leaves(NamedTuple):
  """All leaves, depth first; at the end documents that are not in the trie."""

  rows: np.ndarray  # int64[n]
  depths: np.ndarray  # int64[n], depth of the node above; 0 = the root
  parents: np.ndarray  # int64[n], number of the node above in its level


def divide(
  lexicon: lexical.Lexicon,
  trie: trie_nodes.Trie,
  parts: int,
  wanted: Collection[int] | None = None,
) -> Lexicon:
  """Divides a lexicon over devices.

  Args:
    lexicon: of all N documents.
    trie: of the same documents; leaf n is a docid of document n modulo N.
    parts: p, devices that share the lexicon.
    wanted: the parts that this host needs, others stay 0; None = all.

  Returns:
    The lexicon, with arrays of the host.
  """
  leaves, levels = _depth_first(trie, lexicon.num_documents)
  count = -(-len(leaves.rows) // parts)  # leaves of a device
  edges = count * np.arange(parts + 1)
  # Those nodes of a level that have leaves on a device are neighbours.
  low = [np.searchsorted(own.end, edges[:-1], 'right') for own in levels]
  high = [np.searchsorted(own.begin, edges[1:], 'left') for own in levels]
  sizes = [int((b - a).max()) for a, b in zip(low, high, strict=True)]
  starts = count + np.cumsum([0, *sizes[::-1]])  # the deepest level first
  width = int(starts[-1])
  # Number of a node on a device = its number in its level + `base`.
  base = [s - a for s, a in zip(starts[:-1][::-1], low, strict=True)]
  base = [np.full(parts, width), *base]  # the root has no number
  numbers = np.stack(base)

  places = np.zeros(trie.num_nodes, np.int64)
  position = np.arange(len(leaves.rows))
  device = position // count
  places[leaves.rows] = device * width + position % count
  parents = np.full((parts, width), width)
  above = np.minimum(numbers[leaves.depths, device] + leaves.parents, width)
  parents[device, position % count] = above
  border: list[np.ndarray] = []
  for depth, level in enumerate(levels, 1):
    first, last = level.begin // count, (level.end - 1) // count
    number = np.arange(len(level.rows))
    places[level.rows] = first * width + base[depth][first] + number
    for part in range(parts):
      mine = number[low[depth - 1][part] : high[depth - 1][part]]
      above = base[depth - 1][part] + level.parents[mine]
      parents[part, base[depth][part] + mine] = np.minimum(above, width)
    for node in np.flatnonzero(first < last):
      here = (first[node] <= np.arange(parts)) & (
        np.arange(parts) <= last[node]
      )
      border.append(np.where(here, base[depth] + node, width))
  border.append(np.full(parts, width))  # so that there is at least one
  documents = np.split(leaves.rows % lexicon.num_documents, edges[1:-1])
  owners = None
  if trie.num_documents > lexicon.num_documents:  # some have several leaves
    owners = np.zeros((parts, count), np.int64)
    for part, every in enumerate(documents):
      documents[part], own = np.unique(every, return_inverse=True)
      owners[part, : len(own)] = own
  return Lexicon(
    **_postings(lexicon, documents, wanted),
    parents=_rows(parents, np.int32),
    border=_rows(np.stack(border, axis=1), np.int32),
    places=_int32(places),
    blocks=(count, *sizes[::-1]),
    count=max(map(len, documents)),
    owners=None if owners is None else _rows(owners, np.int32),
    longest=lexicon.longest,
    first_pair=lexicon.first_pair,
  )


def _rows(array: np.ndarray, dtype: Any) -> split_rows.Rows:
  """Parts [p, n] of devices as rows."""
  flat: Any = np.ascontiguousarray(array, dtype).reshape(-1)
  return split_rows.Rows(flat, len(flat))


def _int32(array: np.ndarray) -> Any:
  return array.astype(np.int32)


def _postings(
  lexicon: lexical.Lexicon,
  parts: list[np.ndarray],
  wanted: Collection[int] | None,
) -> dict[str, split_rows.Rows]:
  """The postings of each part, which numbers its documents in their order."""
  first = np.asarray(lexicon.first)
  documents = np.asarray(lexicon.documents)[: first[-1]]
  impacts = np.asarray(lexicon.impacts)
  lengths = np.bincount(documents, minlength=lexicon.num_documents)
  most = max(int(lengths[own].sum()) for own in parts) + postings.WINDOW
  firsts = np.zeros((len(parts), len(first)), np.int32)
  numbers = np.zeros((len(parts), most), np.int32)
  values = np.zeros((len(parts), most), np.float32)
  for part in range(len(parts)) if wanted is None else wanted:
    number = np.full(lexicon.num_documents, -1, np.int32)
    number[parts[part]] = np.arange(len(parts[part]))
    own = number[documents]
    mine = np.flatnonzero(own >= 0)
    words = np.searchsorted(first, mine, 'right') - 1
    own = own[mine]
    order = np.lexsort((own, words))  # each word sorted by number
    frequency = np.bincount(words, minlength=len(first) - 1)
    firsts[part, 1:] = np.cumsum(frequency)
    numbers[part, : len(mine)] = own[order]
    values[part, : len(mine)] = impacts[mine[order]]
  return {
    'first': _rows(firsts, np.int32),
    'documents': _rows(numbers, np.int32),
    'impacts': _rows(values, np.float32),
  }


def _depth_first(
  trie: trie_nodes.Trie, documents: int
) -> tuple[_Leaves, list[_Level]]:
  """The leaves of a trie depth first, and its inner nodes by depth, from 1."""
  nodes = []
  for depth in range(1, trie.depth + 1):
    first = np.asarray(trie.first[depth - 1]).astype(np.int64)
    every = jnp.arange(first[-1])  # without room that is left for others
    is_leaf, number = trie_nodes.locate(trie, depth, every)
    rows = np.asarray(trie_nodes.rows(trie, depth, is_leaf, number), np.int64)
    parents = np.repeat(np.arange(len(first) - 1), np.diff(first))
    nodes.append((first, np.asarray(is_leaf), rows, parents))
  counts: list[np.ndarray] = []
  below = np.zeros(0, np.int64)
  for first, is_end, *_ in reversed(nodes):
    own = np.ones(len(is_end), np.int64)
    own[~is_end] = below[: (~is_end).sum()]
    counts.insert(0, own)
    sums = np.concatenate([[0], np.cumsum(own)])
    below = sums[first[1:]] - sums[first[:-1]]
  total = int(below.sum())  # of the root, or none for a single document
  leaf_rows, depths, above = (np.zeros(total, np.int64) for _ in range(3))
  levels, begins = [], np.zeros(1, np.int64)
  for depth, (first, is_end, own_rows, parents) in enumerate(nodes):
    before = np.cumsum(counts[depth]) - counts[depth]
    begin = begins[parents] + before - before[first[parents]]
    leaf_rows[begin[is_end]] = own_rows[is_end]
    depths[begin[is_end]] = depth
    above[begin[is_end]] = parents[is_end]
    begins = begin[~is_end]
    ends = begins + counts[depth][~is_end]
    levels.append(_Level(own_rows[~is_end], begins, ends, parents[~is_end]))
  rest = np.setdiff1d(np.arange(documents), leaf_rows)
  none = np.zeros(len(rest), np.int64)
  leaves = _Leaves(
    np.concatenate([leaf_rows, rest]),
    np.concatenate([depths, none]),
    np.concatenate([above, none]),
  )
  return leaves, levels[:-1]


def _part(lexicon: Lexicon) -> lexical.Lexicon:
  """The lexicon of this device."""
  return lexical.Lexicon(
    first=lexicon.first.array,
    documents=lexicon.documents.array,
    impacts=lexicon.impacts.array,
    num_documents=lexicon.count,
    longest=lexicon.longest,
    first_pair=lexicon.first_pair,
  )


def max_below(lexicon: Lexicon, query: jax.Array) -> split_rows.Columns:
  """The best BM25 below each node: `trie.max_below` of `lexical.score_all`.

  Args:
    lexicon: a part, inside `jax.shard_map`.
    query: int32[B, Q], as for `lexical.score_all`.

  Returns:
    Numbers [B, num_nodes], of which `take` reads some.
  """
  query = split_rows.gather(query)
  scores = lexical.score_all(_part(lexicon), query)
  if lexicon.owners is not None:
    scores = scores[:, lexicon.owners.array]
  count, width = lexicon.blocks[0], sum(lexicon.blocks)
  found = jnp.full((width, len(query)), -jnp.inf, scores.dtype)
  found = found.at[:count].set(scores.T)
  parents, start = lexicon.parents.array, 0
  for size in lexicon.blocks:  # those of a level are complete when it comes
    own = found[start : start + size]
    above = parents[start : start + size]
    found = found.at[above].max(own, mode='drop')
    start += size
  border = lexicon.border.array
  own = found.at[border].get(mode='fill', fill_value=-jnp.inf)
  best = jax.lax.pmax(own, split_rows.SPLIT)
  found = found.at[border].set(best, mode='drop')
  return split_rows.Columns(found.T, lexicon.places)


def score(
  lexicon: Lexicon, query: jax.Array, documents: jax.Array
) -> jax.Array:
  """BM25 of given documents, as `lexical.score`; these alone are exchanged.

  Args:
    lexicon: a part, inside `jax.shard_map`.
    query: int32[B, Q].
    documents: int32[B, K].

  Returns:
    float32[B, K].
  """

  def read(own, query, places):
    number, mine = split_rows.places(sum(lexicon.blocks), places)
    if lexicon.owners is not None:
      number = lexicon.owners.array[number]
    return jnp.where(mine, lexical.score(own, query, number), 0.0)

  places = lexicon.places[documents]
  return split_rows.exchange(read, _part(lexicon), query, places)
