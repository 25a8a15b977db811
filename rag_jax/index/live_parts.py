"""A live index: the arrays for compiled functions, and those of the host."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from rag_jax import types
from rag_jax.index import docids, further, growth, live_checks, node_table
from rag_jax.index import index as indexes
from rag_jax.ops import docid_layout, docid_order
from rag_jax.ops import trie as tries


@dataclasses.dataclass(frozen=True, kw_only=True)
class LiveIndex:
  """An index with spare capacity, and the host arrays needed to change it."""

  index: indexes.Index  # for compiled functions; its N is the capacity
  codes: np.ndarray  # int32[N, L]
  alive: np.ndarray  # bool[N], True = the row holds a document
  further: further.Further | None  # further docids, on the host; None = none
  config: docids.DocidConfig
  quantiser: docids.Quantiser
  capacity: docid_layout.Capacity
  # sorted docids of the documents in the index; rows are leaves of the trie
  order: docid_order.Order
  spans: tuple[np.ndarray, ...]  # start and end in `order` of each inner node
  rows: tuple[np.ndarray, ...]  # row of each inner node in the node table
  lengths: np.ndarray  # int64[N], tokens of each document
  hashes: docid_order.Order  # sorted hashes of the documents' tokens

  @property
  def count(self) -> int:
    """Number of documents in the index."""
    return int(self.alive.sum())


def assemble(
  tokens: np.ndarray,
  codes: np.ndarray,
  alive: np.ndarray,
  config: docids.DocidConfig,
  quantiser: docids.Quantiser,
  capacity: docid_layout.Capacity,
  rows: np.ndarray | None = None,
  more: further.Further | None = None,
) -> LiveIndex:
  """Builds a live index from its parts.

  Args:
    tokens: int32[N, P], 0 = padding.
    codes: int32[N, L]; arbitrary in rows without a document.
    alive: bool[N], True = the row holds a document.
    config: the docid scheme.
    quantiser: its quantiser.
    capacity: of the trie, for all docids of N documents.
    rows: int32[n], rows of the inner nodes in the node table, level by level;
      None assigns new rows.
    more: further docids; `where` is False in rows without a document.
  """
  alive_rows = np.flatnonzero(alive)
  leaves = np.flatnonzero(further.leaf_where(alive, more))
  order = docid_order.sort(
    further.leaf_codes(codes, more)[leaves],
    rows=leaves,
    bits=docid_order.widths(capacity.num_values),
  )
  layout = lay_out(order, capacity)
  if rows is None:
    node_rows = node_table.assign_rows(order, layout.spans, None, capacity)[0]
  else:
    counts = np.cumsum([len(spans) for spans in layout.spans])
    node_rows = tuple(np.split(rows, counts)[: len(counts)])
  lengths = (tokens != types.PAD).sum(axis=1)
  return LiveIndex(
    index=pack(
      layout,
      capacity,
      node_rows,
      codes,
      alive,
      more,
      jnp.asarray(tokens),
      lengths,
    ),
    codes=codes,
    alive=alive,
    further=more,
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


def with_capacity(
  tokens: np.ndarray,
  codes: np.ndarray,
  alive: np.ndarray,
  config: docids.DocidConfig,
  quantiser: docids.Quantiser,
  capacity: int,
  more: further.Further | None = None,
) -> LiveIndex:
  """A live index of documents with docids, in the same rows."""
  layout = docid_layout.lay_out(
    further.leaf_codes(codes, more), where=further.leaf_where(alive, more)
  )
  spare = capacity - len(codes)
  slots = capacity
  if more is not None:
    slots *= 1 + len(more.where)
    more = further.widen(more, spare)
  return assemble(
    np.pad(np.asarray(tokens, np.int32), ((0, spare), (0, 0))),
    np.pad(codes.astype(np.int32), ((0, spare), (0, 0))),
    np.pad(alive, (0, spare)),
    config,
    quantiser,
    growth.plan_capacity(layout, config, quantiser, slots),
    more=more,
  )


def lay_out(
  order: docid_order.Order, capacity: docid_layout.Capacity
) -> docid_layout.Layout:
  """The nodes of a trie of this capacity; `NoRoom` if they do not fit."""
  layout = docid_layout.from_order(
    order, num_values=capacity.num_values, num_documents=capacity.documents
  )
  with live_checks.resize_as_remedy():
    docid_layout.check_fits(layout, capacity)
  return layout


def pack(
  layout: docid_layout.Layout,
  capacity: docid_layout.Capacity,
  rows: tuple[np.ndarray, ...],
  codes: np.ndarray,
  alive: np.ndarray,
  more: further.Further | None,
  tokens: jax.Array,
  lengths: np.ndarray,
) -> indexes.Index:
  """The arrays for compiled functions."""
  return indexes.Index(
    trie=tries.pack(layout, capacity=capacity, rows=rows),
    codes=jnp.asarray(codes),
    tokens=tokens,
    alive=jnp.asarray(alive),
    mean_length=jnp.float32(lengths[alive].mean()),
    further=jax.tree.map(jnp.asarray, more),
  )
