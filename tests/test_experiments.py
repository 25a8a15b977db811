"""Every experiment is one, with other data and without."""

import inspect
import pathlib
import runpy

import pytest

from rag_jax import config as configs

FILES = sorted((pathlib.Path(__file__).parents[1] / 'experiments').glob('*.py'))


def experiment(path, monkeypatch):
  monkeypatch.syspath_prepend(str(path.parents[1]))  # they build on each other
  return runpy.run_path(str(path))['get_config']


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)
def test_its_values_fit_together(path, monkeypatch):
  get_config = experiment(path, monkeypatch)
  config = configs.build(get_config())
  assert sum(stage.train.steps for stage in configs.stages(config)) == (
    config.train.steps
  )
  if not inspect.signature(get_config).parameters:
    return
  other = configs.build(get_config('other.json'))
  assert other.data.other_path == 'other.json'
  assert other.name != config.name  # a workdir of its own
  # Other data come before its own, which keep their steps.
  assert other.train.steps - config.train.steps == other.train.other_steps
  last, own_last = configs.stages(other)[-1], configs.stages(config)[-1]
  assert last.train == own_last.train
