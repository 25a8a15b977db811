"""Further docids of documents: several paths through the trie to one document.

A document that is about several things, or that is asked about in other words
than its own, is found by any of its docids. Its probability is the sum of
theirs. Further docids are the codes of keys, questions about the document or
crops of it, by the quantiser of the documents.

With F further docids there are N (F + 1) leaves: leaf n of the trie is
document n's own docid, and leaf f N + n its further docid f, from 1. A document
with fewer keys than that leaves some of them out.

Reference:
  Li et al., Multiview Identifiers Enhanced Generative Retrieval, 2023.
"""

from typing import TypeVar

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from rag_jax import types
from rag_jax.index import uniqueness
from rag_jax.ops import docid_order, split_rows

A = TypeVar('A', np.ndarray, jax.Array)


@flax.struct.dataclass
class Further:
  """Further docids of N documents, up to F each."""

  codes: types.Array  # uint8, uint16 or int32[F, N, L]; any where not real
  where: types.Array  # bool[F, N], True = the document has this docid
  # int32[F, N, T], the keys, whose vectors a node table starts with; None = no
  # longer needed
  tokens: types.Array | None = None


def choose(
  own: np.ndarray, keys: np.ndarray, owners: np.ndarray, *, most: int
) -> np.ndarray:
  """Chooses the keys of each document that give it further docids.

  Keys with the codes of the document give none, and of several with the same
  codes only the first does. A document takes the codes of the most keys, equal
  numbers in the order of the keys.

  Args:
    own: int[N, L - 1], codes of the documents, without the last level.
    keys: int[m, L - 1], codes of the keys.
    owners: int[m], row of the document of each key.
    most: F, further docids of a document.

  Returns:
    int32[F, N], the keys; -1 = none.

  Example:
    >>> own, keys = np.array([[0], [1]]), np.array([[0], [2], [1], [1], [1]])
    >>> choose(own, keys, np.array([0, 0, 0, 0, 1]), most=2).tolist()
    [[2, -1], [1, -1]]
  """
  chosen = np.full((most, len(own)), -1, np.int32)
  different = np.flatnonzero((keys != own[owners]).any(axis=1))
  if not len(different):
    return chosen
  pairs = np.concatenate([owners[:, None], keys], axis=1)[different]
  same, first, counts = np.unique(
    pairs, axis=0, return_index=True, return_counts=True
  )
  order = np.lexsort((first, -counts, same[:, 0]))
  rows = same[order, 0]
  place = np.arange(len(rows)) - np.searchsorted(rows, rows)
  kept = place < most
  chosen[place[kept], rows[kept]] = different[first[order]][kept]
  return chosen


def build(
  codes: np.ndarray, keys: np.ndarray, tokens: np.ndarray, chosen: np.ndarray
) -> Further:
  """Further docids of all documents of an index, unique among all docids.

  Args:
    codes: int[N, L], docids of the documents, which stay as they are.
    keys: int[m, L - 1], codes of the keys.
    tokens: int32[m, T], the keys.
    chosen: int32[F, N], from `choose`.

  Example:
    >>> codes, keys = np.array([[0, 0], [1, 0]]), np.array([[1], [0]])
    >>> found = build(codes, keys, np.array([[5], [6]]), np.array([[0, -1]]))
    >>> found.codes.tolist(), found.where.tolist()
    ([[[1, 1], [0, 0]]], [[True, False]])
  """
  where = chosen >= 0
  base = keys[chosen[where]]
  last = uniqueness.next_free(codes, base, np.ones(len(codes), bool))
  every = np.zeros((*chosen.shape, codes.shape[1]), np.int32)
  every[where] = np.concatenate([base, last[:, None]], axis=1)
  kept = np.zeros((*chosen.shape, tokens.shape[1]), np.int32)
  kept[where] = tokens[chosen[where]]
  dtype = docid_order.code_type(int(every.max(initial=0)) + 1)
  return Further(codes=every.astype(dtype), where=where, tokens=kept)


def leaf_codes(codes: A, further: Further | None) -> A:
  """The docid of each leaf, int[N (F + 1), L]."""
  if further is None:
    return codes
  each = further.codes.reshape(-1, codes.shape[-1])
  if isinstance(codes, np.ndarray):
    return np.concatenate([codes, np.asarray(each)])
  return jnp.concatenate([split_rows.every_row(codes), each])


def leaf_where(alive: np.ndarray, further: Further | None) -> np.ndarray:
  """Whether each leaf is in the trie, bool[N (F + 1)]: not those of no docid.

  Args:
    alive: bool[N], documents in the index.
    further: further docids; None = none.
  """
  if further is None:
    return alive
  return np.concatenate([alive, (np.asarray(further.where) & alive).ravel()])


def repeat(x: jax.Array, further: Further | None) -> jax.Array:
  """Values [..., N] of documents for the leaves, [..., N (F + 1)]."""
  if further is None:
    return x
  x = jnp.asarray(x)
  return jnp.tile(x, (1,) * (x.ndim - 1) + (1 + len(further.where),))


def leaves_of(rows: np.ndarray, further: Further | None) -> np.ndarray:
  """The leaves of all docids of documents int[M], their own docids first.

  Example:
    >>> where = np.array([[False, True, True]])
    >>> further = Further(codes=np.zeros((1, 3, 2)), where=where)
    >>> leaves_of(np.array([2, 0]), further).tolist()
    [2, 0, 5]
  """
  if further is None:
    return rows
  where = np.asarray(further.where)
  count = where.shape[1]
  more = [(f + 1) * count + rows[own] for f, own in enumerate(where[:, rows])]
  return np.concatenate([rows, *more])


def to_arrays(further: Further | None) -> dict[str, np.ndarray]:
  """The arrays of further docids by name, for a file; {} = none."""
  if further is None:
    return {}
  found = {'codes': further.codes, 'where': further.where}
  if further.tokens is not None:
    found['tokens'] = further.tokens
  return {name: np.asarray(array) for name, array in found.items()}


def from_arrays(arrays: dict[str, np.ndarray]) -> Further | None:
  """The inverse of `to_arrays`."""
  return Further(**arrays) if arrays else None


def on_host(further: Further | None) -> Further | None:
  """Further docids as NumPy arrays of int32, without their keys."""
  if further is None:
    return None
  codes, where = np.asarray(further.codes, np.int32), np.asarray(further.where)
  return Further(codes=codes, where=where)


def widen(further: Further, spare: int) -> Further:
  """Further docids with room for so many more documents, on the host."""
  return Further(
    codes=np.pad(further.codes, ((0, 0), (0, spare), (0, 0))),
    where=np.pad(further.where, ((0, 0), (0, spare))),
  )


def with_docids(
  further: Further, rows: np.ndarray, where: np.ndarray, codes: np.ndarray
) -> Further:
  """Further docids with those of documents that are added.

  Args:
    further: of the index, on the host.
    rows: int[M], rows of the documents, which have none yet.
    where: bool[F, M], the docids that they get.
    codes: int[n, L], these docids, those of each of the F first.
  """
  every, real = np.array(further.codes), np.array(further.where)
  real[:, rows] = where
  place, document = np.nonzero(where)
  every[place, rows[document]] = codes
  return Further(codes=every, where=real)


def without(further: Further | None, rows: np.ndarray) -> Further | None:
  """Further docids without those of documents int[M] that are deleted."""
  if further is None:
    return None
  where = np.array(further.where)
  where[:, rows] = False
  return Further(codes=further.codes, where=where)


def listed(further: Further) -> list[tuple[int, list[int]]]:
  """Rows of documents with further docids, and these.

  Example:
    >>> where = np.array([[False, True]])
    >>> listed(Further(codes=np.array([[[0, 0], [4, 1]]]), where=where))
    [(1, [4, 1])]
  """
  codes, where = np.asarray(further.codes), np.asarray(further.where)
  return [
    (int(row), codes[place, row].tolist())
    for place, row in zip(*np.nonzero(where), strict=True)
  ]
