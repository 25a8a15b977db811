"""Does training end to end help? Three ways to spend the same steps.

python benchmarks/end_to_end.py --data=FILE [--config=experiments/NAME.py]
  [--without='each alone']

A NAME.py:OTHER gives the experiment other data, as launch.py does.

With each seed all stages but the last are trained once for all three ways: the
search alone, the reader alone. The last stage then trains

  each alone   the reader, on what a search that stands still finds
  cut off      search and reader side by side: the answer's loss stops short of
               the weights of the documents
  end to end   search and reader, the answer's loss through all of it

Where search learns from the answer's loss alone, and weights do not decay, the
first two are the same, and one may be left out.

Printed for each: Hits@1 of the generative index and after the ranker, EM and
F1, over all seeds, with 95% intervals; and the difference of the last to the
first two, question by question, intervals over questions.
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
from rag_jax import curriculum, evaluate, huge_pages, report, train
from rag_jax import step as steps
from rag_jax import workdir as workdirs

ROOT = pathlib.Path(__file__).parents[1]
MEASURES = (
  ('generative index', 'Hits@1'),
  ('after ranker', 'Hits@1'),
  ('answers', 'EM'),
  ('answers', 'F1'),
)


def ways(config):
  """Name -> configuration, whose last stage is one way to go on."""
  [*before, (name, stage)] = config.stages
  losses = [own for own in stage.losses if own[0] != 'expected_cost']
  cut = dataclasses.replace(stage, estimator='none', losses=losses)
  alone = [own for own in stage.trains if own[0] == 'reader']
  found = {
    'each alone': dataclasses.replace(cut, trains=alone),
    'cut off': cut,
    'end to end': stage,
  }
  return {
    way: dataclasses.replace(config, stages=(*before, (name, own)))
    for way, own in found.items()
  }


def warm_start(config, prepared, folder):
  """The state after all stages but the last, with no optimiser."""
  first = dataclasses.replace(config, stages=config.stages[:-1])
  system = train.fit(first, prepared, folder)
  step = jnp.asarray(first.steps, jnp.int32)
  return steps.State(step=step, params=system.params, optimizer=())


def go_on(state, config, prepared):
  """The last stage; the system that it ends in."""
  name, stage = config.stages[-1]
  last = dataclasses.replace(config, stages=config.stages[-1:])
  material = curriculum.prepare(last, prepared, {})[name](state.params)
  step = train.step_function(config, stage, *material)
  state = jax.tree.map(jnp.copy, state)  # steps use up what they are given
  state = train.start_stage(state, config, stage)
  sums = []
  for place in range(stage.steps):
    state, measured = step(state, place)
    sums.append(measured)
  print(f'    loss {train.averages(sums)["loss"]:.3f}', flush=True)
  return prepared.trained(state.params).with_config(config)


def measure(system, dataset):
  """A row a question, a column a measure; NaN without an answer."""
  (_, questions), *_ = evaluate.splits(system, dataset)
  values = evaluate.question_values(system, questions)
  return np.stack([values[measure] for measure in MEASURES], axis=1)


def show(values):
  """Values: name -> float[seeds, n, measures]."""
  rows = values | {
    f'end to end - {name}': values['end to end'] - own
    for name, own in values.items()
    if name != 'end to end'
  }
  print(f'\n{"":24}' + ''.join(f'{" ".join(m):>25}' for m in MEASURES))
  for name, own in rows.items():
    # A question is one draw, however many seeds have answered it.
    print(f'{name:24}' + ''.join(map(cell, own.mean(axis=0).T)))


def cell(values):
  """The mean of a value a question, and its interval."""
  result = report.summarise('', '', 'a measure', values[np.isfinite(values)])
  text = f'{result.value:.3f} {result.low:.3f} to {result.high:.3f}'
  return f'{text:>25}'


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--data', required=True, help='as --config.data.path')
  parser.add_argument('--config', default='experiments/squad_minilm.py')
  parser.add_argument('--seeds', type=int, default=3)
  parser.add_argument(
    '--without', choices=('each alone', 'cut off'), help='leaves one out'
  )
  parser.add_argument('--folder', help='where vectors are kept; default: /tmp')
  flags = parser.parse_args()
  sys.path.insert(0, str(ROOT))
  path, *other = flags.config.split(':', 1)  # as launch.py takes it
  base = runpy.run_path(path)['get_config'](*other)
  base.data.path = flags.data
  found = {}
  parent = pathlib.Path(flags.folder or tempfile.gettempdir())
  for seed in range(flags.seeds):
    base.seed = seed
    config = configs.build(base)
    # Fresh each time, but vectors are kept beside it.
    with tempfile.TemporaryDirectory(dir=parent) as folder:
      start = time.perf_counter()
      workdir = pathlib.Path(folder)
      prepared = workdirs.open(config, workdir)
      state = warm_start(config, prepared, workdir)
      print(f'seed {seed}: {time.perf_counter() - start:.0f} s', flush=True)
      for name, own in ways(config).items():
        if name == flags.without:
          continue
        start = time.perf_counter()
        values = measure(go_on(state, own, prepared), prepared.dataset)
        found.setdefault(name, []).append(values)
        means = np.nanmean(values, axis=0)
        text = '  '.join(f'{m:.3f}' for m in means)
        print(f'  {name:12}{text}  {time.perf_counter() - start:.0f} s')
  show({name: np.stack(own) for name, own in found.items()})


if __name__ == '__main__':
  huge_pages.use()
  main()
