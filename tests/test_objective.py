import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax import model, objective
from rag_jax import stage as stages

COUNT, VOCAB, BATCH = 12, 50, 4
ALL_LOSSES = ('answer', 'docid', 'ranking', 'indexing')
# Softmax gives every document a gradient.
OPEN = {'ranker': {'operator': 'softmax'}, 'search': {'read_size': 6}}


def stage_of(*losses, **fields):
  return stages.Stage(losses=tuple((name, 1.0) for name in losses), **fields)


@functools.cache
def initialise(config):
  return jax.jit(
    lambda rng, index: model.init(rng, config.model, index, vocab_size=VOCAB)
  )


def init(config, index):
  return initialise(config)(jax.random.key(0), index)


@functools.cache
def compiled_loss(config, stage):
  return jax.jit(
    functools.partial(objective.loss, config=config.model, stage=stage)
  )


@functools.cache
def values_and_slopes(config, stage):
  """(params, batch, index) -> each mean of `stage`, and its gradient."""

  def means(params, batch, index):
    terms, _ = objective.loss(
      params, jax.random.key(5), batch, index, config=config.model, stage=stage
    )
    own = {name: value / count for name, (value, count) in terms.items()}
    return own, own

  return jax.jit(jax.jacrev(means, has_aux=True))


class TestLoss:
  def run(self, config, stage, index, batch):
    params = init(config, index)
    run = compiled_loss(config, stage)
    return run(params, jax.random.key(0), batch, index)

  def test_only_the_losses_of_the_stage_are_computed(
    self, small_config, small_index, small_batch
  ):
    config = small_config()
    params = init(config, small_index)
    search = ('docid', 'ranking', 'indexing', 'list_mle', 'margin')
    search = (*search, 'prefix_margin')
    for losses, candidates, needs in (
      (('answer',), 'beam', set(params)),
      (search, 'beam+gold', set(params) - {'reader'}),
      (('answer',), 'gold', {'reader'}),
      (('indexing',), 'gold', {'query_encoder', 'id_decoder', 'ranker'}),
    ):
      stage = stage_of(*losses, candidates=candidates)
      run = functools.partial(objective.loss, config=config.model, stage=stage)
      args = jax.random.key(0), small_batch, small_index
      own = {name: params[name] for name in needs}
      terms, measured = jax.eval_shape(run, own, *args)
      assert set(terms) == set(losses)
      assert set(losses) <= set(measured)
      for name in needs:  # every given component is used
        less = {n: value for n, value in own.items() if n != name}
        with pytest.raises(KeyError, match=name):
          jax.eval_shape(run, less, *args)

  def test_docid_loss_is_equal_for_beam_and_beam_with_gold(
    self, small_config, small_index, small_batch
  ):
    values = []
    for candidates in ('beam+gold', 'beam'):
      stage = stage_of('docid', candidates=candidates)
      terms, _ = self.run(small_config(), stage, small_index, small_batch)
      values.append(float(terms['docid'][0]))
    assert values[0] == pytest.approx(values[1], rel=1e-5)

  def test_questions_without_gold_are_not_counted(
    self, small_config, small_index, small_batch
  ):
    gold = small_batch.gold.at[0].set(-1)
    changed = dataclasses.replace(small_batch, gold=gold)
    stage = stage_of(*ALL_LOSSES)
    terms, measured = self.run(small_config(), stage, small_index, changed)
    assert float(terms['docid'][1]) == BATCH - 1
    assert float(terms['ranking'][1]) == BATCH - 1
    assert float(measured['beam_hits'][1]) == BATCH - 1

  def test_an_answer_that_no_document_contains_is_not_counted(
    self, small_config, small_index, small_batch
  ):
    answers = small_batch.answers.at[0].set(49).at[0, 1].set(0)
    changed = dataclasses.replace(small_batch, answers=answers)
    config = small_config(search={'beam_size': COUNT, 'read_size': COUNT})
    stage = stage_of(*ALL_LOSSES)
    whole, _ = self.run(config, stage, small_index, small_batch)
    terms, _ = self.run(config, stage, small_index, changed)
    assert float(terms['answer'][1]) <= float(whole['answer'][1])
    assert np.isfinite(float(terms['answer'][0]))

  def test_a_gold_document_in_the_beam_is_counted_once(
    self, small_config, small_index, small_batch
  ):
    config = small_config(search={'beam_size': COUNT, 'read_size': COUNT})
    stage = stage_of(*ALL_LOSSES)
    _, measured = self.run(config, stage, small_index, small_batch)
    value, count = measured['gold_weight']
    assert 0 < float(value / count) <= 1
    assert float(measured['beam_hits'][0]) == BATCH

  def test_beam_metrics_exist_only_with_a_beam_search(
    self, small_config, small_index, small_batch
  ):
    of_a_beam = {'beam_hits', 'docid_hits@1', 'beam_mass'}
    for candidates, there in (('beam', of_a_beam), ('all', set())):
      stage = stage_of('ranking', candidates=candidates)
      config = small_config(ranker={'operator': 'softmax'})
      _, measured = self.run(config, stage, small_index, small_batch)
      assert set(measured) & of_a_beam == there
    # With softmax, all ranked documents have weight.
    assert float(measured['support'][0]) == BATCH * COUNT

  @pytest.mark.parametrize('kind', ['extractive', 'fid'])
  def test_both_readers_learn(
    self, small_config, small_index, small_batch, kind
  ):
    config = small_config(reader={'kind': kind}, **OPEN)
    params = init(config, small_index)
    run = values_and_slopes(config, stage_of('answer', candidates='beam'))
    losses = []
    for _ in range(11):
      gradient, loss = run(params, small_batch, small_index)
      losses.append(float(loss['answer']))
      params = jax.tree.map(
        lambda p, g: p - 0.05 * g, params, gradient['answer']
      )
    assert losses[-1] < losses[0]


class TestAnswer:
  """Which questions the loss counts, one at a time and in a batch."""

  @pytest.fixture(scope='class', params=['extractive', 'fid'])
  def run(self, request, small_config, small_index):
    config = small_config(reader={'kind': request.param})
    params = init(config, small_index)
    stage = stage_of('answer', candidates='beam+gold')
    compute = compiled_loss(config, stage)

    def run(batch):
      key = jax.random.key(0)
      value, count = compute(params, key, batch, small_index)[0]['answer']
      return float(value), float(count)

    return run

  def test_padding_questions_do_not_count(self, run, small_batch):
    alone = [
      run(dataclasses.replace(small_batch, where=jnp.arange(BATCH) == i))
      for i in range(BATCH)
    ]
    counts = [count for _, count in alone]
    assert sum(counts) >= 3 and max(counts) == 1
    assert all(value > 0 for value, count in alone if count)
    for where in ([True] * 4, [False, True, True, False], [False] * 4):
      masked = dataclasses.replace(small_batch, where=jnp.array(where))
      value, count = run(masked)
      own = [one for one, real in zip(alone, where, strict=True) if real]
      assert value == pytest.approx(sum(v for v, _ in own), rel=1e-5)
      assert count == sum(c for _, c in own)

  def test_questions_without_an_answer_do_not_count(self, run, small_batch):
    whole, count = run(small_batch)
    first = jnp.arange(BATCH) == 0
    value, one = run(dataclasses.replace(small_batch, where=first))
    assert one == 1
    none = small_batch.answers.at[0].set(0)
    left = run(dataclasses.replace(small_batch, answers=none))
    assert left[0] == pytest.approx(whole - value, rel=1e-4)
    assert left[1] == count - 1


def test_an_answer_only_in_documents_of_weight_zero_does_not_count(
  small_config, small_index, small_batch
):
  """A document read contains it, but sparsemax gives that one no weight."""
  config = small_config(search={'beam_size': COUNT, 'read_size': COUNT})
  params = init(config, small_index)
  stage = stage_of('answer', candidates='beam')
  tokens = np.asarray(small_index.tokens)

  @jax.jit
  def look(params, batch):
    trace = objective.Trace(
      params,
      jax.random.key(0),
      batch,
      small_index,
      config=config.model,
      stage=stage,
    )
    reading = trace.reading
    term = objective.TERMS['answer'](trace)
    return reading.documents, reading.weights, trace.holds, term

  documents, weights, _, (whole, count) = look(params, small_batch)
  with_weight = np.asarray(documents[0])[np.asarray(weights[0]) > 0]
  without = np.setdiff1d(np.arange(COUNT), with_weight)
  heavy = tokens[with_weight].ravel()
  light = np.setdiff1d(tokens[without], tokens[with_weight])
  first = dataclasses.replace(small_batch, where=jnp.arange(BATCH) == 0)
  own = look(params, first)[3]
  for token, counts in ((heavy[0], True), (light[0], False)):
    answers = jnp.zeros_like(small_batch.answers[0]).at[0, 0].set(int(token))
    changed = small_batch.answers.at[0].set(answers)
    changed = dataclasses.replace(small_batch, answers=changed)
    _, _, holds, (value, number) = look(params, changed)
    assert bool(holds[0].any())
    assert float(number) == float(count - own[1]) + counts
    if not counts:
      assert float(value) == pytest.approx(float(whole - own[0]), rel=1e-5)


class TestTotal:
  def test_each_loss_is_scaled_by_its_weight(self):
    terms = {
      name: (jnp.float32(i + 1), jnp.float32(i + 2))
      for i, name in enumerate(objective.TERMS)
    }
    counts = {name: count for name, (_, count) in terms.items()}
    for i, name in enumerate(objective.TERMS):
      stage = stages.Stage(losses=((name, 3.0),))
      found = objective.total(terms, counts, stage)
      assert float(found) == pytest.approx(3 * (i + 1) / (i + 2), rel=1e-6)

  def test_the_total_is_the_weighted_sum_of_means(self):
    terms = {
      'answer': (jnp.float32(6.0), jnp.float32(4.0)),
      'docid': (jnp.float32(10.0), jnp.float32(2.0)),
      'ranking': (jnp.float32(0.0), jnp.float32(0.0)),
    }
    losses = (('answer', 2.0), ('docid', 0.5), ('ranking', 7.0))
    stage = stages.Stage(losses=losses)
    counts = {name: count for name, (_, count) in terms.items()}
    # 2 * 6 / 4 + 0.5 * 10 / 2 + 7 * 0
    assert float(objective.total(terms, counts, stage)) == 5.5
    # Counts are over all devices, sums over this one.
    counts = {name: 2 * count for name, count in counts.items()}
    assert float(objective.total(terms, counts, stage)) == 2.75

  def test_the_total_of_a_stage(self, small_config, small_index, small_batch):
    config = small_config()
    gold = small_batch.gold.at[0].set(-1)  # so that counts differ
    batch = dataclasses.replace(small_batch, gold=gold)
    stage = stage_of(*ALL_LOSSES)
    run = compiled_loss(config, stage)
    args = init(config, small_index), jax.random.key(0), batch, small_index
    terms, _ = run(*args)
    weights = {'answer': 0.5, 'docid': 2.0, 'ranking': 3.0, 'indexing': 0.25}
    own = stages.Stage(losses=tuple(weights.items()))
    counts = {name: count for name, (_, count) in terms.items()}
    assert set(map(float, counts.values())) == {3.0, 4.0}
    wanted = sum(
      weight * float(terms[name][0]) / float(terms[name][1])
      for name, weight in weights.items()
    )
    found = float(objective.total(terms, counts, own))
    assert found == pytest.approx(wanted, rel=1e-6)
