"""Compares end-to-end training with separate training at equal steps.

python benchmarks/end_to_end.py --data=FILE [--config=experiments/NAME.py]
  [--without='each alone']

NAME.py:ARGUMENT passes an argument to the experiment, as in launch.py.

For each seed, all stages but the last are trained once and shared by the three
methods, which differ in the last stage:

  each alone   trains only the reader, with frozen search
  cut off      trains search and reader, but the answer loss has no gradient to
               the document weights
  end to end   trains search and reader with the full gradient

If only the answer loss trains the search and there is no weight decay, the
first two are equal; --without skips one of them.

Printed for each: Hits@1 of the generative index and after the ranker, EM and
F1, means over all seeds with 95% intervals over questions; and the paired
differences of end to end to the others.
"""

import argparse
import dataclasses
import pathlib
import runpy
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np

from rag_jax import config as configs
from rag_jax import (
  curriculum,
  evaluate,
  host_memory,
  keeper,
  report,
  states,
  train,
)
from rag_jax import step as steps
from rag_jax import workdir as workdirs

ROOT = pathlib.Path(__file__).parents[1]
MEASURES = (
  ('generative index', 'Hits@1'),
  ('after ranker', 'Hits@1'),
  ('answers', 'EM'),
  ('answers', 'F1'),
)


def methods(config):
  """Method -> configuration; they differ in the last stage."""
  [*before, (name, stage)] = config.stages
  losses = [pair for pair in stage.losses if pair[0] != 'expected_cost']
  cut = dataclasses.replace(stage, estimator='none', losses=losses)
  alone = [pair for pair in stage.trains if pair[0] == 'reader']
  found = {
    'each alone': dataclasses.replace(cut, trains=alone),
    'cut off': cut,
    'end to end': stage,
  }
  return {
    method: dataclasses.replace(config, stages=(*before, (name, last)))
    for method, last in found.items()
  }


def warm_start(config, prepared, folder):
  """The state after all stages but the last, without optimiser state."""
  first = dataclasses.replace(config, stages=config.stages[:-1])
  system = train.fit(first, prepared, folder)
  step = jnp.asarray(first.steps, jnp.int32)
  return steps.State(step=step, params=system.params, optimizer=())


def train_last(state, config, prepared):
  """Trains the last stage and returns the system."""
  name, stage = config.stages[-1]
  last = dataclasses.replace(config, stages=config.stages[-1:])
  material = curriculum.prepare(last, prepared, {})[name](state.params)
  step = train.step_function(config, stage, *material)
  state = jax.tree.map(jnp.copy, state)  # a step donates its buffers
  state = states.start_stage(state, config, stage)
  sums = []
  for place in range(stage.steps):
    state, measured = step(state, place)
    sums.append(measured)
  print(f'    loss {keeper.averages(sums)["loss"]:.3f}', flush=True)
  return prepared.trained(state.params).with_config(config)


def measure(system, dataset):
  """Metrics float[questions, metrics]; NaN if a question has no answer."""
  (_, questions), *_ = evaluate.splits(system, dataset)
  values = evaluate.question_values(system, questions)
  return np.stack([values[measure] for measure in MEASURES], axis=1)


def show(values):
  """Prints `values`: method -> float[seeds, n, metrics]."""
  rows = values | {
    f'end to end - {name}': values['end to end'] - other
    for name, other in values.items()
    if name != 'end to end'
  }
  print(f'\n{"":24}' + ''.join(f'{" ".join(m):>25}' for m in MEASURES))
  for name, row in rows.items():
    # Averages over seeds first: questions are the samples, not seeds.
    print(f'{name:24}' + ''.join(map(cell, row.mean(axis=0).T)))


def cell(values):
  """The mean over questions and its interval."""
  result = report.summarise('', '', 'a measure', values[np.isfinite(values)])
  text = f'{result.value:.3f} {result.low:.3f} to {result.high:.3f}'
  return f'{text:>25}'


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--data', required=True, help='as --config.data.path')
  parser.add_argument('--config', default='experiments/squad_minilm.py')
  parser.add_argument('--seeds', type=int, default=3)
  parser.add_argument(
    '--without', choices=('each alone', 'cut off'), help='method to skip'
  )
  parser.add_argument(
    '--folder', help='cache of document vectors; default: /tmp'
  )
  flags = parser.parse_args()
  sys.path.insert(0, str(ROOT))
  path, *argument = flags.config.split(':', 1)  # as in launch.py
  base = runpy.run_path(path)['get_config'](*argument)
  base.data.path = flags.data
  found = {}
  parent = pathlib.Path(flags.folder or tempfile.gettempdir())
  for seed in range(flags.seeds):
    base.seed = seed
    config = configs.build(base)
    # A new workdir per seed; its parent folder caches the vectors.
    with tempfile.TemporaryDirectory(dir=parent) as folder:
      start = time.perf_counter()
      workdir = pathlib.Path(folder)
      prepared = workdirs.open(config, workdir)
      state = warm_start(config, prepared, workdir)
      print(f'seed {seed}: {time.perf_counter() - start:.0f} s', flush=True)
      for name, method in methods(config).items():
        if name == flags.without:
          continue
        start = time.perf_counter()
        system = train_last(state, method, prepared)
        values = measure(system, prepared.dataset)
        found.setdefault(name, []).append(values)
        means = np.nanmean(values, axis=0)
        text = '  '.join(f'{m:.3f}' for m in means)
        print(f'  {name:12}{text}  {time.perf_counter() - start:.0f} s')
  show({name: np.stack(values) for name, values in found.items()})


if __name__ == '__main__':
  host_memory.use_huge_pages()
  main()
