"""How much of a step the tokens take that are fetched from the host.

  python benchmarks/host_tokens.py [--config=quickstart] [--steps=20]
    [--set=FIELD=VALUE] [--rows=1000000] [--width=160]

The same training steps and the same batches of an evaluation run with the
documents' tokens on the device and, by `data.host_tokens`, in a memory-mapped
file, in turns. `fetch` is the time inside the callback, in all of a step.

Then rows of a file of random tokens are fetched as a step would fetch them: as
many documents as it reads, from anywhere in the file. Cold = the operating
system has forgotten the file, so that each row is read from the disk. The last
column is a compiled function that does nothing but fetch rows that are warm.
"""

import argparse
import functools
import os
import pathlib
import statistics
import tempfile
import time

import jax
import numpy as np

from rag_jax import (
  compiled,
  curriculum,
  experiment_files,
  parallel,
  queries,
  states,
  sweep,
)
from rag_jax import config as configs
from rag_jax import step as steps
from rag_jax import workdir as workdirs
from rag_jax.data import batches
from rag_jax.ops import token_table

TAKE = token_table.Rows.take


class Clock:
  """Seconds, calls and rows of all fetches since they were set to 0."""

  seconds = 0.0
  calls = 0
  rows = 0

  def take(self, table: token_table.Rows, own: np.ndarray) -> np.ndarray:
    """As `token_table.Rows.take`."""
    began = time.perf_counter()
    found = TAKE(table, own)
    self.seconds += time.perf_counter() - began
    self.calls, self.rows = self.calls + 1, self.rows + np.size(own)
    return found


def prepare(values, workdir: pathlib.Path, on_host: bool, count: int):
  """Functions that run a step of training and a batch of an evaluation."""
  values.data.host_tokens = on_host
  config = configs.build(values)
  prepared = workdirs.open(config, workdir)
  name, stage = config.stages[-1]
  questions, index = curriculum.prepare(config, prepared, {})[name](None)
  state, _ = states.restore(config, prepared, workdir / 'none')
  state = states.start_stage(state, config, stage)
  step = parallel.compile_step(
    functools.partial(steps.train_step, config=config, stage=stage)
  )
  found = batches.train_batches(
    questions, batch_size=stage.batch_size, seed=config.seed
  )
  answer = compiled.answer(config.model)
  asked = list(
    batches.asked_batches(
      questions,
      batch_size=config.train.eval_batch_size,
      max_tokens=queries.limit(config),
      prompt=queries.prompt(config),
    )
  )
  held = [state]

  def train(number):
    held[0], sums = step(held[0], found[number % count], index)
    jax.block_until_ready(sums)

  params = jax.tree.map(np.asarray, state.params)

  def evaluate(number):
    _, batch = asked[number % len(asked)]
    jax.block_until_ready(answer(params, batch, index))

  return {'train': train, 'evaluate': evaluate}


def steps_table(args: argparse.Namespace) -> None:
  """Prints times of steps, with and without a fetch."""
  values = experiment_files.load(args.config)
  for text in args.set:
    values = sweep.changed(values, dict([text.split('=', 1)]))
  clock = Clock()
  token_table.Rows.take = lambda self, own: clock.take(self, own)
  with tempfile.TemporaryDirectory() as folder:
    workdir = pathlib.Path(folder) / 'run'
    run = {
      where: prepare(values, workdir, where == 'host', args.steps)
      for where in ('device', 'host')
    }
    print('          device ms  host ms  fetch ms  share  fetches  rows')
    for kind in ('train', 'evaluate'):
      seconds: dict = {'device': [], 'host': []}
      run['device'][kind](0), run['host'][kind](0)  # compiles
      clock.seconds, clock.calls, clock.rows = 0.0, 0, 0
      for number in range(1, args.steps + 1):
        for where, own in seconds.items():
          began = time.perf_counter()
          run[where][kind](number)
          own.append(time.perf_counter() - began)
      device, host = (1e3 * statistics.median(x) for x in seconds.values())
      fetch = 1e3 * clock.seconds / args.steps
      mean = 1e3 * statistics.mean(seconds['host'])
      print(
        f'{kind:9} {device:9.1f} {host:8.1f} {fetch:9.3f} {fetch / mean:6.2%} '
        f'{clock.calls / args.steps:8.1f} {clock.rows / args.steps:5.0f}',
        flush=True,
      )


def file_table(args: argparse.Namespace) -> None:
  """Prints times of fetches from a large file."""
  rng = np.random.default_rng(0)
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / 'tokens.npy'
    shape = (args.rows, args.width)
    table = np.lib.format.open_memmap(path, 'w+', np.uint16, shape)
    for start in range(0, args.rows, 1 << 16):
      size = len(table[start : start + (1 << 16)])
      table[start : start + size] = rng.integers(0, 1 << 15, (size, args.width))
    table.flush()
    print(f'\n{path.stat().st_size / 1e9:.2f} GB, {args.width} tokens a row')
    print('documents  cold ms  warm ms  whole callback ms')
    for count in (64, 256, 1024):
      found = {}
      for name in ('cold', 'warm'):
        times = []
        for _ in range(5):
          own = rng.integers(0, args.rows, count)
          if name == 'cold':
            file = os.open(path, os.O_RDONLY)
            os.fsync(file)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(file)
          fresh = token_table.Rows(np.load(path, mmap_mode='r'))
          if name == 'warm':
            TAKE(fresh, own)
          began = time.perf_counter()
          TAKE(fresh, own)
          times.append(time.perf_counter() - began)
          del fresh
        found[name] = 1e3 * statistics.median(times)
      tokens = token_table.OnHost(token_table.Rows(table))
      read = jax.jit(lambda own, tokens=tokens: tokens[own])
      times = []
      for _ in range(50):
        own = jax.numpy.asarray(rng.integers(0, args.rows, count))
        began = time.perf_counter()
        jax.block_until_ready(read(own))
        times.append(1e3 * (time.perf_counter() - began))
      print(
        f'{count:9} {found["cold"]:8.2f} {found["warm"]:8.3f} '
        f'{statistics.median(times):8.3f}'
      )


def main() -> None:
  parser = argparse.ArgumentParser()
  parser.add_argument('--config', default='quickstart')
  parser.add_argument('--steps', type=int, default=20)
  parser.add_argument('--set', action='append', default=[], help='FIELD=VALUE')
  parser.add_argument('--rows', type=int, default=1_000_000)
  parser.add_argument('--width', type=int, default=160)
  args = parser.parse_args()
  if args.rows:
    file_table(args)
  if args.steps:
    steps_table(args)


if __name__ == '__main__':
  main()
