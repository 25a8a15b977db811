"""Smaller node tables after changes, against whole tables."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from rag_jax.components import shared_rows
from rag_jax.index import docids, live, node_table, slot_change
from rag_jax.index import index as indexes
from rag_jax.ops import node_slots

COUNT, WIDTH = 60, 6
CONFIG = docids.DocidConfig(
  scheme='residual_kmeans', codebook_size=8, num_levels=3
)


def documents(count, seed):
  rng = np.random.default_rng(seed)
  vectors = rng.normal(size=(count, WIDTH)).astype(np.float32)
  vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
  return rng.integers(1, 1000, (count, 5)), vectors


def with_slots(index, limits):
  return dataclasses.replace(
    index, slots=node_slots.of_trie(index.trie, *limits)
  )


def whole(decoder, index):
  """A row for every node."""
  rows = jnp.arange(index.trie.num_nodes)
  vectors = jax.jit(shared_rows.node_vectors, static_argnames='unit')
  return vectors(decoder, index.trie, index.slots, rows, unit=True)


def own_rows(index, table):
  return {
    row: np.asarray(table[slot])
    for row, slot in enumerate(np.asarray(index.slots.rows))
    if slot >= 0
  }


def test_rows_are_those_of_a_whole_table(monkeypatch):
  monkeypatch.setattr(node_table, 'SAMPLED', 1)  # of few of the documents
  limits = 2, 6
  tokens, vectors = documents(COUNT, 0)
  index, quantiser = indexes.build(tokens, vectors, CONFIG)
  index = with_slots(index, limits)
  init = jax.jit(shared_rows.init, static_argnames=('levels', 'unit'))
  table, books = init(
    index.trie, index.slots, vectors, levels=limits[0], unit=True
  )
  rng = np.random.default_rng(1)
  table += jnp.asarray(rng.normal(size=table.shape), jnp.float32)
  decoder = {'table': table} | books
  before = live.from_index(index, quantiser, CONFIG, capacity=150)
  before = dataclasses.replace(before, index=with_slots(before.index, limits))
  moved = slot_change.move(table, index, before)
  decoder |= {'table': moved} | slot_change.widened(decoder, before.index)
  # Documents keep their vectors.
  of_documents = whole({'table': table} | books, index)[:COUNT]
  kept = whole(decoder, before.index)[:COUNT]
  np.testing.assert_allclose(kept, of_documents, atol=1e-6)
  more, added = documents(40, 2)
  steps = [
    lambda x: (*live.add(x, more, added), added),
    lambda x: (*live.delete(x, np.arange(5, 45)), None),
  ]
  gains, losses = 0, 0
  for step in steps:
    after, change, new = step(before)
    after = dataclasses.replace(after, index=with_slots(after.index, limits))
    found = slot_change.update(
      decoder, before.index, after.index, change, new, unit=True
    )
    wanted = node_table.update(whole(decoder, before.index), change, new)
    for row, vector in own_rows(after.index, found).items():
      np.testing.assert_allclose(vector, wanted[row], atol=1e-5)
    assert len(found) == after.index.slots.count
    a, b = (set(own_rows(x.index, np.zeros(999))) for x in (before, after))
    gains, losses = gains + len(b - a), losses + len(a - b)
    decoder |= {'table': found}
    before = after
  assert gains and losses


def test_a_table_grows_by_a_quarter():
  assert slot_change.room(100, 0) == 189
  assert slot_change.room(50, 189) == 189
