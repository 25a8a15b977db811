import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax import docid_search, forward, model
from rag_jax import stage as stages
from rag_jax import trace as traces
from rag_jax.components import query_encoder
from rag_jax.ops import sampling

COUNT, VOCAB, BATCH = 12, 50, 4


@pytest.fixture(scope='module')
def config(small_config):
  return small_config(ranker={'operator': 'softmax'})


@pytest.fixture(scope='module')
def params(config, small_index):
  init = functools.partial(
    model.init, config=config.model, index=small_index, vocab_size=VOCAB
  )
  return jax.jit(init)(jax.random.key(0))


@functools.cache
def looker(config, stage, names):
  """(params, batch, index, key) -> attributes of a trace."""

  def look(params, batch, index, key):
    trace = traces.Trace(
      params, key, batch, index, config=config.model, stage=stage
    )
    found = {name: getattr(trace, name) for name in names}
    if 'reading' in found:  # memory is specific to the reader
      found['reading'] = dataclasses.replace(found['reading'], memory=None)
    return found

  return jax.jit(look)


def look(config, stage, params, batch, index, *names, seed=0):
  run = looker(config, stage, names)
  return run(params, batch, index, jax.random.key(seed))


def must_not_run(*args, **options):
  raise AssertionError('this stage must not call this function')


class TestStraightThrough:
  STAGE = stages.Stage(
    estimator='straight_through', read_size=2, temperature=0.5
  )

  def select(self, config, scores, where):
    trace = traces.Trace(
      {}, jax.random.key(0), None, None, config=config.model, stage=self.STAGE
    )
    return trace.select(scores, where)

  def test_the_top_k_documents_have_equal_weights(
    self, config, params, small_batch, small_index
  ):
    names = ('ranking', 'reading')
    found = look(config, self.STAGE, params, small_batch, small_index, *names)
    ranking, reading = found['ranking'], found['reading']
    scores = np.where(ranking.candidates.where, ranking.scores, -np.inf)
    best = np.argsort(-scores, axis=1)[:, :2]
    wanted = np.zeros(scores.shape)
    np.put_along_axis(wanted, best, 0.5, axis=1)
    np.testing.assert_allclose(ranking.weights, wanted, atol=1e-6)
    # The gold document is read first and keeps its weight.
    assert reading.weights.shape == (BATCH, 2)
    own = np.take_along_axis(wanted, np.asarray(reading.places), axis=1)
    np.testing.assert_allclose(reading.weights, own, atol=1e-6)

  def test_fewer_than_k_documents_have_equal_weights(self, config):
    scores = jnp.array([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    where = jnp.array([[False, False, True], [False, False, False]])
    weights = self.select(config, scores, where)
    np.testing.assert_allclose(weights, [[0, 0, 1], [0, 0, 0]], atol=1e-6)

  def test_the_backward_pass_is_relaxed_top_k(self, config):
    scores = jnp.array([[0.3, 0.2, -0.1, 0.0]])
    where, costs = jnp.ones((1, 4), bool), jnp.array([[1.0, -2.0, 0.5, 3.0]])

    def soft(scores):
      return sampling.relaxed_top_k(scores, k=2, temperature=0.5) / 2

    ours = jax.grad(lambda z: (self.select(config, z, where) * costs).sum())
    wanted = jax.grad(lambda z: (soft(z) * costs).sum())(scores)
    np.testing.assert_allclose(ours(scores), wanted, atol=1e-6)
    assert float(jnp.abs(wanted).min()) > 1e-3


class TestSampled:
  STAGE = stages.Stage(candidates='sampled', temperature=2.0)

  def test_samples_depend_only_on_the_key(
    self, config, params, small_batch, small_index
  ):
    read = [
      look(
        config,
        self.STAGE,
        params,
        small_batch,
        small_index,
        'found',
        'reading',
        seed=seed,
      )
      for seed in (0, 0, 1, 2)
    ]
    documents = [np.asarray(own['reading'].documents) for own in read]
    np.testing.assert_array_equal(documents[0], documents[1])
    assert not np.array_equal(documents[0], documents[2])
    assert not np.array_equal(documents[2], documents[3])
    for own in read:
      rows = np.asarray(own['found'].documents)
      np.testing.assert_array_equal(rows, read[0]['found'].documents)
      for read_row, row in zip(own['reading'].documents, rows, strict=True):
        assert len(set(read_row.tolist())) == 3
        assert set(read_row.tolist()) <= set(row.tolist())

  def test_samples_follow_the_softmax_at_the_temperature(
    self, config, params, small_batch, small_index
  ):
    ranking = look(
      config, self.STAGE, params, small_batch, small_index, 'ranking'
    )['ranking']
    scores = jnp.array([[1.0, 0.0, 2.0, -1.0, 0.5, 9.0]] * BATCH)
    where = jnp.arange(6) < jnp.full((BATCH, 1), 5)  # the last is masked
    candidates = dataclasses.replace(ranking.candidates, where=where)
    ranking = dataclasses.replace(ranking, scores=scores, candidates=candidates)

    @jax.jit
    @jax.vmap
    def first(key):
      trace = traces.Trace(
        params,
        key,
        small_batch,
        small_index,
        config=config.model,
        stage=self.STAGE,
      )
      trace.ranking, trace.candidates = ranking, candidates
      return trace.reading.places[:, 0]

    draws = np.asarray(first(jax.random.split(jax.random.key(0), 4000)))
    chances = np.exp(np.asarray(scores)[0, :5] / 2)
    chances /= chances.sum()
    for question in range(BATCH):
      share = np.bincount(draws[:, question], minlength=6) / len(draws)
      np.testing.assert_allclose(share[:5], chances, atol=0.03)
      assert share[5] == 0
    assert (
      draws[:, 0] != draws[:, 1]
    ).any()  # questions are sampled independently

  def test_the_key_of_a_question_is_independent_of_devices(
    self, config, small_batch
  ):
    half = jax.tree.map(lambda x: x[2:], small_batch)
    whole, part = (
      traces.Trace(
        {},
        jax.random.key(0),
        batch,
        None,
        config=config.model,
        stage=self.STAGE,
        shard=shard,
      )
      for batch, shard in ((small_batch, (0, 1)), (half, (1, 2)))
    )
    one, two = (jax.random.key_data(t.key(1)) for t in (whole, part))
    np.testing.assert_array_equal(one[2:], two)
    other = jax.random.key_data(whole.key(2))
    keys = np.concatenate([one, other])
    assert len(np.unique(keys, axis=0)) == 2 * BATCH


class TestAll:
  STAGE = stages.Stage(candidates='all', losses=(('ranking', 1.0),))

  def test_every_document_is_ranked_without_a_search(
    self, config, params, small_batch, small_index, monkeypatch
  ):
    monkeypatch.setattr(docid_search, 'retrieve', must_not_run)
    alive = jnp.arange(COUNT) != 7
    index = dataclasses.replace(small_index, alive=alive)
    found = look(
      config, self.STAGE, params, small_batch, index, 'ranking', 'is_gold'
    )
    ranking = found['ranking']
    everything = np.arange(COUNT)
    np.testing.assert_array_equal(
      ranking.candidates.documents, [everything] * BATCH
    )
    weights = np.asarray(ranking.weights)
    assert (weights[:, everything != 7] > 0).all()
    assert (weights[:, 7] == 0).all()
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-5)
    np.testing.assert_array_equal(
      found['is_gold'], np.arange(BATCH)[:, None] == everything
    )

    @jax.jit
    def score(params):
      encoding = query_encoder.apply(
        params['query_encoder'], config.query_encoder, small_batch.query
      )
      rows = jnp.broadcast_to(everything, (BATCH, COUNT))
      return docid_search.score_docids(
        params, config.model, small_index, encoding, rows
      )

    docid = score(params)
    own = everything != 7
    np.testing.assert_allclose(ranking.docid[:, own], docid[:, own], atol=1e-4)

  def test_every_document_masks_deleted_documents(self, small_index):
    alive = jnp.arange(COUNT) != 1
    index = dataclasses.replace(small_index, alive=alive)
    found = docid_search.every_document(index, 2)
    np.testing.assert_array_equal(found.documents, [range(COUNT)] * 2)
    np.testing.assert_array_equal(found.where, [alive] * 2)
    np.testing.assert_array_equal(found.codes, [small_index.codes] * 2)


class TestReading:
  def shapes(self, config, stage, batch, index):
    params = jax.eval_shape(
      lambda rng: model.init(rng, config.model, index, vocab_size=VOCAB),
      jax.random.key(0),
    )

    def run(params, batch):
      trace = traces.Trace(
        params,
        jax.random.key(0),
        batch,
        index,
        config=config.model,
        stage=stage,
      )
      return trace.reading, trace.likelihoods

    return jax.eval_shape(run, params, batch)

  def test_read_size_and_passage_tokens(self, config, small_batch, small_index):
    for fields, size, length in (
      ({}, 3, 9),
      ({'read_size': 2}, 2, 9),
      ({'read_size': 5, 'passage_tokens': 4}, 5, 4),
      ({'candidates': 'all', 'read_size': 40}, COUNT, 9),
      ({'candidates': 'gold'}, 1, 9),
      ({'candidates': 'gold', 'passage_tokens': 6}, 1, 6),
    ):
      reading, likelihoods = self.shapes(
        config, stages.Stage(**fields), small_batch, small_index
      )
      assert reading.documents.shape == (BATCH, size)
      assert reading.memory.passages.shape == (BATCH, size, length)
      assert likelihoods.shape == (BATCH, size)

  def test_gold_documents_have_equal_weights_and_the_negative_none(
    self, config, params, small_batch, small_index, monkeypatch
  ):
    monkeypatch.setattr(docid_search, 'retrieve', must_not_run)
    monkeypatch.setattr(forward, 'rank', must_not_run)
    batch = dataclasses.replace(
      small_batch,
      gold=jnp.array([[0, 5], [1, -1], [2, 6], [-1, -1]]),
      negative=jnp.array([9, 8, -1, 7]),
    )
    stage = stages.Stage(candidates='gold+negative')
    names = ('reading', 'read_gold', 'has_gold')
    found = look(config, stage, params, batch, small_index, *names)
    reading = found['reading']
    where = np.asarray(reading.where)
    np.testing.assert_array_equal(
      np.where(where, reading.documents, -1),
      [[0, 5, 9], [1, -1, 8], [2, 6, -1], [-1, -1, 7]],
    )
    np.testing.assert_allclose(
      reading.weights,
      [[0.5, 0.5, 0], [1, 0, 0], [0.5, 0.5, 0], [0, 0, 0]],
    )
    np.testing.assert_array_equal(
      found['read_gold'], where & [True, True, False]
    )
    assert found['has_gold'].tolist() == [True, True, True, False]

  def test_gold_documents_come_first_and_once(
    self, config, params, small_batch, small_index
  ):
    batch = dataclasses.replace(
      small_batch, gold=jnp.array([[0, 5], [1, -1], [2, 11], [-1, -1]])
    )
    names = ('found', 'candidates', 'is_gold', 'reading')
    stage = stages.Stage(candidates='beam+gold')
    found = look(config, stage, params, batch, small_index, *names)
    candidates, reading = found['candidates'], found['reading']
    for row, gold in enumerate(([0, 5], [1], [2, 11], [])):
      real = np.asarray(candidates.where[row])
      documents = np.asarray(candidates.documents[row])[real].tolist()
      beam = np.asarray(found['found'].documents[row]).tolist()
      assert documents == gold + [d for d in beam if d not in gold]
      own = np.asarray(candidates.documents[row])[found['is_gold'][row]]
      assert own.tolist() == gold
      read = np.asarray(reading.documents[row]).tolist()
      assert set(read[: len(gold)]) == set(gold)

  def test_deleted_and_never_gold_documents_are_no_negatives(self, small_index):
    asked = jnp.zeros(small_index.trie.num_nodes, bool).at[4].set(True)
    index = dataclasses.replace(small_index, gold_nodes=asked)
    documents = jnp.array([[3, 4, 5, 4]])
    is_gold = jnp.array([[True, False, False, False]])
    where = jnp.array([[True, True, True, False]])
    for own, wanted in (
      (index, [[True, True, False, False]]),
      (small_index, [[True, True, True, False]]),
    ):
      found = docid_search.contrasted(own, documents, is_gold, where)
      assert found.tolist() == wanted


class TestEstimatorNone:
  """The answer loss has no gradient to the search; distillation has one."""

  def test_search_scores_equal_scores_and_keep_their_gradient(
    self, config, params, small_batch, small_index
  ):
    names = ('candidates', 'is_gold', 'ranking')
    stage = stages.Stage()
    found = look(config, stage, params, small_batch, small_index, *names)

    @functools.partial(jax.jit, static_argnums=0)
    def slopes(stage, scores):
      def value(scores, name):
        trace = traces.Trace(
          params,
          jax.random.key(0),
          small_batch,
          small_index,
          config=config.model,
          stage=stage,
        )
        trace.candidates, trace.is_gold = found['candidates'], found['is_gold']
        trace.ranking = dataclasses.replace(found['ranking'], scores=scores)
        own = {
          'search_scores': lambda: trace.search_scores,
          'scores': lambda: trace.reading.scores,
        }[name]()
        return (own * jnp.arange(1.0, 4.0)).sum(), own

      return {
        name: jax.grad(value, has_aux=True)(scores, name)
        for name in ('search_scores', 'scores')
      }

    scores = found['ranking'].scores
    opened = slopes(stage, scores)
    wanted, values = opened['scores']
    assert sorted(np.unique(wanted).tolist()) == [0, 1, 2, 3]
    for estimator in ('none', *stages.COST_ESTIMATORS):
      own = slopes(dataclasses.replace(stage, estimator=estimator), scores)
      assert not own['scores'][0].any()
      np.testing.assert_allclose(own['search_scores'][0], wanted, atol=1e-6)
      for _, value in own.values():
        np.testing.assert_allclose(value, values, atol=1e-6)
