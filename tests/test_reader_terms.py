import copy
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax import model, objective, reader_terms, readers
from rag_jax import stage as stages
from rag_jax import trace as traces
from rag_jax.ops import distillation, estimators

VOCAB, BATCH, READ = 50, 4, 7  # one of the seven documents is masked
KEY = jax.random.key(7)
TEMPERATURE = 0.7


@dataclasses.dataclass
class Setting:
  """A small model, attributes of its trace, and its losses."""

  config: object
  params: dict
  batch: object
  trace: dict  # attribute -> array
  terms: dict  # name -> (sum, count)
  memory: object
  passages: jax.Array

  @property
  def reader(self):
    return readers.make(self.config.reader)

  @property
  def where(self):
    return np.asarray(self.trace['where'])

  def total(self, values):
    """The sum of values [B] over the questions of distillation losses."""
    return float((np.asarray(values) * self.trace['taught']).sum())


def setting(small_config, small_index, small_batch, kind, losses):
  # Softmax gives every document a gradient.
  config = small_config(
    ranker={'operator': 'softmax'},
    search={'read_size': 6},
    reader={'kind': kind},
  )
  index = small_index

  def init(rng):
    return model.init(rng, config.model, index, vocab_size=VOCAB)

  params = jax.jit(init)(jax.random.key(0))
  # One-token answers that occur in several documents; question 3 has an answer
  # in no document, and question 4 no answer.
  answers = small_batch.answers.at[:, :, 1:].set(0)
  answers = answers.at[3].set(0).at[2, 0, 0].set(2)
  batch = dataclasses.replace(small_batch, answers=answers)
  stage = stages.Stage(
    candidates='beam+gold', read_size=READ, temperature=TEMPERATURE
  )
  names = ('likelihoods', 'token_likelihoods', 'holds', 'posterior', 'taught')
  names = (*names, 'search_scores', 'token_where', 'has_answer')

  @jax.jit
  def look(params, batch):
    trace = traces.Trace(
      params, KEY, batch, index, config=config.model, stage=stage
    )
    own = {name: getattr(trace, name) for name in names}
    own |= {'where': trace.reading.where, 'docid': trace.reading.docid}
    own |= {'scores': trace.reading.scores, 'weights': trace.reading.weights}
    own |= {'left_out': reader_terms.left_out(trace)}
    found = {name: objective.TERMS[name](trace) for name in losses}
    return own, found, trace.reading.memory, trace.reading.passages

  own, found, memory, passages = look(params, batch)
  return Setting(
    config=config,
    params=params,
    batch=batch,
    trace=own,
    terms=found,
    memory=memory,
    passages=passages,
  )


@pytest.fixture(scope='module')
def points(small_config, small_index, small_batch):
  """An extractive reader."""
  losses = ('docid_posterior', 'posterior', 'pdist', 'loop', 'emdr2', 'replug')
  return setting(small_config, small_index, small_batch, 'extractive', losses)


@pytest.fixture(scope='module')
def writes(small_config, small_index, small_batch):
  """A generative reader on all passages."""
  losses = ('pdist', 'loop', 'adist', 'emdr2', 'emdr2_token', 'replug')
  own = (small_config, small_index, small_batch)
  return setting(*own, 'fid', (*losses, 'docid_posterior'))


def spans_of(setting):
  """log P(one-token answer | passage), by a loop over its occurrences."""
  chances = np.exp(np.asarray(setting.memory.spans, np.float64))
  passages = np.asarray(setting.passages)
  found = np.full(passages.shape[:2], -np.inf)
  for row, answer in enumerate(np.asarray(setting.batch.answers)[:, 0, 0]):
    for k, passage in enumerate(passages[row]):
      places = np.flatnonzero((passage == answer) & (answer != 0))
      total = sum(chances[row, k, p, 0] * chances[row, k, p, 1] for p in places)
      if total and setting.where[row, k]:
        found[row, k] = np.log(total)
  return found


class TestPosterior:
  def test_posterior_of_an_extractive_reader(self, points):
    likelihoods = spans_of(points)
    holds = np.isfinite(likelihoods)
    assert holds.sum(1).max() > 1 and (holds.sum(1) == 0).any()
    np.testing.assert_array_equal(points.trace['holds'], holds)
    np.testing.assert_array_equal(points.trace['taught'], holds.any(1))
    joint = likelihoods + np.asarray(points.trace['scores'], np.float64)
    for row in np.flatnonzero(holds.any(1)):
      wanted = np.exp(joint[row] - joint[row].max())
      wanted /= wanted.sum()
      found = points.trace['posterior'][row]
      np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-6)

  def test_docid_posterior_against_a_loop(self, points):
    likelihoods = spans_of(points)
    total, count = 0.0, 0
    for row, own in enumerate(likelihoods):
      if not np.isfinite(own).any():
        continue
      weights = np.exp(own + points.trace['scores'][row])
      weights /= weights.sum()
      total -= (weights * points.trace['docid'][row]).sum()
      count += 1
    value, number = points.terms['docid_posterior']
    assert total > 0.1
    assert float(value) == pytest.approx(float(total), rel=1e-4)
    assert int(number) == count == 2

  def test_posterior_loss_with_softmax_is_a_kl_divergence(self, points):
    """The Fenchel-Young loss of softmax is KL(posterior || softmax(scores))."""
    posterior = np.asarray(points.trace['posterior'], np.float64)
    scores = np.where(points.where, points.trace['search_scores'], -np.inf)
    own = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    gap = np.where(posterior > 0, np.log(np.maximum(posterior, 1e-300)), 0)
    gap = gap - np.where(points.where, own, 0)
    wanted = points.total((posterior * gap).sum(1))
    value, count = points.terms['posterior']
    assert float(value) == pytest.approx(wanted, rel=1e-3) and wanted > 0.05
    assert int(count) == 2

  def test_posterior_of_a_generative_reader(self, writes):
    assert writes.trace['taught'].tolist() == [True, True, True, False]
    joint = writes.trace['likelihoods'] + writes.trace['scores']
    joint = jnp.where(writes.trace['where'], joint, -jnp.inf)
    wanted = jax.nn.softmax(joint)[:3]
    found = writes.trace['posterior'][:3]
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    own = -(found * writes.trace['docid'][:3]).sum()
    value, count = writes.terms['docid_posterior']
    assert float(value) == pytest.approx(float(own), rel=1e-4)
    assert int(count) == 3


def with_lacking(likelihoods, lacking):
  """Sets documents without the answer 20 nats below the best one."""
  known = np.where(lacking, -np.inf, likelihoods)
  best = known.max(1, keepdims=True)
  best = np.where(np.isfinite(best), best, 0.0)
  return np.where(lacking, best - 20.0, likelihoods)


class TestTeachers:
  """Each distillation loss against a direct call of its formula."""

  def likelihoods(self, setting):
    """Log-likelihoods by a direct call of the reader."""
    memory = jax.jit(setting.reader.read)(
      setting.params['reader'], setting.batch.query, setting.passages
    )
    return setting.reader.log_likelihood(
      setting.params['reader'], memory, setting.batch.answers
    )

  @pytest.mark.parametrize('name', ['pdist', 'emdr2', 'replug'])
  @pytest.mark.parametrize('kind', ['points', 'writes'])
  def test_by_likelihood(self, kind, name, points, writes):
    setting = {'points': points, 'writes': writes}[kind]
    own = np.asarray(self.likelihoods(setting)).sum(-1)
    if kind == 'points':
      lacking = ~np.isfinite(spans_of(setting))
      assert lacking.any()
      own = with_lacking(own, lacking)
    options = {} if name == 'emdr2' else {'temperature': TEMPERATURE}
    values = getattr(distillation, name)(
      setting.trace['scores'], own, where=setting.where, **options
    )
    value, count = setting.terms[name]
    wanted = setting.total(values)
    assert float(value) == pytest.approx(wanted, rel=1e-4) and wanted > 0.01
    assert int(count) == (2 if kind == 'points' else 3)

  def test_the_offset_without_the_answer_is_twenty_nats(self):
    assert traces.NO_ANSWER_OFFSET == -20.0

  @pytest.mark.parametrize('kind', ['points', 'writes'])
  def test_leave_one_out_against_enumeration(self, kind, points, writes):
    setting = {'points': points, 'writes': writes}[kind]
    alone = np.asarray(self.likelihoods(setting)).sum(-1)
    if kind == 'points':
      alone = with_lacking(alone, ~np.isfinite(spans_of(setting)))
    found = np.asarray(setting.trace['left_out'])
    assert found.shape == (BATCH, READ)
    joint = jax.jit(setting.reader.joint_log_likelihood or (lambda *x: None))
    for row in range(BATCH):
      for out in np.flatnonzero(setting.where[row]):
        others = setting.where[row] & (np.arange(READ) != out)
        if kind == 'points':
          wanted = np.log(np.exp(alone[row][others]).mean())
        else:
          weights = np.zeros((BATCH, READ))
          weights[row] = others / others.sum()
          own = (setting.params['reader'], setting.memory, jnp.array(weights))
          wanted = float(joint(*own, setting.batch.answers)[row].sum())
        assert found[row, out] == pytest.approx(wanted, rel=1e-4)
    values = distillation.loop(
      setting.trace['scores'],
      found,
      where=setting.where,
      temperature=TEMPERATURE,
    )
    value, _ = setting.terms['loop']
    assert float(value) == pytest.approx(setting.total(values), rel=1e-4)
    spread = np.where(setting.where, found, np.nan)
    assert (np.nanmax(spread, 1) - np.nanmin(spread, 1)).max() > 1e-3

  def test_emdr2_token(self, writes):
    tokens = np.asarray(self.likelihoods(writes))
    # One answer token and the end token; no answer has a third token.
    real = (np.asarray(writes.batch.answers)[:, 0, :1] != 0) * [1, 1, 0, 0]
    real = np.where(real.any(1)[:, None], real, [1, 0, 0, 0])
    np.testing.assert_array_equal(writes.trace['token_where'], real)
    values = distillation.emdr2_token(
      writes.trace['scores'],
      tokens,
      where=writes.where,
      token_where=jnp.array(real > 0),
    )
    value, count = writes.terms['emdr2_token']
    assert float(value) == pytest.approx(writes.total(values), rel=1e-4)
    assert int(count) == 3

  def test_adist(self, writes):
    weights = writes.where / writes.where.sum(1, keepdims=True)
    attention = jax.jit(writes.reader.attention)(
      writes.params['reader'],
      writes.memory,
      jnp.asarray(weights),
      writes.batch.answers,
    )
    values = distillation.adist(
      writes.trace['scores'],
      jnp.where(writes.where, jnp.log(attention), 0.0),
      where=writes.where,
      temperature=TEMPERATURE,
    )
    value, count = writes.terms['adist']
    wanted = writes.total(values)
    assert float(value) == pytest.approx(wanted, rel=1e-4) and wanted > 1e-3
    assert int(count) == 3


class TestExpectedCost:
  """Every estimator with every cost, against a direct call."""

  ALL = [(e, c) for e in stages.COST_ESTIMATORS for c in stages.COSTS]

  def stage(self, estimator, cost):
    return stages.Stage(
      estimator=estimator,
      cost=cost,
      samples=2,
      read_size=READ,
      temperature=TEMPERATURE,
      losses=(('expected_cost', 1.0),),
    )

  @pytest.fixture(scope='class')
  def found(self, points, small_index):
    """Values and gradients of all combinations, from one trace."""

    @jax.jit
    def run(params):
      def values(params):
        first = traces.Trace(
          params,
          KEY,
          points.batch,
          small_index,
          config=points.config.model,
          stage=self.stage('enumerate', 'nll'),
        )
        assert first.search_scores is not None  # cached before the copies
        own = {}
        for estimator, cost in self.ALL:
          trace = copy.copy(first)
          trace.stage = self.stage(estimator, cost)
          own[estimator, cost] = reader_terms.expected_cost(trace)
        each = first.reader.answer_each(params['reader'], first.reading.memory)
        return {n: value for n, (value, _) in own.items()}, (own, each)

      return jax.jacrev(values, has_aux=True)(params)

    slopes, (own, each) = run(points.params)
    return own, slopes, each

  def costs(self, cost, points, each):
    if cost == 'nll':
      own = spans_of(points)
      return -with_lacking(own, ~np.isfinite(own))
    answers = np.asarray(points.batch.answers)[:, 0, 0]
    found = np.ones((BATCH, READ))
    for row, answer in enumerate(answers):
      for k, written in enumerate(np.asarray(each)[row]):
        words = [w for w in written.tolist() if w]
        if cost == 'em':
          found[row, k] = words != [answer]
        elif answer in words:
          found[row, k] = 1 - 2 / (len(words) + 1)
    return found

  @pytest.mark.parametrize(('estimator', 'cost'), ALL)
  def test_expected_cost_against_a_direct_call(
    self, estimator, cost, found, points
  ):
    own, slopes, each = found
    costs = jnp.asarray(self.costs(cost, points, each), jnp.float32)
    scores, where = points.trace['scores'], points.trace['where']
    total = 0.0
    for row in range(3):  # the last has no answer
      rng = jax.random.fold_in(jax.random.fold_in(KEY, 2), row)
      one = (scores[row], costs[row])
      real = {'where': where[row]}
      total += float(
        {
          'enumerate': lambda z, c, w: estimators.enumerate_all(z, c, **w),
          'top_k': lambda z, c, w: estimators.rescore(z, c, k=2, **w),
          'gumbel_softmax': lambda z, c, w, r=rng: estimators.straight_through(
            r, z, c, temperature=TEMPERATURE, **w
          ),
          'leave_one_out': lambda z, c, w, r=rng: estimators.leave_one_out(
            r, z, c, num_samples=2, **w
          ),
          'leave_one_out_set': lambda z, c, w, r=rng: (
            estimators.leave_one_out_set(r, z, c, k=2, **w)
          ),
          'expected_utility': lambda z, c, w, r=rng: (
            estimators.expected_utility(
              r, z, 1 - c, k=2, temperature=TEMPERATURE, **w
            )
          ),
        }[estimator](*one, real)
      )
    value, count = own[estimator, cost]
    assert float(value) == pytest.approx(total, rel=1e-3, abs=1e-4)
    assert int(count) == 3
    slope = slopes[estimator, cost]
    leaves = jax.tree.leaves(slope)
    assert all(np.isfinite(leaf).all() for leaf in leaves)
    assert not any(leaf.any() for leaf in jax.tree.leaves(slope['reader']))

  def test_the_cost_has_a_gradient_to_the_search(self, found):
    """Not by F1, which is the same for all documents of an untrained reader."""
    _, slopes, _ = found
    for part in ('query_encoder', 'id_decoder', 'ranker'):
      leaves = jax.tree.leaves(slopes['enumerate', 'nll'][part])
      assert sum(float(jnp.abs(leaf).sum()) for leaf in leaves) > 1e-6
