"""The last level of a docid: a number that tells documents apart."""

import numpy as np


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
  if not len(base_codes):
    return np.zeros(0, np.int32)
  # Level by level, documents that still share a bucket with a new one.
  rows = np.flatnonzero(where)
  old = np.zeros(len(rows), np.int64)
  new = np.zeros(len(base_codes), np.int64)
  for level in range(length - 1):
    wide = 1 + max(
      int(existing_codes[:, level].max(initial=0)),
      int(base_codes[:, level].max()),
    )
    keys = new * wide + base_codes[:, level]
    buckets, new = np.unique(keys, return_inverse=True)
    keys = old * wide + existing_codes[rows, level]
    if buckets[-1] < max(1 << 16, 8 * len(rows)):
      table = np.full(buckets[-1] + 1, -1)
      table[buckets] = np.arange(len(buckets))
      place = np.where(keys < len(table), keys, 0)
      old = np.where(keys < len(table), table[place], -1)
    else:
      old = np.minimum(np.searchsorted(buckets, keys), len(buckets) - 1)
      old = np.where(buckets[old] == keys, old, -1)
    rows, old = rows[old >= 0], old[old >= 0]
  numbers = existing_codes[rows, -1].astype(np.int64)
  # u_i - i free numbers lie below the i-th used number u_i of a bucket, so the
  # j-th free number is j plus the count of i with u_i - i <= j.
  wide = max(int(numbers.max(initial=0)), len(new)) + 2
  used = np.unique(old * wide + numbers)
  bucket = used // wide
  start = np.searchsorted(bucket, np.arange(new.max() + 1))
  below = used - (np.arange(len(used)) - start[bucket])
  order = np.argsort(new, kind='stable')
  ordered = new[order]
  turn = np.arange(len(new)) - np.searchsorted(ordered, ordered)
  passed = np.searchsorted(below, ordered * wide + turn, side='right')
  result = np.empty(len(new), np.int32)
  result[order] = turn + passed - start[ordered]
  return result
