"""What must hold when documents come to a live index or go from it.

All of it is said before anything changes.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from rag_jax.index import docids
from rag_jax.index import index as indexes
from rag_jax.ops import docid_order

HASH_BITS = 63


class NoRoom(ValueError):
  """Documents do not fit into a live index; `live.resize` makes room."""


class Live(Protocol):
  """As much of a `live.LiveIndex` as is looked at."""

  @property
  def index(self) -> indexes.Index:
    """What compiled functions take."""

  @property
  def alive(self) -> np.ndarray:
    """bool[N], True = there is a document."""

  @property
  def config(self) -> docids.DocidConfig:
    """The docid scheme."""

  @property
  def quantiser(self) -> docids.Quantiser:
    """What it has learned."""

  @property
  def order(self) -> docid_order.Order:
    """The living docids."""

  @property
  def hashes(self) -> docid_order.Order:
    """The living documents' tokens."""


def check_capacity(capacity: int, count: int) -> None:
  """Raises a ValueError if there is less room than documents."""
  if capacity < count:
    raise ValueError(
      f'capacity must be at least the number of documents ({count}), got '
      f'{capacity}. Raise it.'
    )


def check_shapes(live: Live, tokens: np.ndarray, vectors: np.ndarray) -> None:
  """Raises a ValueError if documents to add are not as those of the index."""
  count, width = len(tokens), live.index.tokens.shape[1]
  if not count or len(vectors) != count:
    raise ValueError(
      'tokens and vectors must have a row for each document to add, got '
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
      'new documents with the encoder of the others.'
    )


def check_docids(base: np.ndarray, live: Live) -> None:
  """Raises a ValueError if codes have another length than those of the index.

  Args:
    base: int[M, L - 1], from `docids.encode`.
    live: the index.
  """
  length = len(live.order.bits)
  if base.shape[1] + 1 != length:
    raise ValueError(
      f'docids must have {length} codes, got {base.shape[1] + 1} from the '
      f'scheme {live.config.scheme!r}. Give live.from_index the configuration '
      'and the quantiser that the docids were made by.'
    )


def check_rows(live: Live, documents: Sequence[int] | np.ndarray) -> np.ndarray:
  """Rows of documents to delete, int64[M], each once; or a ValueError."""
  given = np.asarray(documents)
  if given.dtype == bool:
    raise ValueError(
      'documents must be rows of documents, got a mask. Give np.flatnonzero of '
      'it.'
    )
  if given.size and given.dtype.kind not in 'iu':
    raise ValueError(
      f'documents must be rows of documents, int, got {given.dtype}. Give the '
      'numbers that add returned in change.documents.'
    )
  gone = np.unique(given.astype(np.int64))
  inside = (gone >= 0) & (gone < len(live.alive))
  lives = inside & live.alive[np.where(inside, gone, 0)]
  if not lives.all():
    raise ValueError(
      f'document {gone[np.argmin(lives)]} is not in the index. '
      'Delete living rows only.'
    )
  living = int(live.alive.sum())
  if len(gone) == living:
    raise ValueError(
      f'an index needs a document, got all {living} to delete. '
      'Keep at least one.'
    )
  return gone


def _widths(
  quantiser: docids.Quantiser, config: docids.DocidConfig
) -> tuple[int, ...]:
  """Widths that vectors may have; none where any will do."""
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
  """A number for each row of tokens, below 2 ** HASH_BITS; int64[n, 1]."""
  rng = np.random.default_rng(0)
  weights = rng.integers(1, 1 << 62, (tokens.shape[1], 1))
  return (tokens @ weights) & ((1 << HASH_BITS) - 1)


def check_twins(live: Live, tokens: np.ndarray, hashes: np.ndarray) -> None:
  """Raises a ValueError if a document is in the index, or twice among new."""
  new = docid_order.sort(hashes, bits=live.hashes.bits)
  pairs = [
    (max(pair), min(pair), 'among the new ones')
    for place in np.flatnonzero(new.shared()[1:-1])
    for pair in [new.rows[place : place + 2]]
  ]
  place, end = docid_order.find(live.hashes.words, new.words)
  known = end > place
  pairs += [
    (own, row, 'in the index')
    for own, row in zip(
      new.rows[known], live.hashes.rows[place[known]], strict=True
    )
  ]
  for own, row, where in pairs:
    others = live.index.tokens if where == 'in the index' else tokens
    if (tokens[own] == np.asarray(others[row])).all():
      raise ValueError(
        f'document {own} is there already, as row {row} {where}. Leave it out.'
      )


@contextlib.contextmanager
def resize_as_remedy() -> Iterator[None]:
  """Says of what has no room that there is a way to make some."""
  try:
    yield
  except ValueError as error:
    what = str(error).partition('. ')[0]
    raise NoRoom(f'{what}. Give it more room with live.resize.') from error
