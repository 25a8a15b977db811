import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax import config as configs
from rag_jax import parallel, train
from rag_jax import workdir as workdirs
from rag_jax.data import pipeline


@pytest.fixture(scope='module')
def config(tiny_values):
  return configs.build(tiny_values)


@pytest.fixture(scope='module')
def prepared(config, tmp_path_factory):
  return workdirs.open(config, tmp_path_factory.mktemp('work') / 'run')


@pytest.fixture(scope='module')
def batches(config, prepared):
  questions = pipeline.encode_questions(
    prepared.tokenizer,
    prepared.dataset.splits['train'],
    prepared.rows,
    config.data,
  )
  size = config.train.batch_size
  return pipeline.train_batches(questions, batch_size=size, seed=0)


def start(config, prepared):
  init = jax.jit(functools.partial(train.init_state, config))
  return init(prepared.index, vocab=jnp.zeros(prepared.vocab_size))


@pytest.fixture(scope='module')
def on_one_device(config, prepared, batches):
  step = jax.jit(functools.partial(train.train_step, config=config))
  return take_steps(step, config, prepared, batches)


def take_steps(step, config, prepared, batches, count=3):
  """Final parameters and the measurements of each step."""
  state, records = start(config, prepared), []
  for number in range(count):
    state, sums = step(state, batches[number], prepared.index)
    records.append(train.averages([sums]))
  return jax.device_get(state.params), records


@pytest.mark.parametrize('mode', parallel.MODES)
def test_eight_devices_train_as_one(
  mode, config, prepared, batches, on_one_device
):
  assert jax.device_count() == 8
  step = parallel.compile_step(
    functools.partial(train.train_step, config=config), mode=mode
  )
  params, records = take_steps(step, config, prepared, batches)
  for ours, theirs in zip(records, on_one_device[1], strict=True):
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
      assert value == pytest.approx(theirs[name], rel=1e-3, abs=1e-4), name
  for ours, theirs in zip(
    jax.tree.leaves(params), jax.tree.leaves(on_one_device[0]), strict=True
  ):
    np.testing.assert_allclose(ours, theirs, atol=2e-3)


def test_the_compiled_step_stays_on_the_device_and_is_traced_once(
  config, prepared, batches
):
  traces = []

  def step(*args, **options):
    traces.append(1)
    return train.train_step(*args, config=config, **options)

  compiled = jax.jit(step)
  state = start(config, prepared)
  for number in range(3):
    state, _ = compiled(state, batches[number], prepared.index)
  assert len(traces) == 1
  jaxpr = str(jax.make_jaxpr(step)(state, batches[0], prepared.index))
  text = compiled.lower(state, batches[0], prepared.index).compile().as_text()
  for word in ('callback', 'infeed', 'outfeed', 'host_compute'):
    assert word not in jaxpr
    assert word not in text


def test_the_step_repeats_bit_for_bit(config, prepared, batches, on_one_device):
  step = jax.jit(functools.partial(train.train_step, config=config))
  params, _ = take_steps(step, config, prepared, batches)
  for ours, theirs in zip(
    jax.tree.leaves(params), jax.tree.leaves(on_one_device[0]), strict=True
  ):
    np.testing.assert_array_equal(ours, theirs)


def test_the_first_steps_lower_every_loss(config, prepared, batches):
  step = jax.jit(functools.partial(train.train_step, config=config))
  state, losses = start(config, prepared), []
  for _ in range(4):
    state, sums = step(state, batches[0], prepared.index)
    losses.append(train.averages([sums])['loss'])
  assert losses[-1] < losses[0]
