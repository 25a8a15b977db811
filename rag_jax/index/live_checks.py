"""Checks of the input before documents are added to or deleted from an index.

All checks run before anything changes.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from rag_jax.index import docids, further
from rag_jax.index import index as indexes
from rag_jax.ops import docid_order

HASH_BITS = 63


class NoRoom(ValueError):
  """The capacity of a live index is exceeded; `live.resize` increases it."""


class Live(Protocol):
  """The part of a `live.LiveIndex` that the checks read."""

  @property
  def index(self) -> indexes.Index:
    """The arrays for compiled functions."""

  @property
  def alive(self) -> np.ndarray:
    """bool[N], True = the row holds a document."""

  @property
  def config(self) -> docids.DocidConfig:
    """The docid scheme."""

  @property
  def quantiser(self) -> docids.Quantiser:
    """Its quantiser."""

  @property
  def further(self) -> further.Further | None:
    """The further docids of the documents."""

  @property
  def order(self) -> docid_order.Order:
    """The sorted docids of the documents in the index."""

  @property
  def hashes(self) -> docid_order.Order:
    """The sorted hashes of the documents' tokens."""


def check_capacity(capacity: int, count: int) -> None:
  """Raises a ValueError if `capacity` is below the number of documents."""
  if capacity < count:
    raise ValueError(
      f'capacity must be at least the number of documents ({count}), got '
      f'{capacity}. Raise capacity.'
    )


def check_shapes(live: Live, tokens: np.ndarray, vectors: np.ndarray) -> None:
  """Raises a ValueError if the shapes or dtypes do not fit the index."""
  count, width = len(tokens), live.index.tokens.shape[1]
  if not count or len(vectors) != count:
    raise ValueError(
      'tokens and vectors must have one row per document to add, got '
      f'{count} and {len(vectors)} rows. Give both for at least one document.'
    )
  if tokens.shape[1:] != (width,) or tokens.dtype.kind not in 'iu':
    raise ValueError(
      f'tokens must have {width} columns of int, got {tokens.dtype} of shape '
      f'{tokens.shape}. Encode new documents with the data configuration of '
      'the index.'
    )
  known = _widths(live.quantiser, live.config)
  if vectors.ndim == 2 and known and vectors.shape[1] not in known:
    wanted = ' to '.join(map(str, sorted({known[0], known[-1]})))
    raise ValueError(
      f'vectors must have {wanted} columns, got shape {vectors.shape}. Encode '
      'new documents with the encoder of the indexed documents.'
    )


def check_keys(
  live: Live,
  vectors: np.ndarray,
  keys: tuple[np.ndarray, np.ndarray] | None,
) -> tuple[np.ndarray, np.ndarray] | None:
  """The keys of new documents; none of them is real if none are given.

  Args:
    live: the index.
    vectors: float32[M, D], the new documents.
    keys: vectors float32[F, M, D] and bool[F, M].

  Raises:
    ValueError: if they do not fit the index.
  """
  if live.further is None:
    if keys is not None:
      raise ValueError(
        'keys must be None in an index without further docids, got '
        f'{keys[0].shape}. Build the index with docid.further above 0.'
      )
    return None
  where = (len(live.further.where), len(vectors))
  shape = *where, *vectors.shape[1:]
  if keys is None:
    return np.zeros(shape, np.float32), np.zeros(where, bool)
  if keys[0].shape != shape or keys[1].shape != where:
    raise ValueError(
      f'keys must be vectors {list(shape)} and a mask {list(where)}, got '
      f'{list(keys[0].shape)} and {list(keys[1].shape)}. Give as many for each '
      'document as the index has further docids.'
    )
  return keys


def check_docids(base: np.ndarray, live: Live) -> None:
  """Raises a ValueError if the docids differ in length from those of the index.

  Args:
    base: int[M, L - 1], from `docids.encode`.
    live: the index.
  """
  length = len(live.order.bits)
  if base.shape[1] + 1 != length:
    raise ValueError(
      f'docids must have {length} codes, got {base.shape[1] + 1} from the '
      f'scheme {live.config.scheme!r}. Give live.from_index the configuration '
      'and the quantiser of the indexed docids.'
    )


def check_rows(live: Live, documents: Sequence[int] | np.ndarray) -> np.ndarray:
  """Unique rows of the documents to delete, int64[M].

  Raises:
    ValueError: if `documents` is not a set of rows in the index, or would leave
      it empty.
  """
  given = np.asarray(documents)
  if given.dtype == bool:
    raise ValueError(
      'documents must be rows of documents, got a mask. Give '
      'np.flatnonzero(mask).'
    )
  if given.size and given.dtype.kind not in 'iu':
    raise ValueError(
      f'documents must be rows of documents, int, got {given.dtype}. Give '
      'integers, such as change.documents from live.add.'
    )
  rows = np.unique(given.astype(np.int64))
  inside = (rows >= 0) & (rows < len(live.alive))
  is_alive = inside & live.alive[np.where(inside, rows, 0)]
  if not is_alive.all():
    raise ValueError(
      f'documents must be in the index, got row {rows[np.argmin(is_alive)]}, '
      'which holds none. Give rows where live.alive is True.'
    )
  count = int(live.alive.sum())
  if len(rows) == count:
    raise ValueError(
      'documents must leave at least one document in the index, got all '
      f'{count}. Keep at least one.'
    )
  return rows


def _widths(
  quantiser: docids.Quantiser, config: docids.DocidConfig
) -> tuple[int, ...]:
  """Allowed widths of document vectors; empty = any width."""
  if config.scheme == 'rq_vae':
    return (len(quantiser['encoder_0']) - 1,)
  if 'centres' not in quantiser:
    return ()
  width = quantiser['centres'].shape[-1]
  if config.scheme != 'product_quantisation':
    return (width,)
  levels = len(quantiser['centres'])  # slices, the last padded with zeros
  return tuple(range(levels * (width - 1) + 1, levels * width + 1))


def hash_rows(tokens: np.ndarray) -> np.ndarray:
  """Hash of each row of tokens, below 2 ** HASH_BITS; int64[n, 1]."""
  rng = np.random.default_rng(0)
  weights = rng.integers(1, 1 << 62, (tokens.shape[1], 1))
  return (tokens @ weights) & ((1 << HASH_BITS) - 1)


def check_duplicates(
  live: Live, tokens: np.ndarray, hashes: np.ndarray
) -> None:
  """Raises a ValueError if a new document is a duplicate.

  Args:
    live: the index.
    tokens: int32[M, P], the new documents.
    hashes: int64[M, 1], from `hash_rows`.
  """
  new = docid_order.sort(hashes, bits=live.hashes.bits)
  duplicates = [
    (max(pair), min(pair), 'of the new documents')
    for place in np.flatnonzero(new.shared()[1:-1])
    for pair in [new.rows[place : place + 2]]
  ]
  place, end = docid_order.find(live.hashes.words, new.words)
  known = end > place
  duplicates += [
    (document, row, 'of the index')
    for document, row in zip(
      new.rows[known], live.hashes.rows[place[known]], strict=True
    )
  ]
  for document, row, where in duplicates:
    others = live.index.tokens if where == 'of the index' else tokens
    if (tokens[document] == np.asarray(others[row])).all():
      raise ValueError(
        f'tokens must be of new documents, got document {document} equal to '
        f'row {row} {where}. Leave it out.'
      )


@contextlib.contextmanager
def resize_as_remedy() -> Iterator[None]:
  """Turns a ValueError about capacity into `NoRoom` with its remedy."""
  try:
    yield
  except ValueError as error:
    what = str(error).partition('. ')[0]
    raise NoRoom(f'{what}. Increase it with live.resize.') from error
