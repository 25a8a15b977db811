"""Time of a training step here and in another version of this repository.

  git worktree add ../before COMMIT
  python benchmarks/step_time.py ../before [--config=quickstart] [--rounds=20]
    [--steps=5] [--cpus=0] [--programs]

A process for each version makes the same state and batches, and compiles the
step of the first stage. The processes take turns, in each round in another
order: one makes some steps while the other waits. Printed: the median time of a
step over all rounds, as time of the wall clock and of all threads of the
processor, which other programs affect less; the median over rounds of the ratio
of a round here to that of the other version, and its quartiles; and the losses
of the last round, which tell whether both compute the same. --cpus=0 binds the
processes to one core. --programs compares the compiled programs instead: where
all operations are the same, so is their time, whatever else a machine does.
"""

import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time


def serve(args: argparse.Namespace) -> None:
  """Makes as many steps as each line of the standard input says."""
  from rag_jax import host_memory

  host_memory.use_huge_pages()
  import jax

  from rag_jax import config as configs
  from rag_jax import curriculum, experiment_files, keeper, parallel, train
  from rag_jax import workdir as workdirs

  config = configs.build(experiment_files.load(args.config))
  prepared = workdirs.open(config, args.workdir)
  name, stage = config.stages[0]
  questions, index = curriculum.prepare(config, prepared, {})[name](None)
  try:
    from rag_jax import placement, states
  except ImportError:  # of a version without a mesh
    state, _ = train.restore(config, prepared, args.workdir / 'none')
    state = parallel.replicate(state)
  else:
    state, _ = states.restore(config, prepared, args.workdir / 'none')
    state = placement.place(state, parallel.run_mesh('jit'))
  if args.programs:
    made = parallel.compile_step

    def writing(*own, **more):
      def write(*arrays):
        text = made(*own, **more).lower(*arrays).compile().as_text()
        args.workdir.with_name(f'{args.workdir.name}.txt').write_text(text)
        sys.exit()

      return write

    parallel.compile_step = writing
  step = train.step_function(config, stage, questions, index)
  if args.programs:
    step(state, 0)
  place = 0
  for line in sys.stdin:
    began = time.perf_counter(), time.process_time()
    for _ in range(int(line)):
      state, sums = step(state, place)
      jax.block_until_ready((state, sums))
      place += 1
    ended = time.perf_counter(), time.process_time()
    loss = float(keeper.averages([sums])['loss'])
    report = [b - a for a, b in zip(began, ended, strict=True)]
    print(json.dumps([*report, loss]), flush=True)


def start(root: pathlib.Path, args: argparse.Namespace, folder: str):
  """A process of a version, and a function that makes it do steps."""
  workdir = pathlib.Path(folder) / ('here' if root == here() else 'other')
  command = [sys.executable, __file__, str(root), f'--config={args.config}']
  if args.programs:
    command.append('--programs')
  if args.cpus:
    command = ['taskset', '-c', args.cpus, *command]
  process = subprocess.Popen(
    [*command, f'--workdir={workdir}'],
    env=os.environ | {'PYTHONPATH': str(root)},
    cwd=root,
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  )

  def run(steps: int) -> list[float]:
    process.stdin.write(f'{steps}\n')
    process.stdin.flush()
    line = process.stdout.readline()
    while not line.startswith('['):  # what the version prints otherwise
      if not line:
        sys.exit(f'{root} ended')
      line = process.stdout.readline()
    return json.loads(line)

  return process, run


def operations(text: str) -> list[str]:
  """The operations of a compiled program, with names by their order."""
  names: dict[str, str] = {}
  text = re.sub(r', (metadata|origin|frontend_attributes)={[^}]*}', '', text)
  text = re.sub(
    r'%[\w.\-]+', lambda x: names.setdefault(x[0], f'%{len(names)}'), text
  )
  return [line for line in text.splitlines() if re.search(r' = .*\(', line)]


def compare_programs(both: list, folder: str) -> None:
  """Prints how many operations of two programs differ."""
  for process, _ in both:
    process.wait()
  paths = [pathlib.Path(folder) / f'{name}.txt' for name in ('here', 'other')]
  ours, theirs = (operations(path.read_text()) for path in paths)
  different = [(a, b) for a, b in zip(ours, theirs, strict=False) if a != b]
  print(f'{len(ours)} and {len(theirs)} operations, {len(different)} differ')
  for pair in different[:3]:
    print('\n'.join(line.strip()[:200] for line in pair), end='\n\n')


def here() -> pathlib.Path:
  return pathlib.Path(__file__).resolve().parents[1]


def main() -> None:
  parser = argparse.ArgumentParser()
  parser.add_argument('other', type=pathlib.Path, help='folder of a version')
  parser.add_argument('--config', default='quickstart')
  parser.add_argument('--rounds', type=int, default=20)
  parser.add_argument('--steps', type=int, default=5)
  parser.add_argument('--cpus', default='', help='cores, as taskset -c')
  parser.add_argument('--programs', action='store_true')
  parser.add_argument('--workdir', type=pathlib.Path, help='of one version')
  args = parser.parse_args()
  if args.workdir:
    serve(args)
    return
  roots = [here(), args.other.resolve()]
  with tempfile.TemporaryDirectory() as folder:
    both = [start(root, args, folder) for root in roots]
    if args.programs:
      compare_programs(both, folder)
      return
    for _, run in both:
      run(2)  # compiles
    found: list[list[list[float]]] = [[], []]
    for number in range(args.rounds):
      for i in (0, 1) if number % 2 else (1, 0):
        found[i].append(both[i][1](args.steps))
    for process, _ in both:
      process.stdin.close()
      process.wait()
  for i, name in enumerate(('wall', 'processor')):
    ours, theirs = ([own[i] for own in rounds] for rounds in found)
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    each = [1e3 * statistics.median(x) / args.steps for x in (ours, theirs)]
    print(
      f'{name:9} ms a step: here {each[0]:.1f}, other {each[1]:.1f}; '
      f'ratio {middle:.3f} ({low:.3f} to {high:.3f})'
    )
  print(f'losses: {found[0][-1][2]:.6f}, {found[1][-1][2]:.6f}')


if __name__ == '__main__':
  main()
