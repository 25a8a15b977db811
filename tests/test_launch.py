"""`launch.py` as a subprocess."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

from rag_jax import report

ROOT = pathlib.Path(__file__).parents[1]


def finals(workdir):
  """The last record of metrics.jsonl, and the results."""
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  return json.loads(lines[-1]), report.load_results(workdir / 'results.json')


def launch(tiny_file, workdir, *flags, **options):
  environment = os.environ | {'JAX_PLATFORMS': 'cpu'}
  command = [sys.executable, str(ROOT / 'launch.py')]
  command += [f'--config={tiny_file}', f'--workdir={workdir}', *flags]
  return subprocess.Popen(
    command,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    env=environment,
    **options,
  )


@pytest.fixture(scope='module')
def whole_run(tiny_file, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('whole') / 'run'
  process = launch(tiny_file, workdir)
  output, errors = process.communicate(timeout=300)
  assert process.returncode == 0, errors
  return workdir, output, errors


@pytest.mark.long
def test_a_killed_run_resumes_exactly(tiny_file, whole_run, tmp_path):
  workdir = tmp_path / 'killed'
  flags = ('--config.train.checkpoint_every=1',)
  process = launch(tiny_file, workdir, *flags)
  deadline = time.monotonic() + 240
  while time.monotonic() < deadline and process.poll() is None:
    if any((workdir / 'checkpoints').glob('[0-9]*')):
      break
    time.sleep(0.02)
  process.send_signal(signal.SIGKILL)
  process.communicate()
  assert process.returncode == -signal.SIGKILL
  assert not (workdir / 'results.json').exists()
  again = launch(tiny_file, workdir, *flags)
  _, errors = again.communicate(timeout=300)
  assert again.returncode == 0, errors
  assert finals(workdir) == finals(whole_run[0])
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  assert [json.loads(line)['step'] for line in lines] == [1, 2, 3, 4]


def test_a_run_prints_a_table_and_writes_its_results(whole_run):
  workdir, output, errors = whole_run
  results = report.load_results(workdir / 'results.json')
  found = {(r.system, r.metric) for r in results if r.split == 'dev'}
  for system in ('BM25', 'generative index', 'after ranker'):
    for metric in ('Hits@1', 'Hits@10', 'MRR@10'):
      assert (system, metric) in found
  assert {('answers', 'EM'), ('answers', 'F1')} <= found
  real = [r.value for r in results if r.metric == 'valid docids']
  assert real == [1.0]
  assert all(r.low <= r.value <= r.high and r.count == 8 for r in results)
  assert 'dev (8 questions)' in output
  assert 'examples/s' in errors
  assert report.table(results) in output
  names = {path.name for path in workdir.iterdir()}
  assert {'config.json', 'index.npz', 'tokenizer.json'} <= names
  assert any((workdir / 'tensorboard').iterdir())


def test_evaluate_reproduces_the_results_of_training(tiny_file, whole_run):
  workdir = whole_run[0]
  before = (workdir / 'results.json').read_bytes()
  process = launch(tiny_file, workdir, '--mode=evaluate')
  _, errors = process.communicate(timeout=300)
  assert process.returncode == 0, errors
  assert (workdir / 'results.json').read_bytes() == before
  folder = workdir / 'evaluations' / '001'
  names = {path.name for path in folder.iterdir()}
  assert {'config.json', 'answers-dev.jsonl', 'qrels-dev.trec'} < names
  again = report.load_results(folder / 'results.json')
  assert again == report.load_results(workdir / 'results.json')
  for name in ('answers-dev.jsonl', 'run-dev-after-ranker.trec'):
    assert (folder / name).read_text() == (workdir / name).read_text()


def test_ask_answers_from_standard_input(tiny_file, whole_run):
  workdir = whole_run[0]
  process = launch(tiny_file, workdir, '--mode=ask', stdin=subprocess.PIPE)
  questions = 'How much does the red cat weigh?\n\nWas wiegt der Bär? 猫\n'
  output, errors = process.communicate(questions, timeout=300)
  assert process.returncode == 0, errors
  assert output.count('question  ') == 2
  assert output.count('answer    ') == 2
  weights = [
    float(line.split()[0]) for line in output.split('\n\n')[0].splitlines()[4:]
  ]
  assert weights == sorted(weights, reverse=True)
  assert 0.99 < sum(weights) < 1.01 or len(weights) == 5


def error_of(process):
  output, errors = process.communicate(timeout=300)
  assert process.returncode not in (0, None)
  assert 'Traceback' not in errors, errors
  lines = [line for line in errors.splitlines() if line.strip()]
  assert len(lines) == 1, errors
  assert output == ''
  return lines[0]


INVALID = [
  ('--config.search.beam_sise=4', "'search.beam_sise'.*'search.beam_size'"),
  ('--config.search.beam_size=four', 'search.beam_size.*four'),
  ('--config.stages.joint.batch_size=0', 'got 0.*stages.joint.batch_size'),
  ('--config.stages.joint.losses.adist=1', "'extractive'.*losses.adist=0"),
  ('--config.data.path=/nowhere', "'/nowhere' does not exist.*data.path"),
  ('--wrkdir=x', 'wrkdir.*workdir'),
  ('facts', "unknown argument 'facts'"),
]
# Other tests have the same errors in one process.
MORE_INVALID = [
  ('--config.serch.beam_size=4', "'serch'.*'search'"),
  ('--config.search.beam_size=0', 'at least 1, got 0.*config.search.beam'),
  ('--config.reader.num_heads=3', 'split width 16.*got 3.*reader.num_heads'),
  ('--config.data.vocab_size=9', 'at least 300.*got 9.*data.vocab_size'),
  ('--config.stages.joint.stps=3', "'stages.joint.stps'.*stages.joint.steps"),
  ('--config.stages.joint.losses.pdits=1', "'stages.*pdits'.*losses.pdist'"),
  ('--config.stages.jiont.steps=3', "no stage 'jiont'.*joint"),
  ('--config.stages.joint.losses.docid=-1', 'got -1.*joint.losses.docid'),
  ('--config.train.parallel=all', "jit, pmap, got 'all'.*train.parallel"),
  ('--config.data.train_split=tune', "split 'tune'.*dev, train.*train_split"),
  ('--mode=fly', 'fly.*train.evaluate.ask'),
]


@pytest.mark.parametrize(
  'flag, words',
  INVALID
  + [pytest.param(*own, marks=pytest.mark.long) for own in MORE_INVALID],
)
def test_an_invalid_flag_is_one_error_line_and_writes_nothing(
  tiny_file, tmp_path, flag, words
):
  workdir = tmp_path / 'run'
  error = error_of(launch(tiny_file, workdir, flag))
  assert re.search(words, error), error
  assert not workdir.exists()


def test_a_missing_experiment_is_one_error_line(tmp_path):
  error = error_of(launch(tmp_path / 'nope.py', tmp_path / 'run'))
  assert 'nope.py' in error
  assert 'one of answer_only, beir, ' in error


@pytest.mark.long
def test_a_workdir_rejects_another_experiment(tiny_file, whole_run):
  workdir = whole_run[0]
  before = {p: p.stat().st_mtime_ns for p in workdir.rglob('*')}
  for field, was, got in (
    ('seed', '0', '5'),
    ('stages.joint.losses.docid', '1.0', '2.0'),
    ('stages.joint.losses.pdist', '0.0', '1.0'),
  ):
    error = error_of(launch(tiny_file, workdir, f'--config.{field}={got}'))
    assert f'holds an experiment with {field}={was}, got {got}' in error
    assert f'--config.{field}={was}.' in error
    assert before == {p: p.stat().st_mtime_ns for p in workdir.rglob('*')}


@pytest.mark.parametrize('mode', ['train', 'evaluate', 'ask'])
def test_a_workdir_of_an_older_version_is_one_error_line(
  tiny_file, tmp_path, mode
):
  (tmp_path / 'checkpoints').mkdir()
  config = {'loss': {'answer': 1.0}, 'train': {'steps': 4, 'search_steps': 0}}
  (tmp_path / 'config.json').write_text(json.dumps(config))
  error = error_of(launch(tiny_file, tmp_path, f'--mode={mode}'))
  assert 'of another version, with loss.answer=1.0' in error
  names = {path.name for path in tmp_path.rglob('*')}
  assert names == {'checkpoints', 'config.json'}


def test_asking_an_untrained_workdir_is_one_error_line(tiny_file, tmp_path):
  workdir = tmp_path / 'run'
  flags = ('--mode=ask', '--question=Why?')
  error = error_of(launch(tiny_file, workdir, *flags))
  assert 'holds no checkpoint' in error
  assert '--mode=train' in error
  assert not workdir.exists()
