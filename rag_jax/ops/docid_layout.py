"""What a trie will hold, worked out on the host with NumPy alone.

How many codes neighbours share in sorted order tells every node, without a
Python object for any: ten million docids take seconds.
"""

import dataclasses
import math

import numpy as np

from rag_jax.ops import docid_order


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
  """The arrays of a trie before they are packed; `trie.Trie` explains them."""

  tokens: tuple[np.ndarray, ...]  # D x uint[n[d + 1]]
  first: tuple[np.ndarray, ...]  # D x int32[m[d] + 1]
  inner: tuple[np.ndarray, ...]  # D - 1 x bool[n[d + 1]]
  ended: np.ndarray  # int32[D + 1]
  tails: tuple[np.ndarray, ...]  # L x uint[.]
  documents: np.ndarray  # int32[N]
  spans: tuple[np.ndarray, ...]  # D - 1 x int[m[d + 1], 2], places below each
  num_values: tuple[int, ...]  # L
  num_documents: int  # rows there are, in the trie or not

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
  if not np.issubdtype(codes.dtype, np.integer):
    raise ValueError(
      f'codes must be integers, got {codes.dtype}. Convert them.'
    )
  if codes.min() < 0:
    raise ValueError(
      f'codes must be at least 0, got {codes.min()}. Number codes from 0.'
    )
  if codes.max() >= 2**31 - 1:  # one more than a code is stored, as int32
    raise ValueError(
      f'codes must be below 2**31 - 1, got {codes.max()}. Number codes from 0.'
    )
  if where is not None:
    where = np.asarray(where)
    if where.dtype != bool or where.shape != codes.shape[:1]:
      raise ValueError(
        f'where must be bool[{len(codes)}], a truth value a document, got '
        f'{where.dtype}{list(where.shape)}. Give True for what is in the trie.'
      )
  taken = None if where is None else np.flatnonzero(where)
  if taken is not None and not len(taken):
    raise ValueError(
      f'a trie needs a document, got none of {len(codes)}. '
      'Keep at least one alive.'
    )
  order = docid_order.sort(codes if taken is None else codes[taken], rows=taken)
  return from_order(
    order,
    num_values=tuple(int(column.max()) + 1 for column in codes.T),
    num_documents=len(codes),
  )


def from_order(
  order: docid_order.Order, *, num_values: tuple[int, ...], num_documents: int
) -> Layout:
  """Works out the nodes of a trie over docids that are sorted already.

  Args:
    order: the docids; at least one.
    num_values: L, what the codes of each level are below.
    num_documents: rows there are, in the trie or not.

  Raises:
    ValueError: if two docids are the same.
  """
  rows, length = order.rows, len(order.bits)
  shared = order.shared()
  _check_unique(order, shared)
  # Codes it takes to tell each docid from its neighbours.
  depth_of = np.maximum(shared[:-1], shared[1:]) + np.uint8(1)
  depth_of = np.minimum(depth_of, np.uint8(length))
  shared = shared[:-1]
  depth = int(depth_of.max())
  tokens, first, inner, spans, by_depth = [], [], [], [], []
  for level in range(depth):
    # A place opens a node here if its prefix is new and its parent is inner.
    is_new = shared <= level
    children = np.flatnonzero(is_new & (depth_of > level))
    parents = np.flatnonzero(shared[children] < level) if level else [0]
    tokens.append(order.code(level, children))
    first.append(np.append(parents, len(children)).astype(np.int32))
    is_inner = depth_of[children] > level + 1
    by_depth.append(children[~is_inner])
    if level + 1 < depth:
      inner.append(is_inner)
      opens = np.append(np.flatnonzero(is_new), len(rows))
      begin = children[is_inner]
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
    spans=tuple(spans),
    num_values=num_values,
    num_documents=num_documents,
  )


def _check_unique(order: docid_order.Order, shared: np.ndarray) -> None:
  """Raises a ValueError if two rows have the same docid."""
  length = len(order.bits)
  twins = np.flatnonzero(shared == length)
  if not len(twins):
    return
  pair = order.rows[twins[0] - 1 : twins[0] + 1]
  docid = [int(order.code(n, twins[:1])[0]) for n in range(length)]
  raise ValueError(
    f'docids must be unique, but documents {min(pair)} and {max(pair)} '
    f'both have {docid}. Use docids.append_uniqueness(codes).'
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
  def dense(self) -> tuple[bool, ...]:
    """Levels whose nodes also keep a bit for every code, D.

    Those of no more nodes than codes, one of them with half of the codes
    below it or room for as many: to read all codes is quicker there than to
    gather those that exist. A level takes at most 8 bytes a document.
    """
    return tuple(
      parents <= values
      and 2 * branching >= values
      and parents * values <= 64 * self.documents
      for parents, branching, values in zip(
        self.parents, self.branching, self.num_values, strict=False
      )
    )

  @property
  def rest(self) -> tuple[int, np.dtype]:
    """Leaves that keep codes from depth D on, and the type of these codes."""
    depth = len(self.nodes)
    types = [docid_order.code_type(n) for n in self.num_values[depth:]]
    return max(self.tails[depth:], default=0), np.result_type(np.uint8, *types)

  @property
  def memory(self) -> int:
    """Bytes that the arrays of the trie will take."""
    sizes = [
      np.dtype(docid_order.code_type(n)).itemsize for n in self.num_values
    ]
    depth = len(self.nodes)
    count, rest = self.rest
    return (
      4 * (self.documents + depth + 1)
      + sum(
        (t + n + c) * size
        for t, n, c, size in zip(
          self.tails, self.nodes, self.branching, sizes, strict=False
        )
      )
      + count * (len(self.tails) - depth) * rest.itemsize
      + sum(4 * (n + 1) for n in self.parents)
      + sum(8 * math.ceil(n / 32) for n in self.nodes[:-1])
      + sum(
        4 * n * math.ceil(v / 32) * has
        for n, v, has in zip(
          self.parents, self.num_values, self.dense, strict=False
        )
      )
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


def check_codes(codes: np.ndarray, capacity: Capacity) -> None:
  """Raises a ValueError that names the first code without room."""
  for level, column in enumerate(codes.T):
    most, given = int(column.max(initial=0)), capacity.num_values[level]
    if most >= given:
      raise ValueError(
        f'codes at level {level} must be below {given}, got {most}. '
        'Build the index again with a larger capacity.'
      )
