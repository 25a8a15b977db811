"""What processes, kills, signals and disks do to a run; see README.md here."""

import hashlib
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from rag_jax import checkpoint, lock

ROOT = pathlib.Path(__file__).parents[2]
LONG = os.environ.get('RAG_JAX_FAULTS') == 'long'
STEPS = 240
FLAGS = (
  f'--config.stages.joint.steps={STEPS}',
  '--config.train.checkpoint_every=10',
  '--config.train.log_every=7',  # so that records lie across checkpoints
)
QUESTION = '--question=How much does the red cat weigh?'


def count(most):
  """How often a fault is made in the long form, or RAG_JAX_FAULTS_COUNT."""
  return min(most, int(os.environ.get('RAG_JAX_FAULTS_COUNT') or most))


class Command:
  """`rag-jax` as a process, whose standard error goes to a file."""

  def __init__(self, folder, *arguments, paths=()):
    folder.mkdir(exist_ok=True)
    self.path = folder / f'{arguments[0]}-{time.monotonic_ns()}.err'
    with self.path.open('w') as file:
      self.process = subprocess.Popen(
        [sys.executable, '-m', 'rag_jax', *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=file,
        env=os.environ
        | {
          'JAX_PLATFORMS': 'cpu',
          'PYTHONPATH': os.pathsep.join(map(str, (*paths, ROOT))),
        },
      )

  @property
  def said(self):
    return self.path.read_text()

  @property
  def last_line(self):
    return self.said.strip().splitlines()[-1]

  def wait(self, *, timeout=900):
    code = self.process.wait(timeout)
    assert 'Traceback' not in self.said, self.said
    return code

  def wait_until(self, holds, *, timeout=900):
    """Waits for a condition; False if the process has ended before."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
      if holds():
        return True
      if self.process.poll() is not None:
        return False
      time.sleep(0.01)
    raise AssertionError(self.said)

  def wait_for_step(self, workdir, step):
    return self.wait_until(lambda: recorded(workdir) >= step)


def recorded(workdir):
  """Step of the last whole record of metrics.jsonl; 0 = none."""
  path = workdir / 'metrics.jsonl'
  lines = path.read_text().split('\n')[:-1] if path.exists() else []
  return json.loads(lines[-1])['step'] if lines else 0


def outcome(workdir):
  """Step and hash of all arrays of the last checkpoint, and the metrics."""
  folder = workdir / 'checkpoints'
  found = checkpoint.load(folder, {'params': None, 'training': None})
  digest = hashlib.sha256()
  for array in jax.tree.leaves(found.parts):
    digest.update(np.asarray(array).tobytes())
  metrics = (workdir / 'metrics.jsonl').read_text()
  results = json.loads((workdir / 'results.json').read_text())['results']
  return found.step, digest.hexdigest(), metrics, results


@pytest.fixture(scope='module')
def train(tiny_file):
  def start(workdir, *flags, folder=None, paths=()):
    return Command(
      folder or workdir.parent,
      'train',
      f'--config={tiny_file}',
      f'--workdir={workdir}',
      *FLAGS,
      *flags,
      paths=paths,
    )

  return start


@pytest.fixture(scope='module')
def whole(train, tmp_path_factory):
  """The workdir of an undisturbed run."""
  workdir = tmp_path_factory.mktemp('whole') / 'run'
  command = train(workdir)
  assert command.wait() == 0, command.said
  return workdir


def finish(train, workdir):
  command = train(workdir)
  assert command.wait() == 0, command.said


def kill(train, workdir, moments, rng):
  """Kills a run: every other time while it trains, or at any moment."""
  for number in range(moments):
    command = train(workdir)
    if number % 2:  # of a process, such as while it compiles
      time.sleep(rng.uniform(0, 10))
    else:
      step = recorded(workdir) + rng.randrange(1, 1 + STEPS // (moments + 2))
      command.wait_for_step(workdir, step)
      time.sleep(rng.uniform(0, 0.1))
    command.process.kill()
    command.process.wait()


def stop(train, workdir, numbers, rng):
  """Stops a run by signals while it trains; it saves each time."""
  saved = 0
  for place, number in enumerate(numbers):
    command = train(workdir)
    first = recorded(workdir)
    step = max(first, STEPS * place // len(numbers)) + rng.randrange(1, 5)
    if not command.wait_for_step(workdir, step):
      break  # it has ended: the signals before came late
    command.process.send_signal(number)
    assert command.wait(timeout=300) == 128 + number, command.said
    assert command.last_line.startswith('interrupted by ')
    assert command.last_line.endswith('run the same command to resume')
    newest = checkpoint.steps(workdir / 'checkpoints')[-1]
    if 'a checkpoint of step' in command.last_line:
      assert f'a checkpoint of step {newest} is saved' in command.last_line
      saved += 1
    assert newest >= recorded(workdir)
  assert saved >= len(numbers) // 2


def read_meanwhile(train, workdir, *arguments):
  """Finishes a run while others want to train in it, and read it."""
  command = train(workdir)
  assert command.wait_until(lambda: checkpoint.steps(workdir / 'checkpoints'))
  assert command.wait_until((workdir / lock.FILE).exists)
  second = train(workdir)
  other = Command(workdir.parent, *arguments, f'--workdir={workdir}')
  is_running = command.process.poll() is None
  assert other.wait() == 0, other.said
  assert 'damaged' not in other.said
  code = second.wait()
  assert command.wait() == 0, command.said
  if is_running and code:
    [line] = second.said.strip().splitlines()
    assert f'is being written by process {command.process.pid} on' in line
  return code


@pytest.mark.long
def test_a_run_through_faults_ends_in_the_same_bits(train, whole, tmp_path):
  rng, workdir = random.Random(0), tmp_path / 'run'
  kill(train, workdir, 1, rng)
  stop(train, workdir, [signal.SIGTERM, signal.SIGINT], rng)
  read_meanwhile(train, workdir, 'ask', QUESTION)
  assert outcome(workdir) == outcome(whole)


@pytest.mark.skipif(not LONG, reason='RAG_JAX_FAULTS=long')
def test_a_run_that_is_killed_ends_in_the_same_bits(train, whole, tmp_path):
  workdir = tmp_path / 'run'
  kill(train, workdir, count(20), random.Random(1))
  finish(train, workdir)
  assert outcome(workdir) == outcome(whole)


@pytest.mark.skipif(not LONG, reason='RAG_JAX_FAULTS=long')
def test_a_run_that_is_stopped_ends_in_the_same_bits(train, whole, tmp_path):
  workdir = tmp_path / 'run'
  numbers = [signal.SIGTERM, signal.SIGINT] * count(12)
  stop(train, workdir, numbers, random.Random(2))
  finish(train, workdir)
  assert outcome(workdir) == outcome(whole)


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT][: 1 + LONG])
def test_a_signal_during_compilation_ends_within_two_seconds(
  train, tmp_path, number
):
  workdir = tmp_path / 'run'
  # Another width is compiled anew, whatever the cache holds.
  command = train(workdir, f'--config.reader.mlp_dim={16 + number}')
  assert command.wait_until(lambda: 'compiling' in command.said)
  time.sleep(0.5)
  start = time.monotonic()
  command.process.send_signal(number)
  assert command.wait(timeout=300) == 128 + number
  assert time.monotonic() - start < 2
  lines = command.said.strip().splitlines()
  assert [line for line in lines if 'interrupted' in line] == lines[-1:]
  assert 'compiled' not in command.said
  assert not (workdir / 'results.json').exists()


@pytest.mark.skipif(not LONG, reason='RAG_JAX_FAULTS=long')
@pytest.mark.parametrize('mode', ['ask', 'evaluate'])
def test_others_read_while_it_trains(train, whole, tmp_path, mode):
  own = [QUESTION] if mode == 'ask' else []
  codes = []
  for number in range(count(5)):  # each is two pairs of processes
    workdir = tmp_path / str(number)
    codes.append(read_meanwhile(train, workdir, mode, *own))
    assert outcome(workdir) == outcome(whole)
  assert any(codes)  # two trainers have met


@pytest.mark.skipif(not LONG, reason='RAG_JAX_FAULTS=long')
def test_two_seeds_share_a_cache(train, tmp_path, monkeypatch):
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', str(tmp_path / 'cache'))
  runs = [train(tmp_path / f'{i}', f'--config.seed={i}') for i in range(2)]
  assert [run.wait() for run in runs] == [0, 0]
  alone = train(tmp_path / 'alone', '--config.seed=1')
  assert alone.wait() == 0
  assert outcome(tmp_path / '1') == outcome(tmp_path / 'alone')
  assert outcome(tmp_path / '0') != outcome(tmp_path / '1')


@pytest.fixture
def small_disk(tmp_path):
  """Mounts an empty disk of some KiB; a function that changes its size."""
  place = tmp_path / 'disk'
  place.mkdir()
  mount = ['mount', '-t', 'tmpfs', '-o']
  made = shutil.which('mount') and not os.geteuid()
  if not made or subprocess.call(
    [*mount, 'size=64k', 'none', place], stderr=subprocess.DEVNULL
  ):
    pytest.skip('needs root and tmpfs, to mount a small disk')

  def resize(size):
    subprocess.check_call([*mount, f'remount,size={size}k', 'none', place])
    return place

  yield resize
  subprocess.call(['umount', '-l', place])


@pytest.mark.skipif(not LONG, reason='RAG_JAX_FAULTS=long')
@pytest.mark.parametrize('board', [True, False])
@pytest.mark.parametrize('size', [16, 128, 400, 700, 1000])
def test_a_full_disk_is_one_line_and_no_loss(
  train, whole, tmp_path, small_disk, size, board
):
  paths = []
  if not board:
    (tmp_path / 'hidden').mkdir()
    (tmp_path / 'hidden' / 'tensorboardX.py').write_text('raise ImportError')
    paths = [tmp_path / 'hidden']
  workdir = small_disk(size) / 'run'
  first = train(workdir, folder=tmp_path, paths=paths)
  assert first.wait(timeout=600) == 1, first.said
  [line] = [own for own in first.said.splitlines() if own.startswith('error')]
  assert line == first.last_line
  assert 'No space left on device' in line and 'ree' in line
  small_disk(64 * 1024)
  second = train(workdir, folder=tmp_path, paths=paths)
  assert second.wait() == 0, second.said
  assert outcome(workdir) == outcome(whole)


@pytest.mark.skipif(not LONG, reason='RAG_JAX_FAULTS=long')
def test_evaluations_at_once(train, whole, tmp_path):
  run = shutil.copytree(whole, tmp_path / 'run')
  both = [Command(tmp_path, 'evaluate', f'--workdir={run}') for _ in range(2)]
  assert [own.wait() for own in both] == [0, 0]
  found = [
    json.loads(path.read_text())['results']
    for path in sorted(run.glob('evaluations/*/results.json'))
  ]
  assert found == [outcome(whole)[3]] * 2


def test_no_flipped_bit_of_a_run_loads_as_another_run(whole, tmp_path):
  """Of every file of a checkpoint; the arrays are the same, or it is said."""
  rng, wanted = random.Random(3), outcome(whole)[:2]
  files = [p for p in (whole / 'checkpoints').rglob('*') if p.is_file()]
  files = [path for path in files if path.stat().st_size]
  refused = 0
  for number in range(count(300) if LONG else 8):
    copy = tmp_path / str(number)
    shutil.copytree(whole, copy)
    path = copy / rng.choice(files).relative_to(whole)
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    found = outcome(copy)[:2]
    assert found == wanted or found[0] < wanted[0], path
    refused += found[0] < wanted[0]
    shutil.rmtree(copy)
  assert refused > 1


def test_the_lock_goes_with_the_process(tmp_path):
  code = (
    'import pathlib, time; from rag_jax import lock\n'
    f'with lock.hold(pathlib.Path({str(tmp_path / "run")!r})):\n'
    '  print("held", flush=True); time.sleep(100)'
  )
  process = subprocess.Popen(
    [sys.executable, '-c', code],
    stdout=subprocess.PIPE,
    env=os.environ | {'PYTHONPATH': str(ROOT)},
  )
  assert process.stdout.readline() == b'held\n'
  with (
    pytest.raises(lock.Held, match=f'by process {process.pid} on'),
    lock.hold(tmp_path / 'run'),
  ):
    pass
  process.kill()
  process.wait()
  with lock.hold(tmp_path / 'run'):
    assert (tmp_path / 'run' / lock.FILE).exists()
  assert not (tmp_path / 'run' / lock.FILE).exists()
