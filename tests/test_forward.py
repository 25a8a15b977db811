import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax import docid_search, forward, model, objective
from rag_jax import stage as stages
from rag_jax.components import query_encoder
from rag_jax.index import index as indexes

COUNT, VOCAB, BATCH = 12, 50, 4
ALL_LOSSES = ('answer', 'docid', 'ranking', 'indexing')


def stage_of(*losses, **fields):
  return stages.Stage(losses=tuple((name, 1.0) for name in losses), **fields)


def init(config, index):
  return initialise(config)(jax.random.key(0), index)


@functools.cache
def initialise(config):
  return jax.jit(
    lambda rng, index: model.init(rng, config.model, index, vocab_size=VOCAB)
  )


def means(params, batch, index, config, stage):
  """Each term of the loss as a mean over the questions that it counts."""
  terms, _ = objective.loss(
    params, jax.random.key(5), batch, index, config=config.model, stage=stage
  )
  return {
    name: value / jnp.maximum(count, 1)
    for name, (value, count) in terms.items()
  }


@functools.cache
def answer_and_gradient(config, stage):
  """(params, batch, index) -> the answer's loss and its gradient."""

  def answer(params, batch, index):
    return means(params, batch, index, config, stage)['answer']

  return jax.jit(jax.value_and_grad(answer))


def size(tree):
  return float(sum(jnp.abs(leaf).sum() for leaf in jax.tree.leaves(tree)))


# Softmax gives every document a gradient.
OPEN = {'ranker': {'operator': 'softmax'}, 'search': {'read_size': 6}}
BEAM = stage_of('answer', candidates='beam')


class TestGradient:
  def test_the_answer_loss_has_a_gradient_to_all_components(
    self, small_config, small_index, small_batch
  ):
    config = small_config(**OPEN)
    params = init(config, small_index)
    run = answer_and_gradient(config, BEAM)
    _, gradient = run(params, small_batch, small_index)
    for name in ('query_encoder', 'id_decoder', 'ranker', 'reader'):
      assert size(gradient[name]) > 0, name
    leaves = jax.tree.leaves(gradient)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in leaves)

  def test_estimator_none_stops_the_gradient_to_the_search(
    self, small_config, small_index, small_batch
  ):
    config = small_config(**OPEN)
    params = init(config, small_index)
    cut = dataclasses.replace(BEAM, estimator='none')
    values, gradients = {}, {}
    for stage in (BEAM, cut):
      run = answer_and_gradient(config, stage)
      found = run(params, small_batch, small_index)
      values[stage], gradients[stage] = found
    for name in ('query_encoder', 'id_decoder', 'ranker'):
      assert size(gradients[cut][name]) == 0, name
    assert size(gradients[cut]['reader']) > 0
    # The gradient to the reader is the same.
    assert float(values[cut]) == pytest.approx(float(values[BEAM]), rel=1e-5)
    for one, other in zip(
      *(jax.tree.leaves(gradients[s]['reader']) for s in (BEAM, cut)),
      strict=True,
    ):
      np.testing.assert_allclose(one, other, atol=1e-6)

  @pytest.mark.parametrize(
    'operator', ['entmax15', pytest.param('softmax', marks=pytest.mark.long)]
  )
  def test_every_loss_against_finite_differences(
    self, small_config, small_index, small_batch, operator
  ):
    config = small_config(
      ranker={'operator': operator}, search={'read_size': 6}
    )
    params = init(config, small_index)

    def terms(params):
      stage = stage_of(*ALL_LOSSES)
      return means(params, small_batch, small_index, config, stage)

    gradients = jax.jit(jax.jacrev(terms))(params)
    assert set(gradients) == set(ALL_LOSSES)
    keys = iter(jax.random.split(jax.random.key(3), 1000))
    direction = jax.tree.map(
      lambda x: jax.random.normal(next(keys), x.shape) * jnp.abs(x).mean(),
      params,
    )
    step = 1e-3

    @jax.jit
    def moved(by):
      return terms(jax.tree.map(lambda x, d: x + by * d, params, direction))

    more, less = moved(step), moved(-step)
    for name, gradient in gradients.items():
      slope = (more[name] - less[name]) / (2 * step)
      products = jax.tree.map(lambda g, d: (g * d).sum(), gradient, direction)
      wanted = float(sum(jax.tree.leaves(products)))
      assert float(slope) == pytest.approx(wanted, rel=0.03, abs=0.02), name

  def test_a_masked_question_has_no_gradient(
    self, small_config, small_index, small_batch
  ):
    config, batch = small_config(), small_batch
    params = init(config, small_index)
    run = answer_and_gradient(config, stage_of('answer'))
    gradients = []
    for query in (batch.query, batch.query.at[-1].set(7)):
      where = jnp.arange(BATCH) < BATCH - 1
      changed = dataclasses.replace(batch, query=query, where=where)
      _, gradient = run(params, changed, small_index)
      gradients.append(gradient)
    for one, other in zip(*map(jax.tree.leaves, gradients), strict=True):
      np.testing.assert_allclose(one, other, atol=1e-6)


class TestSearch:
  def retrieve(self, config, index, batch, **options):
    params = init(config, index)

    def run(params):
      encoding = query_encoder.apply(
        params['query_encoder'], config.query_encoder, batch.query
      )
      found = docid_search.retrieve(
        params, config.model, index, encoding, **options
      )
      everything = jnp.broadcast_to(jnp.arange(COUNT), (BATCH, COUNT))
      return found, docid_search.score_docids(
        params, config.model, index, encoding, everything
      )

    return jax.jit(run)(params)

  def test_a_beam_larger_than_the_corpus_is_exact_and_padded(
    self, small_config, small_index, small_batch
  ):
    config = small_config(search={'beam_size': COUNT + 5})
    found, scores = self.retrieve(config, small_index, small_batch)
    assert int(found.where.sum()) == BATCH * COUNT
    assert not bool(found.where[:, COUNT:].any())
    ranked = jnp.sort(scores, axis=1)[:, ::-1]
    np.testing.assert_allclose(found.scores[:, :COUNT], ranked, atol=1e-4)

  def test_search_and_rescoring_agree(
    self, small_config, small_index, small_batch
  ):
    found, scores = self.retrieve(small_config(), small_index, small_batch)
    again = jnp.take_along_axis(scores, found.documents, axis=1)
    np.testing.assert_allclose(found.scores, again, atol=1e-4)

  def test_a_deleted_document_is_never_returned(
    self, small_config, small_index, small_batch
  ):
    alive = np.arange(COUNT) != 1
    config = small_config(search={'beam_size': COUNT})
    index = indexes.from_codes(
      np.asarray(small_index.tokens),
      np.asarray(small_index.codes),
      alive=alive,
    )
    found, _ = self.retrieve(config, index, small_batch)
    documents = np.asarray(found.documents)[np.asarray(found.where)]
    assert 1 not in documents
    assert int(found.where.sum()) == BATCH * (COUNT - 1)

  def test_allowed_documents_per_query(
    self, small_config, small_index, small_batch
  ):
    allowed = jnp.arange(COUNT)[None] % BATCH == jnp.arange(BATCH)[:, None]
    config = small_config(search={'beam_size': COUNT})
    found, _ = self.retrieve(config, small_index, small_batch, allowed=allowed)
    for query in range(BATCH):
      documents = np.asarray(found.documents[query])[found.where[query]]
      assert set(documents.tolist()) == set(range(query, COUNT, BATCH))


class TestEdgeScores:
  def test_normalised_edge_scores_sum_to_docid_scores(
    self, small_config, small_index, small_batch
  ):
    config = small_config()
    params = init(config, small_index)

    @jax.jit
    def run(params):
      encoding = query_encoder.apply(
        params['query_encoder'], config.query_encoder, small_batch.query
      )
      everything = jnp.broadcast_to(jnp.arange(COUNT), (BATCH, COUNT))
      own = (params, config.model, small_index, encoding, everything)
      return docid_search.edge_scores(*own), docid_search.score_docids(*own)

    edges, scores = map(np.asarray, run(params))
    codes = np.asarray(small_index.codes)
    assert edges.shape == (BATCH, *codes.shape)
    wanted = np.zeros((BATCH, COUNT))
    for document in range(COUNT):
      for level in range(codes.shape[1]):
        below = (codes[:, :level] == codes[document, :level]).all(axis=1)
        if below.sum() == 1:  # its docid has ended
          assert (edges[:, document, level] == 0).all()
          continue
        siblings = {codes[d, level]: d for d in np.flatnonzero(below)}
        total = sum(np.exp(edges[:, d, level]) for d in siblings.values())
        wanted[:, document] += edges[:, document, level] - np.log(total)
    np.testing.assert_allclose(scores, wanted, atol=1e-4)


class TestAnswer:
  @pytest.mark.parametrize('kind', ['extractive', 'fid'])
  def test_weights_are_sorted_and_sum_to_one(
    self, small_config, small_index, small_batch, kind
  ):
    config = small_config(reader={'kind': kind})
    params = init(config, small_index)
    answer = functools.partial(forward.answer, config=config.model)
    found = jax.jit(answer)(params, small_batch, small_index)
    weights = np.asarray(found.weights)
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-5)
    assert (np.diff(weights, axis=1) <= 0).all()
    assert (np.asarray(found.documents) >= 0).all()
    assert (np.asarray(found.log_probability) <= 1e-6).all()

  def test_the_span_is_inside_its_document(
    self, small_config, small_index, small_batch
  ):
    config = small_config()
    params = init(config, small_index)
    answer = functools.partial(forward.answer, config=config.model)
    found = jax.jit(answer)(params, small_batch, small_index)
    for query in range(BATCH):
      row = int(found.read[query])
      assert row in np.asarray(found.documents[query])
      start, end = int(found.start[query]), int(found.end[query])
      assert 0 <= start <= end < small_index.tokens.shape[1]


class TestConfig:
  @pytest.mark.parametrize(
    'fields', [{'beam_size': 0}, {'read_size': 7}, {'scoring': 'sum'}]
  )
  def test_invalid_search_values_raise_errors_with_remedies(
    self, small_config, fields
  ):
    with pytest.raises(ValueError, match='Set --config.search'):
      small_config(search=fields)

  @pytest.mark.parametrize(
    'fields', [{'window': 2}, {'kind': 'oral'}, {'span_relevance': -1.0}]
  )
  def test_invalid_reader_values_raise_errors_with_remedies(
    self, small_config, fields
  ):
    with pytest.raises(ValueError, match='Set --config.reader'):
      small_config(reader=fields)
