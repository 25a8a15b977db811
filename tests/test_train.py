import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax import config as configs
from rag_jax import curriculum, optimizer, parallel, train
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
  questions = prepared.encode(prepared.dataset.splits['train'], config.data)
  size = config.train.batch_size
  return pipeline.train_batches(questions, batch_size=size, seed=0)


def start(config, prepared):
  init = jax.jit(functools.partial(train.init_state, config))
  return init(prepared.index, vocab=jnp.zeros(prepared.vocab_size))


@pytest.fixture(scope='module')
def traces():
  """Grows by one whenever the step is traced."""
  return []


@pytest.fixture(scope='module')
def step(config, traces):
  def counted(*args):
    traces.append(1)
    return train.train_step(*args, config=config)

  return jax.jit(counted)


@pytest.fixture(scope='module')
def on_one_device(step, config, prepared, batches):
  return take_steps(step, config, prepared, batches)


def take_steps(step, config, prepared, batches, count=3):
  """Final parameters and the measurements of each step."""
  state, records = start(config, prepared), []
  for number in range(count):
    state, sums = step(state, batches[number], prepared.index)
    records.append(train.averages([sums]))
  return jax.device_get(state.params), records


def moved(before, after):
  """Whether any number of each component has changed."""
  return {
    name: any(
      bool((a != b).any())
      for a, b in zip(
        jax.tree.leaves(part), jax.tree.leaves(after[name]), strict=True
      )
    )
    for name, part in before.items()
  }


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
  step, traces, config, prepared, batches, on_one_device
):
  assert len(traces) == 1
  traced = step.trace(start(config, prepared), batches[0], prepared.index)
  assert len(traces) == 1
  jaxpr, text = str(traced.jaxpr), traced.lower().compile().as_text()
  for word in ('callback', 'infeed', 'outfeed', 'host_compute'):
    assert word not in jaxpr
    assert word not in text


def test_the_step_repeats_bit_for_bit(
  step, config, prepared, batches, on_one_device
):
  params, _ = take_steps(step, config, prepared, batches)
  for ours, theirs in zip(
    jax.tree.leaves(params), jax.tree.leaves(on_one_device[0]), strict=True
  ):
    np.testing.assert_array_equal(ours, theirs)


def test_the_first_steps_lower_every_loss(step, config, prepared, batches):
  state, losses = start(config, prepared), []
  for _ in range(4):
    state, sums = step(state, batches[0], prepared.index)
    losses.append(train.averages([sums])['loss'])
  assert losses[-1] < losses[0]


def test_parts_of_a_batch_add_up_to_the_batch(config, prepared, batches):
  # Every question has a gold document, so the parts of these terms weigh alike.
  loss = dataclasses.replace(config.loss, self_index=0.0, answer=0.0)
  own = dataclasses.replace(config, loss=loss)
  records = []
  for count in (1, 4):
    train_config = dataclasses.replace(own.train, accumulate=count)
    parts = dataclasses.replace(own, train=train_config)
    step = jax.jit(functools.partial(train.train_step, config=parts))
    _, sums = step(start(own, prepared), batches[0], prepared.index)
    records.append(train.averages([sums]))
  for name in ('docid', 'ranking', 'docid_hits@1', 'support'):
    assert records[0][name] == pytest.approx(records[1][name], rel=1e-3), name


def test_a_rate_of_zero_freezes_a_component(config, prepared, batches):
  rates = {'query_encoder_rate': 0.0, 'weight_decay': 0.1}
  own = dataclasses.replace(
    config,
    train=dataclasses.replace(config.train, **rates),
    loss=dataclasses.replace(config.loss, answer=0.0),
  )
  step = jax.jit(functools.partial(train.train_step, config=own))
  before = start(own, prepared)
  state = before
  for number in range(2):
    state, _ = step(state, batches[number], prepared.index)
  assert moved(before.params, state.params) == {
    'query_encoder': False,
    'id_decoder': True,
    'ranker': True,
    'reader': True,  # without a gradient, but weights decay
  }


def test_averages_are_over_the_steps_that_have_a_loss():
  steps = [{'answer': (6.0, 2.0)}, {'answer': (3.0, 4.0), 'other': (5.0, 2.0)}]
  assert train.averages(steps) == {'answer': 1.5, 'other': 2.5}


class TestStages:
  @pytest.fixture
  def staged(self, tiny_values):
    own = {'steps': 5, 'search_steps': 2, 'search_batch_size': 16}
    own |= {'reader_steps': 2, 'reader_batch_size': 24}
    return configs.build(tiny_values | {'train': tiny_values['train'] | own})

  def test_search_is_trained_first_then_the_reader_then_both(self, staged):
    stages = configs.stages(staged)
    assert [stage.loss.reads for stage in stages] == [False, True, True]
    assert [stage.search.gold_only for stage in stages] == [False, True, False]
    assert [stage.train.batch_size for stage in stages] == [16, 24, 8]
    steps = [(step, place) for step, _, place in train.plan(staged, 0)]
    assert steps == [(0, 0), (1, 1), (2, 0), (3, 1), (4, 0)]
    steps = [(step, place) for step, _, place in train.plan(staged, 3)]
    assert steps == [(3, 1), (4, 0)]

  def test_the_reader_alone_moves_the_reader_alone(self, staged, prepared):
    stage = configs.stages(staged)[1]
    questions = prepared.encode(prepared.dataset.splits['train'], stage.data)
    next_state = train.step_function(stage, questions, prepared.index)
    state = start(stage, prepared)
    before = jax.device_get(state.params)
    for place in range(2):
      state, sums = next_state(state, place)
    assert set(sums) == {'answer', 'loss'} | {
      f'gradient_norm/{name}' for name in before
    }
    found = moved(before, state.params)
    assert [name for name, own in found.items() if own] == ['reader']

  def test_search_alone_has_the_questions_with_gold_documents(
    self, staged, prepared, tmp_path, monkeypatch
  ):
    data = dataclasses.replace(staged.data, labelled_questions=20)
    staged = dataclasses.replace(staged, data=data)
    counts = []

    def step_function(stage, questions, index, **_):
      counts.append((len(questions.gold), int((questions.gold >= 0).sum())))
      return lambda state, place: (state, {'loss': (1.0, 1.0)})

    monkeypatch.setattr(train, 'step_function', step_function)
    train.fit(staged, prepared, tmp_path)
    assert counts == [(20, 20), (20, 20), (40, 20)]

  def test_the_reader_starts_with_the_documents_of_other_data(
    self, other_config, prepared
  ):
    other = curriculum.load_other(other_config)
    first, library = curriculum.other_questions(other_config, prepared, other)
    count = len(prepared.index.tokens)
    np.testing.assert_array_equal(library.tokens[:count], prepared.index.tokens)
    assert len(library.tokens) == count + 3  # one holds no answer
    assert first.gold.ravel().tolist() == [count, count + 1]
    encoded = pipeline.encode_documents(
      prepared.tokenizer, [other.documents[1]], other_config.data
    )
    np.testing.assert_array_equal(library.tokens[count + 1], encoded.tokens[0])
    stage = configs.stages(other_config)[1]
    read = []

    def compile_step(step, *, mode):
      del step, mode
      return lambda state, batch, index: read.append(batch.gold) or (state, {})

    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(train.parallel, 'compile_step', compile_step)
      questions = curriculum.training_questions(other_config, prepared)
      step = train.step_function(stage, questions, library, first=first)
      for place in range(stage.train.steps):
        step(None, place)
    assert [bool((gold >= count).all()) for gold in read] == [True, False]

  def test_the_rate_rises_again_for_its_own_data(self, staged):
    train_ = dataclasses.replace(
      staged.train, steps=40, reader_steps=40, search_steps=0, other_steps=20
    )
    stage = configs.stages(dataclasses.replace(staged, train=train_))[0]
    make = optimizer.make(stage)
    params = {'query_encoder': {}, 'reader': {'pointer': jnp.zeros(1)}}
    slope = {'query_encoder': {}, 'reader': {'pointer': -jnp.ones(1)}}
    state, moves = make.init(params), []
    for _ in range(40):  # Adam moves by the rate where gradients stay the same
      updates, state = make.update(slope, state, params)
      moves.append(float(updates['reader']['pointer'][0]))
    peak = stage.train.learning_rate
    assert moves[1] == pytest.approx(peak, rel=0.05)
    assert moves[21] == pytest.approx(peak, rel=0.05)
    assert max(moves[19], moves[39]) < 0.05 * peak

  @pytest.fixture
  def other_config(self, staged, tmp_path, write_lines):
    folder = tmp_path / 'other'
    folder.mkdir()
    documents = [
      {'id': str(i), 'text': f'A snail lives here. It eats {text} leaves.'}
      for i, text in enumerate(('131', '132', 'some', '134'))
    ]
    questions = [
      {'id': str(i), 'question': 'What does a snail eat?'}
      | {'answers': [str(131 + i)], 'document_ids': [str(i)]}
      for i in range(3)
    ]
    write_lines(folder / 'documents.jsonl', documents)
    write_lines(folder / 'questions-train.jsonl', questions)
    return dataclasses.replace(
      staged,
      data=dataclasses.replace(staged.data, other_path=str(folder)),
      train=dataclasses.replace(staged.train, other_steps=1),
    )

  def test_other_data_to_start_with_is_checked_first(
    self, tiny_values, other_config, prepared, tmp_path, write_lines
  ):
    for data, own, message in (
      ('facts', {}, 'Set both --config.data.other_path and'),
      (
        '',
        {'reader_steps': 2, 'other_steps': 1},
        'Set both --config.data.other',
      ),
      ('facts', {'other_steps': 1}, 'of reader_steps, so at most 0, got 1'),
    ):
      values = tiny_values | {
        'data': tiny_values['data'] | {'other_path': data},
        'train': tiny_values['train'] | own,
      }
      with pytest.raises(ValueError, match=message):
        configs.build(values)

    def named(path):
      data = dataclasses.replace(other_config.data, other_path=path)
      return dataclasses.replace(other_config, data=data)

    missing = named(str(tmp_path / 'nowhere'))
    with pytest.raises(ValueError, match='^data.other_path .*does not exist'):
      train.run(missing, tmp_path / 'run')
    assert not (tmp_path / 'run').exists()
    folder = tmp_path / 'other'
    write_lines(folder / 'questions-train.jsonl', [])
    write_lines(
      folder / 'questions-test.jsonl', [{'id': 'q', 'question': 'What?'}]
    )
    with pytest.raises(ValueError, match="in split 'train'.*splits are test"):
      curriculum.load_other(other_config)
    question = {'id': 'p', 'question': 'What lives here?'}
    question |= {'answers': ['A horse'], 'document_ids': ['0']}
    write_lines(folder / 'questions-train.jsonl', [question])
    other = curriculum.load_other(other_config)
    with pytest.raises(ValueError, match='word for word, got none in 1'):
      curriculum.other_questions(other_config, prepared, other)

  def test_a_run_killed_twice_ends_in_the_same_numbers(
    self, other_config, tmp_path, monkeypatch
  ):
    # Two stages will do: what searches and reads takes long to compile.
    fields = {'search_steps': 1, 'steps': 3, 'checkpoint_every': 1}
    staged = dataclasses.replace(
      other_config,
      train=dataclasses.replace(other_config.train, **fields),
      loss=dataclasses.replace(other_config.loss, self_index=0.0),
    )
    prepared = workdirs.open(staged, tmp_path / 'whole')
    whole = train.fit(staged, prepared, tmp_path / 'whole')

    folder = tmp_path / 'killed'
    own = workdirs.open(staged, folder)
    plan = train.plan
    for last in (1, 2, 3):  # within a stage, after it, and at the end

      def stop(config, first, last=last):
        return (step for step in plan(config, first) if step[0] < last)

      monkeypatch.setattr(train, 'plan', stop)
      state = train.fit(staged, own, folder)
    for ours, theirs in zip(
      jax.tree.leaves(state.params), jax.tree.leaves(whole.params), strict=True
    ):
      np.testing.assert_array_equal(ours, theirs)

  @pytest.mark.parametrize(
    'fields',
    [
      {'search_steps': 3, 'reader_steps': 3},
      {'accumulate': 3},
      {'precision': 'int8'},
    ],
  )
  def test_bad_values_name_the_remedy(self, tiny_values, fields):
    values = tiny_values | {'train': tiny_values['train'] | fields}
    with pytest.raises(ValueError, match='Set --config.train'):
      configs.build(values)
