"""Starting from the weights of another run, and continuing one in a copy."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax import (
  checkpoint,
  continued,
  curriculum,
  fingerprints,
  keeper,
  states,
  store,
  train,
)
from rag_jax import config as configs
from rag_jax import workdir as workdirs
from rag_jax.components import query_encoder

LOSSES = {'losses': {'docid': 1.0}, 'trains': {'query_encoder': 1.0}}


@pytest.fixture(scope='module')
def build(tiny_values):
  """Makes the tiny experiment with one stage; keywords change its groups."""

  def make(count=4, learning_rate=1e-2, **groups):
    stage = {'steps': count, 'batch_size': 8, 'learning_rate': learning_rate}
    values = tiny_values | {'stages': {'search': stage | LOSSES}}
    for name, own in groups.items():
      old = values.get(name)
      values = values | {name: old | own if isinstance(old, dict) else own}
    return configs.build(values)

  return make


@pytest.fixture(scope='module')
def source(build, tmp_path_factory):
  """A run with parameters that no initialisation gives, and one checkpoint."""
  folder = tmp_path_factory.mktemp('source') / 'run'
  config = build()
  prepared = workdirs.open(config, folder)
  state, _ = states.restore(config, prepared, folder / store.CHECKPOINTS)
  params = jax.tree.map(lambda x: x + 0.25, state.params)
  state = dataclasses.replace(state, params=params, step=jnp.int32(4))
  saving = checkpoint.open(folder / store.CHECKPOINTS)
  notes = {'files': prepared.fingerprints}
  checkpoint.save(saving, 4, keeper.saved(state), notes)
  checkpoint.close(saving)
  return folder


def contents(folder):
  paths = [p for p in folder.rglob('*') if p.is_file()]
  return {p.relative_to(folder): p.read_bytes() for p in paths}


def initial(config, folder):
  """The untrained system of a workdir, and the parameters it starts with."""
  prepared = workdirs.open(config, folder)
  state, _ = states.restore(config, prepared, folder / store.CHECKPOINTS)
  return prepared, state


def params_of(folder):
  return checkpoint.load(folder / store.CHECKPOINTS, {'params': None}).parts[
    'params'
  ]


def assert_equal(ours, theirs):
  assert jax.tree.structure(ours) == jax.tree.structure(theirs)
  for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
    np.testing.assert_array_equal(a, b)


class TestInitFrom:
  def test_the_same_sizes_and_documents_start_with_all_weights(
    self, build, source, tmp_path, capfd
  ):
    config = build(9, seed=3, init_from=str(source))
    before = contents(source)
    prepared, state = initial(config, tmp_path / 'run')
    theirs = params_of(source)
    assert_equal(state.params, theirs)
    count = len(jax.tree.leaves(theirs))
    note = f'{count} of {count} arrays are taken over'
    [line] = [x for x in capfd.readouterr().err.split('\n') if note in x]
    assert 'not taken over' not in line
    # With another seed, the docids would be others.
    index = fingerprints.of_index(prepared.index)
    own = workdirs.open(build(), source, writes=False)
    assert index == fingerprints.of_index(own.index)
    assert contents(source) == before
    assert store.read_config(tmp_path / 'run').init_from == str(source)

  def test_what_does_not_fit_is_named(
    self, build, source, tiny_folder, tmp_path, capfd
  ):
    data = tmp_path / 'data'
    shutil.copytree(tiny_folder, data)
    lines = (data / 'documents.jsonl').read_text().splitlines(keepends=True)
    (data / 'documents.jsonl').write_text(''.join(lines[::-1]))
    config = build(
      data={'path': str(data)}, reader={'num_layers': 2}, init_from=str(source)
    )
    prepared, state = initial(config, tmp_path / 'run')
    theirs = params_of(source)
    for name in ('query_encoder', 'ranker'):
      assert_equal(state.params[name], theirs[name])
    ours, decoder = state.params['id_decoder'], theirs['id_decoder']
    assert_equal(ours['network'], decoder['network'])
    # The table holds the documents as the encoder of the other run sees them.
    vectors = query_encoder.embed_documents(
      theirs['query_encoder'], prepared.index.tokens
    )
    assert len(vectors) == 48
    np.testing.assert_allclose(ours['table'][:48], vectors, atol=1e-6)
    note = capfd.readouterr().err
    assert 'reader (reader.num_layers is 2 here, 1 there)' in note
    assert 'id_decoder/table (another index)' in note

  def test_equal_shapes_with_another_meaning_are_not_taken_over(
    self, build, source, tmp_path, capfd
  ):
    config = build(
      query_encoder={'num_heads': 4},
      reader={'window': 5},
      init_from=str(source),
    )
    _, state = initial(config, tmp_path / 'run')
    theirs = params_of(source)
    assert_equal(state.params['reader'], theirs['reader'])
    # Nor is the table, whose rows are vectors of the other encoder.
    for name, part in (('query_encoder', 'embedding'), ('id_decoder', 'table')):
      ours = state.params[name][part]
      assert (np.asarray(ours) != np.asarray(theirs[name][part])).any()
    note = capfd.readouterr().err
    assert 'query_encoder.num_heads is 4 here, 2 there' in note
    assert 'id_decoder (made for another query encoder)' in note

  def test_a_run_with_a_checkpoint_needs_the_other_no_more(
    self, build, source, tmp_path
  ):
    gone = tmp_path / 'gone'
    shutil.copytree(source, gone)
    config = build(0, init_from=str(gone))
    prepared = workdirs.open(config, tmp_path / 'run')
    train.fit(config, prepared, tmp_path / 'run')
    shutil.rmtree(gone)
    assert_equal(initial(config, tmp_path / 'run')[1].params, params_of(source))

  @pytest.mark.parametrize(
    'groups, message',
    [
      ({'init_from': 'nowhere'}, 'init_from: workdir .nowhere.*no config.json'),
      ({'data': {'vocab_size': 330}}, 'data.vocab_size must be 320, .*=320'),
      (
        {'query_encoder': {'width': 32}, 'reader': {'width': 32}},
        'no query encoder and no reader.*width is 32 here, 16 there',
      ),
    ],
  )
  def test_errors_come_first(self, build, source, tmp_path, groups, message):
    config = build(**({'init_from': str(source)} | groups))
    with pytest.raises(ValueError, match=message) as error:
      workdirs.open(config, tmp_path / 'run')
    assert '\n' not in str(error.value)
    assert not (tmp_path / 'run').exists()


class TestContinueFrom:
  @pytest.fixture(scope='class')
  def runs(self, build, tmp_path_factory):
    """A run of four steps, and one that was stopped after two."""
    root, schedule = tmp_path_factory.mktemp('runs'), train.schedule
    with pytest.MonkeyPatch.context() as patch:
      for name, last in (('whole', 4), ('half', 2)):

        def stop(config, first, last=last):
          return (row for row in schedule(config, first) if row[0] < last)

        patch.setattr(train, 'schedule', stop)
        self.fit(build(), root / name)
    return root

  def fit(self, config, folder):
    return train.fit(config, workdirs.open(config, folder), folder)

  def state(self, config, folder):
    return initial(config, folder)[1]

  def test_a_copy_trains_on_as_the_run_would(self, build, runs, tmp_path):
    before = contents(runs)
    config, copy = build(), tmp_path / 'copy'
    partial = tmp_path / '.copy.continued-partial'
    partial.mkdir()
    (partial / 'half').touch()  # of a killed process
    continued.copy(config, runs / 'half', copy)
    assert not partial.exists()
    assert checkpoint.steps(copy / store.CHECKPOINTS) == [2]
    [change] = store.changes(copy)
    origin = str((runs / 'half').resolve())
    assert change == {
      'step': 2,
      'field': 'continue_from',
      'was': None,
      'now': origin,
    }
    self.fit(config, copy)
    assert_equal(self.state(config, copy), self.state(config, runs / 'whole'))
    records = [
      (folder / 'metrics.jsonl').read_text()
      for folder in (copy, runs / 'whole')
    ]
    assert records[0] == records[1]
    continued.copy(config, runs / 'half', copy)  # goes on with its own state
    assert 4 in checkpoint.steps(copy / store.CHECKPOINTS)
    assert contents(runs) == before

  def test_a_finished_run_gets_more_steps_at_another_rate(
    self, build, runs, tmp_path, capfd
  ):
    config, copy = build(6, learning_rate=3e-3), tmp_path / 'copy'
    continued.copy(config, runs / 'whole', copy)
    assert store.read_config(copy) == config
    changes = {own['field']: own['now'] for own in store.changes(copy)}
    assert changes.pop('continue_from')
    assert changes == {
      'stages.search.steps': 6,
      'stages.search.learning_rate': 3e-3,
    }
    assert 'continues the run' in capfd.readouterr().err
    prepared, state = initial(config, copy)
    assert int(state.step) == 4
    [(name, stage)] = config.stages
    material = curriculum.prepare(config, prepared, {})[name](state.params)
    next_state = train.step_function(config, stage, *material)
    self.fit(config, copy)
    for place in (4, 5):
      state, _ = next_state(state, place)
    assert_equal(self.state(config, copy), state)

  @pytest.mark.parametrize(
    'fields, name, message',
    [
      ({}, 'copy', 'all its 4 steps.*--config.stages.search.steps'),
      ({'count': 3}, 'copy', 'continue_from: .*steps=4, got 3'),
      ({'count': 6, 'seed': 1}, 'copy', 'continue_from: .*seed=0, got 1'),
      ({'count': 6}, 'run/more', 'must be outside of continue_from'),
      ({'count': 6}, 'other', 'holds another run'),
      (
        {'count': 6, 'data': {'path': 'facts'}},
        'copy',
        "continue_from: data.path 'facts' holds other documents",
      ),
    ],
  )
  def test_errors_come_first(
    self, build, source, tmp_path, fields, name, message
  ):
    own = tmp_path / 'run'
    shutil.copytree(source, own)
    store.claim(tmp_path / 'other', build())
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=message) as error:
      continued.copy(build(**fields), own, tmp_path / name)
    assert '\n' not in str(error.value)
    assert contents(tmp_path) == before
    assert {p.name for p in tmp_path.iterdir()} == {'run', 'other'}

  def test_no_run_is_continued_without_a_checkpoint(self, build, tmp_path):
    store.claim(tmp_path / 'new', build())
    with pytest.raises(ValueError, match='no finished checkpoint'):
      continued.copy(build(), tmp_path / 'new', tmp_path / 'copy')


def test_the_python_function_takes_both(build, source, tmp_path, monkeypatch):
  seen = []

  def fit(config, prepared, workdir, **options):
    del prepared, options
    seen.append((config.init_from, checkpoint.steps(workdir / 'checkpoints')))
    raise KeyboardInterrupt

  monkeypatch.setattr(train, 'fit', fit)
  for name, options in (
    ('a', {'init_from': source}),
    ('b', {'continue_from': source}),
  ):
    with pytest.raises(KeyboardInterrupt):
      train.run(build(6), tmp_path / name, **options)
  assert seen == [(str(source), []), ('', [4])]
