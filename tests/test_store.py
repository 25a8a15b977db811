import dataclasses
import json
import re

import numpy as np
import pytest

from rag_jax import changes, lock, store, types
from rag_jax import config as configs

# What config.json held in the version before stages were values.
BEFORE = {
  'name': 'tiny',
  'seed': 0,
  'loss': {'answer': 1.0, 'self_index': 1.0, 'reader_trains_search': True},
  'train': {'steps': 4, 'batch_size': 8, 'search_steps': 0, 'reader_steps': 0},
}


@pytest.fixture
def config(tiny_values):
  return configs.build(tiny_values)


@pytest.fixture
def two_stages(tiny_values):
  def build(*order, **fields):
    joint = tiny_values['stages']['joint']
    own = {'search': joint | {'steps': 2}, 'joint': joint | fields}
    return configs.build(
      tiny_values | {'stages': {name: own[name] for name in order}}
    )

  return build


def with_stage(config, **fields):
  [(name, stage)] = config.stages
  stage = dataclasses.replace(stage, **fields)
  return dataclasses.replace(config, stages=((name, stage),))


def stored(workdir):
  return json.loads((workdir / 'config.json').read_text())


def write(workdir, values):
  (workdir / 'config.json').write_text(json.dumps(values))


def contents(folder):
  return {
    path.relative_to(folder): path.read_bytes() if path.is_file() else None
    for path in folder.rglob('*')
  }


def refused(workdir, config, message):
  """Checks that a claim raises a one-line error and writes nothing."""
  before = contents(workdir)
  with pytest.raises(ValueError, match=message) as error:
    store.claim(workdir, config)
  assert '\n' not in str(error.value)
  assert contents(workdir) == before
  return str(error.value)


class TestClaim:
  def test_the_same_experiment_is_accepted(self, config, tmp_path):
    store.claim(tmp_path / 'run', config)
    before = (tmp_path / 'run' / 'config.json').read_bytes()
    store.claim(tmp_path / 'run', config)
    assert (tmp_path / 'run' / 'config.json').read_bytes() == before
    assert json.loads(before)['name'] == 'tiny'
    assert [p.name for p in (tmp_path / 'run').iterdir()] == ['config.json']

  def test_fields_that_change_no_number_may_change(self, config, tmp_path):
    store.claim(tmp_path / 'run', config)
    quieter = dataclasses.replace(config.train, log_every=2)
    store.claim(tmp_path / 'run', dataclasses.replace(config, train=quieter))

  def test_another_experiment_raises_an_error_with_the_field(
    self, config, tmp_path
  ):
    store.claim(tmp_path, config)
    other = dataclasses.replace(config, seed=1)
    refused(tmp_path, other, 'seed=0, got 1.*--config.seed=0')

  @pytest.mark.parametrize(
    'fields, message',
    [
      ({'losses': {'docid': 0.5, 'answer': 1.0}}, r'docid=1.0, got 0.5\.'),
      # A loss that is off is 0, also in the flag of the remedy.
      (
        {'losses': {'docid': 1.0, 'ranking': 1.0, 'indexing': 1.0}},
        r'losses.answer=1.0, got 0.0\..*losses.answer=1.0\.',
      ),
      ({'steps': 5}, r'stages.joint.steps=4, got 5\..*stages.joint.steps=4\.'),
      ({'trains': {'reader': 1.0}}, r'trains.id_decoder=1.0, got 0.0\.'),
    ],
  )
  def test_another_stage_raises_an_error_with_the_field(
    self, config, tmp_path, fields, message
  ):
    store.claim(tmp_path, config)
    refused(tmp_path, with_stage(config, **fields), message)

  def test_a_loss_that_was_off_is_zero(self, config, tmp_path):
    store.claim(tmp_path, config)
    [(_, stage)] = config.stages
    other = with_stage(config, losses=(*stage.losses, ('pdist', 1.0)))
    message = r'losses.pdist=0.0, got 1.0\..*--config.stages.joint.losses.pdist'
    assert refused(tmp_path, other, message).endswith('pdist=0.0.')

  def test_stages_in_another_order_are_another_experiment(
    self, two_stages, tmp_path
  ):
    store.claim(tmp_path, two_stages('search', 'joint'))
    assert list(stored(tmp_path)['stages']) == ['search', 'joint']
    store.claim(tmp_path, two_stages('search', 'joint'))
    text = refused(
      tmp_path,
      two_stages('joint', 'search'),
      "stages='search, joint', got 'joint, search'",
    )
    # No flag sets the names of stages, so the remedy names no flag.
    assert '--config.stages=' not in text

  def test_a_missing_stage_is_another_experiment(self, two_stages, tmp_path):
    store.claim(tmp_path, two_stages('search', 'joint'))
    refused(tmp_path, two_stages('joint'), "stages='search, joint', got 'joint")

  def test_a_missing_field_has_its_default(self, config, tmp_path):
    store.claim(tmp_path, config)
    values = stored(tmp_path)
    del values['reader']['null_document']
    del values['stages']['joint']['margin']
    write(tmp_path, values)
    store.claim(tmp_path, config)
    reader = dataclasses.replace(config.reader, null_document=True)
    other = dataclasses.replace(config, reader=reader)
    refused(tmp_path, other, 'null_document=False, got True')
    refused(tmp_path, with_stage(config, margin=2.0), 'margin=1.0, got 2.0')

  def test_an_unknown_field_raises_an_error(self, config, tmp_path):
    store.claim(tmp_path, config)
    write(tmp_path, stored(tmp_path) | {'phase': 3})
    refused(tmp_path, config, 'another version, with phase=3')

  @pytest.mark.parametrize('place', ['', 'losses.'])
  def test_an_unknown_field_of_a_stage_raises_an_error(
    self, config, tmp_path, place
  ):
    store.claim(tmp_path, config)
    values = stored(tmp_path)
    stage = values['stages']['joint']
    (stage['losses'] if place else stage)['phase'] = 3
    write(tmp_path, values)
    message = f'another version, with stages.joint.{place}phase=3'
    refused(tmp_path, config, message)
    with pytest.raises(ValueError, match=message):
      store.read_config(tmp_path)

  def test_a_workdir_of_an_older_version_raises_an_error(
    self, config, tmp_path
  ):
    write(tmp_path, BEFORE)
    (tmp_path / 'checkpoints').mkdir()
    message = r'of another version, with loss.answer=1.0\..*use that version'
    refused(tmp_path, config, message)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=message):
      store.read_config(tmp_path)
    assert contents(tmp_path) == before
    without = {name: own for name, own in BEFORE.items() if name != 'loss'}
    write(tmp_path, without)
    refused(tmp_path, config, 'of another version, with train.batch_size=8')

  def test_an_experiment_without_stages_is_another(self, config, tmp_path):
    store.claim(tmp_path, config)
    values = stored(tmp_path)
    del values['stages']
    write(tmp_path, values)
    refused(tmp_path, config, "stages='', got 'joint'")

  def test_a_folder_with_other_files_is_rejected(self, config, tmp_path):
    (tmp_path / 'thesis.tex').write_text('mine')
    refused(tmp_path, config, 'holds files but no config.json')
    assert [p.name for p in tmp_path.iterdir()] == ['thesis.tex']

  def test_a_file_is_rejected(self, config, tmp_path):
    (tmp_path / 'run').write_text('mine')
    with pytest.raises(ValueError, match='is a file'):
      store.claim(tmp_path / 'run', config)

  @pytest.mark.parametrize('text', ['{', '[]', ''])
  def test_a_damaged_config_raises_an_error(self, config, tmp_path, text):
    (tmp_path / 'config.json').write_text(text)
    refused(tmp_path, config, 'config.json.* is damaged')
    with pytest.raises(ValueError, match='config.json.* is damaged'):
      store.read_config(tmp_path)


class TestReadConfig:
  def test_it_is_what_was_claimed(self, two_stages, tmp_path):
    for order in (('search', 'joint'), ('joint', 'search')):
      folder = tmp_path / '-'.join(order)
      config = two_stages(*order, losses={'pdist': 0.5, 'docid': 2.0})
      store.claim(folder, config)
      assert store.read_config(folder) == config
      assert [name for name, _ in store.read_config(folder).stages] == [*order]

  def test_the_error_of_a_missing_config_names_the_command(self, tmp_path):
    with pytest.raises(ValueError, match='no config.json.*--mode=train'):
      store.read_config(tmp_path / 'nowhere')
    assert not (tmp_path / 'nowhere').exists()


def test_a_workdir_without_a_checkpoint_is_not_trained(tmp_path):
  with pytest.raises(ValueError, match='no checkpoint.*--mode=train'):
    store.check_trained(tmp_path)
  (tmp_path / 'checkpoints').mkdir()
  store.check_trained(tmp_path)


class TestDocuments:
  DOCUMENTS = (
    # Characters that would split a line elsewhere, and any script.
    types.Document(id='a', text='one\u2028two\x0bthree\x85four', title='t\n'),
    None,
    types.Document(id='ب', text='🐻 "quoted" \\ back', summary='猫'),
  )

  def test_documents_survive_a_round_trip(self, tmp_path):
    store.save_documents(self.DOCUMENTS, tmp_path)
    assert store.load_documents(tmp_path) == self.DOCUMENTS
    assert [p.name for p in tmp_path.iterdir()] == [store.DOCUMENTS]

  def test_the_same_corpus_is_written_once(self, tmp_path):
    store.save_documents(self.DOCUMENTS, tmp_path)
    path = tmp_path / store.DOCUMENTS
    first, stamp = path.read_bytes(), path.stat().st_mtime_ns
    store.save_documents(list(self.DOCUMENTS), tmp_path)
    assert path.stat().st_mtime_ns == stamp
    store.save_documents(self.DOCUMENTS[::-1], tmp_path)
    assert store.load_documents(tmp_path) == self.DOCUMENTS[::-1]
    assert store.pack_documents(self.DOCUMENTS) == first

  @pytest.mark.parametrize(
    'damage', ['missing', 'cut', 'bytes', 'text', 'rows']
  )
  def test_a_damaged_file_raises_a_one_line_error(self, tmp_path, damage):
    path = tmp_path / store.DOCUMENTS
    store.save_documents(self.DOCUMENTS, tmp_path)
    packed = path.read_bytes()
    if damage == 'missing':
      path.unlink()
    elif damage == 'cut':
      path.write_bytes(packed[: len(packed) // 2])
    elif damage == 'bytes':
      path.write_bytes(packed[:10] + b'\xff' * 8 + packed[18:])
    elif damage == 'text':
      path.write_bytes(b'no archive')
    else:
      rows = store.pack_documents([types.Document(id='a', text='b')])
      text = store.gzip.decompress(rows).replace(b'"text"', b'"txet"')
      path.write_bytes(store.gzip.compress(text))
    message = re.escape(str(path)) + '.*cannot be read.*--workdir'
    with pytest.raises(ValueError, match=message):
      store.load_documents(tmp_path)


class TestResume:
  """Fields that may change in the middle of a run."""

  @pytest.fixture
  def trained(self, two_stages, tmp_path):
    """Makes a workdir of two stages, 2 and 4 steps, with a checkpoint."""

    def make(step):
      store.claim(tmp_path, two_stages('search', 'joint'))
      (tmp_path / store.CHECKPOINTS / str(step)).mkdir(parents=True)
      return tmp_path

    return make

  def changed(self, two_stages, stage, **fields):
    config = two_stages('search', 'joint')
    stages = tuple(
      (name, dataclasses.replace(own, **fields) if name == stage else own)
      for name, own in config.stages
    )
    return dataclasses.replace(config, stages=stages)

  @pytest.mark.parametrize(
    'done, stage, fields, allowed',
    [
      (1, 'search', {'learning_rate': 1e-4}, True),  # the stage it is in
      (2, 'search', {'learning_rate': 1e-4}, False),  # it is finished
      (2, 'joint', {'learning_rate': 1e-4}, True),  # to come
      (5, 'joint', {'learning_rate': 1e-4}, True),
      (6, 'joint', {'learning_rate': 1e-4}, False),
      (5, 'joint', {'steps': 9}, True),
      (5, 'joint', {'steps': 4 - 1}, False),  # it has made three
      (6, 'joint', {'steps': 9}, False),
      (1, 'joint', {'steps': 1}, True),
      (1, 'joint', {'batch_size': 16}, False),
      (1, 'joint', {'losses': (('docid', 1.0),)}, False),
    ],
  )
  def test_only_what_earlier_steps_do_not_depend_on(
    self, trained, two_stages, done, stage, fields, allowed, capfd
  ):
    workdir = trained(done)
    config = self.changed(two_stages, stage, **fields)
    [field] = fields
    refused(workdir, config, f'stages.{stage}.{field}')
    if not allowed:
      with pytest.raises(ValueError, match=f'stages.{stage}.{field}'):
        store.claim(workdir, config, resumes=True)
      return
    store.claim(workdir, config, resumes=True)
    assert store.read_config(workdir) == config
    [change] = store.changes(workdir)
    assert change['step'] == done
    assert change['field'] == f'stages.{stage}.{field}'
    assert change['now'] == fields[field]
    assert f'from step {done} on' in capfd.readouterr().err
    store.claim(workdir, config, resumes=True)  # nothing changes now
    assert len(store.changes(workdir)) == 1

  def test_a_change_that_is_kept_away_changes_nothing(
    self, trained, two_stages
  ):
    workdir = trained(1)
    config = self.changed(two_stages, 'joint', learning_rate=1e-4)
    other = dataclasses.replace(config, seed=1)
    before = contents(workdir)
    with pytest.raises(ValueError, match='seed=0, got 1'):
      store.claim(workdir, other, resumes=True)
    assert contents(workdir) == before

  def test_damaged_changes_are_one_line(self, trained):
    workdir = trained(1)
    (workdir / store.CHANGES).write_text('{"step": 1\n')
    message = 'config-changes.jsonl.* is damaged .*delete this file'
    with pytest.raises(ValueError, match=message) as error:
      store.changes(workdir)
    assert '\n' not in str(error.value)


class TestUse:
  def test_search_widths_may_differ_where_nothing_is_trained(
    self, config, tmp_path
  ):
    store.claim(tmp_path, config)
    with pytest.raises(ValueError, match='holds no checkpoint'):
      store.check_use(tmp_path, config)
    (tmp_path / store.CHECKPOINTS).mkdir()
    before = contents(tmp_path)
    wider = dataclasses.replace(config.search, beam_size=12, read_size=2)
    data = dataclasses.replace(config.data, path='elsewhere')
    store.check_use(
      tmp_path, dataclasses.replace(config, search=wider, data=data)
    )
    refused(tmp_path, dataclasses.replace(config, search=wider), 'beam_size=6')
    with pytest.raises(ValueError, match='seed=0, got 1'):
      store.check_use(tmp_path, dataclasses.replace(config, seed=1))
    assert contents(tmp_path) == before


def test_another_process_is_not_overwritten(tmp_path, monkeypatch):
  path = tmp_path / store.LIVE
  written = []
  monkeypatch.setattr(
    changes.live_store,
    'save',
    lambda live, own, extra: written.append(own.write_bytes(b'ours')),
  )
  params = {'id_decoder': {'table': np.zeros(2)}}
  changes.remember(path)
  changes.save(None, (), params, path)
  changes.save(None, (), params, path)
  path.write_bytes(b'by another process')
  with pytest.raises(ValueError, match='changed by another process.*repeat'):
    changes.save(None, (), params, path)
  assert path.read_bytes() == b'by another process'
  changes.remember(path)  # it is loaded again
  changes.save(None, (), params, path)
  with lock.hold(tmp_path):
    monkeypatch.setattr(changes, 'LOCK_WAIT', 0.1)
    with pytest.raises(lock.Held, match='is being written by process'):
      changes.save(None, (), params, path)
  assert len(written) == 3
