"""Live index: added documents are retrieved, deleted documents are not."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax.index import docids, live, live_store, node_table
from rag_jax.ops import beam
from rag_jax.ops import trie as tries

WIDTH = 8
SCHEMES = ('hierarchical_kmeans', 'string')


def corpus(count, seed=0):
  rng = np.random.default_rng(seed)
  vectors = rng.normal(size=(count, WIDTH)).astype(np.float32)
  vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
  tokens = rng.integers(1, 1000, (count, 6)).astype(np.int32)
  return tokens, vectors


def make(scheme='residual_kmeans', count=60, capacity=100):
  config = docids.DocidConfig(
    scheme=scheme,
    branching=4,
    codebook_size=4,
    leaf_size=4,
    num_levels=3,
    steps=5,
  )
  tokens, vectors = corpus(count)
  index = live.build(tokens, vectors, config, capacity=capacity)
  all_vectors = np.zeros((capacity, WIDTH), np.float32)
  all_vectors[:count] = vectors
  return index, table_of(index, all_vectors), all_vectors


def table_of(index, vectors):
  sums = np.asarray(tries.sum_below(index.index.trie, jnp.asarray(vectors)))
  norm = np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-6)
  return jnp.asarray(sums / norm)


@pytest.fixture(scope='module')
def search():
  """A compiled zero-shot search, and a list with an entry per tracing."""
  traced = []

  def step_fn(params, cache, frontier):
    table, query = params
    ends = table[frontier.children]
    return 10 * jnp.einsum('bd,bkcd->bkc', query, ends), cache

  @jax.jit
  def run(table, index, query):
    traced.append(None)
    return beam.search(
      (table, query),
      (),
      index.trie,
      step_fn=step_fn,
      batch_size=query.shape[0],
      beam_size=70,
      scoring='absolute',
    )

  return run, traced


def retrieved(run, table, index, vectors):
  result = run(table, index.index, jnp.asarray(vectors))
  documents, where = map(np.asarray, (result.documents, result.where))
  np.testing.assert_array_equal(
    result.codes[where], index.codes[documents[where]]
  )
  return [d[w].tolist() for d, w in zip(documents, where, strict=True)]


@pytest.mark.parametrize('scheme', SCHEMES)
def test_added_documents_are_retrieved_and_deleted_ones_are_not(scheme, search):
  run, traced = search
  index, table, vectors = make(scheme)
  queries = np.resize(vectors[:60], (4, WIDTH))
  retrieved(run, table, index, queries)
  before = len(traced)
  tokens, new = corpus(4, seed=1)
  grown, change = live.add(index, tokens, new)
  table = node_table.update(table, change, new)
  for row, documents in zip(
    change.documents, retrieved(run, table, grown, new), strict=True
  ):
    assert documents[0] == row
    assert len(documents) == 64
  assert index.count == 60  # the old index is unchanged
  shrunk, gone = live.delete(grown, [change.documents[1], 5])
  table = node_table.update(table, gone)
  for documents in retrieved(run, table, shrunk, new):
    assert len(documents) == 62
    assert not {int(change.documents[1]), 5} & set(documents)
  assert len(traced) == before
  again, change = live.add(shrunk, tokens[1:2], new[1:2])
  table = node_table.update(table, change, new[1:2])
  assert retrieved(run, table, again, new)[1][0] == change.documents[0]


def test_new_nodes_get_the_mean_below_and_unaffected_rows_are_unchanged():
  index, table, vectors = make(count=40, capacity=200)
  table = table.at[:].add(0.01)  # stands for training
  tokens, new = corpus(80, seed=2)
  grown, change = live.add(index, tokens, new)
  after = np.asarray(node_table.update(table, change, new))
  affected = np.concatenate([change.documents, change.nodes, change.rotated])
  rest = np.setdiff1d(np.arange(len(table)), affected)
  np.testing.assert_array_equal(after[rest], np.asarray(table)[rest])
  assert np.isin(rest, np.concatenate(grown.rows)).any()  # some inner nodes
  np.testing.assert_allclose(after[change.documents], new)
  assert len(change.nodes) > 0
  for place, node in enumerate(change.nodes):
    rows = after[change.below[change.owners == place]]
    mean = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).sum(0)
    np.testing.assert_allclose(
      after[node], mean / np.linalg.norm(mean), atol=1e-5
    )
  vectors[change.documents] = new
  whole = np.asarray(table_of(grown, vectors))
  np.testing.assert_allclose(after[change.nodes], whole[change.nodes], atol=0.2)


def unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def means_below(index, table):
  """The mean direction of the documents below each node, by its row."""
  return {
    row: unit(unit(table[index.order.rows[begin:end]]).sum(axis=0))
    for spans, rows in zip(index.spans, index.rows, strict=True)
    for (begin, end), row in zip(spans, rows.tolist(), strict=True)
  }


def changes(index, table):
  """Adds and deletes few and many documents.

  Yields:
    The change, the indexes before and after, and the tables before and after.
  """
  for seed, count, share in ((2, 80, 0.5), (3, 1, 0), (4, 30, 0.8)):
    tokens, new = corpus(count, seed=seed)
    grown, change = live.add(index, tokens, new)
    after = node_table.update(table, change, new)
    yield change, index, grown, np.asarray(table), np.asarray(after)
    gone = np.random.default_rng(seed).permutation(np.flatnonzero(grown.alive))
    gone = gone[: int(share * grown.count)]
    index, change = live.delete(grown, gone)
    table = node_table.update(after, change)
    yield change, grown, index, np.asarray(after), np.asarray(table)


@pytest.mark.parametrize('scheme', SCHEMES)
def test_untrained_nodes_stay_the_means_of_the_documents_below(scheme):
  index, table, _ = make(scheme, count=40, capacity=200)
  rotated = 0
  for change, _, after, was, now in changes(index, table):
    means = means_below(after, now)
    rows = list(means)
    np.testing.assert_allclose(now[rows], list(means.values()), atol=1e-4)
    rotated += np.abs(now - was)[change.rotated].max(initial=0) > 0.1
  assert rotated > 2


def test_means_are_approximated_from_a_sample_of_documents(monkeypatch):
  monkeypatch.setattr(node_table, 'SAMPLED', 1)  # four documents per node
  index, table, _ = make('hierarchical_kmeans', count=40, capacity=200)
  better = []
  for change, _, after, was, now in changes(index, table):
    means = means_below(after, now)
    for row in change.rotated.tolist():
      new, old = unit(now[row]) @ means[row], unit(was[row]) @ means[row]
      assert new > 0.8
      better.append(new >= old - 1e-3)
  assert len(better) > 30
  assert np.mean(better) > 0.9


@pytest.mark.parametrize('factor', [3.0, -1.0])
def test_trained_nodes_keep_their_norm_and_angle_to_the_mean(factor):
  index, table, _ = make(count=60, capacity=200)
  noise = np.random.default_rng(0).normal(size=table.shape)
  trained = np.array(table + 0.2 * noise, np.float32)
  trained[200:] *= factor  # nodes
  for change, before, after, was, now in changes(index, jnp.asarray(trained)):
    one, other = means_below(before, now), means_below(after, now)
    for row in change.rotated.tolist():
      lengths = [np.linalg.norm(table[row]) for table in (was, now)]
      angles = [was[row] @ one[row], now[row] @ other[row]]
      np.testing.assert_allclose(*lengths, rtol=1e-3)
      np.testing.assert_allclose(*angles, atol=2e-3 * float(lengths[0]))


def test_adding_and_deleting_the_same_documents_restores_the_nodes():
  index, table, _ = make(count=60, capacity=100)
  noise = np.random.default_rng(0).normal(size=table.shape)
  table = start = table + 0.2 * jnp.asarray(noise, jnp.float32)
  tokens, new = corpus(10, seed=1)
  for _ in range(5):
    grown, change = live.add(index, tokens, new)
    table = node_table.update(table, change, new)
    index, change = live.delete(grown, change.documents)
    table = node_table.update(table, change)
  kept = np.concatenate(index.rows)
  np.testing.assert_allclose(table[kept], start[kept], atol=1e-3)


@pytest.mark.parametrize('dtype', [jnp.float16, jnp.bfloat16])
def test_zero_rows_and_half_precision_stay_finite(dtype):
  index, table, _ = make(count=60, capacity=100)
  tokens, new = corpus(5, seed=1)
  grown, change = live.add(index, tokens, new)
  empty = change.rotated[0]
  table = table.at[empty].set(0).astype(dtype)
  table = node_table.update(table, change, new)
  assert table.dtype == dtype
  assert bool(jnp.isfinite(table).all())
  assert float(jnp.linalg.norm(table[empty].astype(jnp.float32))) > 0.9
  _, change = live.delete(grown, change.documents)
  assert bool(jnp.isfinite(node_table.update(table, change)).all())


def rows_by_prefix(index):
  """Row of each inner node by its prefix."""
  found = {}
  for level, spans in enumerate(index.spans):
    firsts = index.codes[index.order.rows[spans[:, 0]], : level + 1]
    for prefix, row in zip(firsts.tolist(), index.rows[level], strict=True):
      found[tuple(prefix)] = int(row)
  return found


def below(change):
  """Pairs of a rotated node and a document added or deleted below it."""
  nodes = change.rotated[change.changed_owners].tolist()
  return set(zip(nodes, change.changed.tolist(), strict=True))


# Docids that take one, two and three 64-bit words.
@pytest.mark.parametrize('branching, levels', [(4, 3), (250, 10), (3000, 14)])
def test_many_changes_equal_a_new_build(branching, levels):
  rng = np.random.default_rng(levels)
  config = docids.DocidConfig(
    scheme='random', codebook_size=branching, num_levels=levels
  )
  tokens, vectors = corpus(400)
  vectors = vectors[rng.integers(0, 300, 400)]  # some share all codes but one
  index = live.build(tokens[:120], vectors[:120], config, capacity=200)
  start = 120
  for step in range(12):
    before = rows_by_prefix(index)
    if step % 2:
      living = np.flatnonzero(index.alive)
      changed = rng.permutation(living)[:30]
      index, change = live.delete(index, changed)
      assert not len(change.nodes)
    else:
      count = min(int(rng.integers(1, 60)), 200 - index.count)
      new = slice(start, start + count)
      start += count
      index, change = live.add(
        index, tokens[new], vectors[new], donate=step > 5
      )
      fresh = set(rows_by_prefix(index).values()) - set(before.values())
      assert fresh == set(change.nodes.tolist())
      changed = change.documents
    after = rows_by_prefix(index)
    assert below(change) == {
      (before[prefix], document)
      for document in changed.tolist()
      for prefix in before.keys() & after.keys()
      if tuple(index.codes[document, : len(prefix)].tolist()) == prefix
    }
    assert len(set(after.values())) == len(after)
    assert all(after[k] == before[k] for k in after.keys() & before.keys())
  wanted = tries.build(index.codes, where=index.alive, capacity=index.capacity)
  trie = dataclasses.replace(index.index.trie, rows=None)
  for ours, theirs in zip(
    jax.tree.leaves(trie), jax.tree.leaves(wanted), strict=True
  ):
    np.testing.assert_array_equal(ours, theirs)
  living = np.flatnonzero(index.alive)
  np.testing.assert_array_equal(np.sort(index.order.rows), living)
  np.testing.assert_array_equal(np.sort(index.hashes.rows), living)
  for row in living:  # each document is recognised as a duplicate
    with pytest.raises(ValueError, match=f'equal to row {row} of the index'):
      live.add(index, np.asarray(index.index.tokens)[[row]], vectors[:1])


def test_a_loaded_index_changes_like_the_saved_one(tmp_path):
  index, *_ = make()
  tokens, new = corpus(6, seed=3)
  index = live.add(index, tokens, new)[0]
  live_store.save(index, tmp_path / 'live.npz')
  loaded, extra = live_store.load(tmp_path / 'live.npz', index.config)
  assert extra == {}
  for ours, theirs in zip(
    jax.tree.leaves(index.index), jax.tree.leaves(loaded.index), strict=True
  ):
    np.testing.assert_array_equal(ours, theirs)
  more, vectors = corpus(5, seed=4)
  first, change = live.add(index, more, vectors)
  second, same = live.add(loaded, more, vectors)
  np.testing.assert_array_equal(first.codes, second.codes)
  np.testing.assert_array_equal(change.nodes, same.nodes)


def test_a_known_word_may_have_another_position_in_a_new_title():
  tokens, vectors = corpus(5)
  titles = ['an owl', 'an elk', 'an ant', 'an ape']
  config = docids.DocidConfig(scheme='title', num_levels=3)
  ours = live.build(tokens[:4], vectors[:4], config, capacity=9, titles=titles)
  grown, change = live.add(ours, tokens[4:], vectors[4:], titles=['owl an'])
  # Words are numbered from 1, by count, then alphabetically.
  assert grown.codes[change.documents].tolist() == [[5, 1, 0, 0]]


def test_errors_name_the_field_the_value_and_the_remedy(tmp_path):
  index, *_ = make(capacity=62)
  tokens, vectors = corpus(3, seed=5)
  with pytest.raises(ValueError, match='room for 2 more documents, got 3'):
    live.add(index, tokens, vectors)
  with pytest.raises(ValueError, match='capacity must be at least .* got 62'):
    live.build(*corpus(63), index.config, capacity=62)
  known = np.asarray(index.index.tokens)[[7]]
  with pytest.raises(
    ValueError, match='document 0 equal to row 7 of the index'
  ):
    live.add(index, known, vectors[:1])
  with pytest.raises(ValueError, match='document 1 equal to row 0 of the new'):
    live.add(index, tokens[[0, 0]], vectors[:2])
  with pytest.raises(ValueError, match=r'6 columns of int, got .*\(1, 5\)'):
    live.add(index, tokens[:1, :5], vectors[:1])
  with pytest.raises(ValueError, match='6 columns of int, got float64'):
    live.add(index, tokens[:1] / 1, vectors[:1])
  with pytest.raises(ValueError, match=r'8 columns, got shape \(1, 7\)'):
    live.add(index, tokens[:1], vectors[:1, :7])
  with pytest.raises(ValueError, match='one row per .* got 0 and 3 rows'):
    live.add(index, tokens[:0], vectors)
  _, change = live.add(index, tokens[:1], vectors[:1])
  with pytest.raises(ValueError, match=r'must have shape \(1, 8\).* \(0, 8\)'):
    node_table.update(jnp.zeros((200, WIDTH)), change)
  with pytest.raises(ValueError, match='one row per node .* got 3 rows'):
    node_table.update(jnp.zeros((3, WIDTH)), change, vectors[:1])
  with pytest.raises(ValueError, match='must be rows .* got a mask'):
    live.delete(index, index.alive)
  with pytest.raises(ValueError, match='rows of documents, int, got float64'):
    live.delete(index, [1.5])
  with pytest.raises(ValueError, match='in the index, got row -1, .*Give rows'):
    live.delete(index, [-1])
  with pytest.raises(ValueError, match='in the index, got row 61, .*Give rows'):
    live.delete(index, [3, 61])
  with pytest.raises(ValueError, match='at least one .* got all 60. Keep'):
    live.delete(index, np.arange(60))
  live_store.save(index, tmp_path / 'live.npz')
  other = dataclasses.replace(index.config, branching=5)
  with pytest.raises(ValueError, match='docid.branching=4, got 5'):
    live_store.load(tmp_path / 'live.npz', other)


@pytest.mark.parametrize('width', [7, 8, 9, 10])
@pytest.mark.parametrize(
  'scheme', ['product_quantisation', 'rq_vae', 'residual_kmeans']
)
def test_vectors_of_another_width_are_refused(scheme, width):
  tokens, vectors = corpus(20)
  config = docids.DocidConfig(
    scheme=scheme,
    branching=3,
    codebook_size=3,
    num_levels=3,
    steps=2,
    hidden_dims=(4,),
  )
  ours = live.build(tokens[:19], vectors[:19], config, capacity=30)
  new = np.resize(vectors[19:], (1, width))
  padded = scheme == 'product_quantisation'  # three slices of 3: 9 columns
  if width == WIDTH or (padded and width in (7, 9)):
    assert live.add(ours, tokens[19:], new)[0].count == 20
    return
  wanted = '7 to 9' if padded else '8'
  with pytest.raises(ValueError, match=f'must have {wanted} columns, got'):
    live.add(ours, tokens[19:], new)
