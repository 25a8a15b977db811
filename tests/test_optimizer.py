import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rag_jax import config as configs
from rag_jax import optimizer
from rag_jax import stage as stages

BLOCKS = ('block_0', 'block_1', 'block_2')


@pytest.fixture
def params():
  """All components; encoder and reader have a BERT, and the reader a head."""
  bert = {name: {'kernel': jnp.ones((2, 2))} for name in BLOCKS}
  bert = bert | {'embedding': jnp.ones((3, 2))}
  return {
    'query_encoder': {'bert': bert},
    'id_decoder': {'table': jnp.ones((4, 2)), 'start': jnp.ones(2)},
    'ranker': {'weights': jnp.ones(3)},
    'reader': {'bert': bert, 'pointer': {'kernel': jnp.ones(2)}},
  }


def config_with(frozen_layers=0, **train):
  """A configuration with three-layer BERTs, some of whose layers are frozen."""
  config = configs.Config()
  parts = {
    name: dataclasses.replace(
      getattr(config, name), num_layers=3, frozen_layers=frozen_layers
    )
    for name in ('query_encoder', 'reader')
  }
  start = {'warmup_steps': 0, 'clip_norm': 1e9}
  own = dataclasses.replace(config.train, **start | train)
  return dataclasses.replace(config, train=own, **parts)


def stage_of(**fields):
  start = {'steps': 100, 'learning_rate': 0.01, 'losses': {'docid': 1.0}}
  return stages.Stage(**start | fields)


def moves(params, config, stage, slope=1.0, steps=1):
  """Change of each parameter after some steps of a constant gradient."""
  make = optimizer.make(config, stage)
  gradient = jax.tree.map(lambda x: jnp.full(x.shape, slope), params)

  def step(carry, _):
    own, state = carry
    updates, state = make.update(gradient, state, own)
    return (optax.apply_updates(own, updates), state), None

  (after, _), _ = jax.lax.scan(step, (params, make.init(params)), length=steps)
  return jax.tree.map(lambda a, b: a - b, after, params)


def far(tree):
  """The common change of all parameters of a part."""
  numbers = np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])
  [distance] = set(numbers.round(6).tolist())
  return distance


def test_by_default_all_parameters_move_by_the_learning_rate(params):
  for name, part in moves(params, config_with(), stage_of()).items():
    assert far(part) == pytest.approx(-0.01, rel=1e-3), name


@pytest.mark.parametrize('frozen', stages.COMPONENTS)
def test_a_frozen_component_neither_moves_nor_decays(params, frozen):
  trains = {name: 1.0 for name in stages.COMPONENTS if name != frozen}
  stage = stage_of(trains=trains)
  config = config_with(weight_decay=0.5)
  for slope in (0.0, 1.0):
    found = moves(params, config, stage, slope=slope, steps=3)
    for name, part in found.items():
      assert (far(part) == 0.0) == (name == frozen), name
  state = optimizer.make(config, stage).init(params)
  for moment in ('mu', 'nu'):
    kept = optax.tree_utils.tree_get(state, moment)
    for name, part in kept.items():
      count = len(jax.tree.leaves(params[name])) * (name != frozen)
      assert len(jax.tree.leaves(part)) == count, name


def test_gradients_of_frozen_components_do_not_affect_clipping(params):
  def moment(**fields):
    make = optimizer.make(config_with(clip_norm=1.0), stage_of(**fields))
    gradient = jax.tree.map(jnp.zeros_like, params)
    gradient['ranker'] = {'weights': jnp.full(3, 0.1)}
    gradient['reader']['pointer'] = {'kernel': jnp.full(2, 1e6)}
    _, state = make.update(gradient, make.init(params), params)
    return optax.tree_utils.tree_get(state, 'mu')['ranker']['weights']

  assert float(abs(moment()).max()) < 1e-6
  # 0.1 times the gradient, without clipping.
  np.testing.assert_allclose(moment(trains={'ranker': 1.0}), 0.01, rtol=1e-5)


def test_multipliers_scale_the_learning_rate(params):
  trains = {'query_encoder': 2.0, 'id_decoder': 1.0, 'reader': 0.5}
  found = moves(params, config_with(), stage_of(trains=trains))
  for name, part in found.items():
    wanted = -0.01 * trains.get(name, 0.0)
    assert far(part) == pytest.approx(wanted, rel=1e-3), name


def test_the_head_multiplier_applies_only_to_heads(params):
  config = config_with(head_lr_multiplier=10.0)
  found = moves(params, config, stage_of(trains={'reader': 0.5, 'ranker': 1}))
  assert far(found['reader']['bert']) == pytest.approx(-0.005, rel=1e-3)
  assert far(found['reader']['pointer']) == pytest.approx(-0.05, rel=1e-3)
  assert far(found['ranker']) == pytest.approx(-0.01, rel=1e-3)
  # A reader without published weights has no head.
  own = params | {'reader': {'pointer': params['reader']['pointer']}}
  found = moves(own, config, stage_of())
  assert far(found['reader']) == pytest.approx(-0.01, rel=1e-3)
  for name in ('query_encoder', 'id_decoder'):
    assert far(found[name]) == pytest.approx(-0.01, rel=1e-3)


@pytest.mark.parametrize('count', [0, 1, 2])
def test_frozen_layers_neither_move_nor_decay(params, count):
  config = config_with(frozen_layers=count, weight_decay=0.5)
  for slope in (0.0, 1.0):
    found = moves(params, config, stage_of(), slope=slope, steps=2)
    for part in ('query_encoder', 'reader'):
      for place, name in enumerate(BLOCKS):
        distance = far(found[part]['bert'][name])
        assert (distance == 0.0) == (place < count), name
      # Embeddings are frozen together with the lowest layers.
      assert (far(found[part]['bert']['embedding']) == 0.0) == (count > 0)
    assert far(found['reader']['pointer']) < 0
    assert far(found['id_decoder']) < 0
  state = optimizer.make(config, stage_of()).init(params)
  kept = optax.tree_utils.tree_get(state, 'mu')['reader']['bert']
  assert [bool(jax.tree.leaves(kept[name])) for name in BLOCKS] == [
    place >= count for place in range(3)
  ]


def test_warm_up_and_decay_within_a_stage(params):
  config = config_with(warmup_steps=5)
  make = optimizer.make(config, stage_of(steps=40, trains={'ranker': 1.0}))
  gradient = jax.tree.map(jnp.ones_like, params)
  state, found = make.init(params), []
  for _ in range(40):  # with a constant gradient, Adam moves by the rate
    updates, state = make.update(gradient, state, params)
    found.append(-float(updates['ranker']['weights'][0]))
  assert found[0] == 0.0
  assert found[5] == pytest.approx(0.01, rel=0.01) == max(found)
  assert found[:6] == sorted(found[:6])
  assert found[5:] == sorted(found[5:], reverse=True)
  assert found[39] < 0.0005
