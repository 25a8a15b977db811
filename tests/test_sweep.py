"""A sweep trains each combination once, in a separate workdir."""

import json

import pytest

from rag_jax import config as configs
from rag_jax import report, sweep


@pytest.fixture
def values(tiny_values):
  # Each run compiles its own step, so it is a small one.
  joint = {
    'steps': 2,
    'batch_size': 8,
    'losses': {'docid': 1.0},
    'trains': {'query_encoder': 1.0, 'id_decoder': 1.0},
  }
  small = tiny_values | {'stages': {'joint': joint}}
  return configs.values(configs.build(small))


@pytest.mark.parametrize(
  'sizes', [(4,), pytest.param((4, 6), marks=pytest.mark.long)]
)
def test_each_combination_is_a_run_and_a_second_sweep_adds_none(
  values, tmp_path, capfd, sizes
):
  grid = [f'search.beam_size={",".join(map(str, sizes))}', 'seed=0,1']
  text = sweep.run(values, grid, tmp_path / 'sweep')
  names = sorted(path.name for path in (tmp_path / 'sweep').iterdir())
  assert names == [
    f'search.beam_size={size},seed={seed}' for size in sizes for seed in (0, 1)
  ]
  for name in names:
    own = json.loads((tmp_path / 'sweep' / name / 'config.json').read_text())
    assert f'search.beam_size={own["search"]["beam_size"]},' in name
    assert name.endswith(f'seed={own["seed"]}')
  lines = text.splitlines()
  assert [x for x in lines if 'beam' in x] == [
    f'search.beam_size={size}' for size in sizes
  ]
  assert text.count('2 runs') == len(sizes)
  hits = [
    next(
      r.value
      for r in report.load_results(tmp_path / 'sweep' / name / 'results.json')
      if (r.system, r.metric) == ('after ranker', 'Hits@1')
    )
    for name in names[:2]
  ]
  assert f'{sum(hits) / 2:.3f}' in lines[lines.index('search.beam_size=4') + 1]
  capfd.readouterr()
  assert sweep.run(values, grid, tmp_path / 'sweep') == text
  assert 'compiling' not in capfd.readouterr().err


@pytest.mark.parametrize(
  'grid, words',
  [
    ([], 'names no field.*--grid=search.beam_size=8,24'),
    (['seed'], "got 'seed'"),
    (['seed=0', 'seed=1'], 'each field once'),
    (['sead=0,1'], "no field 'sead'. Did you mean 'seed'"),
    (['seed=0,one'], "seed must be int, got 'one'"),
    (['search.beam_size=4,0'], 'at least 1, got 0'),
  ],
)
def test_an_invalid_grid_raises_an_error_before_training(
  values, tmp_path, grid, words
):
  with pytest.raises(ValueError, match=words):
    sweep.run(values, grid, tmp_path / 'sweep')
  assert not (tmp_path / 'sweep').exists()
