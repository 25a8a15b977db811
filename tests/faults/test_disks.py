"""Full disks, folders without permission, and damaged files of a workdir."""

import dataclasses
import io
import json
import os
import shutil
import threading

import numpy as np
import pytest

import rag_jax
from rag_jax import config as configs
from rag_jax import files, outputs, report, store, tensorboard, train
from rag_jax import workdir as workdirs
from rag_jax.index import index as indexes


@pytest.fixture(scope='module')
def config(tiny_values):
  return configs.build(tiny_values)


@pytest.fixture(scope='module')
def whole(config, tmp_path_factory):
  """The workdir of an undisturbed run."""
  workdir = tmp_path_factory.mktemp('whole') / 'run'
  train.run(config, workdir)
  return workdir


@pytest.fixture
def run(whole, tmp_path):
  """A copy of that workdir."""
  return shutil.copytree(whole, tmp_path / 'run')


def refused(function, *arguments, match):
  with pytest.raises(ValueError, match=match) as error:
    function(*arguments)
  assert '\n' not in str(error.value)


def contents(folder):
  return {
    path.relative_to(folder): path.read_bytes()
    for path in folder.rglob('*')
    if path.is_file()
  }


class TestPlaces:
  def test_an_address_is_refused_at_once(self, config):
    for workdir in ('gs://bucket/run', 's3://bucket/run'):
      for function in (
        lambda own: train.run(config, own),
        rag_jax.load,
        lambda own: store.claim(own, config),
      ):
        refused(function, workdir, match=f'{workdir}.* is no local folder')

  @pytest.mark.parametrize('name', ['n' * 300, 'file/run'])
  def test_a_name_that_is_no_folder_is_refused(self, config, tmp_path, name):
    (tmp_path / 'file').write_text('')
    refused(train.run, config, tmp_path / name, match='workdir .*Set --workdir')
    assert [path.name for path in tmp_path.iterdir()] == ['file']

  def test_a_folder_without_permission_is_refused(self, config):
    workdir = '/sys/rag_jax-run'  # nobody may make a folder there
    refused(train.run, config, workdir, match=f'{workdir}.*cannot be written')


class TestFullDisk:
  def test_tensorboard_ends_with_a_note_and_training_goes_on(
    self, tmp_path, monkeypatch, capfd
  ):
    from tensorboardX import record_writer

    writer = report.MetricsWriter(tmp_path)
    full = io.BufferedWriter(io.FileIO('/dev/full', 'w'))
    monkeypatch.setattr(record_writer, 'open_file', lambda path: full)
    writer._board = tensorboard.open(tmp_path / 'tensorboard', 0)
    threads = threading.active_count()
    for step in range(1, 30):  # its usual writer blocks after ten
      writer.write(step, 'train', {'loss': 1.0})
    assert threading.active_count() == threads
    writer.close()
    [note] = capfd.readouterr().err.splitlines()
    assert 'end at step 1 (No space left on device)' in note
    assert len((tmp_path / 'metrics.jsonl').read_text().splitlines()) == 29

  @pytest.mark.parametrize(
    'name', [store.TOKENIZER, store.INDEX, store.DOCUMENTS, store.DATA]
  )
  def test_a_file_that_cannot_be_written_leaves_a_usable_folder(
    self, config, tmp_path, monkeypatch, name
  ):
    replace = os.replace

    def full(source, target):
      if str(target).endswith(name):
        raise OSError(28, os.strerror(28), str(target))
      return replace(source, target)

    monkeypatch.setattr(os, 'replace', full)
    workdir = tmp_path / 'run'
    message = 'cannot be written .No space left on device'
    refused(workdirs.open, config, workdir, match=message)
    monkeypatch.undo()
    workdirs.open(config, workdir)
    assert rag_jax.store.read_config(workdir) == config

  def test_results_are_tried_before_an_evaluation(
    self, config, run, monkeypatch
  ):
    monkeypatch.setattr(outputs, 'evaluate', None)  # is not reached
    (run / outputs.EVALUATIONS).write_text('a file')
    system = dataclasses.replace(rag_jax.load(run), workdir=None)
    message = 'results cannot be written.*Free disk space'
    refused(outputs.run_evaluation, system, None, run, match=message)

  def test_a_failed_evaluation_leaves_no_folder(
    self, config, run, monkeypatch, capfd
  ):
    write = files.write

    def full(path, text):
      if path.name == outputs.RESULTS:
        raise OSError(28, os.strerror(28))
      write(path, text)

    monkeypatch.setattr(files, 'write', full)
    system = rag_jax.load(run)
    prepared = workdirs.open(config, run, writes=False)
    message = 'cannot be written.*No space left'
    refused(outputs.run_evaluation, system, prepared, run, match=message)
    assert list((run / outputs.EVALUATIONS).iterdir()) == []
    assert 'dev (8 questions)' in capfd.readouterr().out  # shown nevertheless


class TestClaim:
  @pytest.mark.parametrize(
    'names', [(), ('lock',), ('config.json.partial', 'lock')]
  )
  def test_what_a_kill_leaves_before_the_claim_counts_as_empty(
    self, config, tmp_path, names
  ):
    for name in names:
      (tmp_path / name).write_text('{"half')
    store.claim(tmp_path, config)
    assert store.read_config(tmp_path) == config

  def test_it_comes_after_everything_that_can_be_wrong(
    self, config, tmp_path, monkeypatch
  ):
    def fail(*arguments, **options):
      raise ValueError('docids cannot be made')

    monkeypatch.setattr(indexes, 'build', fail)
    refused(train.run, config, tmp_path / 'run', match='docids')
    assert list(tmp_path.iterdir()) == []


class TestDamagedFiles:
  """Each is one line with the file and a remedy, which is then followed."""

  def damage(self, path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + b'\xff\x00')

  @pytest.mark.parametrize('name', [store.DOCUMENTS, store.TOKENIZER])
  def test_what_training_can_write_again(self, config, run, name):
    before = contents(run)
    self.damage(run / name)
    refused(rag_jax.load, run, match=f'{name}')
    if name == store.TOKENIZER:
      (run / name).unlink()
    workdirs.open(config, run)
    assert (run / name).read_bytes() == before[(run / name).relative_to(run)]
    rag_jax.load(run)

  def test_an_index_is_made_again_and_compared_with_the_checkpoint(
    self, config, run
  ):
    before = rag_jax.load(run)
    self.damage(run / store.INDEX)
    refused(rag_jax.load, run, match='index.npz.* is damaged. Delete it')
    (run / store.INDEX).unlink()
    refused(
      lambda: workdirs.open(config, run, writes=False),
      match='index.npz.* is missing. Run rag-jax train with the same',
    )
    workdirs.open(config, run)
    after = rag_jax.load(run)
    np.testing.assert_array_equal(before.index.codes, after.index.codes)

  def test_an_index_of_other_docids_is_not_used(self, run):
    index, quantiser = indexes.load(run / store.INDEX)
    codes = np.asarray(index.codes).copy()
    codes[[0, 1]] = codes[[1, 0]]
    other = indexes.from_codes(np.asarray(index.tokens), codes)
    indexes.save(other, quantiser, run / store.INDEX)
    refused(rag_jax.load, run, match='index.npz.*is not the file that')

  def test_results(self, config, run):
    self.damage(run / 'results.json')
    message = 'results.json.* is damaged.*Delete it, and run rag-jax train'
    refused(report.load_results, run / 'results.json', match=message)
    (run / 'results.json').unlink()
    assert train.run(config, run) == report.load_results(run / 'results.json')

  def test_config(self, config, run):
    system = rag_jax.load(run)
    prepared = workdirs.open(config, run, writes=False)
    folder = outputs.run_evaluation(system, prepared, run, show=lambda _: None)
    self.damage(run / store.CONFIG)
    message = 'config.json.* is damaged .*Copy config.json of a folder in eval'
    refused(rag_jax.load, run, match=message)
    refused(store.claim, run, config, match=message)
    shutil.copy(folder / store.CONFIG, run / store.CONFIG)
    assert rag_jax.load(run).config == config

  def test_the_hash_of_the_questions(self, config, run):
    (run / store.DATA).write_text('{')
    message = 'data.json.* is damaged .*Delete it'
    refused(workdirs.open, config, run, match=message)
    (run / store.DATA).unlink()
    workdirs.open(config, run)
    assert (run / store.DATA).exists()

  def test_changed_documents(self, run):
    rag_jax.load(run).add([{'id': 'new', 'text': 'A snail weighs 3 grams.'}])
    assert 'new' in rag_jax.load(run).rows
    self.damage(run / store.LIVE)
    refused(rag_jax.load, run, match='live.npz.*Delete')
    (run / store.LIVE).unlink()
    assert 'new' not in rag_jax.load(run).rows


class TestMetrics:
  def write(self, folder, *lines):
    (folder / 'metrics.jsonl').write_bytes(b'\n'.join(lines))

  def records(self, folder):
    lines = (folder / 'metrics.jsonl').read_text().splitlines()
    return [json.loads(line)['step'] for line in lines]

  def line(self, step):
    return json.dumps({'step': step, 'split': 'train', 'loss': 1.0}).encode()

  def test_a_damaged_line_does_not_take_the_rest_with_it(self, tmp_path, capfd):
    rows = [
      self.line(1),
      b'{"step": 2, \xff',
      self.line(3),
      b'[]',
      self.line(4),
    ]
    self.write(tmp_path, *rows, b'')
    report.MetricsWriter(tmp_path, 3).close()
    assert self.records(tmp_path) == [1, 3]
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].endswith('is damaged in line 2, 4; what follows is kept')

  def test_what_a_kill_cut_off_is_not_damage(self, tmp_path, capfd):
    self.write(tmp_path, self.line(1), b'{"step": 2, "spl')
    report.MetricsWriter(tmp_path, 1).close()
    assert self.records(tmp_path) == [1]
    assert capfd.readouterr().err == ''

  def test_a_file_that_is_gone_is_said_to_be(self, tmp_path, capfd):
    report.MetricsWriter(tmp_path, 3).close()
    assert 'is missing; records start after step 3' in capfd.readouterr().err
