"""The second search: its query, its documents, its ranking and its gradient."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax import config as configs
from rag_jax import (
  docid_search,
  forward,
  matching,
  measures,
  model,
  objective,
  types,
)
from rag_jax import stage as stages
from rag_jax import trace as traces
from rag_jax.components import query_encoder, ranker, second_query

VOCAB, SIZE = 50, 4
HOPS = {'search': {'hops': 2, 'hop_tokens': SIZE}}
# Softmax gives every document a gradient; no layers compile fast.
SOFT = HOPS | {
  'ranker': {'operator': 'softmax'},
  'id_decoder': {'num_layers': 0},
}


@pytest.fixture(scope='module')
def config(small_config):
  return small_config(**SOFT)


@functools.cache
def initialise(config):
  return jax.jit(
    lambda rng, index: model.init(rng, config.model, index, vocab_size=VOCAB)
  )


@pytest.fixture(scope='module')
def params(config, small_index):
  found = initialise(config)(jax.random.key(0), small_index)
  second = found['query_encoder']['second']
  second['needs']['kernel'] += 0.3  # not zero, as at the start
  return found


@functools.partial(jax.jit, static_argnames='config')
def search(params, index, batch, allowed, *, config):
  return forward.search(params, config, index, batch, allowed=allowed)


@pytest.fixture(scope='module')
def searched(config, params, small_index, small_batch):
  every = jnp.ones(12, bool)
  return search(params, small_index, small_batch, every, config=config.model)


def test_one_search_has_nothing_of_the_second(
  small_config, small_index, small_batch
):
  config = small_config()
  params = jax.eval_shape(initialise(config), jax.random.key(0), small_index)
  assert 'second' not in params['query_encoder']
  run = functools.partial(forward.search, config=config.model)
  encoding, found = jax.eval_shape(
    run, params, index=small_index, batch=small_batch
  )
  assert encoding.after is None and encoding.gates is None
  assert found.where.shape[1] == config.search.beam_size


def test_documents_are_those_of_both_searches_each_once(
  config, params, searched, small_index, small_batch
):
  encoding, found = searched
  parts = retrieve_each(params, encoding, small_index, config=config.model)
  assert len(parts) == 2
  for row in range(len(small_batch.where)):
    total = {}
    for part in parts:
      for document, score, real in zip(
        part.documents[row], part.scores[row], part.where[row], strict=True
      ):
        if real:
          key = int(document)
          total[key] = total.get(key, 0.0) + np.exp(float(score)) / 2
    real = np.asarray(found.where[row])
    documents = np.asarray(found.documents[row])[real]
    assert len(set(documents.tolist())) == len(documents)
    assert set(documents.tolist()) == set(total)
    assert not real[len(documents) :].any()
    np.testing.assert_allclose(
      np.exp(np.asarray(found.scores[row])[real]),
      sorted(total.values(), reverse=True),
      rtol=1e-4,
    )
    codes = np.asarray(small_index.codes)[documents]
    np.testing.assert_array_equal(np.asarray(found.codes[row])[real], codes)


@functools.partial(jax.jit, static_argnames='config')
def retrieve_each(params, encoding, index, *, config):
  return [
    docid_search.retrieve(params, config, index, own)
    for own in query_encoder.searches(encoding)
  ]


def test_only_allowed_documents(config, params, small_index, small_batch):
  allowed = jnp.arange(12) % 3 == 0
  _, found = search(
    params, small_index, small_batch, allowed, config=config.model
  )
  assert set(np.asarray(found.documents)[np.asarray(found.where)]) <= {
    *range(0, 12, 3)
  }


def test_ranking_by_the_formula(
  config, params, searched, small_index, small_batch
):
  encoding, found = searched

  @jax.jit
  def run(params, index, batch, encoding, found):
    own = params, config.model, index
    ranking = forward.rank(*own, batch, encoding, found)
    both = docid_search.score_docids(*own, encoding, found.documents)
    scores, docids = [], []
    for search in query_encoder.searches(encoding):
      docid = docid_search.score_docids(*own, search, found.documents)
      signals = matching.signals(*own, batch, search, found.documents)
      docids.append(docid)
      scores.append(
        ranker.apply(params['ranker'], config.ranker, docid=docid, **signals)
      )
    return ranking, both, scores, docids

  ranking, both, scores, docids = run(
    params, small_index, small_batch, encoding, found
  )
  scores, docids = np.asarray(scores), np.asarray(docids)
  where = np.asarray(found.where)
  odds = np.exp(scores[0]) * where
  left = 1 - odds / odds.sum(1, keepdims=True)
  needed = np.asarray(encoding.after.needed)
  assert np.abs(needed).min() > 1e-3
  second = left * np.exp(scores[1]) * where
  total = second / second.max(1, keepdims=True)
  total /= 1 + np.exp(-needed)[:, None]
  total += odds / odds.max(1, keepdims=True)
  np.testing.assert_allclose(
    np.asarray(ranking.scores)[where], np.log(total[where]), rtol=1e-4
  )
  mean = (np.exp(docids[0]) + np.exp(docids[1])) / 2
  np.testing.assert_allclose(
    np.exp(np.asarray(ranking.docid))[where], mean[where], rtol=1e-4
  )
  # The same docid scores as those of the losses.
  np.testing.assert_allclose(np.exp(both)[where], mean[where], rtol=1e-4)


def test_it_follows_the_best_documents_of_the_first_search(
  config, params, searched, small_index, small_batch
):
  encoding, _ = searched
  first, _ = query_encoder.searches(encoding)
  [found, _] = retrieve_each(params, encoding, small_index, config=config.model)

  @jax.jit
  def rank(params, index, batch, found):
    return forward.rank(params, config.model, index, batch, first, found)

  ranking = rank(params, small_index, small_batch, found)
  order = np.argsort(-np.asarray(ranking.weights), axis=1)[:, :2]
  rows = np.take_along_axis(np.asarray(found.documents), order, 1)
  expected = second(
    params,
    small_batch.query,
    small_index.tokens[rows],
    np.take_along_axis(np.asarray(ranking.weights), order, 1),
    config=config,
    size=SIZE,
  )
  np.testing.assert_array_equal(encoding.after.tokens, expected.tokens)
  np.testing.assert_allclose(encoding.after.vector, expected.vector, atol=1e-5)


def test_the_retriever_learns_from_the_first_search_alone(
  config, params, searched, small_index, small_batch
):
  encoding, found = searched
  first, _ = query_encoder.searches(encoding)

  @jax.jit
  def slopes(params, index, batch, found):
    def score(params, encoding):
      own = params, config.model, index, batch, encoding, found
      return jnp.where(found.where, forward.rank(*own).scores, -1e9)

    def total(scores):
      return jnp.where(found.where, scores, 0.0).sum()

    def by_first(params):
      """Share of the first search in a score, times its gradient."""
      scores = score(params, first)
      scores -= scores.max(1, keepdims=True)
      shares = jnp.exp(scores - score(params, encoding))
      return total(jax.lax.stop_gradient(shares) * scores)

    both = jax.grad(lambda params: total(score(params, encoding)))
    return both(params), jax.grad(by_first)(params)

  own, expected = slopes(params, small_index, small_batch, found)
  for part in ('id_decoder', 'ranker'):
    assert any(np.asarray(x).any() for x in jax.tree.leaves(own[part]))
    chex.assert_trees_all_close(own[part], expected[part], atol=1e-4)


@pytest.mark.long
def test_only_the_first_gold_document_learns_from_the_first_search(
  config, params, searched, small_index, small_batch
):
  encoding, found = searched
  first, second = query_encoder.searches(encoding)
  gold = found.where & (jnp.arange(found.where.shape[1]) < 3)

  @jax.jit
  def run(params, index, batch, vectors, found):
    def score(vectors, gold):
      both = first.replace(
        vector=vectors[0], after=second.replace(vector=vectors[1])
      )
      own = params, config.model, index, batch, both, found
      return forward.rank(*own, gold=gold).scores

    plain, marked = score(vectors, None), score(vectors, gold)
    slopes = jax.jacrev(lambda v: score(v, gold)[:, :3].sum(0))(vectors)
    return plain, marked, slopes

  vectors = first.vector, second.vector
  plain, marked, (by_first, by_second) = run(
    params, small_index, small_batch, vectors, found
  )
  np.testing.assert_allclose(marked, plain, rtol=1e-6)  # the same values
  moved = np.abs(np.asarray(by_first)).max(2) > 0  # [3, B]
  np.testing.assert_array_equal(moved.sum(0), 1)
  assert (np.abs(np.asarray(by_second)).max(2) > 0).all()
  rarest = matching.rarest(params, small_index, small_batch, found.documents)
  np.testing.assert_array_equal(
    moved.argmax(0), np.asarray(rarest)[:, :3].argmax(1)
  )


def test_the_rarest_word_of_question_and_document(
  params, small_index, small_batch
):
  """One rare word counts more than several common ones; padding is none."""
  documents = small_index.tokens[:, :4]
  query = jnp.array([[documents[2, 0], documents[5, 1], 0, 0, 0]])
  batch = dataclasses.replace(small_batch, query=query)
  weights = jnp.linspace(0.0, 3.0, VOCAB)
  own = {'ranker': {'log_token_weight': weights}}
  found = matching.rarest(own, small_index, batch, jnp.arange(12)[None])
  for row, tokens in enumerate(np.asarray(small_index.tokens)):
    shared = set(tokens.tolist()) & set(np.asarray(query)[0].tolist()) - {0}
    expected = max((float(weights[t]) for t in shared), default=-np.inf)
    np.testing.assert_allclose(found[0, row], expected)
  rows = jnp.argsort(found[0])[jnp.array([0, -1, 1])]  # the best one second
  candidates = types.Candidates(
    documents=rows[None],
    codes=jnp.zeros((1, 3, 1), jnp.int32),
    scores=jnp.zeros((1, 3)),
    where=jnp.ones((1, 3), bool),
  )
  for gold, later in (([1, 1, 0], [1, 0, 0]), ([0, 0, 1], [0, 0, 0])):
    gold = jnp.array([gold], bool)
    marked = matching.later_gold(own, small_index, batch, candidates, gold)
    assert marked[0].astype(int).tolist() == later


def test_lexical_signal_of_gated_tokens(config, params, small_index):
  """BM25 is linear in the gates, token by token."""
  query, gates = jnp.array([[5, 9, 7]]), jnp.array([[0.5, 0.0, 0.25]])
  score = functools.partial(
    ranker.lexical,
    params['ranker'],
    config.ranker,
    passages=small_index.tokens[None],
    mean_length=small_index.mean_length,
  )
  each = [score(query=query[:, [i]]) for i in range(3)]
  expected = 0.5 * each[0] + 0.25 * each[2]
  np.testing.assert_allclose(score(query=query, gates=gates), expected, 1e-5)
  assert np.abs(np.asarray(expected)).max() > 0


def gate(found, token):
  """The gate of a token."""
  [place] = np.flatnonzero(found.tokens[0] == token)
  return found.gates[0, place]


@functools.partial(jax.jit, static_argnames=('config', 'size'))
def second(params, query, passages, weights, names=None, *, config, size):
  return second_query.apply(
    params['query_encoder'],
    config.query_encoder,
    query,
    passages,
    weights,
    size=size,
    names=names,
  )


class TestSecondQuery:
  query = jnp.array([[4, 15, 0]])
  passages = jnp.array([[[5, 6, 7, 0], [8, 9, 11, 12], [13, 14, 0, 0]]])

  def run(self, params, config, weights, *, size=SIZE, query=None):
    return second(
      params,
      self.query if query is None else query,
      self.passages,
      jnp.array([weights]),
      config=config,
      size=size,
    )

  def test_tokens_come_from_documents_with_weight(self, config, params):
    found = self.run(params, config, [0.5, 0.0, 0.25], size=12)
    tokens = np.asarray(found.tokens[0])
    assert sorted(tokens[tokens != 0]) == sorted([4, 15, 5, 6, 7, 13, 14])
    assert (np.asarray(found.gates[0])[3:][tokens[3:] == 0] == 0).all()
    np.testing.assert_array_equal(found.where[0], tokens != 0)
    same = self.run(params, config, [1.0, 0.0, 0.5], size=12)  # ratios count
    np.testing.assert_allclose(found.vector, same.vector, rtol=1e-5)

  def test_untrained_gates_keep_the_question(self, config, params):
    found = self.run(params, config, [1.0, 0.0, 0.0])
    gates = np.asarray(found.gates[0, :2])
    odds = np.log(gates / (1 - gates)).mean()
    assert abs(odds - second_query.START) < 1

  def test_tokens_of_both_have_no_gate(self, config, params):
    query = jnp.array([[5, 4, 13]])  # 5 is in the first document, 13 not
    found = self.run(params, config, [1.0, 0.0, 0.0], size=12, query=query)
    assert found.gates[0, 0] == 0 and (found.gates[0, 1:3] > 0).all()
    added = np.asarray(found.tokens[0, 3:])
    assert set(added[added != 0].tolist()) == {6, 7}

  def test_gates_are_a_weighted_mean(self, config, params):
    one, other, both = (
      self.run(params, config, weights, size=12)
      for weights in ([1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.75, 0.0, 0.25])
    )
    np.testing.assert_allclose(
      both.gates[:, :2],
      0.75 * one.gates[:, :2] + 0.25 * other.gates[:, :2],
      rtol=1e-5,
    )
    np.testing.assert_allclose(
      both.needed, 0.75 * one.needed + 0.25 * other.needed, rtol=1e-5
    )
    half = self.run(params, config, [0.5, 0.0, 0.5], size=12)
    for found in (one, other, both, half):
      np.testing.assert_allclose(found.gates[0, 3:].max(), 1, rtol=1e-5)
    for first, second in (((one, 5), (one, 6)), ((other, 13), (other, 14))):
      np.testing.assert_allclose(
        gate(both, first[1]) / gate(both, second[1]),
        gate(*first) / gate(*second),
        rtol=1e-5,
      )
    np.testing.assert_allclose(
      gate(half, 13) / gate(half, 5),
      3 * gate(both, 13) / gate(both, 5),
      rtol=1e-5,
    )

  def test_gates_of_renamed_tokens_are_those_of_the_new_names(
    self, config, params
  ):
    """The network reads the new names; the query has the real tokens."""
    moved = np.arange(VOCAB)
    moved[[4, 5, 7, 9]] = 5, 7, 9, 4
    weights = jnp.array([[0.6, 0.3, 0.1]])
    run = functools.partial(second, params, config=config, size=12)
    found = run(self.query, self.passages, weights, jnp.asarray(moved)[None])
    other = run(moved[self.query], moved[self.passages], weights)
    plain = run(self.query, self.passages, weights)
    by_name = [
      dict(zip(e.tokens[0].tolist(), e.gates[0].tolist(), strict=True))
      for e in (found, other, plain)
    ]
    for token in (4, 15, 5, 6, 7, 8, 9, 11, 12, 13, 14):
      np.testing.assert_allclose(
        by_name[0][token], by_name[1][moved[token]], rtol=1e-4
      )
    assert abs(by_name[0][5] - by_name[2][5]) > 1e-3
    encoded = query_encoder.apply(
      params['query_encoder'],
      config.query_encoder,
      found.tokens,
      gates=found.gates,
    )
    np.testing.assert_allclose(found.vector, encoded.vector, rtol=1e-4)

  def test_sampled_tokens_come_in_proportion_to_gate_and_weight(
    self, config, params
  ):
    weights = [0.5, 0.0, 0.5]
    best = self.run(params, config, weights, size=12)
    idf = np.exp(params['query_encoder']['log_token_weight'])
    tokens, gates = (
      np.asarray(best.tokens[0, 3:]),
      np.asarray(best.gates[0, 3:]),
    )
    share = np.where(tokens != 0, gates * idf[tokens], 0.0)
    share /= share.sum()
    count = 4000

    @jax.jit
    def sample(params, keys):
      return second_query.apply(
        params['query_encoder'],
        config.query_encoder,
        jnp.tile(self.query, (count, 1)),
        jnp.tile(self.passages, (count, 1, 1)),
        jnp.tile(jnp.array([weights]), (count, 1)),
        size=1,
        noise=(keys, 1.0),
      ).tokens[:, 3]

    keys = jax.random.split(jax.random.key(0), count)
    drawn = np.asarray(sample(params, keys))
    for token, expected in zip(tokens, share, strict=True):
      if token:
        assert abs((drawn == token).mean() - expected) < 0.03
    assert not np.isin(drawn, [0, 8, 9, 11, 12]).any()
    assert share.max() > share[share > 0].min() + 0.03

  def test_a_stage_renames_for_the_second_search(
    self, config, params, small_index, small_batch
  ):
    rare = jnp.ones(VOCAB, bool).at[0].set(False)
    index = dataclasses.replace(small_index, rare=rare)
    stage = stages.Stage(renamed=1.0, hop_noise=0.5)

    @jax.jit
    def run(params, rng):
      trace = traces.Trace(
        params, rng, small_batch, index, config=config.model, stage=stage
      )
      arguments = (params, config.model, index, small_batch, trace.first)
      follow = functools.partial(forward.follow, *arguments, trace.found_first)
      options = {'select': trace.select, 'noise': (trace.key(7), 0.5)}
      again, plain = follow(names=trace.names, **options), follow(**options)
      return [e.after.gates for e in (trace.encoding, again, plain)]

    gates, again, plain = run(params, jax.random.key(1))
    np.testing.assert_allclose(gates, again, rtol=1e-5)
    assert np.abs(gates - plain).max() > 1e-3

  def test_noise_of_a_stage_samples_other_tokens(
    self, config, params, small_index, small_batch
  ):
    @functools.partial(jax.jit, static_argnames='noise')
    def run(params, rng, noise):
      trace = traces.Trace(
        params,
        rng,
        small_batch,
        small_index,
        config=config.model,
        stage=stages.Stage(hop_noise=noise),
      )
      return trace.encoding.after.tokens

    first, again, cold = (
      np.asarray(run(params, jax.random.key(key), noise))
      for key, noise in ((0, 3.0), (1, 3.0), (1, 0.0))
    )
    assert (first != again).any(1).all()
    plain = jax.jit(functools.partial(forward.search, config=config.model))
    encoding, _ = plain(params, index=small_index, batch=small_batch)
    np.testing.assert_array_equal(cold, encoding.after.tokens)
    assert (again != cold).any()

  def test_the_largest_contributions_are_kept(self, config, params):
    weights = [0.5, 0.3, 0.2]
    every = self.run(params, config, weights, size=12)
    few = self.run(params, config, weights, size=3)
    idf = np.exp(params['query_encoder']['log_token_weight'])
    tokens, gates = np.asarray(every.tokens[0, 3:]), np.asarray(every.gates[0])
    value = np.where(tokens != 0, gates[3:] * idf[tokens], -1)
    order = np.argsort(-value)[:3]
    np.testing.assert_array_equal(few.tokens[0, 3:], tokens[order])

  def test_vector_is_the_gated_bag(self, config, params):
    found = self.run(params, config, [0.5, 0.3, 0.2])
    own = params['query_encoder']  # its residual starts at zero
    weights = np.exp(own['log_token_weight'])[found.tokens[0]]
    weights = weights * np.asarray(found.gates[0])
    weights = weights * (np.asarray(found.tokens[0]) != 0)
    bag = weights @ np.asarray(own['embedding'])[found.tokens[0]]
    np.testing.assert_allclose(
      found.vector[0], bag / np.linalg.norm(bag), atol=1e-5
    )

  def test_states_are_gated(self, config, params):
    own, gates = params['query_encoder'], jnp.array([[0.5, 0.25, 1.0]])
    plain, gated = (
      query_encoder.apply(own, config.query_encoder, self.query, gates=g)
      for g in (None, gates)
    )
    np.testing.assert_allclose(
      gated.memory, plain.memory * gates[..., None], rtol=1e-5
    )

  def test_padding_of_a_question_changes_nothing(self, config, params):
    short = self.run(params, config, [0.5, 0.3, 0.2])
    longer = self.run(
      params, config, [0.5, 0.3, 0.2], query=jnp.array([[4, 15, 0, 0, 0]])
    )
    np.testing.assert_allclose(short.needed, longer.needed, atol=1e-5)
    np.testing.assert_allclose(short.vector, longer.vector, atol=1e-5)

  def test_gradient_to_weights_and_gates(self, config, params):
    def value(weights, params):
      found = second(
        params, self.query, self.passages, weights, config=config, size=12
      )
      return found.vector[0, 0] + found.needed[0]

    weights = jnp.array([[0.5, 0.3, 0.2]])
    slope, own = jax.jit(jax.grad(value, argnums=(0, 1)))(weights, params)
    own = own['query_encoder']
    gates = own.pop('second')['gate']
    assert np.abs(gates['kernel']).max() > 0
    # The encoder learns from the first search alone.
    assert not any(np.asarray(x).any() for x in jax.tree.leaves(own))
    for place in range(3):
      step = jnp.zeros((1, 3)).at[0, place].set(1e-2)
      ends = [value(weights + sign * step, params) for sign in (1, -1)]
      np.testing.assert_allclose(
        slope[0, place], (ends[0] - ends[1]) / 2e-2, atol=2e-3
      )


def test_the_answer_alone_trains_both_searches(
  config, params, small_index, small_batch
):
  stage = stages.Stage(losses=(('answer', 1.0),), candidates='beam')

  def loss(params):
    terms, _ = objective.loss(
      params,
      jax.random.key(1),
      small_batch,
      small_index,
      config=config.model,
      stage=stage,
    )
    value, count = terms['answer']
    return value / count

  slope = jax.jit(jax.grad(loss))(params)
  own = slope['query_encoder']
  for part in (own['second']['gate'], own['second']['needs'], own['second']):
    sizes = [np.abs(x).max() for x in jax.tree.leaves(part)]
    assert np.isfinite(sizes).all() and max(sizes) > 1e-7
  assert np.abs(own['embedding']).max() > 1e-7


def test_training_step_searches_as_the_answer_does(
  config, params, small_index, small_batch, searched
):
  """The trace of a step and the inference give the same documents."""

  @jax.jit
  def run(params, batch, index):
    trace = traces.Trace(
      params,
      jax.random.key(0),
      batch,
      index,
      config=config.model,
      stage=stages.Stage(losses=(('answer', 1.0),), candidates='beam+gold'),
    )
    again = docid_search.score_docids(
      params, config.model, index, trace.encoding, batch.gold
    )
    return trace.found, trace.encoding, trace.gold_docid, again

  encoding, found = searched
  own, traced, docid, again = run(params, small_batch, small_index)
  np.testing.assert_array_equal(own.documents, found.documents)
  np.testing.assert_allclose(
    traced.after.vector, encoding.after.vector, atol=1e-5
  )
  np.testing.assert_allclose(docid, again, rtol=1e-4)


def test_given_documents_are_not_searched_again(
  config, params, small_index, small_batch, monkeypatch
):
  def must_not_run(*args, **options):
    raise AssertionError('searched')

  monkeypatch.setattr(docid_search, 'retrieve', must_not_run)
  rows = jnp.array([[3, 8]] * 4)
  given = types.Candidates(
    documents=rows,
    codes=small_index.codes[rows].astype(jnp.int32),
    scores=jnp.zeros((4, 2)),
    where=jnp.ones((4, 2), bool),
  )
  run = functools.partial(forward.search, config=config.model)
  encoding, found = jax.eval_shape(
    run, params, index=small_index, batch=small_batch, candidates=given
  )
  assert found.documents.shape == (4, 2)
  assert encoding.after.tokens.shape == (4, 4 + SIZE)


def test_gold_in_support_by_counting():
  rng = np.random.default_rng(0)
  documents = np.stack([rng.permutation(9)[:6] for _ in range(60)])
  documents[:, 5] = -1
  weights = rng.random((60, 6)) * (rng.random((60, 6)) < 0.7)
  gold = np.stack([rng.permutation(9)[:3] for _ in range(60)])
  gold[rng.random((60, 3)) < 0.6] = -1
  found = measures.gold_in_support(documents, weights, gold)
  for row in range(60):
    own = {int(x) for x in gold[row] if x >= 0}
    kept = {
      int(d) for d, w in zip(documents[row], weights[row], strict=True) if w > 0
    }
    if own:
      assert found[row] == float(own <= kept)
    else:
      assert np.isnan(found[row])
  assert 0 < np.nansum(found) < 60


@pytest.mark.parametrize(
  ('groups', 'message'),
  [
    ({'search': {'hops': 3}}, 'search.hops must be 1 or 2, got 3'),
    (
      {'search': {'hops': 2, 'scoring': 'inner_product'}},
      "search.scoring='inner_product'",
    ),
    (
      {'search': {'hops': 2, 'hop_tokens': 0}},
      'search.hop_tokens must be at least 1',
    ),
    (
      {'search': {'hops': 2}, 'data': {'lexicon': True}},
      'data.lexicon=True uses words of the question alone',
    ),
    (
      {'search': {'hops': 2}, 'train': {'evaluate_exact': True}},
      'train.evaluate_exact=True',
    ),
    (
      {
        'search': {'hops': 2},
        'stages': {'joint': {'steps': 1, 'losses': {'prefix_margin': 1.0}}},
      },
      'losses.prefix_margin compares prefixes of one search',
    ),
    (
      {
        'search': {'hops': 2},
        'query_encoder': {'weights': 'x'},
        'id_decoder': {'output': 'node_table'},
      },
      'search.hops=2 needs a query encoder that is trained from scratch',
    ),
  ],
)
def test_wrong_values(groups, message):
  with pytest.raises(ValueError) as caught:
    configs.build(groups)
  assert message in str(caught.value)
  assert 'Set --config.' in str(caught.value)
