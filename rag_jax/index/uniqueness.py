"""The last level of a docid: a number that makes it unique.

A bucket is the set of documents that share all codes but the last.
"""

import numpy as np

from rag_jax.ops import docid_order


def append_uniqueness(codes: np.ndarray) -> np.ndarray:
  """Appends a level that numbers the documents with equal codes.

  Args:
    codes: int[N, L].

  Returns:
    int32[N, L + 1], unique rows; the last level has as many values as the
    largest bucket has documents.

  Example:
    >>> append_uniqueness(np.array([[3, 1], [0, 2], [3, 1]])).tolist()
    [[3, 1, 0], [0, 2, 0], [3, 1, 1]]
  """
  if not codes.shape[1]:  # one bucket
    return np.arange(len(codes), dtype=np.int32)[:, None]
  # Few bytes a document: all of a corpus are here at once.
  order = docid_order.sort(codes)
  opens = order.shared()[:-1] < codes.shape[1]
  rows = order.rows
  del order
  index = np.arange(len(codes), dtype=np.int32)
  first = np.where(opens, index, 0)
  np.maximum.accumulate(first, out=first)
  index -= first
  found = np.empty((len(codes), codes.shape[1] + 1), np.int32)
  found[:, :-1] = codes
  found[rows, -1] = index
  return found


def next_free(
  existing_codes: np.ndarray, base_codes: np.ndarray, where: np.ndarray
) -> np.ndarray:
  """Last codes for documents that are added to an index.

  Each new document gets the smallest number that is unused in its bucket, by
  documents in the index and by new documents before it.

  Args:
    existing_codes: int[N, L], docids of the index.
    base_codes: int[M, L - 1], codes of the new documents.
    where: bool[N], True = the document is in the index; numbers of deleted
      documents are free.

  Returns:
    int32[M].

  Raises:
    ValueError: if the shapes do not match.

  Example:
    >>> codes = np.array([[3, 0], [3, 2], [5, 0]])
    >>> next_free(codes, np.array([[3], [3], [5]]), np.ones(3, bool)).tolist()
    [1, 3, 1]
  """
  count, length = existing_codes.shape
  if base_codes.shape[1:] != (length - 1,) or where.shape != (count,):
    raise ValueError(
      f'base_codes must have the shape [M, {length - 1}] and where [{count}], '
      f'got {base_codes.shape} and {where.shape}. Encode the documents with '
      'the quantiser of these docids.'
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
  """`next_free` for docids that are already sorted.

  Args:
    order: the N docids of the index, of L codes.
    base_codes: int[M, L - 1]; they must fit the order's bits.

  Returns:
    int32[M], which may exceed the order's bits.
  """
  count, length = len(base_codes), len(order.bits)
  ends = np.zeros((count, 1), np.int64)
  new = docid_order.sort(
    np.concatenate([base_codes, ends], axis=1), bits=order.bits
  )
  opens = new.shared()[:-1] < length  # the first new document of a bucket
  bucket = np.cumsum(opens) - 1
  number = np.arange(count) - np.flatnonzero(opens)[bucket]
  *upper, lowest = (word[opens] for word in new.words)
  highest = lowest | np.uint64((1 << order.bits[-1]) - 1)
  low = docid_order.find(order.words, (*upper, lowest))[0]
  sizes = docid_order.find(order.words, (*upper, highest))[1] - low
  start = np.cumsum(sizes) - sizes
  owner = np.repeat(np.arange(len(sizes)), sizes)
  within = np.arange(len(owner)) - start[owner]
  used = order.code(length - 1, low[owner] + within).astype(np.int64)
  # There are u_i - i free numbers below the i-th used number u_i of a bucket.
  # So the j-th free number is j plus the count of i with u_i - i <= j.
  stride = max(int(used.max(initial=0)), count) + 1
  passed = np.searchsorted(
    owner * stride + used - within, bucket * stride + number, side='right'
  )
  result = np.empty(count, np.int32)
  result[new.rows] = number + passed - start[bucket]
  return result
