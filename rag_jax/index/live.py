"""An index that lives: documents come and go while it is searched.

All arrays have room to spare, so that what is compiled stays compiled. New
documents get their docids from the frozen quantiser, and rows of the node
table that nobody uses; no row of another document or node ever moves, so that
what training made of them stays. Every change gives a new `LiveIndex` and
leaves the old one as it was: to swap it in is to assign it.
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
from rag_jax.index import docids, uniqueness
from rag_jax.index import index as indexes
from rag_jax.ops import docid_layout
from rag_jax.ops import trie as tries


@dataclasses.dataclass(frozen=True, kw_only=True)
class LiveIndex:
  """An index with room, and what it takes to change it."""

  index: indexes.Index  # N is the capacity; what compiled functions take
  codes: np.ndarray  # int32[N, L]
  alive: np.ndarray  # bool[N]
  config: docids.DocidConfig
  quantiser: docids.Quantiser
  capacity: docid_layout.Capacity
  layout: docid_layout.Layout
  rows: tuple[np.ndarray, ...]  # row of each inner node in the node table
  lengths: np.ndarray  # int64[N], tokens of each document
  hashes: np.ndarray  # int64[N], of its tokens

  @property
  def count(self) -> int:
    """Number of living documents."""
    return int(self.alive.sum())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Change:
  """Rows of the node table that a change has given to somebody new."""

  documents: np.ndarray  # int32[M], rows of the documents added, in order
  nodes: np.ndarray  # int32[n], rows of the inner nodes that are new
  below: np.ndarray  # int32[m], documents below these, node after node
  owners: np.ndarray  # int32[m], which of `nodes` each is below


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
  alive = np.arange(capacity) < count
  layout = docid_layout.lay_out(padded, where=alive)
  room = _room(layout, config, count, capacity)
  rows = _number(layout, None, (), padded, room)[0]
  everything = np.zeros((capacity, tokens.shape[1]), np.int32)
  everything[:count] = tokens
  lengths = (everything != types.PAD).sum(axis=1)
  return LiveIndex(
    index=_pack(
      layout, room, rows, padded, alive, jnp.asarray(everything), lengths
    ),
    lengths=lengths,
    hashes=_hash(everything),
    codes=padded,
    alive=alive,
    config=config,
    quantiser=quantiser,
    capacity=room,
    layout=layout,
    rows=rows,
  )


def add(
  live: LiveIndex,
  tokens: np.ndarray,
  vectors: np.ndarray,
  *,
  titles: Sequence[str] | None = None,
) -> tuple[LiveIndex, Change]:
  """Adds documents; nothing is trained and nothing compiled again.

  Args:
    live: the index; it stays as it is.
    tokens: int32[M, P].
    vectors: float32[M, D], from the encoder that made those of the others.
    titles: M titles, for the scheme 'title'.

  Returns:
    The new index, and what `update_table` needs to know.

  Raises:
    ValueError: if a document is there already, or there is no room.
  """
  count, width = len(tokens), live.index.tokens.shape[1]
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
  new_hashes = _hash(tokens)
  _check_twins(live, tokens, new_hashes)
  rows = free[:count]
  base = docids.encode(live.quantiser, vectors, live.config, titles=titles)
  last = uniqueness.next_free(live.codes, base, live.alive)
  codes, alive = live.codes.copy(), live.alive.copy()
  codes[rows] = np.concatenate([base, last[:, None]], axis=1)
  alive[rows] = True
  lengths, hashes = live.lengths.copy(), live.hashes.copy()
  lengths[rows] = (tokens != types.PAD).sum(axis=1)
  hashes[rows] = new_hashes
  live = dataclasses.replace(live, lengths=lengths, hashes=hashes)
  stored = _set_rows(
    live.index.tokens, *_padded((rows, codes.shape[0]), (tokens, 0))
  )
  return _change(live, codes, alive, stored, rows)


def delete(live: LiveIndex, documents: Sequence[int] | np.ndarray) -> LiveIndex:
  """Takes documents out of the index; their rows are free again.

  Raises:
    ValueError: if one is not in the index, or none would be left.
  """
  gone = np.asarray(documents, np.int64)
  inside = (gone >= 0) & (gone < len(live.alive))
  lives = inside & live.alive[np.where(inside, gone, 0)]
  if not lives.all():
    raise ValueError(
      f'document {gone[np.argmin(lives)]} is not in the index. '
      'Delete living rows only.'
    )
  alive = live.alive.copy()
  alive[gone] = False
  none = np.zeros(0, np.int64)
  return _change(live, live.codes, alive, live.index.tokens, none)[0]


def update_table(
  table: jax.Array,
  change: Change,
  vectors: np.ndarray,
  *,
  donate: bool = False,
) -> jax.Array:
  """Fills the rows of a node table that a change gave to somebody new.

  Args:
    table: float32[num_nodes, D].
    change: from `add`.
    vectors: float32[M, D], of the documents added, unit length.
    donate: whether the memory of `table` may be written over; it is of no use
      afterwards then, and no time goes into a copy.

  Returns:
    A new table: documents get their vectors, new inner nodes the unit mean of
    the documents below. All other rows are as they were.
  """
  size = table.shape[0]
  return (_update_in_place if donate else _update)(
    table,
    *_padded((change.documents, size), (np.asarray(vectors, np.float32), 0)),
    *_padded((change.nodes, size)),
    *_padded((change.below, size), (change.owners, size)),
  )


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
  codes, alive = arrays['codes'], arrays['alive']
  layout = docid_layout.lay_out(codes, where=alive)
  counts = np.cumsum([len(spans) for spans in layout.spans])
  rows = tuple(np.split(arrays['rows'], counts)[: len(layout.spans)])
  tokens = jnp.asarray(arrays['tokens'])
  lengths = (arrays['tokens'] != types.PAD).sum(axis=1)
  return LiveIndex(
    index=_pack(layout, room, rows, codes, alive, tokens, lengths),
    lengths=lengths,
    hashes=_hash(arrays['tokens']),
    codes=codes,
    alive=alive,
    config=stored,
    quantiser={
      name.removeprefix('quantiser/'): array
      for name, array in arrays.items()
      if name.startswith('quantiser/')
    },
    capacity=room,
    layout=layout,
    rows=rows,
  )


def _change(
  live: LiveIndex,
  codes: np.ndarray,
  alive: np.ndarray,
  tokens: jax.Array,
  added: np.ndarray,
) -> tuple[LiveIndex, Change]:
  layout = docid_layout.lay_out(codes, where=alive)
  docid_layout.check_fits(layout, live.capacity)
  rows, fresh = _number(layout, live, live.rows, codes, live.capacity)
  new, below = [], []
  for spans, own, is_new in zip(layout.spans, rows, fresh, strict=True):
    new.append(own[is_new])
    below += [layout.sorted_rows[a:b] for a, b in spans[is_new]]
  change = Change(
    documents=added.astype(np.int32),
    nodes=np.concatenate([np.zeros(0, np.int32), *new]),
    below=np.concatenate([np.zeros(0, np.int64), *below]).astype(np.int32),
    owners=np.repeat(
      np.arange(len(below)), [len(part) for part in below]
    ).astype(np.int32),
  )
  index = _pack(layout, live.capacity, rows, codes, alive, tokens, live.lengths)
  changed = dataclasses.replace(
    live, index=index, codes=codes, alive=alive, layout=layout, rows=rows
  )
  return changed, change


def _number(
  layout: docid_layout.Layout,
  before: LiveIndex | None,
  rows: tuple[np.ndarray, ...],
  codes: np.ndarray,
  room: docid_layout.Capacity,
) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
  """Gives inner nodes their rows; those that were there keep theirs.

  Returns:
    A level each: the rows, and which of them are new.
  """
  numbers, fresh = [], []
  for level, spans in enumerate(layout.spans):
    own = np.full(len(spans), -1, np.int32)
    if before is not None and level < len(rows):
      old = before.layout
      was = before.codes[old.sorted_rows[old.spans[level][:, 0]], : level + 1]
      now = codes[layout.sorted_rows[spans[:, 0]], : level + 1]
      place = _find(was, now)
      own = np.where(place >= 0, rows[level][place], -1).astype(np.int32)
    numbers.append(own)
    fresh.append(own < 0)
  used = np.zeros(room.num_nodes - room.documents, bool)
  for own in numbers:
    used[own[own >= 0] - room.documents] = True
  free = np.flatnonzero(~used).astype(np.int32) + room.documents
  start = 0
  for own, is_new in zip(numbers, fresh, strict=True):
    count = int(is_new.sum())
    own[is_new] = free[start : start + count]
    start += count
  return tuple(numbers), tuple(fresh)


def _find(was: np.ndarray, now: np.ndarray) -> np.ndarray:
  """The place in `was` of each row of `now`, -1 if it is not there."""
  place = np.full(len(now), -1)
  if len(was) and len(now):
    order = docid_layout.sort(np.concatenate([was, now]))
    twins = np.flatnonzero(order.shared == was.shape[1])
    pairs = np.stack([order.rows[twins - 1], order.rows[twins]])
    place[pairs.max(axis=0) - len(was)] = pairs.min(axis=0)
  return place


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
    codes=jnp.asarray(codes.astype(np.int32)),
    tokens=tokens,
    alive=jnp.asarray(alive),
    mean_length=jnp.float32(lengths[alive].mean()),
  )


def _room(
  layout: docid_layout.Layout,
  config: docids.DocidConfig,
  count: int,
  capacity: int,
) -> docid_layout.Capacity:
  """Room at every level for as many documents, named as those so far."""
  tight = docid_layout.tight(layout)
  growth = 1.25 * capacity / count
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
  """A number for each row of tokens, int64[n]."""
  rng = np.random.default_rng(0)
  weights = rng.integers(1, 1 << 62, tokens.shape[1])
  return (tokens * weights).sum(axis=1)


def _check_twins(
  live: LiveIndex, tokens: np.ndarray, hashes: np.ndarray
) -> None:
  """Raises a ValueError if a document is in the index, or twice among new."""
  order = np.argsort(hashes, kind='stable')
  ordered = hashes[order]
  pairs = [
    (order[place + 1], order[place], tokens, 'among the new ones')
    for place in np.flatnonzero(ordered[1:] == ordered[:-1])
  ]
  place = np.minimum(np.searchsorted(ordered, live.hashes), len(order) - 1)
  known = np.flatnonzero((ordered[place] == live.hashes) & live.alive)
  if len(known):
    stored = np.asarray(live.index.tokens)
    pairs += [(order[place[k]], k, stored, 'in the index') for k in known]
  for own, other, others, where in pairs:
    if (tokens[own] == others[other]).all():
      raise ValueError(
        f'document {own} is there already, as row {other} {where}. '
        'Leave it out.'
      )


def _padded(*pairs: tuple[np.ndarray, Any]) -> list[jax.Array]:
  """Arrays filled up to a power of two, so that few shapes are compiled."""
  size = max(16, 1 << (max(len(pairs[0][0]) - 1, 1)).bit_length())
  padded = []
  for array, fill in pairs:
    whole = np.full((size, *array.shape[1:]), fill, array.dtype)
    whole[: len(array)] = array
    padded.append(jnp.asarray(whole))
  return padded


@jax.jit
def _set_rows(x: jax.Array, rows: jax.Array, values: jax.Array) -> jax.Array:
  return x.at[rows].set(values, mode='drop')


def _fill(table, documents, vectors, nodes, below, owners):
  table = table.at[documents].set(vectors, mode='drop')
  rows = table.at[below].get(mode='fill', fill_value=0)
  sums = jax.ops.segment_sum(rows, owners, len(nodes))
  square = (sums * sums).sum(-1, keepdims=True)
  means = sums * jax.lax.rsqrt(jnp.maximum(square, 1e-12))
  return table.at[nodes].set(means, mode='drop')


_update = jax.jit(_fill)
_update_in_place = jax.jit(_fill, donate_argnums=0)
