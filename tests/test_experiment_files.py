"""Finding and reading experiment files, and their errors."""

import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from rag_jax import config as configs
from rag_jax import experiment_files

ROOT = pathlib.Path(__file__).parents[1]
START = 'from rag_jax import config\n\n\ndef get_config():\n'


def test_a_shipped_experiment_has_a_name_and_a_path():
  by_name = experiment_files.load('quickstart')
  for name in (
    'experiments/quickstart.py',
    str(ROOT / 'experiments/quickstart.py'),
  ):
    assert experiment_files.load(name) == by_name
  assert 'quickstart' in experiment_files.names()


def test_an_argument_reaches_get_config():
  assert experiment_files.load('answer_only:cut_off').name.endswith('cut_off')


def test_a_local_file_shadows_a_shipped_experiment(tmp_path, monkeypatch):
  (tmp_path / 'experiments').mkdir()
  path = tmp_path / 'experiments' / 'quickstart.py'
  path.write_text(
    'from experiments import beir\n\n\ndef get_config():\n'
    "  values = beir.get_config()\n  values.name = 'mine'\n  return values\n"
  )
  monkeypatch.chdir(tmp_path)
  assert experiment_files.load('experiments/quickstart.py').name == 'mine'


def test_the_saved_configuration_of_a_run(tiny_values, tmp_path):
  from rag_jax import store

  config = configs.build(tiny_values)
  store.claim(tmp_path / 'run', config)
  values = experiment_files.saved(tmp_path / 'run')
  assert configs.build(values) == config
  values.stages.joint.losses.pdist = 1.0  # all losses can still be set


@pytest.mark.parametrize(
  'text, words',
  [
    ('x = 1\n', 'no function get_config. Define one'),
    (
      START + '  return {}\n',
      'must return an ml_collections.ConfigDict, got dict',
    ),
    (START + '  return values\n', "line 5: NameError: name 'values'"),
    ('def get_config(:\n', 'line 1: SyntaxError'),
    (
      'import nowhere_to_be_found\n',
      "ModuleNotFoundError: No module named 'now",
    ),
    (
      START + '  values = config.default()\n  values.serch.beam_size = 3\n',
      'line 6: .*serch.*Did you mean .*search',
    ),
    (
      START + "  raise ValueError('It needs a path. Set one')\n",
      'line 5: It needs a path. Set one.$',
    ),
  ],
)
def test_an_error_in_a_file_is_one_line_with_its_line_number(
  tmp_path, text, words
):
  path = tmp_path / 'mine.py'
  path.write_text(text)
  with pytest.raises(ValueError) as error:
    experiment_files.load(str(path))
  assert '\n' not in str(error.value)
  assert str(error.value).startswith(f'--config {str(path)!r}')
  assert re.search(words, str(error.value)), error.value


@pytest.mark.parametrize(
  'name, words',
  [
    ('nowhere', "'nowhere' does not exist.*quickstart"),
    ('runs/facts/config.json', 'Python file.*set --workdir alone'),
  ],
)
def test_errors_of_missing_files(name, words):
  with pytest.raises(ValueError, match=words):
    experiment_files.load(name)


def test_the_package_ships_what_a_clone_has(tmp_path):
  """Every package and experiment is in the wheel's list of files."""
  import tomllib

  about = tomllib.loads((ROOT / 'pyproject.toml').read_text())
  listed = set(about['tool']['setuptools']['packages'])
  found = {
    '.'.join(path.parent.relative_to(ROOT).parts)
    for path in (ROOT / 'rag_jax').rglob('__init__.py')
  }
  assert listed == found | {'rag_jax.experiments'}
  # In an installation the experiments are inside the package.
  shutil.copytree(ROOT / 'rag_jax', tmp_path / 'rag_jax')
  shutil.copytree(ROOT / 'experiments', tmp_path / 'rag_jax' / 'experiments')
  code = (
    'from rag_jax import experiment_files as e; import rag_jax\n'
    "print(rag_jax.__file__, e.load('few_labels').name, *e.names())"
  )
  done = subprocess.run(
    [sys.executable, '-c', code],
    cwd=tmp_path,
    capture_output=True,
    text=True,
    check=True,
  )
  assert done.stdout.startswith(str(tmp_path))
  assert ' few_labels ' in done.stdout and 'squad_open' in done.stdout
