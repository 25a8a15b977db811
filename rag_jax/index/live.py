"""Live index: documents can be added and deleted without retraining.

All arrays are padded to a capacity, so that compiled programs stay valid. New
documents get their docids from the frozen quantiser and unused rows of the node
table; `node_table.update` updates the table. Every function returns a new
`LiveIndex` and leaves its input unchanged.

`from_index` makes a trained index live, and `resize` increases the capacity;
`growth.move` reorders the node table for both. All functions here set the
optional fields of `Index` to None; callers set those that they need.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from rag_jax import types
from rag_jax.index import (
  docids,
  further,
  live_checks,
  live_parts,
  node_table,
  uniqueness,
)
from rag_jax.index import index as indexes
from rag_jax.ops import docid_layout, docid_order

LiveIndex = live_parts.LiveIndex
assemble = live_parts.assemble
NoRoom = live_checks.NoRoom


def build(
  tokens: np.ndarray,
  vectors: np.ndarray,
  config: docids.DocidConfig,
  *,
  capacity: int,
  seed: int = 0,
  titles: Sequence[str] | None = None,
) -> LiveIndex:
  """Assigns docids to documents and builds a live index of them.

  Args:
    tokens: int32[n, P], 0 = padding.
    vectors: float32[n, D], input of the docid scheme.
    config: the docid scheme.
    capacity: N, maximum number of documents.
    seed: of the docid scheme.
    titles: n titles, for the scheme 'title'.

  Raises:
    ValueError: if `capacity` is below the number of documents.
  """
  live_checks.check_capacity(capacity, len(tokens))
  codes, quantiser = docids.fit(vectors, config, seed=seed, titles=titles)
  alive = np.ones(len(tokens), bool)
  return live_parts.with_capacity(
    tokens, codes, alive, config, quantiser, capacity
  )


def from_index(
  index: indexes.Index,
  quantiser: docids.Quantiser,
  config: docids.DocidConfig,
  *,
  capacity: int,
) -> LiveIndex:
  """Makes an index live, so that documents can be added and deleted.

  Args:
    index: the index; unchanged.
    quantiser: the quantiser of its docids, from `index.build`.
    config: the docid scheme of its docids.
    capacity: N, maximum number of documents.

  Returns:
    A live index of the same documents in the same rows with the same docids.
    Deleted documents stay deleted, and their rows are free.

  Raises:
    ValueError: if `capacity` is below the number of rows, or the quantiser is
      missing.

  Example:
    >>> tokens, vectors = np.arange(12).reshape(4, 3) + 1, np.eye(4)
    >>> config = docids.DocidConfig(branching=2, leaf_size=2)
    >>> trained, quantiser = indexes.build(tokens, vectors, config)
    >>> live = from_index(trained, quantiser, config, capacity=6)
    >>> live.count, len(live.alive)
    (4, 6)
  """
  live_checks.check_capacity(capacity, len(index.alive))
  if not quantiser and config.scheme not in ('atomic', 'random'):
    raise ValueError(
      f'quantiser must be the fitted quantiser of the scheme '
      f'{config.scheme!r}, got an empty one. Build the index again: earlier '
      'versions did not save it.'
    )
  tokens, codes, alive = map(
    np.asarray, (index.tokens, index.codes, index.alive)
  )
  return live_parts.with_capacity(
    tokens,
    codes,
    alive,
    config,
    quantiser,
    capacity,
    further.on_host(index.further),
  )


def resize(live: LiveIndex, capacity: int) -> LiveIndex:
  """Increases the capacity of a live index; its users are compiled again.

  Args:
    live: the index; unchanged.
    capacity: N, maximum number of documents, at least the current one. The
      current number only increases the capacity of full levels of the trie.

  Returns:
    A live index of the same documents in the same rows with the same docids.
    The rows of inner nodes change: apply `growth.move` to the node table.

  Raises:
    ValueError: if `capacity` is below the current one.

  Example:
    >>> tokens, vectors = np.arange(12).reshape(4, 3) + 1, np.eye(4)
    >>> config = docids.DocidConfig(branching=2, leaf_size=2)
    >>> live = build(tokens, vectors, config, capacity=4)
    >>> len(resize(live, 8).alive)
    8
  """
  live_checks.check_capacity(capacity, len(live.alive))
  return live_parts.with_capacity(
    np.asarray(live.index.tokens),
    live.codes,
    live.alive,
    live.config,
    live.quantiser,
    capacity,
    live.further,
  )


def add(
  live: LiveIndex,
  tokens: np.ndarray,
  vectors: np.ndarray,
  *,
  titles: Sequence[str] | None = None,
  keys: tuple[np.ndarray, np.ndarray] | None = None,
  donate: bool = False,
) -> tuple[LiveIndex, node_table.Change]:
  """Adds documents, without training and without compilation.

  Args:
    live: the index; unchanged.
    tokens: int32[M, P], 0 = padding.
    vectors: float32[M, D], from the encoder of the indexed documents.
    titles: M titles, for the scheme 'title'.
    keys: vectors float32[F, M, D] and bool[F, M], which of them are real: they
      give the documents further docids, in an index that has any.
    donate: whether to overwrite the memory of the documents' tokens instead of
      copying it; `live` must not be used afterwards.

  Returns:
    The new index, and the change for `node_table.update`, which takes the
    vectors of the documents and then those of the real keys.

  Raises:
    NoRoom: if the capacity is exceeded; a subclass of ValueError.
    ValueError: if `tokens` and `vectors` do not have one row per document, a
      document is already in the index, or `keys` have another shape.
  """
  tokens, vectors = np.asarray(tokens), np.asarray(vectors)
  live_checks.check_shapes(live, tokens, vectors)
  tokens = tokens.astype(np.int32)
  count = len(tokens)
  hashes = live_checks.hash_rows(tokens)
  live_checks.check_duplicates(live, tokens, hashes)
  free = np.flatnonzero(~live.alive)
  if count > len(free):
    raise NoRoom(
      f'the index has room for {len(free)} more documents, got {count}. '
      'Increase its capacity with live.resize.'
    )
  rows = free[:count]
  more = live_checks.check_keys(live, vectors, keys)
  if more is not None:
    vectors = np.concatenate([vectors, more[0][more[1]]])
  base = docids.encode(live.quantiser, vectors, live.config, titles=titles)
  live_checks.check_docids(base, live)
  with live_checks.resize_as_remedy():
    docid_layout.check_codes(base, live.capacity)
    last = uniqueness.next_free_in_order(live.order, base)
    new = np.concatenate([base, last[:, None]], axis=1)
    docid_layout.check_codes(new, live.capacity)
  codes, alive, lengths = (
    array.copy() for array in (live.codes, live.alive, live.lengths)
  )
  codes[rows] = new[:count]
  alive[rows] = True
  lengths[rows] = (tokens != types.PAD).sum(axis=1)
  kept = live.further
  if kept is not None and more is not None:
    kept = further.with_docids(kept, rows, more[1], new[count:])
  leaves = further.leaves_of(rows, kept)
  old_tokens = live.index.tokens
  write = _write_rows if donate else _set_rows
  padded = node_table.padded((rows, len(old_tokens)), (tokens, 0))
  changed = dataclasses.replace(
    live,
    index=dataclasses.replace(live.index, tokens=write(old_tokens, *padded)),
    codes=codes,
    alive=alive,
    further=kept,
    order=docid_order.insert(live.order, new, leaves),
    lengths=lengths,
    hashes=docid_order.insert(live.hashes, hashes, rows),
  )
  return _rebuild(live, changed, leaves, sign=1)


def delete(
  live: LiveIndex, documents: Sequence[int] | np.ndarray
) -> tuple[LiveIndex, node_table.Change]:
  """Deletes documents with all their docids; additions can reuse their rows.

  Args:
    live: the index; unchanged.
    documents: rows of the documents.

  Returns:
    The new index, and the change for `node_table.update`. The update reads the
    rows of the deleted documents: apply it before you add other documents.

  Raises:
    ValueError: if a document is not in the index, or none would be left.
  """
  deleted = live_checks.check_rows(live, documents)
  alive = live.alive.copy()
  alive[deleted] = False
  leaves = further.leaves_of(deleted, live.further)
  changed = dataclasses.replace(
    live,
    alive=alive,
    further=further.without(live.further, deleted),
    order=docid_order.remove(live.order, leaves),
    hashes=docid_order.remove(live.hashes, deleted),
  )
  return _rebuild(live, changed, leaves, sign=-1)


def _rebuild(
  before: LiveIndex, after: LiveIndex, leaves: np.ndarray, *, sign: int
) -> tuple[LiveIndex, node_table.Change]:
  """Rebuilds the trie and the node rows from the new order of documents."""
  layout = live_parts.lay_out(after.order, after.capacity)
  rows, previous = node_table.assign_rows(
    after.order, layout.spans, before, after.capacity
  )
  index = live_parts.pack(
    layout,
    after.capacity,
    rows,
    after.codes,
    after.alive,
    after.further,
    jnp.asarray(after.index.tokens),
    after.lengths,
  )
  after = dataclasses.replace(after, index=index, spans=layout.spans, rows=rows)
  change = node_table.describe(before, after, previous, leaves, sign=sign)
  return after, change


def _scatter(x: jax.Array, rows: jax.Array, values: jax.Array) -> jax.Array:
  return x.at[rows].set(values, mode='drop')


_set_rows = jax.jit(_scatter)
_write_rows = jax.jit(_scatter, donate_argnums=0)
