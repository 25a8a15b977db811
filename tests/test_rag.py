import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax import config as configs
from rag_jax import objective, rag, types
from rag_jax.components import reader
from rag_jax.index import docids
from rag_jax.index import index as indexes

COUNT, VOCAB, BATCH = 12, 50, 4


def build_config(**groups):
  small = {'num_layers': 1, 'num_heads': 2, 'hidden': 16}
  values = {
    'docid': {'branching': 3, 'leaf_size': 3},
    'query_encoder': {'width': 16} | small,
    'id_decoder': small,
    'reader': {'width': 16} | small,
    'search': {'beam_size': 6, 'read_size': 3},
    'pseudo_queries': {'batch_size': 4},
  }
  for name, fields in groups.items():
    values[name] = values.get(name, {}) | fields
  return configs.build(values)


@pytest.fixture(scope='module')
def tokens():
  return np.random.default_rng(0).integers(3, VOCAB, (COUNT, 9))


@pytest.fixture(scope='module')
def index(tokens):
  config = build_config()
  vectors = rag.document_vectors(
    jax.random.key(0), config.model, jnp.asarray(tokens), vocab_size=VOCAB
  )
  codes = docids.assign(np.asarray(vectors), config.docid)
  return indexes.from_codes(tokens, codes)


@pytest.fixture(scope='module')
def batch(tokens):
  """Questions of four tokens of a document; the answer is the next two."""
  answers = np.zeros((BATCH, 2, 3), np.int64)
  answers[:, 0, :2] = tokens[:BATCH, 4:6]
  return types.Batch(
    query=jnp.asarray(tokens[:BATCH, :4]),
    answers=jnp.asarray(answers),
    gold=jnp.arange(BATCH)[:, None],
    where=jnp.ones(BATCH, bool),
  )


def init(config, index):
  return rag.init(jax.random.key(0), config.model, index, vocab_size=VOCAB)


@functools.cache
def compiled_loss(config):
  return jax.jit(functools.partial(objective.loss, config=config.model))


def means(params, batch, index, config):
  """Each term of the loss, a mean over what it counts."""
  terms, _ = objective.loss(
    params, jax.random.key(5), batch, index, config=config.model
  )
  return {
    name: value / jnp.maximum(count, 1)
    for name, (value, count) in terms.items()
  }


@functools.cache
def answer_and_gradient(config):
  """(params, batch, index) -> the answer's loss and its gradient."""

  def answer(params, batch, index):
    return means(params, batch, index, config)['answer']

  return jax.jit(jax.value_and_grad(answer))


def size(tree):
  return float(sum(jnp.abs(leaf).sum() for leaf in jax.tree.leaves(tree)))


# Softmax weighs every document, so that no part of the path is shut by chance.
OPEN = {
  'ranker': {'operator': 'softmax'},
  'search': {'join_gold': False, 'read_size': 6},
}


class TestGradient:
  def test_the_answer_alone_reaches_all_four_components(self, index, batch):
    config = build_config(**OPEN)
    params = init(config, index)
    _, gradient = answer_and_gradient(config)(params, batch, index)
    for name in ('query_encoder', 'id_decoder', 'ranker', 'reader'):
      assert size(gradient[name]) > 0, name
    leaves = jax.tree.leaves(gradient)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in leaves)

  def test_cut_off_it_reaches_the_reader_alone(self, index, batch):
    config = build_config(**OPEN, loss={'reader_trains_search': False})
    params = init(config, index)
    _, gradient = answer_and_gradient(config)(params, batch, index)
    for name in ('query_encoder', 'id_decoder', 'ranker'):
      assert size(gradient[name]) == 0, name
    assert size(gradient['reader']) > 0

  @pytest.mark.parametrize('operator', ['softmax', 'entmax15'])
  def test_every_loss_against_finite_differences(self, index, batch, operator):
    config = build_config(
      ranker={'operator': operator}, search={'read_size': 6}
    )
    params = init(config, index)

    def terms(params):
      return means(params, batch, index, config)

    gradients = jax.jit(jax.jacrev(terms))(params)
    assert set(gradients) == {'answer', 'docid', 'ranking', 'self_index'}
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

  def test_a_masked_question_has_no_part_in_it(self, index, batch):
    config = build_config()
    params = init(config, index)
    gradients = []
    for query in (batch.query, batch.query.at[-1].set(7)):
      where = jnp.arange(BATCH) < BATCH - 1
      changed = dataclasses.replace(batch, query=query, where=where)
      _, gradient = answer_and_gradient(config)(params, changed, index)
      gradients.append(gradient)
    for one, other in zip(*map(jax.tree.leaves, gradients), strict=True):
      np.testing.assert_allclose(one, other, atol=1e-6)


class TestSearch:
  def retrieve(self, config, index, batch, **options):
    from rag_jax.components import query_encoder

    params = init(config, index)

    def run(params):
      encoding = query_encoder.apply(
        params['query_encoder'], config.query_encoder, batch.query
      )
      found = rag.retrieve(params, config.model, index, encoding, **options)
      everything = jnp.broadcast_to(jnp.arange(COUNT), (BATCH, COUNT))
      return found, rag.score_docids(
        params, config.model, index, encoding, everything
      )

    return jax.jit(run)(params)

  def test_a_beam_over_the_corpus_is_exact_and_pads(self, index, batch):
    config = build_config(search={'beam_size': COUNT + 5})
    found, scores = self.retrieve(config, index, batch)
    assert int(found.where.sum()) == BATCH * COUNT
    assert not bool(found.where[:, COUNT:].any())
    ranked = jnp.sort(scores, axis=1)[:, ::-1]
    np.testing.assert_allclose(found.scores[:, :COUNT], ranked, atol=1e-4)

  def test_search_and_rescoring_agree(self, index, batch):
    found, scores = self.retrieve(build_config(), index, batch)
    again = jnp.take_along_axis(scores, found.documents, axis=1)
    np.testing.assert_allclose(found.scores, again, atol=1e-4)

  def test_a_deleted_document_is_never_returned(self, index, batch):
    alive = jnp.arange(COUNT) != 1
    config = build_config(search={'beam_size': COUNT})
    index = indexes.from_codes(
      np.asarray(index.tokens), np.asarray(index.codes), alive=np.asarray(alive)
    )
    found, _ = self.retrieve(config, index, batch)
    documents = np.asarray(found.documents)[np.asarray(found.where)]
    assert 1 not in documents
    assert int(found.where.sum()) == BATCH * (COUNT - 1)

  def test_an_allow_list_holds_for_its_own_query(self, index, batch):
    allowed = jnp.arange(COUNT)[None] % BATCH == jnp.arange(BATCH)[:, None]
    config = build_config(search={'beam_size': COUNT})
    found, _ = self.retrieve(config, index, batch, allowed=allowed)
    for query in range(BATCH):
      documents = np.asarray(found.documents[query])[found.where[query]]
      assert set(documents.tolist()) == set(range(query, COUNT, BATCH))


class TestLoss:
  def run(self, config, index, batch):
    params = init(config, index)
    return compiled_loss(config)(params, jax.random.key(0), batch, index)

  def test_a_loss_of_weight_zero_is_not_computed(self, index, batch):
    weights = {'docid': 0.0, 'ranking': 0.0, 'self_index': 0.0}
    terms, _ = self.run(build_config(loss=weights), index, batch)
    assert set(terms) == {'answer'}

  def test_docid_loss_is_the_same_with_gold_joined_or_not(self, index, batch):
    values = []
    alone = {'answer': 0.0, 'ranking': 0.0, 'self_index': 0.0}
    for join in (True, False):
      config = build_config(search={'join_gold': join}, loss=alone)
      terms, _ = self.run(config, index, batch)
      values.append(float(terms['docid'][0]))
    assert values[0] == pytest.approx(values[1], rel=1e-5)

  def test_questions_without_gold_are_not_counted(self, index, batch):
    gold = batch.gold.at[0].set(-1)
    changed = dataclasses.replace(batch, gold=gold)
    terms, measured = self.run(build_config(), index, changed)
    assert float(terms['docid'][1]) == BATCH - 1
    assert float(terms['ranking'][1]) == BATCH - 1
    assert float(measured['beam_hits'][1]) == BATCH - 1

  def test_an_answer_in_no_document_is_not_counted(self, index, batch):
    answers = batch.answers.at[0].set(49).at[0, 1].set(0)
    changed = dataclasses.replace(batch, answers=answers)
    config = build_config(search={'beam_size': COUNT, 'read_size': COUNT})
    whole, _ = self.run(config, index, batch)
    terms, _ = self.run(config, index, changed)
    assert float(terms['answer'][1]) <= float(whole['answer'][1])
    assert np.isfinite(float(terms['answer'][0]))

  def test_gold_joins_once_even_if_the_beam_found_it(self, index, batch):
    config = build_config(search={'beam_size': COUNT})
    _, measured = self.run(config, index, batch)
    value, count = measured['gold_weight']
    assert 0 < float(value / count) <= 1
    assert float(measured['beam_hits'][0]) == BATCH

  @pytest.mark.parametrize('kind', ['extractive', 'fusion'])
  def test_both_readers_learn(self, index, batch, kind):
    config = build_config(reader={'kind': kind}, **OPEN)
    params = init(config, index)
    losses = []
    for _ in range(11):
      loss, gradient = answer_and_gradient(config)(params, batch, index)
      losses.append(float(loss))
      params = jax.tree.map(lambda p, g: p - 0.05 * g, params, gradient)
    assert losses[-1] < losses[0]

  def test_relevance_is_learned_without_the_scores_of_search(self):
    where = jnp.array([[True, True, False], [True, True, True]])
    zeros = jnp.zeros((2, 3))
    pointers = reader.Pointers(
      spans=jnp.zeros((2, 3, 5, 2)),
      relevance=jnp.array([[1.0, 2.0, 9.0], [0.0, 0.0, 0.0]]),
    )
    reading = rag.Reading(
      documents=zeros.astype(int),
      passages=jnp.ones((2, 3, 5), int),
      places=zeros.astype(int),
      scores=zeros + jnp.array([9.0, 0.0, 0.0]),
      weights=zeros,
      docid=zeros,
      where=where,
      pointers=pointers,
    )
    gold = jnp.array([[False, True, True], [True, False, False]])
    known = jnp.array([True, True])
    total, count = objective._relevance_loss(reading, gold, known)
    wanted = np.log(np.exp(1) + np.exp(2)) - 2 + np.log(3)
    np.testing.assert_allclose(total, wanted, rtol=1e-6)
    assert int(count) == 2
    with_null, _ = objective._relevance_loss(reading, gold, known, null=True)
    wanted = np.log(1 + np.exp(1) + np.exp(2)) - 2 + np.log(4)
    np.testing.assert_allclose(with_null, wanted, rtol=1e-6)
    total, count = objective._relevance_loss(reading, gold, ~known)
    assert float(total) == 0 and int(count) == 0


class TestAnswer:
  @pytest.mark.parametrize('kind', ['extractive', 'fusion'])
  def test_weights_are_sorted_and_sum_to_one(self, index, batch, kind):
    config = build_config(reader={'kind': kind})
    params = init(config, index)
    answer = functools.partial(rag.answer, config=config.model)
    found = jax.jit(answer)(params, batch, index)
    weights = np.asarray(found.weights)
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-5)
    assert (np.diff(weights, axis=1) <= 0).all()
    assert (np.asarray(found.documents) >= 0).all()
    assert (np.asarray(found.log_probability) <= 1e-6).all()

  def test_the_span_lies_in_the_document_it_names(self, index, batch):
    config = build_config()
    params = init(config, index)
    answer = functools.partial(rag.answer, config=config.model)
    found = jax.jit(answer)(params, batch, index)
    for query in range(BATCH):
      row = int(found.read[query])
      assert row in np.asarray(found.documents[query])
      start, end = int(found.start[query]), int(found.end[query])
      assert 0 <= start <= end < index.tokens.shape[1]


class TestConfig:
  def test_fusion_has_no_posterior_to_distil_from(self):
    with pytest.raises(ValueError, match="distillation needs.*'fusion'"):
      build_config(reader={'kind': 'fusion'}, loss={'distillation': 1.0})

  @pytest.mark.parametrize(
    'fields', [{'beam_size': 0}, {'read_size': 7}, {'scoring': 'sum'}]
  )
  def test_bad_search_values_name_the_remedy(self, fields):
    with pytest.raises(ValueError, match='Set --config.search'):
      build_config(search=fields)

  def test_what_the_stages_set_is_not_for_the_user(self):
    with pytest.raises(ValueError, match='Set --config.train.reader_steps'):
      build_config(search={'gold_only': True})

  @pytest.mark.parametrize(
    'fields', [{'window': 2}, {'kind': 'oral'}, {'span_relevance': -1.0}]
  )
  def test_bad_reader_values_name_the_remedy(self, fields):
    with pytest.raises(ValueError, match='Set --config.reader'):
      build_config(reader=fields)
