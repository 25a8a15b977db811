"""Every shipped experiment builds, with and without its argument."""

import inspect
import pathlib
import runpy

import pytest

from rag_jax import config as configs

FOLDER = pathlib.Path(__file__).parents[1] / 'experiments'
SHARED = {'minilm'}  # imported by experiments
UNTRAINED = {'zero_shot'}  # without a stage
FILES = [p for p in sorted(FOLDER.glob('*.py')) if p.stem not in SHARED]


@pytest.fixture
def experiment(monkeypatch):
  """Reads `get_config` of an experiment."""
  monkeypatch.syspath_prepend(str(FOLDER.parent))  # they import each other
  return lambda path: runpy.run_path(str(path))['get_config']


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)
def test_the_experiment_builds(path, experiment):
  get_config = experiment(path)
  values = get_config()
  config = configs.build(values)
  assert (config.steps > 0) == (path.stem not in UNTRAINED)
  assert all(stage.steps for _, stage in config.stages)
  assert [name for name, _ in config.stages] == list(values.stages)
  assert configs.build(configs.as_dict(config)) == config
  # Calls do not share mutable values.
  values.search.beam_size += 1
  assert configs.build(get_config()) == config


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)
def test_the_argument_changes_the_experiment(path, experiment, published_bert):
  get_config = experiment(path)
  arguments = list(inspect.signature(get_config).parameters)
  if not arguments:
    return
  config = configs.build(get_config())
  values = {'warmup_path': 'other.json', 'control': 'cut_off'}
  values |= {'variant': 'one_search', 'kind': 'none'}
  values |= {'encoder': str(published_bert)}
  given = values[arguments[0]]
  other = configs.build(get_config(given))
  assert other.name != config.name  # a separate workdir
  if arguments == ['warmup_path']:
    assert not any(stage.data for _, stage in config.stages)
    # The reader alone starts with the other data; what follows keeps its steps.
    [(name, added)] = set(other.stages) - set(config.stages)
    assert added.data == 'other.json' and added.trains[0][0] == 'reader'
    assert len(added.trains) == 1
    names = [own for own, _ in other.stages]
    reads = [own for own, s in other.stages if s.rate('reader')]
    assert reads[0] == name
    names.remove(name)
    assert [(own, dict(other.stages)[own]) for own in names] == list(
      config.stages
    )
  if arguments == ['control']:
    with pytest.raises(ValueError, match="'cut_off' or nothing, got 'cutoff'"):
      get_config('cutoff')
    [(_, stage)], [(_, cut)] = config.stages, other.stages
    assert (stage.estimator, cut.estimator) == ('rescore', 'none')
