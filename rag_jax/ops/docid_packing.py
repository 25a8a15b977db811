"""The arrays that a trie keeps, made of a layout on the host with NumPy alone.

`trie.Trie` explains them.
"""

import math
from typing import Any

import numpy as np

from rag_jax.ops import docid_layout, docid_order

WORD = 32  # bits of a word


def arrays(
  layout: docid_layout.Layout,
  capacity: docid_layout.Capacity,
  rows: tuple[np.ndarray, ...] | None,
) -> dict[str, Any]:
  """Field of `trie.Trie` -> its arrays, with the room of a capacity."""
  depth = len(capacity.nodes)

  def padded(parts, sizes):
    found = []
    for level, size in enumerate(sizes):
      part = parts[level] if level < len(parts) else np.zeros(1, np.int32)
      array = np.full(size, part[-1] if len(part) else 0, np.int32)
      array[: min(len(part), size)] = part[:size]
      found.append(array)
    return tuple(found)

  ended: Any = np.full(depth + 1, layout.ended[-1], np.int32)
  ended[: len(layout.ended)] = layout.ended
  return {
    'codes': tuple(
      _join_codes(layout, level, capacity) for level in range(depth)
    ),
    'first': padded(layout.first, [n + 1 for n in capacity.parents]),
    'inner': tuple(
      _pack_bits(layout.inner[level] if level < len(layout.inner) else (), size)
      for level, size in enumerate(capacity.nodes[:-1])
    ),
    'present': tuple(
      _pack_codes(layout, level, capacity) if has else None
      for level, has in enumerate(capacity.dense)
    ),
    'ended': ended,
    'rest': _join_rest(layout, capacity),
    'documents': padded([layout.documents], [capacity.documents])[0],
    'rows': None if rows is None else padded(rows, capacity.parents[1:]),
  }


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
