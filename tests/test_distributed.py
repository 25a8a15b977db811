"""Several processes: which one writes, and that none waits for a dead one."""

import pathlib
import socket
import subprocess
import sys
import time

import jax
import pytest

from rag_jax import console, distributed, files

ROOT = pathlib.Path(__file__).parents[1]
START = """
import sys, time
from rag_jax import cli, console, distributed, files, lock
distributed.HEARTBEAT = 10
distributed.watch()
distributed.start(
  coordinator=sys.argv[1], num_processes=2, process_id=int(sys.argv[2]))
import jax
"""
TOGETHER = """
import pathlib
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from rag_jax import placement
own, folder = jax.process_index(), pathlib.Path(sys.argv[3])
assert distributed.is_first() == (own == 0) and distributed.count() == 2
with lock.hold(folder):
  with distributed.first_then_others('place'):
    if own == 0:
      time.sleep(1)
      files.write(folder / 'built', 'by the first')
    assert (folder / 'built').read_text() == 'by the first'
  distributed.wait('read')
  files.write(folder / 'built', str(own))
  console.note('once')
  devices = placement.mesh('fsdp=2')
  rows = np.arange(6).reshape(3, 2)
  table = placement._split(rows, devices)
  assert not table.array.is_fully_addressable
  assert (distributed.on_host(table.array)[:3] == rows).all()
  batch = placement.place_batch({'x': rows[:2]}, devices)
  [mine] = batch['x'].addressable_shards
  assert (mine.data == rows[own]).all()
  assert distributed.largest(3 * own) == 3
  distributed.wait('end')
"""
APART = """
with distributed.ending_together():
  if jax.process_index() == 1:
    raise ValueError('train.field must be 1')
  distributed.wait('end')
"""


def run(code, folder):
  """Both processes: exit codes and what they wrote to standard error."""
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    address = f'127.0.0.1:{free.getsockname()[1]}'
  processes = [
    subprocess.Popen(
      [sys.executable, '-c', START + code, address, str(i), str(folder)],
      stderr=subprocess.PIPE,
      stdout=subprocess.DEVNULL,
      text=True,
      cwd=ROOT,
      env={'JAX_PLATFORMS': 'cpu', 'PATH': '', 'PYTHONPATH': str(ROOT)},
    )
    for i in range(2)
  ]
  found = [process.communicate(timeout=120)[1] for process in processes]
  return [process.returncode for process in processes], found


def test_the_first_process_builds_writes_and_prints(tmp_path):
  codes, errors = run(TOGETHER, tmp_path)
  assert codes == [0, 0], errors
  assert [text.count('note: once') for text in errors] == [1, 0]
  assert [path.name for path in tmp_path.iterdir()] == ['built']
  assert (tmp_path / 'built').read_text() == '0'


def test_an_error_in_one_process_ends_all_with_a_line_each(tmp_path):
  began = time.monotonic()
  codes, errors = run(APART, tmp_path)
  assert time.monotonic() - began < 60
  assert codes == [1, 1]
  assert errors[1].splitlines()[-1] == 'error: train.field must be 1'
  assert errors[0].splitlines()[-1] == f'error: {distributed.ENDED}'
  assert 'Traceback' not in errors[0] and '@ ' not in errors[0]


SLURM = {'SLURM_NTASKS': '4', 'SLURM_STEP_NODELIST': 'n[1-2]'}


@pytest.mark.parametrize(
  ('environment', 'launcher'),
  [
    (SLURM, 'SLURM'),
    ({'OMPI_COMM_WORLD_SIZE': '2', 'OMPI_COMM_WORLD_RANK': '0'}, 'Open MPI'),
  ],
)
def test_tasks_do_not_train_alone(environment, launcher):
  with pytest.raises(ValueError, match=f'{launcher} started .*--distributed'):
    distributed.check_alone(environment)


@pytest.mark.parametrize(
  'environment',
  [{}, {'SLURM_NTASKS': '4'}, SLURM | {'SLURM_NTASKS': '1'}],
)
def test_one_task_trains_alone(environment):
  distributed.check_alone(environment)


def test_alone_is_the_first(tmp_path, capsys):
  assert distributed.is_first() and distributed.count() == 1
  distributed.wait('nobody')
  assert distributed.largest(7) == 7
  with distributed.first_then_others('nobody'):
    files.write(tmp_path / 'a', 'b')
  console.note('here')
  assert (tmp_path / 'a').read_text() == 'b'
  assert capsys.readouterr().err == 'note: here\n'


def test_alone_errors_pass():
  with pytest.raises(ValueError, match='mine'), distributed.ending_together():
    raise ValueError('mine')
  error = jax.errors.JaxRuntimeError('UNAVAILABLE: x')
  with (
    pytest.raises(jax.errors.JaxRuntimeError),
    distributed.ending_together(),
  ):
    raise error


@pytest.mark.parametrize('process', [2, -1])
def test_a_number_out_of_range_is_refused(process):
  with pytest.raises(ValueError, match='--process_id must be 0 to 1'):
    distributed.start(
      coordinator='127.0.0.1:1', num_processes=2, process_id=process
    )


@pytest.mark.parametrize(
  ('cause', 'wanted'),
  [
    (OSError('Connection reset by peer'), distributed.ENDED),
    (OSError('No space left on device'), 'it cannot be saved'),
    (None, 'it cannot be saved'),
  ],
)
def test_a_save_that_fails_without_the_others_says_so(
  monkeypatch, cause, wanted
):
  said = []
  monkeypatch.setattr(distributed, 'count', lambda: 2)
  monkeypatch.setattr(distributed, 'end', said.append)
  with pytest.raises(ValueError), distributed.ending_together():
    raise ValueError('it cannot be saved') from cause
  assert said == [wanted]
