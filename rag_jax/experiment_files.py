"""Finds and reads experiment files, of the user and of the package.

An experiment is a Python file with a function `get_config`. The shipped
experiments are in `experiments/` of a clone, or in `rag_jax/experiments/` of
the installed package.
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
  shipped = _shipped() / f'{path.stem}.py'
  if str(path.parent) in ('.', 'experiments') and shipped.is_file():
    return shipped
  raise ValueError(
    f'--config {name!r} does not exist. Set it to an experiment file, or to '
    f'one of {", ".join(names())}.'
  )


def load(name: str) -> ml_collections.ConfigDict:
  """The values of an experiment, for changes and then `config.build`.

  Args:
    name: a path or a shipped name, optionally followed by a colon and an
      argument of its `get_config`.

  Raises:
    ValueError: if there is no such file, or it fails to return an experiment.

  Example:
    >>> values = load('quickstart')
    >>> values.search.beam_size
    24
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
  except Exception as error:  # a user's file may raise any exception
    raise ValueError(_error_line(path, error)) from error
  return values


def saved(workdir: str | os.PathLike[str]) -> ml_collections.ConfigDict:
  """The values that the run in a workdir has saved.

  Raises:
    ValueError: if the workdir has no run, or a run of another version.
  """
  return configs.values(store.read_config(pathlib.Path(workdir)))


def _error_line(path: pathlib.Path, error: Exception) -> str:
  """An exception from a user's file as one line, with its line number."""
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
  """Lets experiments import each other: `from experiments import minilm`.

  The search path is the folder of `path`, if it is called `experiments`, then
  the shipped experiments.
  """
  folders = [path.parent.resolve()] if path.parent.name == 'experiments' else []
  package = sys.modules.get('experiments')
  if package is None:
    spec = importlib.machinery.ModuleSpec('experiments', None, is_package=True)
    package = types.ModuleType('experiments')
    package.__spec__ = spec
    sys.modules['experiments'] = package
  package.__path__ = list(dict.fromkeys(map(str, [*folders, _shipped()])))


def _shipped() -> pathlib.Path:
  return next(folder for folder in FOLDERS if folder.is_dir())
