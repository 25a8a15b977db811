"""Finds and reads experiment files: those of a user, and those shipped.

An experiment is a Python file with a function `get_config`. The shipped ones
are the folder `experiments/` of a clone, and `rag_jax/experiments/` where the
package is installed.
"""

import importlib.machinery
import os
import pathlib
import sys
import traceback
import types

import ml_collections

from rag_jax import config as configs
from rag_jax import store

_HERE = pathlib.Path(__file__).parent
FOLDERS = (_HERE.parent / 'experiments', _HERE / 'experiments')


def names() -> tuple[str, ...]:
  """Names of the shipped experiments."""
  return tuple(sorted(path.stem for path in _shipped().glob('[a-z]*.py')))


def find(name: str) -> pathlib.Path:
  """The file of an experiment.

  Args:
    name: a path, or the name of a shipped experiment, such as 'quickstart'.

  Raises:
    ValueError: if there is no such file.
  """
  path = pathlib.Path(name)
  if path.suffix == '.json':
    raise ValueError(
      f'--config {name!r} must be a Python file with get_config(), not a saved '
      'configuration. For a run that exists, set --workdir alone.'
    )
  if path.is_file():
    return path
  own = _shipped() / f'{path.stem}.py'
  if str(path.parent) in ('.', 'experiments') and own.is_file():
    return own
  raise ValueError(
    f'--config {name!r} does not exist. Set it to an experiment file, or to '
    f'one of {", ".join(names())}.'
  )


def load(name: str) -> ml_collections.ConfigDict:
  """The values of an experiment, to change and to give to `config.build`.

  Args:
    name: a path or a shipped name; what follows a colon is the argument of
      its `get_config`.

  Raises:
    ValueError: if there is no such file, or it is no experiment.

  Example:
    >>> values = load('quickstart')
    >>> values.stages.joint.steps
    700
  """
  name, colon, argument = name.partition(':')
  path = find(name)
  _make_importable(path)
  module = types.ModuleType('experiment')
  module.__file__ = str(path)
  try:
    exec(compile(path.read_text('utf-8'), path, 'exec'), module.__dict__)
    if not callable(getattr(module, 'get_config', None)):
      raise ValueError(
        'it has no function get_config. Define one that returns '
        'rag_jax.config.default() with changes'
      )
    values = module.get_config(*([argument] if colon else []))
    if not isinstance(values, ml_collections.ConfigDict):
      raise ValueError(
        f'get_config must return an ml_collections.ConfigDict, got '
        f'{type(values).__name__}. Start from rag_jax.config.default()'
      )
  except Exception as error:  # of any kind: it is the user's own program
    raise ValueError(_mistake(path, error)) from error
  return values


def saved(workdir: str | os.PathLike[str]) -> ml_collections.ConfigDict:
  """The values of the run in a workdir.

  Raises:
    ValueError: if it holds no run, or one of another version.
  """
  return configs.values(store.read_config(pathlib.Path(workdir)))


def _mistake(path: pathlib.Path, error: Exception) -> str:
  """An exception from a user's file as one line that names the place."""
  frames = traceback.extract_tb(error.__traceback__)
  lines = [f.lineno for f in frames if f.filename == str(path)]
  if isinstance(error, SyntaxError):
    lines = [error.lineno]
  place = f', line {lines[-1]}' if lines else ''
  kind = '' if isinstance(error, ValueError) else f'{type(error).__name__}: '
  text = str(error.args[0] if error.args else error)
  text = ' '.join(text.split()).rstrip('.')
  return f'--config {str(path)!r}{place}: {kind}{text}.'


def _make_importable(path: pathlib.Path) -> None:
  """Lets experiments build on each other: `from experiments import minilm`.

  Found are the files beside `path` where its folder is called experiments,
  then those shipped.
  """
  own = [path.parent.resolve()] if path.parent.name == 'experiments' else []
  package = sys.modules.get('experiments')
  if package is None:
    spec = importlib.machinery.ModuleSpec('experiments', None, is_package=True)
    package = types.ModuleType('experiments')
    package.__spec__ = spec
    sys.modules['experiments'] = package
  package.__path__ = list(dict.fromkeys(map(str, [*own, _shipped()])))


def _shipped() -> pathlib.Path:
  return next(folder for folder in FOLDERS if folder.is_dir())
