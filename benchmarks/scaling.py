"""Step time, communication and equality of a step on several devices.

  python benchmarks/scaling.py [--config=quickstart] [--steps=20] [--rows=3]
    [--accumulate=4] [--unlabelled]

Each row is a run from the same initial state: devices, processes and mesh. The
devices are parts of one CPU, so the time shows the overhead of a divided
program, not a speed-up. `bytes` are the results of the collective operations of
the compiled program, per device and step, in loops as often as XLA says that
they run; `/ gradients` is their ratio to the bytes of all parameters. An
all-reduce counts once, although it sends and receives about twice its size.
`loss` and `parameters` are the largest differences from the first row, over the
losses of all steps and over all final parameters. --unlabelled takes the labels
from three quarters of the questions, by row, so that parts have different
numbers of them.
"""

import argparse
import dataclasses
import functools
import json
import math
import pathlib
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

# Devices, processes, mode and mesh of each row.
ROWS = (
  (1, 1, 'jit', ''),
  (2, 1, 'jit', ''),
  (4, 1, 'jit', ''),
  (8, 1, 'jit', ''),
  (8, 1, 'pmap', ''),
  (8, 1, 'jit', 'fsdp=4,data=2'),
  (8, 1, 'jit', 'model=2,data=4'),
  (8, 2, 'jit', 'fsdp=4,data=2'),
)

KINDS = (
  *('all-reduce', 'all-gather', 'reduce-scatter', 'all-to-all'),
  'collective-permute',
)
BYTES = {'pred': 1, 'bf16': 2, 'f16': 2, 'f32': 4, 'f64': 8}


@dataclasses.dataclass(frozen=True)
class Collective:
  """A collective operation of a compiled program."""

  kind: str
  shapes: tuple[tuple[int, ...], ...]  # of its results
  bytes: int  # of its results
  times: int  # how often it runs in a call of the program


def collectives(text: str) -> list[Collective]:
  """The collective operations in the text of a compiled program.

  Args:
    text: from `compile().as_text()`.
  """
  bodies = _computations(text)
  found = []
  for name, times in _called(bodies):
    for line in bodies[name]:
      kinds = '|'.join(KINDS)
      match = re.search(rf' = (.*?) ({kinds})(-start)?\(', line)
      if not match:
        continue
      arrays = re.findall(r'(\w+)\[([\d,]*)\]', match[1])
      if match[3] and match[2] != 'all-reduce':
        arrays = arrays[len(arrays) // 2 :]  # operands come first
      shapes = tuple(
        tuple(map(int, filter(None, shape.split(',')))) for _, shape in arrays
      )
      size = sum(
        math.prod(shape) * _width(dtype)
        for (dtype, _), shape in zip(arrays, shapes, strict=True)
      )
      found.append(Collective(match[2], shapes, size, times))
  return found


def _width(dtype: str) -> int:
  digits = re.search(r'\d+', dtype)
  return BYTES.get(dtype) or max(int(digits[0]) // 8, 1) if digits else 1


def _computations(text: str) -> dict[str, list[str]]:
  """Name -> lines of each computation; the first is ENTRY."""
  found: dict[str, list[str]] = {}
  own: list[str] = []
  for line in text.splitlines():
    if match := re.match(r'(ENTRY )?%?([\w.\-]+) .*\{$', line):
      own = found.setdefault('ENTRY' if match[1] else match[2], [])
    else:
      own.append(line)
  return found


def _called(bodies: dict[str, list[str]]) -> Iterator[tuple[str, int]]:
  """Each computation, as often as it is called from ENTRY."""
  stack = [('ENTRY', 1)]
  while stack:
    name, times = stack.pop()
    yield name, times
    for line in bodies[name]:
      trips = re.search(r'known_trip_count[^\d]*(\d+)', line)
      for key, called in re.findall(r'(\w+)=%([\w.\-]+)', line):
        if key in ('body', 'condition', 'to_apply', 'calls') and (
          called in bodies
        ):
          loops = int(trips[1]) if trips and key == 'body' else 1
          stack.append((called, times * loops))


def total(found: list[Collective], kind: str = '') -> int:
  """Bytes of the operations of a kind in a step; '' = of all."""
  return sum(own.bytes * own.times for own in found if kind in ('', own.kind))


def measure(args: argparse.Namespace) -> None:
  """Trains a few steps in this process; writes numbers and parameters."""
  import jax
  import numpy as np

  from rag_jax import distributed, keeper

  jax.config.update('jax_num_cpu_devices', args.devices // args.processes)
  if args.processes > 1:
    distributed.start(
      coordinator=args.coordinator,
      num_processes=args.processes,
      process_id=args.process,
    )
  step, state, batch_of, index, nodes = prepare(args)
  records, seconds = [], []
  for number in range(args.steps):
    batch = batch_of(number)
    began = time.perf_counter()
    state, sums = step(state, batch, index)
    jax.block_until_ready(sums)
    seconds.append(time.perf_counter() - began)
    records.append(keeper.averages([sums])['loss'])
  from rag_jax import checkpoint, placement

  params = checkpoint.named(placement.stored(state.params, nodes))
  found = collectives(text_of(step, state, batch, index, args))
  if distributed.is_first():
    np.savez(args.out.with_suffix('.npz'), **params)
    kinds = {kind: total(found, kind) for kind in KINDS}
    report = {
      'losses': records,
      'seconds': statistics.median(seconds[1:]),
      'bytes': total(found),
      'gradients': sum(x.nbytes for x in params.values()),
      'kinds': {kind: size for kind, size in kinds.items() if size},
    }
    args.out.write_text(json.dumps(report))
  distributed.wait('end')


def text_of(step, state, batch, index, args) -> str:
  """The compiled program as text; '' with pmap, whose wrapper hides it."""
  if args.mode == 'pmap':
    return 'ENTRY %none () -> () {\n}'
  return step.lower(state, batch, index).compile().as_text()


def prepare(args: argparse.Namespace):
  """The compiled step, its first state, batches and index, and their nodes."""
  from rag_jax import config as configs
  from rag_jax import (
    curriculum,
    distributed,
    experiment_files,
    parallel,
    placement,
    states,
  )
  from rag_jax import step as steps
  from rag_jax import workdir as workdirs
  from rag_jax.data import batches

  values = experiment_files.load(args.config)
  values.train.parallel, values.train.mesh = args.mode, args.mesh
  values.train.accumulate = args.accumulate
  for name in values.stages:
    values.stages[name].batch_size *= args.accumulate
  config = configs.build(values)
  with distributed.first_then_others('workdir'):
    prepared = workdirs.open(config, args.workdir)
  [(name, stage), *_] = config.stages
  questions, index = curriculum.prepare(config, prepared, {})[name](None)
  state, _ = states.restore(config, prepared, args.workdir / 'none')
  devices = parallel.run_mesh(config.train.parallel, config.train.mesh)
  if devices is not None:
    state = placement.place(state, devices)
  made = functools.partial(steps.train_step, config=config, stage=stage)
  step = parallel.compile_step(made, mode=args.mode, mesh=args.mesh)
  found = batches.train_batches(
    questions, batch_size=stage.batch_size, seed=config.seed
  )

  def batch_of(number):
    batch = found[number]
    if not args.unlabelled:
      return batch
    return dataclasses.replace(
      batch,
      gold=batch.gold.at[len(batch.gold) // 4 :].set(-1),
      where=batch.where.at[3].set(False),
    )

  return step, state, batch_of, index, prepared.index.trie.num_nodes


def run(row, args: argparse.Namespace, folder: pathlib.Path) -> dict:
  """Measures a row in processes of its own."""
  import numpy as np

  devices, processes, mode, mesh = row
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    address = f'127.0.0.1:{free.getsockname()[1]}'
  out = folder / 'row.json'
  command = [
    *(sys.executable, __file__, f'--out={out}', f'--workdir={folder / "run"}'),
    *(f'--devices={devices}', f'--processes={processes}', f'--mode={mode}'),
    *(f'--mesh={mesh}', f'--coordinator={address}', f'--steps={args.steps}'),
    *(f'--config={args.config}', f'--accumulate={args.accumulate}'),
  ]
  if args.unlabelled:
    command.append('--unlabelled')
  children = [
    subprocess.Popen([*command, f'--process={i}'], stdout=subprocess.DEVNULL)
    for i in range(processes)
  ]
  if any([child.wait() for child in children]):
    sys.exit(f'row {row} failed')
  found = json.loads(out.read_text())
  with np.load(out.with_suffix('.npz')) as stored:
    return found | {'params': dict(stored)}


def show(row, found: dict, first: dict) -> str:
  """A row of the table."""
  losses = zip(found['losses'], first['losses'], strict=True)
  apart = {
    name: float(abs(array - first['params'][name]).max())
    for name, array in found['params'].items()
  }
  worst = max(apart, key=lambda name: apart[name])
  name = ' '.join(filter(None, (row[2], row[3])))
  return (
    f'{row[0]:7} {row[1]:9} {name:20} {1e3 * found["seconds"]:8.0f} '
    f'{found["bytes"]:12,} {found["bytes"] / found["gradients"]:11.2f} '
    f'{max(abs(a - b) for a, b in losses):8.1e} {apart[worst]:10.1e} {worst}'
  )


def main() -> None:
  parser = argparse.ArgumentParser()
  parser.add_argument('--config', default='quickstart')
  parser.add_argument('--steps', type=int, default=20)
  parser.add_argument('--accumulate', type=int, default=1)
  parser.add_argument('--unlabelled', action='store_true')
  parser.add_argument('--rows', default='', help='numbers from 0, with commas')
  for name in ('devices', 'processes', 'process'):
    parser.add_argument(f'--{name}', type=int, help='of one row')
  for name in ('mode', 'mesh', 'coordinator'):
    parser.add_argument(f'--{name}', help='of one row')
  for name in ('out', 'workdir'):
    parser.add_argument(f'--{name}', type=pathlib.Path, help='of one row')
  args = parser.parse_args()
  if args.out:
    measure(args)
    return
  rows = ROWS
  if args.rows:
    rows = [ROWS[int(number)] for number in args.rows.split(',')]
  print('devices processes mode and mesh              ms        bytes ', end='')
  print('/ gradients     loss parameters')
  with tempfile.TemporaryDirectory() as folder:
    first = None
    for row in rows:
      found = run(row, args, pathlib.Path(folder))
      first = first or found
      print(show(row, found, first), flush=True)


if __name__ == '__main__':
  main()
