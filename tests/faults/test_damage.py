"""Damage to every file of a workdir: a command runs on or says one line."""

import dataclasses
import os
import random
import shutil
import threading

import numpy as np
import pytest

import rag_jax
from rag_jax import config as configs
from rag_jax import evaluate as evaluations
from rag_jax import outputs, report, store, train
from rag_jax import workdir as workdirs
from rag_jax.index import vector_cache

LONG = os.environ.get('RAG_JAX_FAULTS') == 'long'
QUESTIONS = [f'How much does the {own} cat weigh?' for own in ('red', 'blue')]
EXTRA = b'{"step": 1}\n'  # for files that an undisturbed run lacks
# A file of the workdir, or a pattern of which the first match is taken.
FILES = (
  'config.json',
  'config-changes.jsonl',
  'data.json',
  'documents.jsonl.gz',
  'tokenizer.json',
  'reader-tokenizer.json',
  'index.npz',
  'live.npz',
  'lock',
  'metrics.jsonl',
  'results.json',
  'results-untrained.json',
  'answers-dev.jsonl',
  'run-dev-BM25.trec',
  'tensorboard/events*',
  'evaluations',
  'evaluations/001',
  'evaluations/001/results.json',
  'checkpoints',
  'checkpoints/4',
  'checkpoints/4/_CHECKPOINT_METADATA',
  'checkpoints/4/commit_success.txt',
  'checkpoints/4/params/_METADATA',
  'checkpoints/4/params/_sharding',
  'checkpoints/4/params/array_metadatas/process_0',
  'checkpoints/4/params/manifest.ocdbt',
  'checkpoints/4/params/ocdbt.process_0/manifest.ocdbt',
  'checkpoints/4/params/d/*',
  'checkpoints/4/params/ocdbt.process_0/d/*',
  'checkpoints/4/training/_METADATA',
  'checkpoints/4/training/d/*',
)
KINDS = ('missing', 'empty', 'half', 'garbage', 'type', 'folder', 'other')
DAMAGES = [(name, kind) for name in FILES for kind in KINDS]
if not LONG:
  DAMAGES = random.Random(1).sample(DAMAGES, 3)


def find(workdir, name):
  """The path of a file; one that is absent is made."""
  found = sorted(workdir.glob(name))
  if found:
    return found[0]
  path = workdir / name
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(EXTRA)
  return path


def remove(path):
  if path.is_dir():
    shutil.rmtree(path)
  else:
    path.unlink()


def damage(workdir, other, name, kind):
  """Damages a file or folder of a workdir in one way."""
  path = find(workdir, name)
  source = path.read_bytes() if path.is_file() else EXTRA
  content = {
    'empty': b'',
    'half': source[: len(source) // 2],
    'garbage': np.random.default_rng(0).bytes(max(len(source), 20)),
    'type': b'[3]',
  }
  replacement = find(other, name)
  remove(path)
  if kind in content:
    path.write_bytes(content[kind])
  elif kind == 'folder':
    (path / 'folder').mkdir(parents=True)
  elif kind == 'other' and replacement.is_dir():
    shutil.copytree(replacement, path)
  elif kind == 'other':
    shutil.copy(replacement, path)


@pytest.fixture(scope='module')
def config(tiny_values):
  return configs.build(tiny_values)


@pytest.fixture(scope='module')
def whole(config, tmp_path_factory):
  """The workdir of an undisturbed run with one evaluation."""
  workdir = tmp_path_factory.mktemp('whole') / 'run'
  train.run(config, workdir)
  prepared = workdirs.open(config, workdir, writes=False)
  evaluate(config, workdir, prepared)
  return workdir


@pytest.fixture(scope='module')
def other(config, tiny_folder, tmp_path_factory):
  """The workdir of another run: another seed and other documents."""
  root = tmp_path_factory.mktemp('other')
  folder = shutil.copytree(tiny_folder, root / 'data')
  path = folder / 'documents.jsonl'
  path.write_text(path.read_text().replace('lives', 'sleeps'))
  data = dataclasses.replace(config.data, path=str(folder))
  changed = dataclasses.replace(config, seed=1, data=data)
  train.run(changed, root / 'run')
  rag_jax.load(root / 'run').add([{'id': 'new', 'text': 'A snail naps.'}])
  prepared = workdirs.open(changed, root / 'run', writes=False)
  evaluate(changed, root / 'run', prepared)
  return root / 'run'


def evaluate(config, workdir, prepared=None):
  system = rag_jax.load(workdir)
  prepared = prepared or workdirs.open(config, workdir, writes=False)
  return outputs.run_evaluation(
    system, prepared, workdir, show=lambda found: None
  )


def ask(workdir):
  system = rag_jax.load(workdir)
  return [answer.to_dict() for answer in system.ask(QUESTIONS)]


def attempt(function, *arguments):
  """The result, or the message of the one error that is allowed."""
  try:
    return function(*arguments)
  except ValueError as error:
    assert '\n' not in str(error) and len(str(error)) < 900, str(error)
    return f'error: {error}'
  except OSError as error:  # which the command turns into one line
    assert error.filename, error
    return f'error: {error}'


@pytest.mark.parametrize('name, kind', DAMAGES)
def test_damage(config, whole, other, tmp_path, capfd, name, kind):
  """Results are those of the undisturbed run, or something is said."""
  wanted, scores = ask(whole), report.load_results(whole / 'results.json')
  run = shutil.copytree(whole, tmp_path / 'run')
  damage(run, other, name, kind)
  capfd.readouterr()
  found = attempt(ask, run)
  said = capfd.readouterr().err
  assert found == wanted or str(found).startswith('error: ') or said
  found = attempt(evaluate, config, run)
  said = capfd.readouterr().err
  if not str(found).startswith('error: '):
    assert report.load_results(found / 'results.json') == scores or said
  found = attempt(train.run, config, run)
  output = capfd.readouterr().err
  assert 'Traceback' not in output
  if not isinstance(found, str):  # after which all is whole again
    assert report.load_results(run / 'results.json') == found
    again = attempt(ask, run)
    assert again == wanted or str(again).startswith('error: ') or output


def flip(path, rng):
  """Flips one bit of a file."""
  content = bytearray(path.read_bytes())
  content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
  path.write_bytes(content)


def test_no_flipped_bit_of_a_small_file_is_used(whole, tmp_path, capfd):
  rng, wanted = random.Random(4), ask(whole)
  names = (store.INDEX, store.DOCUMENTS, store.TOKENIZER, store.LIVE)
  start = shutil.copytree(whole, tmp_path / 'start')
  rag_jax.load(start).add([{'id': 'new', 'text': 'A snail weighs 3 grams.'}])
  live = ask(start)
  found = 0
  for number in range(80 if LONG else 8):
    name = names[number % len(names)]
    run = tmp_path / str(number)
    shutil.copytree(start if name == store.LIVE else whole, run)
    flip(run / name, rng)
    capfd.readouterr()
    answers = attempt(ask, run)
    said = str(answers).startswith('error: ') or capfd.readouterr().err
    assert said or answers == (live if name == store.LIVE else wanted), name
    found += bool(said)
    shutil.rmtree(run)
  assert found > 3


def test_no_flipped_bit_of_cached_vectors_is_used(tmp_path, capfd):
  rng, shape = random.Random(5), (7, 3)
  vectors = np.random.default_rng(0).normal(size=shape).astype(np.float32)
  path = tmp_path / 'key.npy'
  partial = vector_cache.Partial(path)
  partial.publish('key', vectors)
  partial.close()
  files = [path, path.with_suffix('.json')]
  contents = [file.read_bytes() for file in files]
  found = 0
  for number in range(120):
    flip(files[number % 2], rng)
    loaded = vector_cache.load(path, 'key', shape)
    assert loaded is None or np.array_equal(loaded, vectors)
    found += loaded is None
    for file, content in zip(files, contents, strict=True):
      file.write_bytes(content)
  assert found > 90
  assert capfd.readouterr().err.count('encod') == found


def test_two_evaluations_at_once_write_folders_of_their_own(
  config, whole, tmp_path, monkeypatch
):
  run = shutil.copytree(whole, tmp_path / 'run')
  real, meeting = evaluations.evaluate, threading.Barrier(2, timeout=120)

  def together(*arguments):
    found = real(*arguments)
    meeting.wait()
    return found

  monkeypatch.setattr(outputs.evaluate, 'evaluate', together)
  folders = []
  threads = [
    threading.Thread(target=lambda: folders.append(evaluate(config, run)))
    for _ in range(2)
  ]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert sorted(folder.name for folder in folders) == ['002', '003']
  first, second = (report.load_results(f / 'results.json') for f in folders)
  assert first == second == report.load_results(whole / 'results.json')


def test_changed_documents_belong_to_one_checkpoint(whole, tmp_path):
  run = shutil.copytree(whole, tmp_path / 'run')
  rag_jax.load(run).add([{'id': 'new', 'text': 'A snail weighs 3 grams.'}])
  assert 'new' in rag_jax.load(run).rows
  (run / 'checkpoints' / '4').rename(tmp_path / '4')
  message = r'live\.npz.* belongs to the checkpoint of step 4 .* move this file'
  with pytest.raises(ValueError, match=message):
    rag_jax.load(run)
  (run / store.LIVE).rename(tmp_path / store.LIVE)
  assert 'new' not in rag_jax.load(run).rows
  (tmp_path / store.LIVE).rename(run / store.LIVE)
  (tmp_path / '4').rename(run / 'checkpoints' / '4')
  assert 'new' in rag_jax.load(run).rows
