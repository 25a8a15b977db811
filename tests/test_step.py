import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rag_jax import config as configs
from rag_jax import keeper, objective, optimizer, parallel, placement
from rag_jax import step as steps
from rag_jax import workdir as workdirs
from rag_jax.data import batches as batching
from rag_jax.readers import base

LOSSES = {'answer': 1.0, 'docid': 1.0, 'ranking': 1.0}


@pytest.fixture(scope='module')
def config(tiny_values):
  return configs.build(tiny_values)


@pytest.fixture(scope='module')
def stage(config):
  [(_, stage)] = config.stages
  return stage


@pytest.fixture(scope='module')
def prepared(config, tmp_path_factory):
  return workdirs.open(config, tmp_path_factory.mktemp('work') / 'run')


@pytest.fixture(scope='module')
def batches(stage, prepared):
  questions = prepared.system.encode(prepared.dataset.splits['train'])
  size = stage.batch_size
  return batching.train_batches(questions, batch_size=size, seed=0)


@pytest.fixture(scope='module')
def begin(config, stage, prepared):
  """Makes the state before the first step."""
  init = jax.jit(functools.partial(steps.init_state, config, stage))
  return lambda: init(prepared.index, vocab=jnp.zeros(prepared.vocab_size))


@pytest.fixture(scope='module')
def traces():
  """A list that grows by one whenever JAX traces the step."""
  return []


@pytest.fixture(scope='module')
def step(config, stage, traces):
  def counted(*args):
    traces.append(1)
    return steps.train_step(*args, config=config, stage=stage)

  return jax.jit(counted)


@pytest.fixture(scope='module')
def on_one_device(step, begin, prepared, batches):
  return take_steps(step, begin(), prepared, batches)


def take_steps(step, state, prepared, batches, count=3):
  """Final parameters and the metrics of each step."""
  records = []
  for number in range(count):
    state, sums = step(state, uneven(batches[number]), prepared.index)
    records.append(keeper.averages([sums]))
  params = placement.stored(state.params, prepared.index.trie.num_nodes)
  return jax.device_get(params), records


def uneven(batch):
  """A batch whose devices have different numbers of labels."""
  return dataclasses.replace(
    batch,
    where=batch.where.at[5].set(False),
    gold=batch.gold.at[3:].set(-1),
    answers=batch.answers.at[1].set(0),
  )


@pytest.mark.parametrize(
  ('mode', 'mesh'),
  [
    *(('pmap', ''), ('jit', 'fsdp=4,data=2')),
    *(
      pytest.param('jit', mesh, marks=pytest.mark.long)
      for mesh in ('', 'model=2,fsdp=2,data=2')
    ),
  ],
)
def test_eight_devices_train_like_one(
  mode, mesh, config, stage, begin, prepared, batches, on_one_device
):
  assert jax.device_count() == 8
  step = functools.partial(steps.train_step, config=config, stage=stage)
  step = parallel.compile_step(step, mode=mode, mesh=mesh)
  params, records = take_steps(step, begin(), prepared, batches)
  for ours, theirs in zip(records, on_one_device[1], strict=True):
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
      assert value == pytest.approx(theirs[name], rel=1e-4, abs=1e-5), name
  for ours, theirs in zip(
    jax.tree.leaves(params), jax.tree.leaves(on_one_device[0]), strict=True
  ):
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.long
def test_plain_gradient_steps_differ_by_rounding_alone(
  config, stage, begin, prepared, batches, monkeypatch
):
  # Adam divides a gradient that is all rounding by its own size.
  monkeypatch.setattr(optimizer, '_adam', lambda *_: optax.sgd(0.02))
  step = functools.partial(steps.train_step, config=config, stage=stage)
  before = jax.device_get(begin().params)
  found = [
    take_steps(run, begin(), prepared, batches)[0]
    for run in (jax.jit(step), parallel.compile_step(step, mesh='fsdp=8'))
  ]
  leaves = [jax.tree.leaves(x) for x in (before, *found)]
  moved = max(abs(x - y).max() for x, y, _ in zip(*leaves, strict=True))
  apart = max(abs(x - y).max() for _, x, y in zip(*leaves, strict=True))
  assert moved > 1e-3 and apart < 1e-6


def test_the_compiled_step_stays_on_the_device_and_is_traced_once(
  step, traces, begin, prepared, batches, on_one_device
):
  assert len(traces) == 1
  traced = step.trace(begin(), batches[0], prepared.index)
  assert len(traces) == 1
  jaxpr, text = str(traced.jaxpr), traced.lower().compile().as_text()
  for word in ('callback', 'infeed', 'outfeed', 'host_compute'):
    assert word not in jaxpr
    assert word not in text


def test_the_step_repeats_bit_for_bit(
  step, begin, prepared, batches, on_one_device
):
  params, _ = take_steps(step, begin(), prepared, batches)
  for ours, theirs in zip(
    jax.tree.leaves(params), jax.tree.leaves(on_one_device[0]), strict=True
  ):
    np.testing.assert_array_equal(ours, theirs)


def test_the_first_steps_decrease_every_loss(step, begin, prepared, batches):
  state, records = begin(), []
  for _ in range(4):
    state, sums = step(state, batches[0], prepared.index)
    records.append(keeper.averages([sums]))
  for name in ('loss', 'answer', 'docid', 'ranking'):
    assert records[-1][name] < records[0][name], name


def test_each_step_samples_different_crops(step, begin, prepared, batches):
  def indexing(number):
    state = dataclasses.replace(begin(), step=jnp.asarray(number, jnp.int32))
    _, sums = step(state, batches[0], prepared.index)
    return float(sums['indexing'][0])

  first = [indexing(number) for number in range(3)]
  assert len(set(first)) == 3
  assert [indexing(number) for number in range(3)] == first


class TestAccumulation:
  """Gradient accumulation equals one step on the whole batch."""

  def one_step(self, small_config, small_index, small_batch, **fields):
    config = small_config(
      train={'clip_norm': 1e9} | fields,
      stages={'joint': {'steps': 4, 'batch_size': 4, 'losses': LOSSES}},
    )
    [(_, stage)] = config.stages
    init = functools.partial(steps.init_state, config, stage)
    step = functools.partial(steps.train_step, config=config, stage=stage)
    state = jax.jit(init)(small_index, vocab=jnp.zeros(50))
    state, sums = jax.jit(step)(state, small_batch, small_index)
    # The first moment of Adam is 0.1 times the gradient.
    return sums, optax.tree_utils.tree_get(state.optimizer, 'mu')

  @pytest.mark.parametrize(
    'labels', [pytest.param(4, marks=pytest.mark.long), 1]
  )
  def test_losses_and_gradients_are_those_of_the_whole_batch(
    self, small_config, small_index, small_batch, labels
  ):
    gold = small_batch.gold.at[labels:].set(-1)
    batch = dataclasses.replace(small_batch, gold=gold)
    args = small_config, small_index, batch
    whole, gradient = self.one_step(*args)
    counts = {name: float(whole[name][1]) for name in LOSSES}
    assert counts == {'answer': 4.0, 'docid': labels, 'ranking': labels}
    sums, slope = self.one_step(*args, accumulate=4)
    assert sums.keys() == whole.keys()
    for name in sums:  # losses and norms are averaged, metrics summed
      np.testing.assert_allclose(
        sums[name], whole[name], rtol=2e-3, atol=1e-5, err_msg=name
      )
    largest = max(float(abs(x).max()) for x in jax.tree.leaves(gradient))
    assert largest > 1e-3
    for ours, theirs in zip(
      jax.tree.leaves(slope), jax.tree.leaves(gradient), strict=True
    ):
      np.testing.assert_allclose(ours, theirs, atol=1e-3 * largest)


@pytest.mark.parametrize('precision', configs.PRECISIONS)
def test_precision_applies_only_to_published_weights(
  small_config, small_index, small_batch, monkeypatch, precision
):
  config = small_config(
    train={'precision': precision},
    stages={'joint': {'steps': 2, 'losses': {'docid': 1.0}}},
  )
  [(_, stage)] = config.stages
  init = functools.partial(steps.init_state, config, stage)
  state = jax.eval_shape(init, small_index, vocab=jnp.zeros(50))
  params = dict(state.params)
  weights = {'block_0': {'kernel': jax.ShapeDtypeStruct((2, 2), jnp.float32)}}
  for part, names in (('query_encoder', ('bert',)), ('reader', base.PUBLISHED)):
    params[part] = params[part] | dict.fromkeys(names, weights)
  own = jax.eval_shape(optimizer.make(config, stage).init, params)
  state = dataclasses.replace(state, params=params, optimizer=own)
  seen = {}

  def loss(params, rng, batch, index, **options):
    del rng, batch, options
    for path, leaf in jax.tree.leaves_with_path(params):
      seen[tuple(entry.key for entry in path[:2])] = str(leaf.dtype)
    others = {str(x.dtype) for x in jax.tree.leaves(index)}
    assert 'bfloat16' not in others
    value = sum(x.astype(jnp.float32).sum() for x in jax.tree.leaves(params))
    return {'docid': (value, jnp.ones(()))}, {}

  monkeypatch.setattr(objective, 'loss', loss)
  step = functools.partial(steps.train_step, config=config, stage=stage)
  after, _ = jax.eval_shape(step, state, small_batch, small_index)
  lowered = {name for name, dtype in seen.items() if dtype == 'bfloat16'}
  published = {('query_encoder', 'bert')}
  published |= {('reader', name) for name in base.PUBLISHED}
  assert seen.keys() > published
  assert lowered == (published if precision == 'bfloat16' else set())
  assert set(seen.values()) - {'bfloat16'} == {'float32'}
  # The state keeps its dtypes.
  assert jax.tree.map(lambda x: x.dtype, after) == jax.tree.map(
    lambda x: x.dtype, state
  )
