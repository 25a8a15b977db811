"""A trained index is made live and resized, and its search results stay."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax.components import id_decoder, query_encoder
from rag_jax.index import docids, growth, live, node_table
from rag_jax.index import index as indexes
from rag_jax.ops import beam

WIDTH = 6
COUNT = 70
DELETED = (0, 13, 69)
SCHEMES = (
  'hierarchical_kmeans',
  'residual_kmeans',
  'product_quantisation',
  'atomic',
  'string',
  'title',
  'random',
)
SCORINGS = ('log_softmax', 'absolute')


def config_of(scheme):
  return docids.DocidConfig(
    scheme=scheme, branching=3, codebook_size=3, leaf_size=3, num_levels=3
  )


def corpus(count, seed=0):
  rng = np.random.default_rng(seed)
  tokens = rng.integers(1, 1000, (count, 5)).astype(np.int32)
  tokens[::3, 3:] = 0
  vectors = rng.normal(size=(count, WIDTH)).astype(np.float32)
  titles = [f'{n % 3} owl {n % 7}' for n in range(count)]
  return tokens, vectors, titles


@functools.cache
def trained(scheme):
  """An index with deleted documents, its quantiser and a random node table."""
  tokens, vectors, titles = corpus(COUNT)
  index, quantiser = indexes.build(
    tokens, vectors, config_of(scheme), titles=titles
  )
  alive = ~np.isin(np.arange(COUNT), DELETED)
  index = indexes.from_codes(tokens, np.asarray(index.codes), alive=alive)
  rng = np.random.default_rng(1)
  table = rng.normal(size=(index.trie.num_nodes, WIDTH)).astype(np.float32)
  return index, quantiser, jnp.asarray(table)


def step_fn(params, cache, frontier, *, both):
  """Scores an edge by its child and, with `both`, also by its parent."""
  table, query = params
  ends = table[frontier.children]
  if both and frontier.level:
    ends = ends + 0.5 * table[frontier.nodes][:, :, None]
  return jnp.einsum('bd,bkcd->bkc', query, ends), cache


@functools.partial(jax.jit, static_argnames=('scoring', 'beam_size', 'both'))
def search(table, trie, query, *, scoring, beam_size, both):
  return beam.search(
    (table, query),
    (),
    trie,
    step_fn=functools.partial(step_fn, both=both),
    batch_size=len(query),
    beam_size=beam_size,
    scoring=scoring,
  )


def ranking(table, index, scoring, *, beam_size=100, both=True):
  """Ranked documents and their scores, for four queries."""
  query = jnp.asarray(corpus(4, seed=9)[1])
  result = search(
    table, index.trie, query, scoring=scoring, beam_size=beam_size, both=both
  )
  documents, scores, codes, where = map(
    np.asarray, (result.documents, result.scores, result.codes, result.where)
  )
  expected = np.asarray(index.codes)[documents]
  np.testing.assert_array_equal(codes[where], expected[where])
  return [
    dict(zip(d[w].tolist(), s[w].tolist(), strict=True))
    for d, s, w in zip(documents, scores, where, strict=True)
  ]


def assert_same_ranking(ours, theirs):
  for own, other in zip(ours, theirs, strict=True):
    assert list(own) == list(other)
    np.testing.assert_allclose(
      list(own.values()), list(other.values()), atol=2e-5
    )


@pytest.mark.parametrize('scoring', SCORINGS)
@pytest.mark.parametrize('scheme', SCHEMES)
def test_a_live_index_gives_the_same_ranking(scheme, scoring):
  index, quantiser, table = trained(scheme)
  ours = live.from_index(index, quantiser, config_of(scheme), capacity=110)
  moved = growth.move(table, index, ours)
  assert moved.shape == (ours.index.trie.num_nodes, WIDTH)
  for beam_size in (100, 7):
    expected = ranking(table, index, scoring, beam_size=beam_size)
    assert len(expected[0]) == min(COUNT - len(DELETED), beam_size)
    assert_same_ranking(
      ranking(moved, ours.index, scoring, beam_size=beam_size), expected
    )


@pytest.mark.parametrize('scoring', SCORINGS)
@pytest.mark.parametrize('scheme', SCHEMES)
def test_changes_keep_the_scores_of_the_other_documents(scheme, scoring):
  index, quantiser, table = trained(scheme)
  ours = live.from_index(index, quantiser, config_of(scheme), capacity=110)
  moved = growth.move(table, index, ours)
  before = ranking(table, index, 'absolute', both=False)
  tokens, vectors, titles = corpus(30, seed=2)
  ours, change = live.add(ours, tokens, vectors, titles=titles)
  moved = node_table.update(moved, change, vectors)
  assert set(DELETED) <= set(change.documents.tolist())  # these rows were free
  ours, gone = live.delete(ours, [5, change.documents[3]])
  moved = node_table.update(moved, gone)
  after = ranking(moved, ours.index, 'absolute', both=False)
  stayed = set(range(COUNT)) - set(DELETED) - {5}
  for own, other in zip(after, before, strict=True):
    assert stayed <= own.keys()
    assert 5 not in own
    assert len(own) == len(stayed) + 29
    for row in stayed:
      np.testing.assert_allclose(own[row], other[row], atol=2e-5)
  # More capacity keeps the ranking, also of documents added since.
  roomy = live.resize(ours, 220)
  again = growth.move(moved, ours, roomy)
  assert_same_ranking(
    ranking(again, roomy.index, scoring), ranking(moved, ours.index, scoring)
  )
  assert_same_ranking(  # the same for the plain `Index`
    ranking(growth.move(moved, ours.index, roomy.index), roomy.index, scoring),
    ranking(moved, ours.index, scoring),
  )


@pytest.mark.parametrize('scheme', SCHEMES)
def test_a_live_index_holds_the_documents_of_the_index(scheme):
  index, quantiser, _ = trained(scheme)
  ours = live.from_index(index, quantiser, config_of(scheme), capacity=90)
  assert ours.count == COUNT - len(DELETED)
  assert len(ours.alive) == ours.capacity.documents == 90
  alive = np.asarray(index.alive)
  np.testing.assert_array_equal(ours.alive, np.append(alive, [False] * 20))
  np.testing.assert_array_equal(ours.index.alive, ours.alive)
  np.testing.assert_array_equal(ours.index.tokens[:COUNT], index.tokens)
  np.testing.assert_array_equal(ours.codes[:COUNT][alive], index.codes[alive])
  np.testing.assert_allclose(ours.index.mean_length, index.mean_length)
  optional = ('lexicon', 'gold_nodes', 'around_query')
  assert [getattr(ours.index, name) for name in optional] == [None] * 3


def test_build_and_from_index_give_the_same_index():
  tokens, vectors, _ = corpus(COUNT)
  config = config_of('hierarchical_kmeans')
  built = live.build(tokens, vectors, config, capacity=100, seed=2)
  index, quantiser = indexes.build(tokens, vectors, config, seed=2)
  ours = live.from_index(index, quantiser, config, capacity=100)
  assert ours.capacity == built.capacity
  for own, other in zip(
    jax.tree.leaves(ours.index), jax.tree.leaves(built.index), strict=True
  ):
    np.testing.assert_array_equal(own, other, strict=True)
  new = corpus(5, seed=3)[:2]
  np.testing.assert_array_equal(
    live.add(ours, *new)[0].codes, live.add(built, *new)[0].codes
  )


def rows_by_prefix(index):
  """Row of each inner node by its prefix, from the docids of an index."""
  codes = np.asarray(index.codes)[np.asarray(index.alive)].tolist()
  count, rows = len(index.alive), {}
  for length in range(1, len(codes[0])):
    starts = sorted(tuple(code[:length]) for code in codes)
    for start, group in itertools.groupby(starts):
      if len(list(group)) > 1:  # a node with one docid below it is a leaf
        rows[start] = count + len(rows)
  return rows


@pytest.mark.parametrize('dtype', [bool, np.int32, jnp.bfloat16])
@pytest.mark.parametrize('shape', [(), (2,), (2, 3)])
def test_move_takes_any_array_and_zeroes_unused_rows(dtype, shape):
  index, quantiser, _ = trained('residual_kmeans')
  size = index.trie.num_nodes
  values = np.random.default_rng(0).integers(0, 9, (size, *shape))
  values = np.asarray(jnp.asarray(values, dtype))
  config = config_of('residual_kmeans')
  ours = live.from_index(index, quantiser, config, capacity=100)
  moved = growth.move(values, index, ours)
  assert moved.dtype == values.dtype
  expected = np.zeros((ours.index.trie.num_nodes, *shape), values.dtype)
  alive = np.flatnonzero(index.alive)
  expected[alive] = values[alive]
  old, new = rows_by_prefix(index), rows_by_prefix(ours.index)
  assert len(old) == size - COUNT > 20
  for prefix, row in old.items():
    expected[new[prefix]] = values[row]
  np.testing.assert_array_equal(moved, expected)


@pytest.mark.parametrize(
  'output, num_layers',
  [
    ('node_table', 0),
    pytest.param('node_table', 1, marks=pytest.mark.long),
    ('codebook', 1),
  ],
)
def test_the_id_decoder_gives_the_same_scores(output, num_layers):
  scheme = 'hierarchical_kmeans'
  index, quantiser, _ = trained(scheme)
  sizes = id_decoder.IdDecoderConfig(
    output=output, num_layers=num_layers, num_heads=2, mlp_dim=8
  )
  rng = np.random.default_rng(3)
  params = jax.jit(id_decoder.init, static_argnums=1)(
    jax.random.key(0),
    sizes,
    trie=index.trie,
    codes=index.codes,
    document_vectors=jnp.asarray(corpus(COUNT)[1]),
  )
  params = jax.tree.map(
    lambda x: x + 0.3 * jnp.asarray(rng.normal(size=x.shape), x.dtype), params
  )
  vector, memory = jnp.asarray(corpus(2, seed=8)[1]), rng.normal(size=(2, 4, 6))
  encoding = query_encoder.Encoding(
    vector=query_encoder.normalise(vector),
    memory=jnp.asarray(memory, jnp.float32),
    where=jnp.ones((2, 4), bool),
  )

  @functools.partial(jax.jit, static_argnames='scoring')
  def search(params, trie, scoring):
    return beam.search(
      (params, encoding),
      id_decoder.initial_cache(sizes, 2, WIDTH),
      trie,
      step_fn=lambda *args: id_decoder.apply(*args, config=sizes),
      batch_size=2,
      beam_size=20,
      scoring=scoring,
    )

  ours = live.from_index(index, quantiser, config_of(scheme), capacity=300)
  table = params['table']
  if output == 'codebook':
    table = growth.widen(table, ours)
    assert [len(level) for level in table] == list(ours.capacity.num_values)
  else:
    table = growth.move(table, index, ours)
  moved = params | {'table': table}
  for scoring in SCORINGS:
    one = search(params, index.trie, scoring)
    other = search(moved, ours.index.trie, scoring)
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-4)
    if (scoring, output) != ('absolute', 'codebook'):  # which has ties
      np.testing.assert_array_equal(one.documents, other.documents)
  # Added documents are searched too, with finite scores.
  tokens, vectors, titles = corpus(40, seed=2)
  grown, change = live.add(ours, tokens, vectors, titles=titles)
  if output == 'node_table':
    table = node_table.update(table, change, vectors)
  result = search(params | {'table': table}, grown.index.trie, 'log_softmax')
  assert bool(jnp.isfinite(result.scores).all())


@pytest.mark.parametrize('scheme', SCHEMES)
def test_a_full_index_takes_more_documents_after_resize(scheme):
  index, quantiser, table = trained(scheme)
  ours = live.from_index(index, quantiser, config_of(scheme), capacity=COUNT)
  tokens, vectors, titles = corpus(COUNT + 3, seed=4)
  three = (tokens[:3], vectors[:3])
  ours, change = live.add(ours, *three, titles=titles[:3])
  assert sorted(change.documents.tolist()) == sorted(DELETED)
  table = growth.move(
    table,
    index,
    live.from_index(index, quantiser, config_of(scheme), capacity=COUNT),
  )
  table = node_table.update(table, change, vectors[:3])
  with pytest.raises(live.NoRoom, match='room for 0 more .* live.resize'):
    live.add(ours, tokens[3:], vectors[3:], titles=titles[3:])
  roomy = live.resize(ours, 2 * COUNT)
  assert (ours.count, len(ours.alive)) == (COUNT, COUNT)  # unchanged
  table = growth.move(table, ours, roomy)
  shapes = jax.tree.map(jnp.shape, roomy.index)
  roomy, change = live.add(roomy, tokens[3:], vectors[3:], titles=titles[3:])
  assert jax.tree.map(jnp.shape, roomy.index) == shapes
  table = node_table.update(table, change, vectors[3:])
  np.testing.assert_array_equal(change.documents, np.arange(COUNT, 2 * COUNT))
  results = ranking(table, roomy.index, 'absolute', beam_size=200, both=False)
  query = corpus(4, seed=9)[1]
  for result, one in zip(results, query, strict=True):
    assert len(result) == 2 * COUNT
    for row, vector in zip(change.documents, vectors[3:], strict=True):
      np.testing.assert_allclose(result[row], one @ vector, atol=1e-4)


def test_a_full_level_is_an_error_and_resize_makes_it_larger():
  tokens, vectors, _ = corpus(300)
  config = docids.DocidConfig(scheme='random', codebook_size=2, num_levels=1)
  ours = live.build(tokens[:4], vectors[:4], config, capacity=400)
  tokens[:, 0] = np.arange(1, 301)
  vectors[4:] = vectors[4]  # all in one bucket
  narrow = dataclasses.replace(
    ours, capacity=dataclasses.replace(ours.capacity, branching=(2, 64))
  )
  with pytest.raises(
    live.NoRoom, match='room for 64 branching at .* live.resize'
  ):
    live.add(narrow, tokens[4:204], vectors[4:204])
  ours, _ = live.add(ours, tokens[4:204], vectors[4:204])
  few = dataclasses.replace(
    ours, capacity=dataclasses.replace(ours.capacity, num_values=(2, 210))
  )
  with pytest.raises(live.NoRoom, match='below 210, got 2.* live.resize'):
    live.add(few, tokens[204:], vectors[204:])
  roomy = live.resize(few, 400)
  assert live.add(roomy, tokens[204:], vectors[204:])[0].count == 300


def test_capacity_is_in_proportion_to_the_documents_in_the_index():
  tokens, vectors, _ = corpus(100)
  config = config_of('atomic')
  ours = live.build(tokens[:3], vectors[:3], config, capacity=1000)
  more, others, _ = corpus(997, seed=1)
  assert live.add(ours, more, others)[0].count == 1000
  codes = np.arange(100)[:, None]
  index = indexes.from_codes(tokens, codes, alive=np.arange(100) < 10)
  ours = live.from_index(index, {}, config, capacity=1000)
  assert live.add(ours, more[:990], others[:990])[0].count == 1000


def test_errors_name_the_field_the_value_and_the_remedy():
  scheme = 'hierarchical_kmeans'
  config = config_of(scheme)
  index, quantiser, table = trained(scheme)
  with pytest.raises(ValueError, match=r'capacity .*\(70\), got 69. Raise'):
    live.from_index(index, quantiser, config, capacity=69)
  with pytest.raises(ValueError, match='quantiser must be .* Build the index'):
    live.from_index(index, {}, config, capacity=80)
  ours = live.from_index(index, quantiser, config, capacity=80)
  with pytest.raises(ValueError, match=r'capacity .*\(80\), got 79. Raise'):
    live.resize(ours, 79)
  tokens, vectors, _ = corpus(2, seed=5)
  with pytest.raises(
    ValueError, match='document 0 equal to row 7 of the index'
  ):
    live.add(ours, np.asarray(index.tokens)[[7]], vectors[:1])
  gone = np.asarray(index.tokens)[[DELETED[1]]]
  assert live.add(ours, gone, vectors[:1])[0].count == ours.count + 1
  with pytest.raises(ValueError, match='in the index, got row 13, .*Give rows'):
    live.delete(ours, [13])
  for rows in (table[:-1], jnp.pad(table, ((0, 1), (0, 0)))):
    with pytest.raises(ValueError, match=f'table .*{len(table)}.*{len(rows)}'):
      growth.move(rows, index, ours)
  added, _ = live.add(ours, tokens, vectors)
  fewer, _ = live.delete(ours, [3])
  same, _ = live.delete(added, added.order.rows[-2:])
  for other in (added, fewer, same):
    with pytest.raises(ValueError, match='same documents .* Move the table'):
      growth.move(table, index, other)
  codes = np.asarray(index.codes).copy()
  codes[np.asarray(index.alive), -1] += 1
  other = indexes.from_codes(
    np.asarray(index.tokens), codes, alive=np.asarray(index.alive)
  )
  with pytest.raises(ValueError, match='67 and 67 documents that differ'):
    growth.move(table, index, other)
  other = config_of('residual_kmeans')
  wrong = live.from_index(
    index, {'centres': np.zeros((3, 2, WIDTH))}, other, capacity=80
  )
  expected = index.codes.shape[1]
  with pytest.raises(ValueError, match=f'have {expected} codes, got 4 from'):
    live.add(wrong, tokens, vectors)
  tables = [jnp.ones((n, 2)) for n in ours.capacity.num_values]
  for bad in (tables[1:], [jnp.ones((300, 2)), *tables[1:]]):
    with pytest.raises(ValueError, match='tables must be one per level'):
      growth.widen(bad, ours)
