"""A live index whose documents have several docids."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax.components import query_encoder
from rag_jax.index import (
  docids,
  further,
  growth,
  live,
  live_store,
  node_table,
)
from rag_jax.index import index as indexes
from rag_jax.ops import beam, beam_ends
from rag_jax.ops import trie as tries

WIDTH, COUNT, MOST = 6, 30, 2
CONFIG = docids.DocidConfig(branching=3, leaf_size=3, further=MOST)


def corpus(count, seed):
  rng = np.random.default_rng(seed)
  tokens = rng.integers(1, 1000, (count, 5)).astype(np.int32)
  vectors = rng.normal(size=(count * (MOST + 1), WIDTH)).astype(np.float32)
  vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
  own, keys = vectors[:count], vectors[count:].reshape(MOST, count, WIDTH)
  where = rng.random((MOST, count)) < 0.7
  return tokens, own, keys, where


@functools.cache
def trained():
  """An index, its quantiser and its node table of unit means."""
  tokens, vectors, keys, where = corpus(COUNT, 0)
  index, quantiser = indexes.build(tokens, vectors, CONFIG)
  codes = np.asarray(index.codes, np.int32)
  places = np.arange(MOST * COUNT).reshape(MOST, COUNT)
  flat = keys.reshape(-1, WIDTH)
  built = further.build(
    codes,
    docids.encode(quantiser, flat, CONFIG),
    np.zeros((len(flat), 1), np.int32),
    np.where(where, places, -1),
  )
  index = indexes.with_further(index, built)
  every = np.concatenate(
    [vectors, np.where(where[..., None], keys, 0).reshape(-1, WIDTH)]
  )
  table = tries.sum_below(index.trie, jnp.asarray(every))
  return index, quantiser, query_encoder.normalise(table)


def step_fn(params, cache, frontier):
  table, query = params
  return 9 * jnp.einsum('bd,bkcd->bkc', query, table[frontier.children]), cache


@jax.jit
def search(table, index, query):
  found = beam.search(
    (table, query),
    (),
    index.trie,
    step_fn=step_fn,
    batch_size=len(query),
    beam_size=150,
  )
  rows = found.documents % len(index.alive)
  return beam_ends.merge(dataclasses.replace(found, documents=rows), 100)


def probabilities(table, index, query):
  """Document -> probability, of each query."""
  found = search(table, index, jnp.asarray(query))
  return [
    dict(zip(n[w].tolist(), np.exp(s[w]).tolist(), strict=True))
    for n, s, w in zip(
      *map(np.asarray, (found.documents, found.scores, found.where)),
      strict=True,
    )
  ]


def assert_same(ours, theirs, **options):
  for own, other in zip(ours, theirs, strict=True):
    assert set(own) == set(other)
    for row, value in own.items():
      assert value == pytest.approx(other[row], **options)


QUERY = corpus(4, 9)[1]


@pytest.fixture(scope='module')
def grown():
  """A live index, its table, and the same with five documents more."""
  index, quantiser, table = trained()
  ours = live.from_index(index, quantiser, CONFIG, capacity=40)
  moved = growth.move(table, index, ours)
  tokens, vectors, keys, where = corpus(5, 1)
  after, change = live.add(ours, tokens, vectors, keys=(keys, where))
  both = np.concatenate([vectors, keys[where]])
  return ours, moved, after, node_table.update(moved, change, both), change


def test_more_capacity_changes_no_probability(grown):
  index, _, table = trained()
  ours, moved, *_ = grown
  expected = probabilities(table, index, QUERY)
  assert len(expected[0]) == COUNT
  assert_same(probabilities(moved, ours.index, QUERY), expected, rel=1e-4)
  larger = live.resize(ours, 70)
  again = growth.move(moved, ours, larger)
  assert_same(probabilities(again, larger.index, QUERY), expected, rel=1e-4)
  assert larger.index.further.where.shape == (MOST, 70)
  with pytest.raises(ValueError, match='must hold the same documents'):
    growth.move(grown[3], grown[2], ours)


def test_added_documents_are_found_by_each_of_their_docids(grown):
  *_, after, table, change = grown
  tokens, vectors, keys, where = corpus(5, 1)
  rows = change.documents[:5]
  assert rows.tolist() == [30, 31, 32, 33, 34]
  np.testing.assert_array_equal(after.index.tokens[rows], tokens)
  np.testing.assert_array_equal(after.further.where[:, rows], where)
  assert len(change.documents) == 5 + where.sum()
  for f, n in np.argwhere(where):
    leaf = (f + 1) * 40 + rows[n]
    np.testing.assert_allclose(table[leaf], keys[f, n], atol=1e-6)
    assert leaf in np.asarray(after.index.trie.documents)
  codes = after.further.codes[:, rows]
  wanted = docids.encode(after.quantiser, keys[where], CONFIG)
  np.testing.assert_array_equal(codes[where][:, :-1], wanted)
  found = probabilities(table, after.index, keys[where])
  for (_, n), own in zip(np.argwhere(where), found, strict=True):
    assert rows[n] in own
  sums = [sum(own.values()) for own in found]
  np.testing.assert_allclose(sums, 1, rtol=1e-4)


def test_a_deleted_document_loses_all_its_docids(grown):
  _, moved, after, table, change = grown
  gone = np.array([2, *change.documents[:5]])
  less, taken = live.delete(after, gone)
  leaves = {int(f * 40 + n) for f in range(MOST + 1) for n in gone}
  there = np.asarray(less.index.trie.documents)[: len(less.order.rows)]
  assert not leaves & set(there.tolist())
  assert not less.further.where[:, gone].any()
  assert after.further.where[:, gone].any()  # the input stays
  found = probabilities(node_table.update(table, taken), less.index, QUERY)
  assert set(found[0]) == set(range(COUNT)) - {2}
  np.testing.assert_allclose([sum(own.values()) for own in found], 1, rtol=1e-4)
  # As if it had never been there: the same trie and nodes.
  before = np.asarray(grown[0].index.alive) & (np.arange(40) != 2)
  built = indexes.from_codes(
    np.asarray(less.index.tokens),
    less.codes,
    alive=before,
    further=less.further,
  )
  assert built.trie.num_documents == 40 * (MOST + 1)
  assert sorted(there.tolist()) == sorted(
    np.asarray(built.trie.documents)[: len(there)].tolist()
  )
  # The rows of a deleted document are free, with all its docids.
  tokens, vectors, *_ = corpus(3, 2)
  again, _ = live.add(less, tokens, vectors)
  assert not again.further.where[:, 2].any()
  assert again.alive[2]


def test_a_file_keeps_all_docids(grown, tmp_path):
  *_, after, table, _ = grown
  live_store.save(after, tmp_path / 'live.npz', {'table': np.asarray(table)})
  found, extra = live_store.load(tmp_path / 'live.npz', CONFIG)
  np.testing.assert_array_equal(found.further.where, after.further.where)
  assert_same(
    probabilities(jnp.asarray(extra['table']), found.index, QUERY),
    probabilities(table, after.index, QUERY),
    rel=1e-6,
  )
  jax.tree.map(np.testing.assert_array_equal, found.index, after.index)


def test_keys_must_fit_the_index(grown):
  ours = grown[0]
  tokens, vectors, keys, where = corpus(5, 1)
  with pytest.raises(ValueError, match=r'keys must be vectors \[2, 5, 6\]'):
    live.add(ours, tokens, vectors, keys=(keys[:1], where[:1]))
  bare, quantiser = indexes.build(tokens, vectors, CONFIG)
  one = live.from_index(bare, quantiser, CONFIG, capacity=20)
  new = corpus(5, 3)
  with pytest.raises(ValueError, match='keys must be None'):
    live.add(one, new[0], new[1], keys=new[2:])
