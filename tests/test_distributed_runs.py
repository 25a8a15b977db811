"""Whole runs of several processes: kills, resumes, other numbers of devices."""

import json
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from rag_jax import checkpoint, store

ROOT = pathlib.Path(__file__).parents[1]
STEPS = 8
MESH = '--config.train.mesh=fsdp=4,data=2'
WORDS = ('--config.data.lexicon=True', '--config.search.lexical_weight=0.5')


@pytest.fixture(scope='module')
def start(tiny_file):
  """Starts the processes of a run with eight devices, or fewer."""

  def run(workdir, *flags, processes=1, devices=8):
    with socket.socket() as free:
      free.bind(('127.0.0.1', 0))
      address = f'127.0.0.1:{free.getsockname()[1]}'
    count = f'--xla_force_host_platform_device_count={devices // processes}'
    command = [
      *(sys.executable, str(ROOT / 'launch.py'), f'--config={tiny_file}'),
      *(f'--workdir={workdir}', f'--config.stages.joint.steps={STEPS}', *WORDS),
      *flags,
    ]
    found = []
    for number in range(processes):
      own = list(command)
      if processes > 1:
        own += ['--distributed', f'--coordinator={address}']
        own += [f'--num_processes={processes}', f'--process_id={number}']
      found.append(
        subprocess.Popen(
          own,
          stderr=subprocess.PIPE,
          stdout=subprocess.DEVNULL,
          text=True,
          env=os.environ | {'XLA_FLAGS': f'{os.environ["XLA_FLAGS"]} {count}'},
        )
      )
    return found

  return run


def finish(processes):
  """Waits for processes that succeed."""
  for process in processes:
    errors = process.communicate(timeout=600)[1]
    assert process.returncode == 0, errors


def results(workdir):
  """Parameters, and the losses of all steps."""
  found = checkpoint.load(workdir / store.CHECKPOINTS, {'params': None})
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  losses = [json.loads(line).get('loss') for line in lines]
  return checkpoint.named(found.parts['params']), losses


@pytest.fixture(scope='module')
def undisturbed(start, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('undisturbed') / 'run'
  finish(start(workdir, MESH, processes=2))
  return results(workdir)


def wait_for(workdir, step, processes):
  """Waits for the checkpoint of a step."""
  while not (workdir / store.CHECKPOINTS / str(step)).exists():
    assert processes[0].poll() is None
    time.sleep(0.05)


def wait_for_more(workdir, processes):
  """Waits for a step of these processes."""
  path = workdir / 'metrics.jsonl'

  def size():
    return path.stat().st_size if path.exists() else 0

  before = size()
  while size() <= before:
    assert processes[0].poll() is None
    time.sleep(0.05)


@pytest.mark.long
@pytest.mark.parametrize('seed', range(6))
def test_a_killed_run_resumes_to_the_same_parameters(
  seed, start, undisturbed, tmp_path
):
  draw = random.Random(seed)
  workdir, killed = tmp_path / 'run', draw.randrange(2)
  processes = start(workdir, MESH, processes=2)
  wait_for(workdir, draw.choice([2, 4]), processes)
  time.sleep(draw.random() / 2)
  began = time.monotonic()
  processes[killed].send_signal(signal.SIGKILL)
  errors = processes[1 - killed].communicate(timeout=60)[1]
  assert time.monotonic() - began < 60
  if processes[1 - killed].returncode:  # it was not finished already
    assert 'another process of this run has ended' in errors.splitlines()[-1]
    assert 'Traceback' not in errors
  finish(start(workdir, MESH, processes=2))
  params, losses = results(workdir)
  assert losses == undisturbed[1]
  for name, array in params.items():
    np.testing.assert_array_equal(array, undisturbed[0][name], err_msg=name)


@pytest.mark.long
def test_a_run_resumes_on_other_devices(start, undisturbed, tmp_path):
  workdir = tmp_path / 'run'
  ways = [
    {'flags': [MESH], 'processes': 2},
    {'flags': ['--config.train.mesh=model=2,data=4']},
    {'flags': [], 'devices': 1},
    {'flags': ['--config.train.parallel=pmap'], 'devices': 4},
  ]
  for number, way in enumerate(ways):
    flags = way.pop('flags')
    processes = start(workdir, *flags, **way)
    if number + 1 < len(ways):
      wait_for_more(workdir, processes)
      for process in processes:
        process.send_signal(signal.SIGTERM)
      for process in processes:
        process.communicate(timeout=120)
    else:
      finish(processes)
  _, losses = results(workdir)
  np.testing.assert_allclose(losses, undisturbed[1], rtol=1e-4)


@pytest.mark.long
def test_an_evaluation_of_two_processes_is_that_of_one(start, tmp_path):
  workdir = tmp_path / 'run'
  finish(start(workdir, '--config.stages.joint.steps=2', devices=1))
  command = ('--mode=evaluate', '--config.stages.joint.steps=2')
  finish(start(workdir, *command, devices=1))
  finish(start(workdir, *command, MESH, processes=2))
  names = sorted(path.name for path in (workdir / 'evaluations').iterdir())
  assert names == ['001', '002']
  alone, together = (
    json.loads((workdir / 'evaluations' / name / 'results.json').read_text())
    for name in names
  )
  assert len(alone['results']) == len(together['results']) > 0
  for ours, theirs in zip(alone['results'], together['results'], strict=True):
    assert ours['metric'] == theirs['metric']
    assert ours['value'] == pytest.approx(theirs['value'], abs=1e-3)
