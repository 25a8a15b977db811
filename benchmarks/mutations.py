"""Do the tests notice? Small faults, one at a time, and the share caught.

python benchmarks/mutations.py [--only=TEXT] [--list]

Each mutation changes a sign, a mask, a weight, a stage or a flag at a seam
between components, in a copy of the sources; then the tests of that seam run. A
mutation that no test catches is printed, with why it changes nothing if that is
known. About 25 minutes on two CPU cores.
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[1]


class Mutation(NamedTuple):
  """A fault: a piece of a file that stands there once, and what replaces it."""

  file: str
  old: str
  new: str
  tests: str  # which tests must notice, as pytest takes them
  harmless: str = ''  # why it changes nothing, if it does not


OBJECTIVE = 'tests/test_objective.py'
FORWARD = 'tests/test_forward.py'
TRAIN = 'tests/test_train.py'
STAGES = 'tests/test_stages.py'
OPTIMIZER = 'tests/test_optimizer.py'
COMPOSITION = 'tests/test_composition.py'
EVALUATE = 'tests/test_evaluate.py'
PUBLISHED = 'tests/test_published_run.py'
SYSTEM = 'tests/test_system.py'
STORE = 'tests/test_store.py'
READERS = 'tests/readers'
INDEX = 'tests/index'

MUTATIONS: tuple[Mutation, ...] = ()


def run(mutation: Mutation, folder: pathlib.Path, cache: pathlib.Path) -> bool:
  """Whether a test fails once the mutation is in."""
  path = folder / mutation.file
  text = path.read_text()
  if text.count(mutation.old) != 1:
    sys.exit(
      f'{mutation.file} must hold {mutation.old!r} once, got '
      f'{text.count(mutation.old)} times. Mend the list of mutations.'
    )
  path.write_text(text.replace(mutation.old, mutation.new))
  try:
    command = [
      sys.executable,
      '-m',
      'pytest',
      '-x',
      '-q',
      '-p',
      'no:cacheprovider',
    ]
    environment = os.environ | {'JAX_COMPILATION_CACHE_DIR': str(cache)}
    found = subprocess.run(
      command + mutation.tests.split(),
      cwd=folder,
      env=environment,
      capture_output=True,
      text=True,
    )
  finally:
    path.write_text(text)
  if found.returncode not in (0, 1, 2):
    sys.exit(f'pytest could not run {mutation.tests}: {found.stdout[-500:]}')
  return found.returncode != 0


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--only', default='', help='those that hold this text')
  parser.add_argument('--list', action='store_true', help='print, run nothing')
  flags = parser.parse_args()
  chosen = [m for m in MUTATIONS if flags.only in ' '.join(m)]
  if flags.list:
    for mutation in chosen:
      print(f'{mutation.file}: {mutation.old!r} -> {mutation.new!r}')
    return
  caught, survivors = 0, []
  with tempfile.TemporaryDirectory() as name:
    folder, cache = pathlib.Path(name, 'copy'), pathlib.Path(name, 'cache')
    ignore = shutil.ignore_patterns('.git', '.venv', 'runs', 'build')
    shutil.copytree(ROOT, folder, ignore=ignore)
    for number, mutation in enumerate(chosen, 1):
      start = time.perf_counter()
      found = run(mutation, folder, cache)
      caught += found
      if not found:
        survivors.append(mutation)
      print(
        f'{number}/{len(chosen)} {"caught" if found else "SURVIVED"} '
        f'{time.perf_counter() - start:.0f} s  {mutation.file}: '
        f'{mutation.new.strip()[:60]!r}',
        flush=True,
      )
  print(f'\n{caught} of {len(chosen)} caught, {caught / len(chosen):.0%}')
  for mutation in survivors:
    why = mutation.harmless or 'no test notices'
    print(f'{mutation.file}: {mutation.old!r} -> {mutation.new!r}: {why}')


if __name__ == '__main__':
  main()
