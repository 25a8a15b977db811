"""Docids in sorted order, on the host with NumPy alone.

Codes are packed into words of 64 bits, most significant code first, so that
sorting docids is sorting numbers, and an order is kept up by merging: what
comes is put in its place, what goes is left out, the rest is not sorted again.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

_CHUNK = 1 << 16  # rows that are packed at a time, to stay in the cache


@dataclasses.dataclass(frozen=True)
class Order:
  """Docids in sorted order."""

  rows: np.ndarray  # int64[N], row of each docid
  words: tuple[np.ndarray, ...]  # uint64[N] each, sorted
  bits: tuple[int, ...]  # L, bits of a code

  def code(self, level: int, places: np.ndarray) -> np.ndarray:
    """The codes of one level at some places, in the smallest unsigned type."""
    word, shift = _places(self.bits)[level]
    mask = np.uint64((1 << self.bits[level]) - 1)
    values = (self.words[word][places] >> np.uint64(shift)) & mask
    return values.astype(code_type(1 << self.bits[level]))

  def prefixes(self, length: int, places: np.ndarray) -> tuple[np.ndarray, ...]:
    """The words at some places, with zeros after so many codes."""
    zero_bits = [64] * len(self.words)
    for word, shift in _places(self.bits)[:length]:
      zero_bits[word] = shift
    return tuple(
      word[places] & np.uint64((1 << 64) - (1 << zeros))
      for word, zeros in zip(self.words, zero_bits, strict=True)
    )

  def shared(self) -> np.ndarray:
    """Codes that each docid shares with the one before it, uint8[N + 1].

    Nothing comes before the first, nor after the last. Equal docids share all
    L codes.
    """
    count = len(self.rows)
    shared = np.zeros(count + 1, np.uint8)
    for start in range(1, count, _CHUNK):
      stop = min(start + _CHUNK, count)
      own = shared[start:stop]
      same = np.ones(stop - start, bool)
      for number, word in enumerate(self.words):
        differs = word[start:stop] ^ word[start - 1 : stop - 1]
        for own_word, shift in _places(self.bits):
          if own_word == number:
            own += same & ((differs >> np.uint64(shift)) == 0)
        same &= differs == 0
    return shared


def code_type(num_values: int) -> type:
  """The smallest type that holds codes below `num_values`."""
  if num_values <= 1 << 8:
    return np.uint8
  return np.uint16 if num_values <= 1 << 16 else np.int32


def widths(num_values: Sequence[int]) -> tuple[int, ...]:
  """Bits that hold the codes below these numbers."""
  return tuple(max(1, int(n - 1).bit_length()) for n in num_values)


def sort(
  codes: np.ndarray,
  *,
  rows: np.ndarray | None = None,
  bits: tuple[int, ...] | None = None,
) -> Order:
  """Sorts docids.

  Args:
    codes: int[N, L] with L at least 1, none negative.
    rows: int[N], what to call each of them; None numbers them.
    bits: of a code, a level each; None takes as few as these codes need.

  Returns:
    Their `Order`. Equal docids are neighbours.

  Example:
    >>> order = sort(np.array([[1, 0], [0, 2], [1, 1]]))
    >>> order.rows.tolist(), order.shared().tolist()
    ([1, 0, 2], [0, 0, 1, 0])
  """
  if bits is None:
    bits = widths([int(column.max()) + 1 for column in codes.T])
  words = pack(codes, bits)
  used = sum(
    b for b, place in zip(bits, _places(bits), strict=True) if not place[0]
  )
  order = _argsort(words, used)
  return Order(
    order if rows is None else rows[order],
    tuple(word[order] for word in words),
    bits,
  )


def insert(order: Order, codes: np.ndarray, rows: np.ndarray) -> Order:
  """Puts docids where they belong; codes must fit the order's bits.

  Args:
    order: where to; it stays as it is.
    codes: int[M, L].
    rows: int[M], what to call them.

  Example:
    >>> order = sort(np.array([[3], [5]]), bits=(4,))
    >>> insert(order, np.array([[9], [4]]), np.array([2, 3])).rows.tolist()
    [0, 3, 1, 2]
  """
  new = sort(codes, rows=rows, bits=order.bits)
  at = find(order.words, new.words)[0]
  return Order(
    np.insert(order.rows, at, new.rows),
    tuple(
      np.insert(word, at, own)
      for word, own in zip(order.words, new.words, strict=True)
    ),
    order.bits,
  )


def remove(order: Order, rows: np.ndarray) -> Order:
  """Leaves out the docids of some rows.

  Example:
    >>> remove(sort(np.array([[3], [7], [5]])), np.array([2])).rows.tolist()
    [0, 1]
  """
  kept = np.isin(order.rows, rows, invert=True)
  return Order(
    order.rows[kept], tuple(word[kept] for word in order.words), order.bits
  )


def find(
  words: tuple[np.ndarray, ...], wanted: tuple[np.ndarray, ...]
) -> tuple[np.ndarray, np.ndarray]:
  """Finds docids among sorted ones.

  Args:
    words: uint64[N] each, sorted, the first is the most significant.
    wanted: uint64[M] each, in any order.

  Returns:
    The places before and after the equals of each: int64[M], int64[M]. They
    are the same where there is none.
  """
  low = np.searchsorted(words[0], wanted[0], side='left')
  high = np.searchsorted(words[0], wanted[0], side='right')
  for word, value in zip(words[1:], wanted[1:], strict=True):
    low, high = (
      _bisect(word, value, low, high, after=False),
      _bisect(word, value, low, high, after=True),
    )
  return low, high


def pack(codes: np.ndarray, bits: tuple[int, ...]) -> tuple[np.ndarray, ...]:
  """Words of docids, uint64[N] each, in the order of the docids."""
  places = _places(bits)
  words = tuple(
    np.zeros(len(codes), np.uint64) for _ in range(places[-1][0] + 1)
  )
  for start in range(0, len(codes), _CHUNK):
    part = codes[start : start + _CHUNK]
    for level, (number, shift) in enumerate(places):
      own = words[number][start : start + _CHUNK]
      own |= part[:, level].astype(np.uint64) << np.uint64(shift)
  return words


def _places(bits: tuple[int, ...]) -> list[tuple[int, int]]:
  """Where each code is: the number of its word, and the right shift there."""
  ends, sizes, used = [], [0], 0
  for width in bits:
    if used + width > 64:
      sizes.append(0)
      used = 0
    used += width
    sizes[-1] = used
    ends.append((len(sizes) - 1, used))
  return [(word, sizes[word] - end) for word, end in ends]


def _argsort(words: tuple[np.ndarray, ...], used: int) -> np.ndarray:
  """Rows in the order of their words, equal ones in the order they came.

  Numbers are sorted several times as fast as their places are. So the row goes
  into the low bits of the first word, as far as its `used` bits leave room;
  what these leave tied is sorted by all words.
  """
  row_bits = max(1, (len(words[0]) - 1).bit_length())
  dropped = max(0, used + row_bits - 64)
  keys = words[0] >> np.uint64(dropped) << np.uint64(row_bits)
  keys |= np.arange(len(keys), dtype=np.uint64)
  keys.sort()
  rows = (keys & np.uint64((1 << row_bits) - 1)).astype(np.int64)
  if not dropped and len(words) == 1:
    return rows
  keys >>= np.uint64(row_bits)
  same = keys[1:] == keys[:-1]
  tied = np.zeros(len(rows), bool)
  tied[1:] |= same
  tied[:-1] |= same
  places = np.flatnonzero(tied)
  own = [word[rows[places]] for word in words]
  rows[places] = rows[places][np.lexsort(own[::-1])]
  return rows


def _bisect(
  word: np.ndarray,
  value: np.ndarray,
  low: np.ndarray,
  high: np.ndarray,
  *,
  after: bool,
) -> np.ndarray:
  """Where each value belongs within its own range, before or after equals."""
  while (low < high).any():
    middle = (low + high) // 2
    own = word[np.minimum(middle, len(word) - 1)]
    right = (low < high) & ((own <= value) if after else (own < value))
    low, high = np.where(right, middle + 1, low), np.where(right, high, middle)
  return low
