"""The tutorial runs as a script, and the page shows what it prints."""

import doctest
import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
SCRIPT = ROOT / 'docs' / 'tutorial.py'


@pytest.fixture(scope='module')
def hooks():
  """The module docs/hooks.py."""
  path = ROOT / 'docs' / 'hooks.py'
  spec = importlib.util.spec_from_file_location('docs_hooks', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def test_the_script_runs_from_question_to_gradient():
  environment = os.environ | {'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT)}
  done = subprocess.run(
    [sys.executable, str(SCRIPT)],
    capture_output=True,
    text=True,
    env=environment,
    timeout=600,
  )
  assert done.returncode == 0, done.stderr
  assert 'which symbol has gold? Au' in done.stdout


def test_every_cell_that_prints_has_its_output_on_the_page(hooks):
  outputs = json.loads(hooks.OUTPUTS.read_text(encoding='utf-8'))
  code = [body for is_code, body in hooks.cells(SCRIPT.read_text()) if is_code]
  printing = {hooks.name_of(body) for body in code if 'print(' in body}
  assert printing == set(outputs), 'run python docs/hooks.py'


def test_a_page_has_text_code_and_outputs(hooks):
  script = '"""Not shown."""\n\n# %% [markdown]\n# # A\n#\n# b\n\n# %%\nx = 1\n'
  outputs = {hooks.name_of('x = 1'): '1\n'}
  page = hooks.to_markdown(script, outputs)
  assert page == '# A\n\nb\n\n```python\nx = 1\n```\n\n```text\n1\n```\n'
  assert '# %%' not in hooks.to_markdown(SCRIPT.read_text(encoding='utf-8'))


def test_links_to_the_root_become_links_to_pages(hooks):
  text = '[a](../CHANGELOG.md), [b](methods.md#x), [c](../../CONTRIBUTING.md#y)'
  assert hooks.for_site(text, 'howto/a.md') == (
    '[a](../CHANGELOG.md), [b](methods.md#x), [c](../contributing.md#y)'
  )
  assert hooks.for_site(text, 'a.md').startswith('[a](changelog.md), [b](meth')
  doctest = '```python\n>>> 1\n1\n```'
  assert hooks.for_site(doctest, 'a.md').startswith('```pycon\n>>> 1')


def test_the_examples_of_the_hooks_are_true(hooks):
  found = doctest.testmod(hooks)
  assert found.attempted and not found.failed
