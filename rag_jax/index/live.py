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
from rag_jax.index import docids, growth, live_checks, node_table, uniqueness
from rag_jax.index import index as indexes
from rag_jax.ops import docid_layout, docid_order
from rag_jax.ops import trie as tries

NoRoom = live_checks.NoRoom


@dataclasses.dataclass(frozen=True, kw_only=True)
class LiveIndex:
  """An index with spare capacity, and the host arrays needed to change it."""

  index: indexes.Index  # for compiled functions; its N is the capacity
  codes: np.ndarray  # int32[N, L]
  alive: np.ndarray  # bool[N], True = the row holds a document
  config: docids.DocidConfig
  quantiser: docids.Quantiser
  capacity: docid_layout.Capacity
  order: docid_order.Order  # sorted docids of the documents in the index
  spans: tuple[np.ndarray, ...]  # start and end in `order` of each inner node
  rows: tuple[np.ndarray, ...]  # row of each inner node in the node table
  lengths: np.ndarray  # int64[N], tokens of each document
  hashes: docid_order.Order  # sorted hashes of the documents' tokens

  @property
  def count(self) -> int:
    """Number of documents in the index."""
    return int(self.alive.sum())


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
  return _with_capacity(tokens, codes, alive, config, quantiser, capacity)


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
  return _with_capacity(tokens, codes, alive, config, quantiser, capacity)


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
  return _with_capacity(
    np.asarray(live.index.tokens),
    live.codes,
    live.alive,
    live.config,
    live.quantiser,
    capacity,
  )


def add(
  live: LiveIndex,
  tokens: np.ndarray,
  vectors: np.ndarray,
  *,
  titles: Sequence[str] | None = None,
  donate: bool = False,
) -> tuple[LiveIndex, node_table.Change]:
  """Adds documents, without training and without compilation.

  Args:
    live: the index; unchanged.
    tokens: int32[M, P], 0 = padding.
    vectors: float32[M, D], from the encoder of the indexed documents.
    titles: M titles, for the scheme 'title'.
    donate: whether to overwrite the memory of the documents' tokens instead of
      copying it; `live` must not be used afterwards.

  Returns:
    The new index, and the change for `node_table.update`.

  Raises:
    NoRoom: if the capacity is exceeded; a subclass of ValueError.
    ValueError: if `tokens` and `vectors` do not have one row per document, or a
      document is already in the index.
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
  codes[rows] = new
  alive[rows] = True
  lengths[rows] = (tokens != types.PAD).sum(axis=1)
  old_tokens = live.index.tokens
  write = _write_rows if donate else _set_rows
  padded = node_table.padded((rows, len(old_tokens)), (tokens, 0))
  changed = dataclasses.replace(
    live,
    index=dataclasses.replace(live.index, tokens=write(old_tokens, *padded)),
    codes=codes,
    alive=alive,
    order=docid_order.insert(live.order, new, rows),
    lengths=lengths,
    hashes=docid_order.insert(live.hashes, hashes, rows),
  )
  return _rebuild(live, changed, rows, sign=1)


def delete(
  live: LiveIndex, documents: Sequence[int] | np.ndarray
) -> tuple[LiveIndex, node_table.Change]:
  """Deletes documents from the index; later additions can reuse their rows.

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
  changed = dataclasses.replace(
    live,
    alive=alive,
    order=docid_order.remove(live.order, deleted),
    hashes=docid_order.remove(live.hashes, deleted),
  )
  return _rebuild(live, changed, deleted, sign=-1)


def assemble(
  tokens: np.ndarray,
  codes: np.ndarray,
  alive: np.ndarray,
  config: docids.DocidConfig,
  quantiser: docids.Quantiser,
  capacity: docid_layout.Capacity,
  rows: np.ndarray | None = None,
) -> LiveIndex:
  """Builds a live index from its parts.

  Args:
    tokens: int32[N, P], 0 = padding.
    codes: int32[N, L]; arbitrary in rows without a document.
    alive: bool[N], True = the row holds a document.
    config: the docid scheme.
    quantiser: its quantiser.
    capacity: of the trie, for N documents.
    rows: int32[n], rows of the inner nodes in the node table, level by level;
      None assigns new rows.
  """
  alive_rows = np.flatnonzero(alive)
  order = docid_order.sort(
    codes[alive_rows],
    rows=alive_rows,
    bits=docid_order.widths(capacity.num_values),
  )
  layout = _lay_out(order, capacity)
  if rows is None:
    node_rows = node_table.assign_rows(order, layout.spans, None, capacity)[0]
  else:
    counts = np.cumsum([len(spans) for spans in layout.spans])
    node_rows = tuple(np.split(rows, counts)[: len(counts)])
  lengths = (tokens != types.PAD).sum(axis=1)
  return LiveIndex(
    index=_pack(
      layout, capacity, node_rows, codes, alive, jnp.asarray(tokens), lengths
    ),
    codes=codes,
    alive=alive,
    config=config,
    quantiser=quantiser,
    capacity=capacity,
    order=order,
    spans=layout.spans,
    rows=node_rows,
    lengths=lengths,
    hashes=docid_order.sort(
      live_checks.hash_rows(tokens[alive_rows]),
      rows=alive_rows,
      bits=(live_checks.HASH_BITS,),
    ),
  )


def _with_capacity(
  tokens: np.ndarray,
  codes: np.ndarray,
  alive: np.ndarray,
  config: docids.DocidConfig,
  quantiser: docids.Quantiser,
  capacity: int,
) -> LiveIndex:
  """A live index of documents with docids, in the same rows."""
  layout = docid_layout.lay_out(codes, where=alive)
  spare = capacity - len(codes)
  return assemble(
    np.pad(np.asarray(tokens, np.int32), ((0, spare), (0, 0))),
    np.pad(codes.astype(np.int32), ((0, spare), (0, 0))),
    np.pad(alive, (0, spare)),
    config,
    quantiser,
    growth.plan_capacity(layout, config, quantiser, capacity),
  )


def _rebuild(
  before: LiveIndex, after: LiveIndex, documents: np.ndarray, *, sign: int
) -> tuple[LiveIndex, node_table.Change]:
  """Rebuilds the trie and the node rows from the new order of documents."""
  layout = _lay_out(after.order, after.capacity)
  rows, previous = node_table.assign_rows(
    after.order, layout.spans, before, after.capacity
  )
  index = _pack(
    layout,
    after.capacity,
    rows,
    after.codes,
    after.alive,
    jnp.asarray(after.index.tokens),
    after.lengths,
  )
  after = dataclasses.replace(after, index=index, spans=layout.spans, rows=rows)
  change = node_table.describe(before, after, previous, documents, sign=sign)
  return after, change


def _lay_out(
  order: docid_order.Order, capacity: docid_layout.Capacity
) -> docid_layout.Layout:
  layout = docid_layout.from_order(
    order, num_values=capacity.num_values, num_documents=capacity.documents
  )
  with live_checks.resize_as_remedy():
    docid_layout.check_fits(layout, capacity)
  return layout


def _pack(
  layout: docid_layout.Layout,
  capacity: docid_layout.Capacity,
  rows: tuple[np.ndarray, ...],
  codes: np.ndarray,
  alive: np.ndarray,
  tokens: jax.Array,
  lengths: np.ndarray,
) -> indexes.Index:
  return indexes.Index(
    trie=tries.pack(layout, capacity=capacity, rows=rows),
    codes=jnp.asarray(codes),
    tokens=tokens,
    alive=jnp.asarray(alive),
    mean_length=jnp.float32(lengths[alive].mean()),
  )


def _scatter(x: jax.Array, rows: jax.Array, values: jax.Array) -> jax.Array:
  return x.at[rows].set(values, mode='drop')


_set_rows = jax.jit(_scatter)
_write_rows = jax.jit(_scatter, donate_argnums=0)
