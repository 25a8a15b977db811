"""What a run keeps of its steps; the steps here count and do not train."""

import dataclasses
import io
import json
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax import checkpoint, keeper, report, signals, store, train
from rag_jax import config as configs
from rag_jax import step as train_steps
from rag_jax import workdir as workdirs

STEPS = 23


@pytest.fixture
def config(tiny_values):
  [(name, stage)] = tiny_values['stages'].items()
  stages = {name: stage | {'steps': STEPS, 'learning_rate': 0.1}}
  own = {'log_every': 7, 'checkpoint_every': 5}
  return configs.build(
    tiny_values | {'stages': stages, 'train': tiny_values['train'] | own}
  )


@pytest.fixture(scope='module')
def prepared(tiny_values, tmp_path_factory):
  config = configs.build(tiny_values)
  return workdirs.open(config, tmp_path_factory.mktemp('work') / 'run')


@pytest.fixture(autouse=True)
def count(monkeypatch):
  """Each step adds one to each parameter; its loss depends on the step."""

  def step_function(config, stage, questions, index):
    def next_state(state, place):
      params = jax.tree.map(lambda x: x + 1, state.params)
      if place == 12 and stage.learning_rate > 0.01:
        params = jax.tree.map(lambda x: x.at[...].set(jnp.nan), params)
      state = dataclasses.replace(state, step=state.step + 1, params=params)
      loss = np.float32(np.sin(place)), np.float32(1 + place % 3)
      own = {'loss': loss} | ({'odd': loss} if place % 2 else {})
      return state, own

    return next_state

  monkeypatch.setattr(train, 'step_function', step_function)


def with_rate(config, rate):
  [(name, stage)] = config.stages
  stage = dataclasses.replace(stage, learning_rate=rate)
  return dataclasses.replace(config, stages=((name, stage),))


def metrics(workdir):
  return (workdir / 'metrics.jsonl').read_text()


def params_of(workdir):
  found = checkpoint.load(workdir / store.CHECKPOINTS, {'params': None})
  return found.step, found.parts['params']


def stop_at(monkeypatch, step):
  """Lets a signal come before the end of a step; 0 = none."""
  done = [step - 1]

  def requested():
    done[0] -= 1
    return signal.SIGTERM if done[0] == -1 else 0

  monkeypatch.setattr(signals, 'requested', requested)


def test_sums_are_added_one_after_the_other():
  records = [{'a': (0.1, 1.0)}, {'a': (0.2, 2.0), 'b': (3.0, 2.0)}]
  whole = keeper.totals(records)
  assert keeper.totals(records[1:], keeper.totals(records[:1])) == whole
  assert whole == {'a': [0.1 + 0.2, 3.0], 'b': [3.0, 2.0]}
  assert keeper.averages(records) == {'a': (0.1 + 0.2) / 3.0, 'b': 1.5}


# Within, at and after records and checkpoints.
@pytest.mark.parametrize(
  'stops', [(6, 7), pytest.param((1, 6, 3, 4, 7), marks=pytest.mark.long)]
)
def test_a_run_stopped_at_any_step_keeps_that_step_and_its_metrics(
  config, prepared, tmp_path, monkeypatch, stops
):
  config = with_rate(config, 0.01)
  train.fit(config, prepared, make(tmp_path / 'whole'))
  workdir = make(tmp_path / 'stopped')
  at = 0
  for steps in stops:
    at += steps
    stop_at(monkeypatch, steps)
    message = f'by SIGTERM; a checkpoint of step {at} is saved'
    with pytest.raises(signals.Stopped, match=message) as error:
      train.fit(config, prepared, workdir)
    assert error.value.code == 143
    assert params_of(workdir)[0] == at
  stop_at(monkeypatch, 0)
  train.fit(config, prepared, workdir)
  assert metrics(workdir) == metrics(tmp_path / 'whole')
  for ours, theirs in zip(
    jax.tree.leaves(params_of(workdir)),
    jax.tree.leaves(params_of(tmp_path / 'whole')),
    strict=True,
  ):
    np.testing.assert_array_equal(ours, theirs)


def best_of(workdir):
  found = checkpoint.load(workdir / store.BEST, {'params': None})
  return found.step, float(jax.tree.leaves(found.parts['params'])[0].ravel()[0])


def results(value):
  """Of two splits, of which the first counts."""
  return [
    report.summarise(split, 'index', 'Hits@1', np.asarray([own]))
    for split, own in (('dev', value), ('test', 1 - value))
  ]


def keeping(config, measure='index/Hits@1'):
  own = dataclasses.replace(config.train, evaluate_every=1, keep_best=measure)
  return dataclasses.replace(config, train=own)


def test_the_best_parameters_are_kept_until_better_ones_come(config, tmp_path):
  config, notes = keeping(config), {}
  workdir = make(tmp_path / 'run')
  for step, value, best in (
    (0, 0.1, 0),
    (5, 0.7, 5),
    (10, 0.7, 5),
    (15, 0.6, 5),
    (20, 0.5, 5),
    (25, 0.8, 25),
  ):
    state = train_steps.State(
      params={'a': jnp.float32(step)}, optimizer={}, step=jnp.int32(step)
    )
    with keeper.Keeper(config, workdir, step, notes, {}, 0) as files:
      files.best(state.params, step, results(value))
      files.step(state, step, 'joint')
    found = checkpoint.load(workdir / store.CHECKPOINTS, {'params': None})
    notes = found.notes  # as a resumed run has them
    assert best_of(workdir) == (best, best)
  assert notes['best'] == ['index/Hits@1', 0.8]
  # A measure that there is not; a run from the start in the same folder.
  wrong = keeping(config, 'index/Hits')
  files = keeper.Keeper(wrong, workdir, 0, {}, {}, 0)
  with pytest.raises(ValueError, match="one of index/Hits@1, got 'index/Hits'"):
    files.best(state.params, 0, results(0.5))
  assert not checkpoint.steps(workdir / store.BEST)


@pytest.mark.long
def test_a_stopped_run_keeps_the_best_parameters(
  config, prepared, tmp_path, monkeypatch
):
  scores, start = {0: 0.1, 1: 0.4, 2: 0.7, 3: 0.7, 4: 0.6}, []

  def measure(system, *args, **kwargs):
    leaf = float(jax.tree.leaves(system.params)[0].ravel()[0])
    start[:] = start or [leaf]
    return results(scores[round(leaf - start[0])])

  monkeypatch.setattr(train.evaluate, 'measure', measure)
  config = keeping(with_rate(config, 0.01))
  [(name, stage)] = config.stages
  stages = ((name, dataclasses.replace(stage, steps=4)),)
  config = dataclasses.replace(config, stages=stages)
  workdir = make(tmp_path / 'run')
  stop_at(monkeypatch, 3)
  with pytest.raises(signals.Stopped):
    train.fit(config, prepared, workdir)
  stop_at(monkeypatch, 0)
  train.fit(config, prepared, workdir)
  assert best_of(workdir) == (2, pytest.approx(start[0] + 2))


def make(folder):
  folder.mkdir(parents=True)
  return folder


@pytest.mark.long
def test_an_evaluation_that_a_signal_interrupts_is_made_again(
  config, prepared, tmp_path, monkeypatch
):
  config = with_rate(config, 0.01)
  fields = dataclasses.replace(config.train, evaluate_every=4)
  config = dataclasses.replace(config, train=fields)
  interrupt_at = [-1]

  def measure(system, prepared, writer, step):
    writer.write(step, 'dev', {'hits': 1 / (1 + step)})
    if step == interrupt_at[0]:
      raise signals.Interrupted
    writer.write(step, 'test', {'hits': 2 / (1 + step)})
    return []

  monkeypatch.setattr(train, '_measure', measure)
  train.fit(config, prepared, make(tmp_path / 'whole'))
  workdir = make(tmp_path / 'stopped')
  interrupt_at[0] = 8
  stop_at(monkeypatch, 8)
  with pytest.raises(signals.Stopped, match='step 8'):
    train.fit(config, prepared, workdir)
  interrupt_at[0] = -1
  stop_at(monkeypatch, 0)
  train.fit(config, prepared, workdir)
  assert metrics(workdir) == metrics(tmp_path / 'whole')


def test_what_diverges_resumes_from_the_last_good_step_with_a_lower_rate(
  config, prepared, tmp_path, capfd
):
  workdir = tmp_path / 'run'
  store.claim(workdir, config)
  message = (
    r'params/\S+ is not finite at step 15 .*that of step 10 is kept. '
    'Lower --config.stages.joint.learning_rate'
  )
  for _ in range(2):  # the same command comes to the same end
    with pytest.raises(ValueError, match=message) as error:
      train.fit(config, prepared, workdir)
    assert '\n' not in str(error.value)
    assert params_of(workdir)[0] == 10
  lower = with_rate(config, 0.01)
  store.claim(workdir, lower, resumes=True)
  train.fit(lower, prepared, workdir)
  step, params = params_of(workdir)
  assert step == STEPS
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(params))
  assert store.read_config(workdir) == lower
  [change] = store.changes(workdir)
  assert change == {
    'step': 10,
    'field': 'stages.joint.learning_rate',
    'was': 0.1,
    'now': 0.01,
  }
  steps = [json.loads(line)['step'] for line in metrics(workdir).splitlines()]
  assert steps == [7, 14, 21, 23]
  assert 'learning_rate is 0.01 from step 10 on, was 0.1' in (
    capfd.readouterr().err
  )


def test_an_index_of_another_run_is_refused(config, prepared, tmp_path):
  config = with_rate(config, 0.01)
  train.fit(config, prepared, make(tmp_path / 'run'))
  system = prepared.system
  codes = np.asarray(system.index.codes).copy()
  codes[[0, 1]] = codes[[1, 0]]
  index = dataclasses.replace(system.index, codes=jnp.asarray(codes))
  other = dataclasses.replace(
    prepared, system=dataclasses.replace(system, index=index)
  )
  with pytest.raises(ValueError, match='index.npz.*step 23 was trained with'):
    train.fit(config, other, tmp_path / 'run')


def test_documents_that_were_added_are_not_trained_over(
  config, prepared, tmp_path
):
  (make(tmp_path / 'run') / store.LIVE).write_bytes(b'')
  with pytest.raises(ValueError, match='live.npz .*Move this file away'):
    train.fit(with_rate(config, 0.01), prepared, tmp_path / 'run')


def test_metrics_on_a_full_disk_are_one_line(tmp_path):
  writer = report.MetricsWriter(tmp_path)
  writer._file = io.FileIO('/dev/full', 'a')
  with pytest.raises(ValueError, match='No space left.*same command') as error:
    writer.write(1, 'train', {'loss': 1.0})
  assert '\n' not in str(error.value)
  writer.close()
