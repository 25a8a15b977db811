"""An index that lives: documents come and go while it is searched.

All arrays have room to spare, so that what is compiled stays compiled. New
documents get their docids from the frozen quantiser, and rows of the node
table that nobody uses. Documents and nodes that were there keep their rows, and
what training made of them; only a node with new documents below it turns to
them by as much as its mean does. Every change gives a new `LiveIndex` and
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
from rag_jax.ops import docid_layout, docid_order
from rag_jax.ops import trie as tries

HASH_BITS = 63
SAMPLED = 8192  # documents that tell how much those below nodes agree


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Change:
  """Rows of the node table that a change has to do with."""

  documents: np.ndarray  # int32[M], rows of the documents added, in order
  nodes: np.ndarray  # int32[n], rows of the inner nodes that are new
  below: np.ndarray  # int32[m], documents below these, node after node
  owners: np.ndarray  # int32[m], which of `nodes` each is below
  joined: np.ndarray  # int32[j], inner nodes that were there, documents added
  counts: np.ndarray  # int32[j], documents that were below each before
  newcomers: np.ndarray  # int32[p], documents added that are below `joined`
  newcomer_owners: np.ndarray  # int32[p], which of `joined` each is below
  sample: np.ndarray  # int32[j, s], some of these, -1 = no more


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
) -> tuple[LiveIndex, Change]:
  """Adds documents; nothing is trained and nothing compiled again.

  Args:
    live: the index; it stays as it is.
    tokens: int32[M, P].
    vectors: float32[M, D], from the encoder that made those of the others.
    titles: M titles, for the scheme 'title'.
    donate: whether the memory of the documents' tokens may be written over;
      `live` is of no use afterwards then, and no time goes into a copy.

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
  padded = _padded((rows, len(everything)), (tokens, 0))
  changed = dataclasses.replace(
    live,
    index=dataclasses.replace(live.index, tokens=write(everything, *padded)),
    codes=codes,
    alive=alive,
    order=docid_order.insert(live.order, new, rows),
    lengths=lengths,
    hashes=docid_order.insert(live.hashes, hashes, rows),
  )
  return _follow(live, changed, rows)


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
  if len(np.unique(gone)) == live.count:
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
  return _follow(live, changed, np.zeros(0, np.int64))[0]


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
    the documents below. An inner node that was there keeps its length and turns
    to the mean of n of its own direction and its new documents, n how many
    documents were below times their mean cosine with it: untrained, it is the
    unit mean of all below, as in an index built with them. All other rows are
    as they were.
  """
  size = table.shape[0]
  sample = np.where(change.sample < 0, size, change.sample)
  return (_update_in_place if donate else _update)(
    table,
    _padded((change.documents, size), (np.asarray(vectors, np.float32), 0)),
    _padded((change.nodes, size)),
    _padded((change.below, size), (change.owners, size)),
    _padded((change.joined, size), (change.counts, 0), (sample, size)),
    _padded((change.newcomers, size), (change.newcomer_owners, size)),
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
    numbers = _number(order, layout.spans, None, room)[0]
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
  before: LiveIndex, after: LiveIndex, added: np.ndarray
) -> tuple[LiveIndex, Change]:
  """Makes the rest of an index agree with its new order of documents."""
  layout = _lay_out(after.order, after.capacity)
  rows, places = _number(after.order, layout.spans, before, after.capacity)
  is_added = np.zeros(after.capacity.documents, bool)
  is_added[added] = True
  arrived = np.flatnonzero(is_added[after.order.rows])  # places in the order
  fresh, below, joined, newcomers = [], [], [], []
  were = np.zeros((0, 2), np.int64)  # spans of `joined` in the order before
  for level, (spans, own, place) in enumerate(
    zip(layout.spans, rows, places, strict=True)
  ):
    fresh.append(own[place < 0])
    below.append(_inside(after.order, spans[place < 0]))
    above = np.searchsorted(spans[:, 0], arrived, side='right') - 1
    known = (above >= 0) & (arrived < spans[above, 1]) & (place[above] >= 0)
    nodes, owners = np.unique(above[known], return_inverse=True)
    joined.append(own[nodes])
    newcomers.append((after.order.rows[arrived[known]], owners))
    if len(nodes):
      were = np.concatenate([were, before.spans[level][place[nodes]]])
  all_below, owners = _numbered(below, fresh)
  all_newcomers, newcomer_owners = _numbered(newcomers, joined)
  change = Change(
    documents=added.astype(np.int32),
    nodes=_concatenated(fresh),
    below=all_below,
    owners=owners,
    joined=_concatenated(joined),
    counts=(were[:, 1] - were[:, 0]).astype(np.int32),
    newcomers=all_newcomers,
    newcomer_owners=newcomer_owners,
    sample=_sample(before.order, were),
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
  changed = dataclasses.replace(
    after, index=index, spans=layout.spans, rows=rows
  )
  return changed, change


def _lay_out(
  order: docid_order.Order, room: docid_layout.Capacity
) -> docid_layout.Layout:
  layout = docid_layout.from_order(
    order, num_values=room.num_values, num_documents=room.documents
  )
  docid_layout.check_fits(layout, room)
  return layout


def _number(
  order: docid_order.Order,
  spans: tuple[np.ndarray, ...],
  before: LiveIndex | None,
  room: docid_layout.Capacity,
) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
  """Gives inner nodes their rows; those that were there keep theirs.

  Returns:
    A level each: the rows, and which node of the level each was before, -1 for
    none.
  """
  numbers, places = [], []
  for level, own_spans in enumerate(spans):
    own = np.full(len(own_spans), -1, np.int32)
    place = np.full(len(own_spans), -1)
    if before is not None and level < len(before.spans):
      was = before.order.prefixes(level + 1, before.spans[level][:, 0])
      now = order.prefixes(level + 1, own_spans[:, 0])
      begin, end = docid_order.find(was, now)
      place = np.where(end > begin, begin, -1)
      own[place >= 0] = before.rows[level][place[place >= 0]]
    numbers.append(own)
    places.append(place)
  used = np.zeros(room.num_nodes - room.documents, bool)
  for own in numbers:
    used[own[own >= 0] - room.documents] = True
  free = np.flatnonzero(~used).astype(np.int32) + room.documents
  start = 0
  for own in numbers:
    count = int((own < 0).sum())
    own[own < 0] = free[start : start + count]
    start += count
  return tuple(numbers), tuple(places)


def _inside(
  order: docid_order.Order, spans: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Documents in each span of an order, and which span each is in."""
  sizes = spans[:, 1] - spans[:, 0]
  owners = np.repeat(np.arange(len(spans)), sizes)
  places = np.arange(len(owners)) + np.repeat(
    spans[:, 0] - np.cumsum(sizes) + sizes, sizes
  )
  return order.rows[places], owners


def _sample(order: docid_order.Order, spans: np.ndarray) -> np.ndarray:
  """Documents in each span, evenly spread, int32[n, s]; -1 = no more."""
  most = np.clip(SAMPLED // _padded_size(len(spans)), 4, 64)
  sizes = (spans[:, 1] - spans[:, 0])[:, None]
  taken = np.minimum(sizes, most)
  number = np.arange(most)
  places = spans[:, :1] + (2 * number + 1) * sizes // (2 * taken)
  places = np.minimum(places, len(order.rows) - 1)
  return np.where(number < taken, order.rows[places], -1).astype(np.int32)


def _numbered(
  parts: list[tuple[np.ndarray, np.ndarray]], nodes: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
  """Documents and their owners, these numbered over the nodes of all levels."""
  starts = np.cumsum([0, *map(len, nodes)])
  owners = [own + start for (_, own), start in zip(parts, starts, strict=False)]
  return _concatenated([part for part, _ in parts]), _concatenated(owners)


def _concatenated(parts: list[np.ndarray]) -> np.ndarray:
  """One int32 array; of no parts, an empty one."""
  if not parts:
    return np.zeros(0, np.int32)
  return np.concatenate(parts).astype(np.int32)


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


def _padded(*pairs: tuple[np.ndarray, Any]) -> list[jax.Array]:
  """Arrays filled up to a power of two, so that few shapes are compiled."""
  size = _padded_size(len(pairs[0][0]))
  padded = []
  for array, fill in pairs:
    whole = np.full((size, *array.shape[1:]), fill, array.dtype)
    whole[: len(array)] = array
    padded.append(jnp.asarray(whole))
  return padded


def _padded_size(count: int) -> int:
  return max(16, 1 << max(count - 1, 1).bit_length())


def _put(x: jax.Array, rows: jax.Array, values: jax.Array) -> jax.Array:
  return x.at[rows].set(values, mode='drop')


def _fill(table, added, nodes, below, joined, newcomers):
  documents, vectors = added
  table = table.at[documents].set(vectors, mode='drop')
  (nodes,) = nodes
  means = _unit(_sums(table, *below, len(nodes)))
  table = table.at[nodes].set(means, mode='drop')
  joined, counts, sample = joined
  old = _get(table, joined)
  own = _unit(old)
  some = _get(table, sample)  # [j, s, D]
  cosines = jnp.einsum('jsd,jd->js', some, own)
  cosines *= jax.lax.rsqrt(jnp.maximum((some * some).sum(-1), 1e-12))
  cosine = cosines.sum(-1) / jnp.maximum((sample < len(table)).sum(-1), 1)
  mass = counts * jnp.maximum(cosine, 0)
  turned = _unit(mass[:, None] * own + _sums(table, *newcomers, len(joined)))
  turned *= jnp.linalg.norm(old, axis=-1, keepdims=True)
  return table.at[joined].set(turned, mode='drop')


def _sums(table, rows, owners, count):
  return jax.ops.segment_sum(_get(table, rows), owners, count)


def _get(table, rows):
  """Rows of a table; zeros for those past its end, which are padding."""
  return table.at[rows].get(mode='fill', fill_value=0)


def _unit(x):
  square = (x * x).sum(-1, keepdims=True)
  return x * jax.lax.rsqrt(jnp.maximum(square, 1e-12))


_set_rows = jax.jit(_put)
_write_rows = jax.jit(_put, donate_argnums=0)
_update = jax.jit(_fill)
_update_in_place = jax.jit(_fill, donate_argnums=0)
