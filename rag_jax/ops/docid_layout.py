"""What a trie will hold, worked out on the host with NumPy alone.

Codes are packed into words of 64 bits, most significant code first, so that
sorting docids is sorting numbers. How many codes neighbours share then tells
every node, without a Python object for any: ten million docids take seconds.
"""

import dataclasses
import math

import numpy as np

_CHUNK = 1 << 16  # rows that are packed at a time, to stay in the cache


@dataclasses.dataclass(frozen=True)
class Order:
  """Docids in sorted order, and how many codes neighbours share."""

  rows: np.ndarray  # int64[N], row of `codes` at each place
  shared: np.ndarray  # uint8[N + 1], codes shared with the place before
  words: tuple[np.ndarray, ...]  # uint64[N] each, sorted
  places: tuple[tuple[int, int], ...]  # L x (word, right shift)
  bits: tuple[int, ...]  # L, bits of a code

  def code(self, level: int, places: np.ndarray) -> np.ndarray:
    """The codes of one level at some places, in the smallest unsigned type."""
    word, shift = self.places[level]
    mask = np.uint64((1 << self.bits[level]) - 1)
    values = (self.words[word][places] >> np.uint64(shift)) & mask
    return values.astype(code_type(1 << self.bits[level]))

  def unique_depth(self) -> np.ndarray:
    """Codes it takes to tell each docid from the others, uint8[N]."""
    most = np.maximum(self.shared[:-1], self.shared[1:])
    return np.minimum(most + 1, len(self.places)).astype(np.uint8)


def code_type(num_values: int) -> type:
  """The smallest type that holds codes below `num_values`."""
  if num_values <= 1 << 8:
    return np.uint8
  return np.uint16 if num_values <= 1 << 16 else np.int32


def sort(codes: np.ndarray) -> Order:
  """Sorts docids.

  Args:
    codes: int[N, L] with N and L at least 1, none negative.

  Returns:
    Their `Order`. Equal docids are neighbours that share all L codes.

  Example:
    >>> order = sort(np.array([[1, 0], [0, 2], [1, 1]]))
    >>> order.rows.tolist(), order.shared.tolist()
    ([1, 0, 2], [0, 0, 1, 0])
  """
  count, length = codes.shape
  bits = tuple(max(1, int(n).bit_length()) for n in codes.max(axis=0))
  ends, sizes, used = [], [0], 0
  for width in bits:
    if used + width > 64:
      sizes.append(0)
      used = 0
    used += width
    sizes[-1] = used
    ends.append((len(sizes) - 1, used))
  places = [(word, sizes[word] - end) for word, end in ends]
  words = [np.empty(count, np.uint64) for _ in sizes]
  for start in range(0, count, _CHUNK):
    part = codes[start : start + _CHUNK]
    for number, packed in enumerate(words):
      total = np.zeros(len(part), np.uint64)
      for level, (place, shift) in enumerate(places):
        if place == number:
          total |= part[:, level].astype(np.uint64) << np.uint64(shift)
      packed[start : start + _CHUNK] = total
  rows = _order(words)
  words = [word[rows] for word in words]
  shared = np.zeros(count + 1, np.uint8)
  for start in range(1, count, _CHUNK):
    stop = min(start + _CHUNK, count)
    own = shared[start:stop]
    same = np.ones(stop - start, bool)
    for number, word in enumerate(words):
      differs = word[start:stop] ^ word[start - 1 : stop - 1]
      for own_word, shift in places:
        if own_word == number:
          own += same & ((differs >> np.uint64(shift)) == 0)
      same &= differs == 0
  return Order(rows, shared, tuple(words), tuple(places), bits)


def _order(words: list[np.ndarray]) -> np.ndarray:
  """Rows in the order of their words; the first is the most significant."""
  rows = np.argsort(words[0])
  if len(words) == 1:
    return rows
  first = words[0][rows]
  same = first[1:] == first[:-1]
  tied = np.zeros(len(rows), bool)
  tied[1:] |= same
  tied[:-1] |= same
  places = np.flatnonzero(tied)
  keys = [word[rows[places]] for word in words]
  rows[places] = rows[places][np.lexsort(keys[::-1])]
  return rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
  """The arrays of a trie before they are packed; `trie.Trie` explains them."""

  tokens: tuple[np.ndarray, ...]  # D x uint[n[d + 1]]
  first: tuple[np.ndarray, ...]  # D x int32[m[d] + 1]
  inner: tuple[np.ndarray, ...]  # D - 1 x bool[n[d + 1]]
  ended: np.ndarray  # int32[D + 1]
  tails: tuple[np.ndarray, ...]  # L x uint[.]
  documents: np.ndarray  # int32[N]
  sorted_rows: np.ndarray  # int[N], the rows of the trie in order of docid
  spans: tuple[np.ndarray, ...]  # D - 1 x int[m[d + 1], 2], places below each
  num_values: tuple[int, ...]  # L
  num_documents: int  # rows of `codes`, in the trie or not

  @property
  def branching(self) -> tuple[int, ...]:
    """Most children a node of each depth has."""
    return tuple(int(np.diff(first).max()) for first in self.first)


def lay_out(codes: np.ndarray, *, where: np.ndarray | None = None) -> Layout:
  """Works out the nodes of a trie.

  Args:
    codes: int[N, L].
    where: bool[N], True = this row is in the trie; None takes all.

  Returns:
    The layout.

  Raises:
    ValueError: if there is no docid, a code is negative, or two rows of the
      trie share a docid.
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
  taken = None if where is None else np.flatnonzero(where)
  if taken is not None and not len(taken):
    raise ValueError(
      f'a trie needs a document, got none of {len(codes)}. '
      'Keep at least one alive.'
    )
  order = sort(codes if taken is None else codes[taken])
  rows = order.rows if taken is None else taken[order.rows]
  length = codes.shape[1]
  twins = np.flatnonzero(order.shared == length)
  if len(twins):
    pair = rows[twins[0] - 1 : twins[0] + 1]
    raise ValueError(
      f'docids must be unique, but documents {min(pair)} and {max(pair)} '
      f'both have {codes[pair[0]].tolist()}. Use '
      'docids.append_uniqueness(codes), or trie.group for shared docids.'
    )
  depth_of = order.unique_depth()  # of each leaf
  shared = order.shared[:-1]
  depth = int(depth_of.max())
  tokens, first, inner, spans, by_depth = [], [], [], [], []
  nodes = np.arange(0)  # places that open a node of this depth
  for level in range(depth):
    # A place opens a node here if its prefix is new and its parent is inner.
    children = np.flatnonzero((shared <= level) & (depth_of > level))
    parents = np.flatnonzero(shared[children] < level) if level else [0]
    tokens.append(order.code(level, children))
    first.append(np.append(parents, len(children)).astype(np.int32))
    nodes = children
    is_inner = depth_of[nodes] > level + 1
    by_depth.append(nodes[~is_inner])
    if level + 1 < depth:
      inner.append(is_inner)
      opens = np.append(np.flatnonzero(shared <= level), len(rows))
      begin = nodes[is_inner]
      end = opens[np.searchsorted(opens, begin, side='right')]
      spans.append(np.stack([begin, end], axis=1))
  ended = np.cumsum([0, *map(len, by_depth)])
  leaves = np.concatenate(by_depth)
  return Layout(
    tokens=tuple(tokens),
    first=tuple(first),
    inner=tuple(inner),
    ended=ended.astype(np.int32),
    tails=tuple(
      order.code(level, leaves[: ended[min(level, depth)]])
      for level in range(length)
    ),
    documents=rows[leaves].astype(np.int32),
    sorted_rows=rows,
    spans=tuple(spans),
    num_values=tuple(int(n) + 1 for n in codes.max(axis=0)),
    num_documents=len(codes),
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Capacity:
  """Room in a trie, so that its shapes stay when documents come and go."""

  documents: int
  nodes: tuple[int, ...]  # D, at depths 1 to D
  parents: tuple[int, ...]  # D, inner nodes at depths 0 to D - 1
  tails: tuple[int, ...]  # L
  branching: tuple[int, ...]  # D
  num_values: tuple[int, ...]  # L

  @property
  def num_nodes(self) -> int:
    """Rows of a node table: documents, then inner nodes below the root."""
    return self.documents + sum(self.parents[1:])

  @property
  def memory(self) -> int:
    """Bytes that the arrays of the trie will take."""
    sizes = [np.dtype(code_type(n)).itemsize for n in self.num_values]
    depth = len(self.nodes)
    return (
      4 * (self.documents + depth + 1)
      + sum(
        (n + c) * size
        for n, c, size in zip(self.nodes, self.branching, sizes, strict=False)
      )
      + sum(n * size for n, size in zip(self.tails, sizes, strict=True))
      + sum(4 * (n + 1) for n in self.parents)
      + sum(8 * math.ceil(n / 32) for n in self.nodes[:-1])
    )


def tight(layout: Layout) -> Capacity:
  """The capacity that leaves no room."""
  return Capacity(
    documents=layout.num_documents,
    nodes=tuple(map(len, layout.tokens)),
    parents=tuple(len(first) - 1 for first in layout.first),
    tails=tuple(map(len, layout.tails)),
    branching=layout.branching,
    num_values=layout.num_values,
  )


def check_fits(layout: Layout, capacity: Capacity) -> None:
  """Raises a ValueError that names the first thing without room."""
  needed = tight(layout)
  for field in dataclasses.fields(Capacity):
    need, room = getattr(needed, field.name), getattr(capacity, field.name)
    if field.name == 'documents':
      if need > room:
        raise ValueError(
          f'the trie has room for {room} documents, got {need}. '
          'Build the index again with a larger capacity.'
        )
      continue
    if len(need) > len(room):
      raise ValueError(
        f'the trie has room for {len(room)} levels, got {len(need)}. '
        'Build the index again with a larger capacity.'
      )
    for level, (wanted, given) in enumerate(zip(need, room, strict=False)):
      if wanted > given:
        raise ValueError(
          f'the trie has room for {given} {field.name.replace("_", " ")} at '
          f'level {level}, got {wanted}. Build the index again with a larger '
          'capacity.'
        )
