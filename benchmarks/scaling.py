"""Step time, communication and equality of a step on several devices.

  python benchmarks/scaling.py [--config=quickstart] [--steps=20] [--rows=0,3]
    [--accumulate=4] [--uneven] [--batch=8] [--stage=joint] [--sgd=0.1]
    [--set=data.path=PATH] [--random_bert] [--repeat=3]

Each row is a run from the same initial state: devices, processes and mesh. The
devices are parts of one CPU, so the time shows the overhead of a divided
program, not a speed-up. `bytes` are the results of the collective operations of
the compiled program, per device and step, in loops as often as XLA says that
they run; `/ gradients` is their ratio to the bytes of all parameters. An
all-reduce counts once, although it sends and receives about twice its size.
`ms` is the median over all steps but the first, and with --repeat over all
runs, which take turns; then the lowest and highest median of a run follow.

`loss` and `parameters` are the largest differences from the first row, over the
losses of all steps and over all final parameters; `above` is how many of a
million parameters differ by more than 1e-5. `moved` is how far the parameters
have moved at most. `rms` is the largest root mean square gradient (of Adam's
second moment, on one device) of the parameters that differ by more than 1e-5,
`all` that of all parameters. --uneven takes the labels from three quarters of
the questions, by row, and masks one question, so that devices and parts have
different numbers of them.

Adam divides a gradient by its own size. So where the gradient of a parameter is
no larger than its rounding, as that of a word that hardly matters, the sign of
the rounding moves it by the learning rate. With --sgd=RATE, gradients are
clipped as before, multiplied by RATE and subtracted: what differs then is
rounding that no division enlarges.

--random_bert takes the embedded facts, and a small BERT of random weights as
encoder and reader of an experiment with published ones (`random_bert.py`).
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


def named(params) -> dict:
  """Parameters by name, on the host."""
  from rag_jax import checkpoint

  return checkpoint.named(params)


def measure(args: argparse.Namespace) -> None:
  """Trains a few steps in this process; writes numbers and parameters."""
  import jax
  import numpy as np

  from rag_jax import distributed, keeper, placement

  jax.config.update('jax_num_cpu_devices', args.devices // args.processes)
  cache = str(args.workdir.with_name('compiled'))  # for `text_of`
  jax.config.update('jax_compilation_cache_dir', cache)
  if args.processes > 1:
    distributed.start(
      coordinator=args.coordinator,
      num_processes=args.processes,
      process_id=args.process,
    )
  step, state, batch_of, index, nodes = prepare(args)
  start = named(placement.stored(state.params, nodes))
  records, seconds = [], []
  for number in range(args.steps):
    batch = batch_of(number)
    began = time.perf_counter()
    state, sums = step(state, batch, index)
    jax.block_until_ready(sums)
    seconds.append(time.perf_counter() - began)
    records.append(keeper.averages([sums])['loss'])
  params = named(placement.stored(state.params, nodes))
  squares = second_moments(placement.stored(state, nodes), params)
  found = collectives(text_of(step, state, batch, index, args))
  if distributed.is_first():
    np.savez(args.out.with_suffix('.npz'), **params)
    np.savez(args.out.with_name('squares.npz'), **squares)
    kinds = {kind: total(found, kind) for kind in KINDS}
    report = {
      'losses': records,
      'seconds': seconds[1:],
      'moved': max(
        float(abs(x - start[name]).max(initial=0)) for name, x in params.items()
      ),
      'bytes': total(found),
      'gradients': sum(x.nbytes for x in params.values()),
      'kinds': {kind: size for kind, size in kinds.items() if size},
    }
    args.out.write_text(json.dumps(report))
  distributed.wait('end')


def second_moments(state, params) -> dict:
  """Adam's mean squared gradients of the parameters, by their names."""
  leaves = named(state.optimizer)
  return {
    name: leaf
    for name in params
    for key, leaf in leaves.items()
    if key.endswith(f'/nu/{name}')
  }


def text_of(step, state, batch, index, args) -> str:
  """The compiled program as text; '' with pmap, whose wrapper hides it."""
  if args.mode == 'pmap':
    return 'ENTRY %none () -> () {\n}'
  return step.lower(state, batch, index).compile().as_text()


def prepare(args: argparse.Namespace):
  """The compiled step, its first state, batches and index, and their nodes."""
  import optax
  import random_bert

  from rag_jax import config as configs
  from rag_jax import (
    curriculum,
    distributed,
    experiment_files,
    optimizer,
    parallel,
    placement,
    states,
    sweep,
  )
  from rag_jax import step as steps
  from rag_jax import workdir as workdirs
  from rag_jax.data import batches

  values = experiment_files.load(args.config)
  values.train.parallel, values.train.mesh = args.mode, args.mesh
  values.train.accumulate = args.accumulate
  for text in args.set:
    values = sweep.changed(values, dict([text.split('=', 1)]))
  if args.random_bert:
    with distributed.first_then_others('bert'):
      random_bert.use(values, args.workdir.with_name('bert'))
  for name in values.stages:
    own = args.batch or values.stages[name].batch_size
    values.stages[name].batch_size = own * args.accumulate
  config = configs.build(values)
  with distributed.first_then_others('workdir'):
    prepared = workdirs.open(config, args.workdir)
  name = args.stage or config.stages[0][0]
  stage = dict(config.stages)[name]
  if args.sgd:
    optimizer._adam = lambda *_: optax.sgd(args.sgd)
  questions, index = curriculum.prepare(config, prepared, {})[name](None)
  state, _ = states.restore(config, prepared, args.workdir / 'none')
  state = states.start_stage(state, config, stage)
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
    if not args.uneven:
      return batch
    return dataclasses.replace(
      batch,
      gold=batch.gold.at[len(batch.gold) // 4 :].set(-1),
      where=batch.where.at[3].set(False),
    )

  return step, state, batch_of, index, prepared.index.table_rows


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
  command += [f'--stage={args.stage}', f'--batch={args.batch}']
  command += [f'--sgd={args.sgd}', *(f'--set={text}' for text in args.set)]
  for name in ('uneven', 'random_bert'):
    if getattr(args, name):
      command.append(f'--{name}')
  children = [
    subprocess.Popen([*command, f'--process={i}'], stdout=subprocess.DEVNULL)
    for i in range(processes)
  ]
  if any([child.wait() for child in children]):
    sys.exit(f'row {row} failed')
  found = json.loads(out.read_text())
  with (
    np.load(out.with_suffix('.npz')) as params,
    np.load(out.with_name('squares.npz')) as squares,
  ):
    return found | {'params': dict(params), 'squares': dict(squares)}


def show(row, runs: list[dict], first: dict) -> str:
  """A row of the table, of one or several runs."""
  found = runs[0]
  losses = zip(found['losses'], first['losses'], strict=True)
  apart = {
    name: abs(array - first['params'][name])
    for name, array in found['params'].items()
  }
  most = {name: float(x.max(initial=0)) for name, x in apart.items()}
  worst = max(most, key=lambda name: most[name])
  above = sum(int((x > 1e-5).sum()) for x in apart.values())
  above *= 1e6 / sum(x.size for x in apart.values())
  small, large = gradients(apart, first['squares'])
  name = ' '.join(filter(None, (row[2], row[3])))
  medians = [1e3 * statistics.median(own['seconds']) for own in runs]
  both = [1e3 * x for own in runs for x in own['seconds']]
  span = f'({min(medians):.0f} to {max(medians):.0f})' if runs[1:] else ''
  return (
    f'{row[0]:7} {row[1]:9} {name:17} {statistics.median(both):7.0f} {span}'
    f'{found["bytes"]:12,} {found["bytes"] / found["gradients"]:6.2f} '
    f'{max(abs(a - b) for a, b in losses):8.1e} {most[worst]:8.1e} '
    f'{above:6.0f} {found["moved"]:7.1e} {small:7.1e} {large:7.1e} {worst}'
  )


def gradients(apart: dict, squares: dict) -> tuple[float, float]:
  """Largest root mean square gradient of what differs, and of all."""
  different = [
    float(own[apart[name] > 1e-5].max(initial=0))
    for name, own in squares.items()
  ]
  every = [float(own.max(initial=0)) for own in squares.values()]
  return max(different, default=0) ** 0.5, max(every, default=0) ** 0.5


def main() -> None:
  parser = argparse.ArgumentParser()
  parser.add_argument('--config', default='quickstart')
  parser.add_argument('--steps', type=int, default=20)
  parser.add_argument('--accumulate', type=int, default=1)
  parser.add_argument('--uneven', action='store_true')
  parser.add_argument('--random_bert', action='store_true')
  parser.add_argument('--batch', type=int, default=0)
  parser.add_argument('--stage', default='', help="'' = the first")
  parser.add_argument('--sgd', type=float, default=0.0)
  parser.add_argument('--set', action='append', default=[], help='FIELD=VALUE')
  parser.add_argument('--repeat', type=int, default=1)
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
  print('devices processes mode and mesh          ms        bytes ', end='')
  print('/ grad     loss   params  above   moved  rms       all parameter')
  with tempfile.TemporaryDirectory() as folder:
    found: dict = {row: [] for row in rows}
    for number in range(args.repeat):
      for row in rows:
        found[row].append(run(row, args, pathlib.Path(folder)))
        if number + 1 == args.repeat:
          print(show(row, found[row], found[rows[0]][0]), flush=True)


if __name__ == '__main__':
  main()
