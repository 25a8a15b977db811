"""The last level of a docid: a number that tells documents apart."""

import numpy as np

from rag_jax.ops import docid_order


def append_uniqueness(codes: np.ndarray) -> np.ndarray:
  """Appends a level that numbers the documents of one docid.

  Args:
    codes: int[N, L].

  Returns:
    int32[N, L + 1], unique rows; the last level is as wide as the largest
    bucket needs.

  Example:
    >>> append_uniqueness(np.array([[3, 1], [0, 2], [3, 1]])).tolist()
    [[3, 1, 0], [0, 2, 0], [3, 1, 1]]
  """
  if not codes.shape[1]:  # one bucket
    return np.arange(len(codes), dtype=np.int32)[:, None]
  order = np.lexsort(codes.T[::-1])
  ordered = codes[order]
  new = np.ones(len(codes), bool)
  new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
  index = np.arange(len(codes))
  number = index - np.maximum.accumulate(np.where(new, index, 0))
  last = np.empty(len(codes), np.int32)
  last[order] = number
  return np.concatenate([codes, last[:, None]], axis=1).astype(np.int32)


def next_free(
  existing_codes: np.ndarray, base_codes: np.ndarray, where: np.ndarray
) -> np.ndarray:
  """Numbers of the last level for documents that join an index.

  Each gets the smallest number that no living document of its bucket (those
  that share all codes but the last) has, and no new one before it.

  Args:
    existing_codes: int[N, L], docids that are given.
    base_codes: int[M, L - 1], the new documents' codes.
    where: bool[N], True = living; the numbers of others are free again.

  Returns:
    int32[M].

  Raises:
    ValueError: if the shapes do not fit.

  Example:
    >>> codes = np.array([[3, 0], [3, 2], [5, 0]])
    >>> next_free(codes, np.array([[3], [3], [5]]), np.ones(3, bool)).tolist()
    [1, 3, 1]
  """
  count, length = existing_codes.shape
  if base_codes.shape[1:] != (length - 1,) or where.shape != (count,):
    raise ValueError(
      f'base_codes must have the shape [M, {length - 1}] and where [{count}], '
      f'got {base_codes.shape} and {where.shape}. Encode by the quantiser of '
      'these docids.'
    )
  rows = np.flatnonzero(where)
  known, last = existing_codes[rows], np.zeros((len(base_codes), 1), int)
  both = np.concatenate([known, np.concatenate([base_codes, last], axis=1)])
  bits = docid_order.widths([int(c.max(initial=0)) + 1 for c in both.T])
  order = docid_order.sort(known, rows=rows, bits=bits)
  return next_free_in_order(order, base_codes)


def next_free_in_order(
  order: docid_order.Order, base_codes: np.ndarray
) -> np.ndarray:
  """`next_free`, among living docids that are sorted already.

  Args:
    order: the N living docids, of L codes.
    base_codes: int[M, L - 1]; they must fit the order's bits.

  Returns:
    int32[M]. Such a number need not fit the order's bits.
  """
  count, length = len(base_codes), len(order.bits)
  ends = np.zeros((count, 1), np.int64)
  new = docid_order.sort(
    np.concatenate([base_codes, ends], axis=1), bits=order.bits
  )
  opens = new.shared()[:-1] < length  # the first new document of a bucket
  bucket = np.cumsum(opens) - 1
  turn = np.arange(count) - np.flatnonzero(opens)[bucket]
  *upper, lowest = (word[opens] for word in new.words)
  highest = lowest | np.uint64((1 << order.bits[-1]) - 1)
  low = docid_order.find(order.words, (*upper, lowest))[0]
  sizes = docid_order.find(order.words, (*upper, highest))[1] - low
  start = np.cumsum(sizes) - sizes
  owner = np.repeat(np.arange(len(sizes)), sizes)
  within = np.arange(len(owner)) - start[owner]
  used = order.code(length - 1, low[owner] + within).astype(np.int64)
  # u_i - i free numbers lie below the i-th used number u_i of a bucket, so the
  # j-th free number is j plus the count of i with u_i - i <= j.
  wide = max(int(used.max(initial=0)), count) + 1
  passed = np.searchsorted(
    owner * wide + used - within, bucket * wide + turn, side='right'
  )
  result = np.empty(count, np.int32)
  result[new.rows] = turn + passed - start[bucket]
  return result
