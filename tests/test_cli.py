"""The command line: help, evaluate, ask, export and errors."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

from rag_jax import config as configs
from rag_jax import field_help, usage

ROOT = pathlib.Path(__file__).parents[1]
PAGE = (ROOT / 'docs' / 'configuration.md').read_text(encoding='utf-8')


def run(*arguments, code=0, **options):
  """Runs `rag-jax` and returns standard output and standard error."""
  environment = os.environ | {'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT)}
  done = subprocess.run(
    [sys.executable, '-m', 'rag_jax', *map(str, arguments)],
    capture_output=True,
    text=True,
    env=environment,
    timeout=300,
    **options,
  )
  assert done.returncode == code, done.stderr
  assert 'Traceback' not in done.stderr
  return done.stdout, done.stderr


@pytest.fixture(scope='module')
def workdir(tiny_values, tmp_path_factory):
  from rag_jax import train

  folder = tmp_path_factory.mktemp('cli') / 'run'
  values = tiny_values | {'train': tiny_values['train'] | {'report': True}}
  train.run(configs.build(values), folder)
  return folder


def test_help_fits_80_columns_and_names_every_field():
  text = usage.show()
  assert max(map(len, text.splitlines())) <= 80
  for name, _, meaning in field_help.fields():
    assert f'--config.{name}' in text
    assert meaning, name
  assert all(f'  {command}' in text for command in usage.COMMANDS)


def test_help_equals_the_configuration_page():
  page = re.sub(r'\[([^\]]*)\]\([^)]*\)', r'\1', PAGE).replace('\\|', '|')
  for name, _, meaning in field_help.fields():
    row = f'| `{name.removeprefix("stages.NAME.")}` | '
    [line] = [
      line
      for line in page.splitlines()
      if line.startswith(row) and f' | {meaning} |' in line
    ] or [None]
    assert line, (name, meaning)


def test_help_needs_no_experiment():
  output, _ = run('--help')
  assert output.startswith('usage: rag-jax COMMAND')
  assert output == run('ask', '--help')[0]


def test_a_workdir_needs_no_config_flag(workdir):
  question = 'How much does the red cat weigh?'
  output, errors = run(
    'ask', f'--workdir={workdir}', '--json', f'--question={question}'
  )
  answer = json.loads(output)
  assert answer['question'] == question
  weights = [own['weight'] for own in answer['candidates']]
  assert weights == sorted(weights, reverse=True)
  assert abs(sum(weights) - 1) < 1e-3
  assert errors.startswith('loading ')
  output, _ = run('ask', f'--workdir={workdir}', input=f'\n{question}\n')
  assert output.count('question  ') == 1
  output, _ = run('evaluate', f'--workdir={workdir}')
  assert 'dev (8 questions)' in output
  _, errors = run('train', f'--workdir={workdir}', '--config.seed=4', code=1)
  assert 'holds an experiment with seed=0, got 4' in errors


def test_a_run_ends_with_a_page(workdir):
  """Also checks the paths of its docids against the answers file."""
  text = (workdir / 'report.html').read_text()
  assert (
    text.count('<script') == 2 and 'http' not in text.split('<body>')[0][200:]
  )
  lines = (workdir / 'docid-paths-dev.jsonl').read_text().splitlines()
  answers = (workdir / 'answers-dev.jsonl').read_text().splitlines()
  for line, answer in zip(
    map(json.loads, lines), map(json.loads, answers), strict=True
  ):
    found = {own['document']['id']: own for own in answer['candidates']}
    gold = set(answer['gold_documents'])
    named = [own['document'] for own in line['paths']]
    assert answer['document']['id'] == named[0] and gold & set(named)
    for own in line['paths']:
      if own['document'] not in found:
        continue
      candidate = found[own['document']]
      total = own['levels'][-1]['score']
      assert total == pytest.approx(candidate['log_probability'], abs=1e-3)
      score = sum(own['parts'].values())
      assert score == pytest.approx(candidate['score'], abs=1e-3)
      codes = [level['code'] for level in own['levels']]
      assert codes == candidate['codes'][: len(codes)]


def test_evaluate_keeps_the_files_of_training(workdir):
  before = {
    p.name: p.read_bytes() for p in workdir.iterdir() if p.suffix == '.json'
  }
  run('evaluate', f'--workdir={workdir}', '--config.data.eval_questions=3')
  for name, text in before.items():
    assert (workdir / name).read_bytes() == text


def test_export_writes_documents_and_safetensors(workdir, tmp_path):
  import numpy as np
  import safetensors.numpy

  import rag_jax
  from rag_jax.components import query_encoder

  output, _ = run('export', f'--workdir={workdir}', f'--to={tmp_path / "out"}')
  assert 'documents.jsonl' in output
  lines = (tmp_path / 'out' / 'documents.jsonl').read_text().splitlines()
  assert len(lines) == 48
  vectors = np.load(tmp_path / 'out' / 'vectors.npy')
  system = rag_jax.load(workdir)
  wanted = query_encoder.embed_documents(
    system.params['query_encoder'], system.index.tokens
  )
  np.testing.assert_allclose(vectors, wanted, atol=1e-6)
  codes = {tuple(json.loads(line)['codes']) for line in lines}
  assert len(codes) == 48
  params = safetensors.numpy.load_file(tmp_path / 'out' / 'reader.safetensors')
  assert all(array.size for array in params.values())
  _, errors = run(
    'export', f'--workdir={workdir}', f'--to={tmp_path / "out"}', code=1
  )
  assert 'new or empty folder' in errors


@pytest.mark.parametrize(
  'arguments, words',
  [
    (['fly'], "unknown argument 'fly'.*train, evaluate, ask"),
    (['export', '--workdir={workdir}'], 'Set --to=FOLDER'),
    (['ask', '--workdir={nowhere}'], 'holds no checkpoint'),
    (['train', '--config=nowhere'], "'nowhere' does not exist"),
    (['sweep', '--workdir={nowhere}'], 'names no field'),
    (['compare', '{nowhere}'], 'at least 2 workdirs'),
  ],
)
def test_a_mistake_is_one_line(workdir, tmp_path, arguments, words):
  places = {'workdir': workdir, 'nowhere': tmp_path / 'nowhere'}
  _, errors = run(*(a.format(**places) for a in arguments), code=1)
  assert re.search(words, errors), errors
  assert len(errors.strip().splitlines()) == 1
  assert not (tmp_path / 'nowhere').exists()


@pytest.mark.long
def test_ctrl_c_prints_no_traceback(tiny_file, tmp_path):
  import signal
  import time

  process = subprocess.Popen(
    [
      *(sys.executable, '-m', 'rag_jax', 'train'),
      *(f'--config={tiny_file}', f'--workdir={tmp_path / "run"}'),
      '--config.stages.joint.steps=100000',
    ],
    stderr=subprocess.PIPE,
    text=True,
    env=os.environ | {'PYTHONPATH': str(ROOT)},
  )
  said = []
  for line in process.stderr:
    said.append(line)
    if line.startswith('step '):
      break
  time.sleep(0.2)
  process.send_signal(signal.SIGINT)
  said += process.communicate(timeout=60)[1].splitlines()
  assert process.returncode == 130, ''.join(said)[-3000:]
  assert not any('Traceback' in line for line in said)
  assert said[-1].startswith('interrupted')


def test_an_exported_bert_can_be_loaded(published_system, tmp_path):
  import numpy as np

  from rag_jax import export
  from rag_jax.nn import encoders

  export.export(published_system, tmp_path / 'out')
  table = np.asarray(published_system.params['id_decoder']['table'])[:48]
  unit = table / np.linalg.norm(table, axis=1, keepdims=True)
  vectors = np.load(tmp_path / 'out' / 'vectors.npy')
  np.testing.assert_allclose(vectors, unit, atol=1e-6)
  for component in ('query_encoder', 'reader'):
    folder = tmp_path / 'out' / f'{component}-bert'
    found, _ = encoders.load(folder, *encoders.read_config(folder))
    own = published_system.params[component]['bert']
    assert found.keys() == own.keys()
    for name in ('embedding', 'positions'):
      np.testing.assert_array_equal(found[name], own[name])
