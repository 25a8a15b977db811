"""An index that lives: documents come and go while it is searched.

All arrays have room to spare, so that what is compiled stays compiled. New
documents get their docids from the frozen quantiser, and rows of the node table
that nobody uses; `node_table.update` lets the table follow. Every change gives
a new `LiveIndex` and leaves the old one as it was: to swap it in is to assign
it.

A trained index comes to life by `from_index`, and a full one gets more room by
`resize`; `growth.move` takes the rows of a node table along. The fields of an
index that are optional are None after all of these: whoever needs them sets
them.
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
  """An index with room, and what it takes to change it."""

  index: indexes.Index  # N is the capacity; what compiled functions take
  codes: np.ndarray  # int32[N, L]
  alive: np.ndarray  # bool[N]
  config: docids.DocidConfig
  quantiser: docids.Quantiser
  capacity: docid_layout.Capacity
  order: docid_order.Order  # of the living docids
  spans: tuple[np.ndarray, ...]  # places in it below each inner node
  rows: tuple[np.ndarray, ...]  # row of each inner node in the node table
  lengths: np.ndarray  # int64[N], tokens of each document
  hashes: docid_order.Order  # of the living documents' tokens

  @property
  def count(self) -> int:
    """Number of living documents."""
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
  """Names documents and packs them, with room for more.

  Args:
    tokens: int32[n, P], 0 = padding.
    vectors: float32[n, D], what the docids are made of.
    config: the docid scheme.
    capacity: N, documents that there is room for.
    seed: of the scheme.
    titles: n titles, for the scheme 'title'.

  Raises:
    ValueError: if there is less room than documents.
  """
  live_checks.check_capacity(capacity, len(tokens))
  codes, quantiser = docids.fit(vectors, config, seed=seed, titles=titles)
  alive = np.ones(len(tokens), bool)
  return _with_room(tokens, codes, alive, config, quantiser, capacity)


def from_index(
  index: indexes.Index,
  quantiser: docids.Quantiser,
  config: docids.DocidConfig,
  *,
  capacity: int,
) -> LiveIndex:
  """Gives an index room, so that documents can come and go.

  Args:
    index: the documents; it stays as it is.
    quantiser: what their docids were made by, from `index.build`.
    config: the docid scheme that they were made with.
    capacity: N, documents that there is room for.

  Returns:
    A live index that holds the same documents in the same rows by the same
    docids; those that were deleted stay so, and their rows are free.

  Raises:
    ValueError: if there are more rows than room, or the quantiser is not one of
      the scheme.

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
      f'quantiser must be what the scheme {config.scheme!r} has learned, got '
      'none. Build the index again: earlier versions did not keep it.'
    )
  tokens, codes, alive = map(
    np.asarray, (index.tokens, index.codes, index.alive)
  )
  return _with_room(tokens, codes, alive, config, quantiser, capacity)


def resize(live: LiveIndex, capacity: int) -> LiveIndex:
  """Gives a live index more room; what uses it is compiled again.

  Args:
    live: the index; it stays as it is.
    capacity: N, documents that there is room for then; not less than now. The
      same number makes room at those levels of the trie that are full.

  Returns:
    A live index that holds the same documents in the same rows by the same
    docids. Inner nodes have other rows: `growth.move` the table.

  Raises:
    ValueError: if it is less room than now.

  Example:
    >>> tokens, vectors = np.arange(12).reshape(4, 3) + 1, np.eye(4)
    >>> config = docids.DocidConfig(branching=2, leaf_size=2)
    >>> live = build(tokens, vectors, config, capacity=4)
    >>> len(resize(live, 8).alive)
    8
  """
  live_checks.check_capacity(capacity, len(live.alive))
  return _with_room(
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
  """Adds documents; nothing is trained and nothing compiled again.

  Args:
    live: the index; it stays as it is.
    tokens: int32[M, P], 0 = padding.
    vectors: float32[M, D], from the encoder that made those of the others.
    titles: M titles, for the scheme 'title'.
    donate: whether the memory of the documents' tokens may be written over;
      `live` is of no use afterwards then, and no time goes into a copy.

  Returns:
    The new index, and what `node_table.update` needs to know.

  Raises:
    NoRoom: if there is no room, a ValueError too.
    ValueError: if there is not one row of tokens and one vector a document, or
      a document is there already.
  """
  tokens, vectors = np.asarray(tokens), np.asarray(vectors)
  live_checks.check_shapes(live, tokens, vectors)
  tokens = tokens.astype(np.int32)
  count = len(tokens)
  hashes = live_checks.hash_rows(tokens)
  live_checks.check_twins(live, tokens, hashes)
  free = np.flatnonzero(~live.alive)
  if count > len(free):
    raise NoRoom(
      f'the index has room for {len(free)} more documents, got {count}. '
      'Give it more with live.resize.'
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
  everything = live.index.tokens
  write = _write_rows if donate else _set_rows
  padded = node_table.padded((rows, len(everything)), (tokens, 0))
  changed = dataclasses.replace(
    live,
    index=dataclasses.replace(live.index, tokens=write(everything, *padded)),
    codes=codes,
    alive=alive,
    order=docid_order.insert(live.order, new, rows),
    lengths=lengths,
    hashes=docid_order.insert(live.hashes, hashes, rows),
  )
  return _follow(live, changed, rows, sign=1)


def delete(
  live: LiveIndex, documents: Sequence[int] | np.ndarray
) -> tuple[LiveIndex, node_table.Change]:
  """Takes documents out of the index; their rows are free again.

  Args:
    live: the index; it stays as it is.
    documents: rows of documents.

  Returns:
    The new index, and what `node_table.update` needs to know. It reads the rows
    of these documents, and so has to come before others are added.

  Raises:
    ValueError: if one is not in the index, or none would be left.
  """
  gone = live_checks.check_rows(live, documents)
  alive = live.alive.copy()
  alive[gone] = False
  changed = dataclasses.replace(
    live,
    alive=alive,
    order=docid_order.remove(live.order, gone),
    hashes=docid_order.remove(live.hashes, gone),
  )
  return _follow(live, changed, gone, sign=-1)


def assemble(
  tokens: np.ndarray,
  codes: np.ndarray,
  alive: np.ndarray,
  config: docids.DocidConfig,
  quantiser: docids.Quantiser,
  room: docid_layout.Capacity,
  rows: np.ndarray | None = None,
) -> LiveIndex:
  """Puts a live index together from its parts.

  Args:
    tokens: int32[N, P], 0 = padding.
    codes: int32[N, L]; any where there is no document.
    alive: bool[N], True = there is a document.
    config: the docid scheme.
    quantiser: what it has learned.
    room: in the trie, for N documents.
    rows: int32[n], those that inner nodes have had in the node table, level
      after level; None numbers them.
  """
  living = np.flatnonzero(alive)
  order = docid_order.sort(
    codes[living], rows=living, bits=docid_order.widths(room.num_values)
  )
  layout = _lay_out(order, room)
  if rows is None:
    numbers = node_table.number(order, layout.spans, None, room)[0]
  else:
    counts = np.cumsum([len(spans) for spans in layout.spans])
    numbers = tuple(np.split(rows, counts)[: len(counts)])
  lengths = (tokens != types.PAD).sum(axis=1)
  return LiveIndex(
    index=_pack(
      layout, room, numbers, codes, alive, jnp.asarray(tokens), lengths
    ),
    codes=codes,
    alive=alive,
    config=config,
    quantiser=quantiser,
    capacity=room,
    order=order,
    spans=layout.spans,
    rows=numbers,
    lengths=lengths,
    hashes=docid_order.sort(
      live_checks.hash_rows(tokens[living]),
      rows=living,
      bits=(live_checks.HASH_BITS,),
    ),
  )


def _with_room(
  tokens: np.ndarray,
  codes: np.ndarray,
  alive: np.ndarray,
  config: docids.DocidConfig,
  quantiser: docids.Quantiser,
  capacity: int,
) -> LiveIndex:
  """A live index of documents that have docids, in the same rows."""
  layout = docid_layout.lay_out(codes, where=alive)
  more = capacity - len(codes)
  return assemble(
    np.pad(np.asarray(tokens, np.int32), ((0, more), (0, 0))),
    np.pad(codes.astype(np.int32), ((0, more), (0, 0))),
    np.pad(alive, (0, more)),
    config,
    quantiser,
    growth.room(layout, config, quantiser, capacity),
  )


def _follow(
  before: LiveIndex, after: LiveIndex, documents: np.ndarray, *, sign: int
) -> tuple[LiveIndex, node_table.Change]:
  """Makes the rest of an index agree with its new order of documents."""
  layout = _lay_out(after.order, after.capacity)
  rows, places = node_table.number(
    after.order, layout.spans, before, after.capacity
  )
  index = _pack(
    layout,
    after.capacity,
    rows,
    after.codes,
    after.alive,
    after.index.tokens,
    after.lengths,
  )
  after = dataclasses.replace(after, index=index, spans=layout.spans, rows=rows)
  change = node_table.describe(before, after, places, documents, sign=sign)
  return after, change


def _lay_out(
  order: docid_order.Order, room: docid_layout.Capacity
) -> docid_layout.Layout:
  layout = docid_layout.from_order(
    order, num_values=room.num_values, num_documents=room.documents
  )
  with live_checks.resize_as_remedy():
    docid_layout.check_fits(layout, room)
  return layout


def _pack(
  layout: docid_layout.Layout,
  room: docid_layout.Capacity,
  rows: tuple[np.ndarray, ...],
  codes: np.ndarray,
  alive: np.ndarray,
  tokens: jax.Array,
  lengths: np.ndarray,
) -> indexes.Index:
  return indexes.Index(
    trie=tries.pack(layout, capacity=room, rows=rows),
    codes=jnp.asarray(codes),
    tokens=tokens,
    alive=jnp.asarray(alive),
    mean_length=jnp.float32(lengths[alive].mean()),
  )


def _put(x: jax.Array, rows: jax.Array, values: jax.Array) -> jax.Array:
  return x.at[rows].set(values, mode='drop')


_set_rows = jax.jit(_put)
_write_rows = jax.jit(_put, donate_argnums=0)
