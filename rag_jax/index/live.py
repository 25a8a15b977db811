"""An index that lives: documents come and go while it is searched.

All arrays have room to spare, so that what is compiled stays compiled. New
documents get their docids from the frozen quantiser, and rows of the node table
that nobody uses; `node_table.update` lets the table follow. Every change gives
a new `LiveIndex` and leaves the old one as it was: to swap it in is to assign
it.
"""

import dataclasses
import json
import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rag_jax import types
from rag_jax.index import docids, node_table, uniqueness
from rag_jax.index import index as indexes
from rag_jax.ops import docid_layout, docid_order
from rag_jax.ops import trie as tries

HASH_BITS = 63


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
  count = len(tokens)
  if capacity < count:
    raise ValueError(
      f'capacity must be at least the number of documents ({count}), got '
      f'{capacity}. Raise it.'
    )
  codes, quantiser = docids.fit(vectors, config, seed=seed, titles=titles)
  padded = np.zeros((capacity, codes.shape[1]), np.int32)
  padded[:count] = codes
  everything = np.zeros((capacity, tokens.shape[1]), np.int32)
  everything[:count] = tokens
  return _start(
    everything,
    padded,
    np.arange(capacity) < count,
    config,
    quantiser,
    _room(docid_layout.lay_out(codes), config, capacity),
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
    tokens: int32[M, P].
    vectors: float32[M, D], from the encoder that made those of the others.
    titles: M titles, for the scheme 'title'.
    donate: whether the memory of the documents' tokens may be written over;
      `live` is of no use afterwards then, and no time goes into a copy.

  Returns:
    The new index, and what `node_table.update` needs to know.

  Raises:
    ValueError: if there is not one row of tokens and one vector a document, a
      document is there already, or there is no room.
  """
  count, width = len(tokens), live.index.tokens.shape[1]
  if not count or len(vectors) != count:
    raise ValueError(
      'tokens and vectors must have a row for each document to add, got '
      f'{count} and {len(vectors)} rows. Give both for at least one document.'
    )
  if tokens.shape[1] != width:
    raise ValueError(
      f'tokens must have {width} columns, got {tokens.shape[1]}. Encode new '
      'documents with the data configuration of the index.'
    )
  free = np.flatnonzero(~live.alive)
  if count > len(free):
    raise ValueError(
      f'the index has room for {len(free)} more documents, got {count}. '
      'Build it again with a larger capacity.'
    )
  hashes = _hash(tokens)
  _check_twins(live, tokens, hashes)
  rows = free[:count]
  base = docids.encode(live.quantiser, vectors, live.config, titles=titles)
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
  if np.asarray(documents).dtype == bool:
    raise ValueError(
      'documents must be rows of documents, got a mask. Give np.flatnonzero of '
      'it.'
    )
  gone = np.unique(np.asarray(documents, np.int64))
  inside = (gone >= 0) & (gone < len(live.alive))
  lives = inside & live.alive[np.where(inside, gone, 0)]
  if not lives.all():
    raise ValueError(
      f'document {gone[np.argmin(lives)]} is not in the index. '
      'Delete living rows only.'
    )
  if len(gone) == live.count:
    raise ValueError(
      f'an index needs a document, got all {live.count} to delete. '
      'Keep at least one.'
    )
  alive = live.alive.copy()
  alive[gone] = False
  changed = dataclasses.replace(
    live,
    alive=alive,
    order=docid_order.remove(live.order, gone),
    hashes=docid_order.remove(live.hashes, gone),
  )
  return _follow(live, changed, gone, sign=-1)


def save(live: LiveIndex, path: str | os.PathLike[str]) -> None:
  """Writes a live index to a .npz file, atomically, with its checksum."""
  about = {
    'config': dataclasses.asdict(live.config),
    'capacity': dataclasses.asdict(live.capacity),
  }
  arrays = {
    'tokens': np.asarray(live.index.tokens),
    'codes': live.codes,
    'alive': live.alive,
    'rows': np.concatenate([np.zeros(0, np.int32), *live.rows]),
    'about': np.asarray(json.dumps(about)),
  }
  quantiser = {f'quantiser/{k}': v for k, v in live.quantiser.items()}
  indexes.write(path, arrays | quantiser)


def load(
  path: str | os.PathLike[str], config: docids.DocidConfig | None = None
) -> LiveIndex:
  """Reads what `save` wrote.

  Args:
    path: the file.
    config: the scheme that it should be of; None takes any.

  Raises:
    ValueError: if the file is damaged, or of another scheme or size.
  """
  names = ('tokens', 'codes', 'alive', 'rows', 'about')
  arrays = indexes.read(path, names)
  about = json.loads(str(arrays['about']))
  hidden = tuple(about['config'].pop('hidden'))
  stored = docids.DocidConfig(hidden=hidden, **about['config'])
  if config is not None and config != stored:
    ours, theirs = dataclasses.asdict(config), dataclasses.asdict(stored)
    name = next(name for name in ours if ours[name] != theirs[name])
    raise ValueError(
      f'index file {str(path)!r} was made with docid.{name}={theirs[name]!r}, '
      f'got {ours[name]!r}. Set --config.docid.{name}={theirs[name]}, or build '
      'another index.'
    )
  sizes: dict[str, Any] = {
    name: tuple(value) if isinstance(value, list) else value
    for name, value in about['capacity'].items()
  }
  room = docid_layout.Capacity(**sizes)
  quantiser = {
    name.removeprefix('quantiser/'): array
    for name, array in arrays.items()
    if name.startswith('quantiser/')
  }
  return _start(
    arrays['tokens'],
    arrays['codes'],
    arrays['alive'],
    stored,
    quantiser,
    room,
    arrays['rows'],
  )


def _start(
  tokens: np.ndarray,
  codes: np.ndarray,
  alive: np.ndarray,
  config: docids.DocidConfig,
  quantiser: docids.Quantiser,
  room: docid_layout.Capacity,
  rows: np.ndarray | None = None,
) -> LiveIndex:
  """A live index from scratch, or with the rows that its nodes have had."""
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
      _hash(tokens[living]), rows=living, bits=(HASH_BITS,)
    ),
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


def _room(
  layout: docid_layout.Layout,
  config: docids.DocidConfig,
  capacity: int,
) -> docid_layout.Capacity:
  """Room at every level for as many documents, named as those so far."""
  tight = docid_layout.tight(layout)
  growth = 1.25 * capacity / tight.documents
  length = len(tight.num_values)
  nodes, parents, branching = [], [], []
  most = {'string': 10, 'title': 1 << 16}.get(config.scheme, config.branching)
  values = [max(n, most) for n in tight.num_values]
  values[-1] = max(256, 2 * values[-1])
  for level in range(length):
    has = level < len(tight.nodes)
    some = tight.nodes[level] if has else 0
    nodes.append(min(capacity, int(some * growth) + capacity // 16 + 64))
    some = tight.parents[level] if has else 0
    above = nodes[-2] if level else 1
    parents.append(min(above, int(some * growth) + capacity // 32 + 64))
    some = tight.branching[level] if has else 1
    branching.append(min(values[level], max(64, 2 * some)))
  return docid_layout.Capacity(
    documents=capacity,
    nodes=tuple(nodes),
    parents=tuple(parents),
    tails=(0, *(capacity,) * (length - 1)),
    branching=tuple(branching),
    num_values=tuple(values),
  )


def _hash(tokens: np.ndarray) -> np.ndarray:
  """A number for each row of tokens, below 2 ** HASH_BITS; int64[n, 1]."""
  rng = np.random.default_rng(0)
  weights = rng.integers(1, 1 << 62, (tokens.shape[1], 1))
  return (tokens @ weights) & ((1 << HASH_BITS) - 1)


def _check_twins(
  live: LiveIndex, tokens: np.ndarray, hashes: np.ndarray
) -> None:
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


def _put(x: jax.Array, rows: jax.Array, values: jax.Array) -> jax.Array:
  return x.at[rows].set(values, mode='drop')


_set_rows = jax.jit(_put)
_write_rows = jax.jit(_put, donate_argnums=0)
