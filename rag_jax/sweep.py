"""Sweeps: one training run per combination of values, in separate workdirs."""

import contextlib
import functools
import itertools
import json
import operator
import os
import pathlib
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence

import ml_collections

from rag_jax import config as configs
from rag_jax import pretrained, report, signals, store
from rag_jax import workdir as workdirs

SHOWN = (
  ('after ranker', 'Hits@1'),
  ('after ranker', 'MRR@10'),
  ('answers', 'EM'),
  ('answers', 'F1'),
)
SEED = 'seed'  # the table averages runs that differ only in this field
Combination = dict[str, str]


def run(
  values: ml_collections.ConfigDict, grid: Sequence[str], folder: pathlib.Path
) -> str:
  """Trains every combination that has no results yet, one after the other.

  All combinations are checked before the first run. Each run is a separate
  process with the workdir `folder`/FIELD=VALUE,...; a stopped run is resumed.

  Args:
    values: the experiment.
    grid: texts such as 'search.beam_size=8,24'.
    folder: parent folder of the workdirs.

  Returns:
    A table with mean and standard deviation of each measure over seeds.

  Raises:
    ValueError: if a field or value is invalid, or a run has failed.
  """
  runs = []
  combinations = list(expand(grid))
  checked = set()
  for combination in combinations:
    name = ','.join(f'{field}={value}' for field, value in combination.items())
    workdir = folder / name.replace('/', '_')
    config = pretrained.complete(configs.build(changed(values, combination)))
    store.check(workdir, config)
    if config.data not in checked:
      workdirs.load_data(config)
      checked.add(config.data)
    runs.append((name, workdir, changed(values, combination)))
  folder.mkdir(parents=True, exist_ok=True)
  results = {}
  for number, (name, workdir, own) in enumerate(runs, 1):
    print(f'run {number}/{len(runs)}: {name}', file=sys.stderr)
    if not (workdir / 'results.json').exists():
      _train(own, workdir)
    results[name] = report.load_results(workdir / 'results.json')
  return table(combinations, list(results.values()))


def expand(grid: Sequence[str]) -> Iterator[Combination]:
  """Yields the Cartesian product of a grid; the last field changes fastest.

  Raises:
    ValueError: if a text has no field or no value, or a field is repeated.

  Example:
    >>> list(expand(['search.beam_size=8,24', 'seed=0']))
    [{'search.beam_size': '8', 'seed': '0'}, \
{'search.beam_size': '24', 'seed': '0'}]
  """
  fields: dict[str, list[str]] = {}
  for text in grid:
    field, _, values = text.partition('=')
    field = field.removeprefix('config.')
    if not field or not values or field in fields:
      raise ValueError(
        f'grid must be FIELD=VALUE,VALUE with each field once, got {text!r}. '
        'Set --grid=search.beam_size=8,24.'
      )
    configs.check_field(field)
    fields[field] = values.split(',')
  if not fields:
    raise ValueError(
      'grid names no field to sweep over. Set --grid=search.beam_size=8,24.'
    )
  for combination in itertools.product(*fields.values()):
    yield dict(zip(fields, combination, strict=True))


def table(
  combinations: Sequence[Combination], results: Sequence[list[report.Result]]
) -> str:
  """Formats measures per combination, averaged over seeds, by split."""
  groups: dict[str, list[dict[tuple[str, str, str], float]]] = {}
  for combination, rows in zip(combinations, results, strict=True):
    others = [f'{k}={v}' for k, v in combination.items() if k != SEED]
    values = {(r.split, r.system, r.metric): r.value for r in rows}
    groups.setdefault(' '.join(others) or 'all seeds', []).append(values)
  splits = dict.fromkeys(r.split for rows in results for r in rows)
  blocks = []
  for split in splits:
    lines = [f'{split} (mean and standard deviation over seeds)']
    lines.append(' ' * 20 + ''.join(f'{name:>15}' for _, name in SHOWN))
    for name, runs in groups.items():
      lines.append(name)
      cells = [_cell([r.get((split, *m)) for r in runs]) for m in SHOWN]
      lines.append(f'  {len(runs)} runs'.ljust(20) + ''.join(cells))
    blocks.append('\n'.join(line.rstrip() for line in lines))
  return '\n\n'.join(blocks)


def _cell(values: Sequence[float | None]) -> str:
  known = [value for value in values if value is not None]
  if not known:
    return ' ' * 15
  spread = f' {statistics.stdev(known):.3f}' if len(known) > 1 else ''
  return f'{statistics.mean(known):.3f}{spread}'.rjust(15)


def changed(
  values: ml_collections.ConfigDict, combination: Combination
) -> ml_collections.ConfigDict:
  """The experiment with the values of a combination."""
  found = configs.values(configs.build(values))
  for field, text in combination.items():
    start = functools.reduce(operator.getitem, field.split('.'), found)
    value = _parse(text, start, field)
    found.update_from_flattened_dict({field: value})
  return found


def _parse(text: str, start: object, field: str) -> object:
  """Converts the text of a value to the type of the default."""
  if isinstance(start, str):
    return text
  with contextlib.suppress(ValueError):
    value = json.loads(text.lower() if isinstance(start, bool) else text)
    if isinstance(start, float):
      return float(value)
    if type(value) is type(start):
      return value
  raise ValueError(
    f'grid value of {field} must be {type(start).__name__}, got {text!r}. '
    f'Set --grid={field}=VALUE,VALUE.'
  )


def _train(values: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
  """Trains in a separate process, which frees all memory at its end."""
  store.claim(workdir, pretrained.complete(configs.build(values)))
  package = str(pathlib.Path(__file__).parents[1])
  paths = [package, *filter(None, [os.environ.get('PYTHONPATH')])]
  process = subprocess.Popen(
    [sys.executable, '-m', 'rag_jax', 'train', f'--workdir={workdir}'],
    env=os.environ | {'PYTHONPATH': os.pathsep.join(paths)},
    stdout=subprocess.DEVNULL,  # its table is in results.json
  )
  signals.resume(functools.partial(_stop, process))
  code = process.wait()
  signals.resume()
  if code - 128 in signals.NAMES:  # it has saved a checkpoint
    raise signals.Stopped(code - 128, signals.line(code - 128))
  if code:
    raise ValueError(
      f'run {workdir.name!r} failed with exit code {code}. Fix the error above '
      'and run the same command again; it skips finished runs.'
    )


def _stop(process: subprocess.Popen) -> None:
  """Lets a run save a checkpoint, before a signal ends the sweep."""
  process.terminate()
  process.wait()
