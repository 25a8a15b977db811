import dataclasses
import functools
import json

import jax
import numpy as np
import pytest

from rag_jax import config as configs
from rag_jax import curriculum, keeper, states, store, train
from rag_jax import stage as stages
from rag_jax import step as steps
from rag_jax import workdir as workdirs

SEARCH = {'query_encoder': 1.0, 'id_decoder': 1.0}


@pytest.fixture
def build(tiny_values):
  """Makes the tiny experiment with other stages and fields of `train`."""

  def make(named, **fields):
    return configs.build(
      tiny_values | {'stages': named, 'train': tiny_values['train'] | fields}
    )

  return make


@pytest.fixture(scope='module')
def prepared(tiny_values, tmp_path_factory):
  config = configs.build(tiny_values)
  return workdirs.open(config, tmp_path_factory.mktemp('work') / 'run')


@pytest.fixture(scope='module')
def other_data(tmp_path_factory, write_lines):
  folder = tmp_path_factory.mktemp('other')
  documents = [
    {'id': str(i), 'text': f'A snail lives here. It eats {131 + i} leaves.'}
    for i in range(4)
  ]
  questions = [
    {'id': str(i), 'question': 'What does a snail eat?'}
    | {'answers': [str(131 + i)], 'document_ids': [str(i)]}
    for i in range(4)
  ]
  write_lines(folder / 'documents.jsonl', documents)
  write_lines(folder / 'questions-train.jsonl', questions)
  return str(folder)


def search(**fields):
  own = {'steps': 1, 'batch_size': 16, 'losses': {'docid': 1.0}}
  return own | {'trains': SEARCH} | fields


def read(**fields):
  own = {'steps': 1, 'batch_size': 24, 'losses': {'answer': 1.0}}
  return own | {'candidates': 'gold', 'trains': {'reader': 1.0}} | fields


def joint(**fields):
  losses = {'answer': 1.0, 'docid': 1.0, 'ranking': 1.0}
  return {'steps': 1, 'batch_size': 8, 'losses': losses} | fields


def moved(before, after):
  """The components with changed parameters."""
  found = set()
  for name, part in before.items():
    pairs = zip(
      jax.tree.leaves(part), jax.tree.leaves(after[name]), strict=True
    )
    if any(bool((np.asarray(a) != np.asarray(b)).any()) for a, b in pairs):
      found.add(name)
  return found


def fresh(config, prepared):
  """The state before the first step."""
  [(_, stage), *_] = config.stages
  init = functools.partial(steps.init_state, config, stage)
  vocab = jax.numpy.zeros(prepared.vocab_size)
  return jax.jit(init)(prepared.index, vocab=vocab)


def newest(config, prepared, workdir):
  """The state from which a run would resume."""
  return states.restore(config, prepared, workdir / store.CHECKPOINTS)[0]


def test_averages_use_only_steps_with_the_loss():
  own = [{'answer': (6.0, 2.0)}, {'answer': (3.0, 4.0), 'other': (5.0, 2.0)}]
  assert keeper.averages(own) == {'answer': 1.5, 'other': 2.5}


def test_divergence_raises_an_error_with_its_stage():
  keeper.check_finite({'loss': 1.0}, 3, 'read')
  message = 'docid is not finite at step 3.*--config.stages.read.learning_rate'
  with pytest.raises(ValueError, match=message):
    keeper.check_finite({'loss': 1.0, 'docid': float('nan')}, 3, 'read')


def test_batch_sizes_must_be_multiples_of_the_devices(build, tiny_values):
  train.check_devices(configs.build(tiny_values))
  message = 'stages.read.batch_size must be a multiple of the 8 .*got 6'
  with pytest.raises(ValueError, match=message):
    train.check_devices(build({'joint': joint(), 'read': read(batch_size=6)}))
  off = build({'joint': joint(), 'read': read(batch_size=6, steps=0)})
  train.check_devices(off)
  odd = tiny_values | {'pseudo_queries': {'batch_size': 6}}
  with pytest.raises(ValueError, match='pseudo_queries.batch_size .*got 6'):
    train.check_devices(configs.build(odd))
  # Without the loss indexing, there are no crops.
  train.check_devices(configs.build(odd | {'stages': {'joint': joint()}}))


class TestSchedule:
  @pytest.fixture
  def staged(self, build):
    return build(
      {
        'search': search(steps=2),
        'off': read(steps=0),
        'read': read(steps=2),
        'joint': joint(),
      }
    )

  def test_stages_run_in_order(self, staged):
    rows = [(s, name, place) for s, name, _, place in train.schedule(staged, 0)]
    assert rows == [
      (0, 'search', 0),
      (1, 'search', 1),
      (2, 'read', 0),
      (3, 'read', 1),
      (4, 'joint', 0),
    ]
    for _, name, stage, _ in train.schedule(staged, 0):
      assert stage == dict(staged.stages)[name]

  @pytest.mark.parametrize('start', range(6))
  def test_the_schedule_resumes_from_any_step(self, staged, start):
    whole = list(train.schedule(staged, 0))
    assert list(train.schedule(staged, start)) == whole[start:]

  def test_a_checkpoint_has_the_optimiser_of_the_stage_that_made_it(
    self, staged
  ):
    named = dict(staged.stages)
    made_by = ['search', 'search', 'search', 'read', 'read', 'joint']
    for step, name in enumerate(made_by):
      assert states.stage_at(staged, step) == named[name], step


class TestStepFunction:
  def test_a_stage_changes_only_its_components(self, build, prepared):
    config = build({'read': read(steps=2)}, weight_decay=0.1)
    [(_, stage)] = config.stages
    material = curriculum.prepare(config, prepared, {})['read']
    next_state = train.step_function(config, stage, *material(None))
    state = fresh(config, prepared)
    before = jax.device_get(state.params)
    for place in range(2):
      state, sums = next_state(state, place)
    assert set(sums) == {'answer', 'loss'} | {
      f'gradient_norm/{name}' for name in before
    }
    assert moved(before, state.params) == {'reader'}

  def test_no_more_is_read_than_there_is(self, build, prepared, monkeypatch):
    config = build({'read': read()})
    [(_, stage)] = config.stages
    seen = []

    def compile_step(step, *, mode, mesh):
      assert (mode, mesh) == (config.train.parallel, config.train.mesh)
      seen.append(step.keywords['stage'].passage_tokens)
      return lambda state, batch, index: (state, {})

    monkeypatch.setattr(train.parallel, 'compile_step', compile_step)
    [questions, index] = curriculum.prepare(config, prepared, {})['read'](None)
    for size, wanted in ((0, 24), (10, 10), (99, 32)):
      own = dataclasses.replace(stage, passage_tokens=size)
      next_state = train.step_function(config, own, questions, index)
      for place in range(3):
        next_state(None, place)
      assert seen == [wanted]  # compiled once, because lengths are rounded up
      seen.clear()


class TestFit:
  """The training loop, with steps that count instead of training."""

  @pytest.fixture
  def counted(self, monkeypatch):
    """Rows (batch size, place, questions, documents, moment, leaves)."""
    rows = []

    def step_function(config, stage, questions, index):
      del config

      def next_state(state, place):
        sizes = len(questions.query), len(index.tokens)
        leaves = jax.tree.leaves(state.optimizer)
        seen = max(float(abs(x).max()) for x in leaves)
        count = len(leaves)
        rows.append((stage.batch_size, place, *sizes, seen, count))
        state = dataclasses.replace(
          state,
          step=state.step + 1,
          optimizer=jax.tree.map(lambda x: x + 1, state.optimizer),
        )
        return state, {'loss': (1.0, 1.0)}

      return next_state

    monkeypatch.setattr(train, 'step_function', step_function)
    return rows

  @pytest.mark.long
  def test_an_experiment_may_have_any_stages(
    self, build, prepared, counted, other_data, tmp_path
  ):
    named = {
      'warmup': read(data=other_data, steps=2),
      'search': search(steps=2),
      'read': read(),
      'joint': joint(),
      'again': search(batch_size=32, trains={'ranker': 1.0}),
    }
    config = build(named)
    system = train.fit(config, prepared, tmp_path)
    sizes = [row[:4] for row in counted]
    assert sizes == [
      (24, 0, 4, 52),  # the other data, with its documents appended
      (24, 1, 4, 52),
      (16, 0, 40, 48),
      (16, 1, 40, 48),
      (24, 0, 40, 48),
      (8, 0, 40, 48),
      (32, 0, 40, 48),
    ]
    # The optimiser state is new at the start of each stage only.
    seen = [row[4] for row in counted]
    assert seen == [0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0]
    # Frozen components have no moments.
    counts = [row[5] for row in counted]
    assert counts[0] == counts[4] and len(set(counts)) == 4
    assert max(counts) == counts[5]
    lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()
    assert [json.loads(line)['step'] for line in lines] == [*range(1, 8)]
    assert system.params.keys() == {*stages.COMPONENTS}

  def test_a_stopped_run_resumes(
    self, build, prepared, counted, tmp_path, monkeypatch
  ):
    config = build(
      {'search': search(steps=2), 'read': read(steps=2)}, checkpoint_every=1
    )
    schedule = train.schedule
    for last in range(1, 5):

      def stop(config, first, last=last):
        return (row for row in schedule(config, first) if row[0] < last)

      monkeypatch.setattr(train, 'schedule', stop)
      train.fit(config, prepared, tmp_path)
    assert [(row[1], row[4]) for row in counted] == [
      (0, 0.0),
      (1, 1.0),
      (0, 0.0),
      (1, 1.0),
    ]

  def test_a_stage_ends_in_a_checkpoint(
    self, build, prepared, counted, tmp_path
  ):
    config = build(
      {'search': search(steps=3), 'read': read(steps=2)},
      checkpoint_every=100,
      keep_checkpoints=9,
    )
    train.fit(config, prepared, tmp_path)
    folder = tmp_path / store.CHECKPOINTS
    saved = sorted(p.name for p in folder.iterdir() if p.name.isdigit())
    assert saved == ['3', '5']

  def test_without_steps_the_initial_state_is_saved(
    self, build, prepared, counted, tmp_path
  ):
    config = build({'joint': joint(steps=0)})
    system = train.fit(config, prepared, tmp_path)
    assert counted == []
    state = newest(config, prepared, tmp_path)
    assert int(state.step) == 0
    assert moved(state.params, system.params) == set()


@pytest.mark.long
def test_a_run_killed_anywhere_resumes_exactly(
  build, other_data, tmp_path, monkeypatch
):
  # The stages train disjoint components.
  named = {
    'warmup': read(data=other_data, steps=2, batch_size=8),
    'search': search(steps=2, batch_size=8),
  }
  config = build(named, checkpoint_every=1, weight_decay=0.1)
  prepared = workdirs.open(config, tmp_path / 'whole')
  train.fit(config, prepared, tmp_path / 'whole')
  whole = newest(config, prepared, tmp_path / 'whole')
  assert int(whole.step) == config.steps == 4

  folder, schedule = tmp_path / 'killed', train.schedule
  own = workdirs.open(config, folder)
  kept = [jax.device_get(fresh(config, own).params)]
  for last in (1, 2, 3, 4, 4):  # within stages, between them, and at the end

    def stop(config, first, last=last):
      return (row for row in schedule(config, first) if row[0] < last)

    monkeypatch.setattr(train, 'schedule', stop)
    system = train.fit(config, own, folder)
    kept.append(jax.device_get(system.params))
  state = newest(config, own, folder)
  [_, (_, last)] = config.stages
  anew = states.start_stage(state, config, last)  # the structures are complete
  for other in (whole, anew):
    assert jax.tree.structure(state) == jax.tree.structure(other)
  for ours, theirs in zip(
    jax.tree.leaves(state), jax.tree.leaves(whole), strict=True
  ):
    np.testing.assert_array_equal(ours, theirs)
  # The first step of a stage only warms up.
  parts = [moved(a, b) for a, b in zip(kept, kept[1:], strict=False)]
  assert parts == [set(), {'reader'}, set(), {*SEARCH}, set()]


@pytest.mark.long
def test_a_stage_is_compiled_once(tiny_values, tmp_path, caplog):
  values = tiny_values | {'stages': two_stages(tiny_values)}
  with jax.log_compiles(), caplog.at_level('WARNING'):
    train.run(configs.build(values), tmp_path / 'run')
  compiled = [
    record
    for record in caplog.records
    if 'Finished XLA compilation of jit(train_step)' in record.getMessage()
  ]
  assert len(compiled) == 2


def two_stages(values):
  """Two copies of its stage with two steps each."""
  own = values['stages']['joint'] | {'steps': 2}
  return {'search': own, 'joint': own}
