"""The lock of a workdir within one process; between processes: faults/."""

import errno
import json
import os
import socket
import threading
import time

import pytest

from rag_jax import lock


def refused(workdir, **options):
  with (
    pytest.raises(lock.Held, match='is being written by') as error,
    lock.hold(workdir, **options),
  ):
    raise AssertionError('two hold the lock')
  assert '\n' not in str(error.value)
  return str(error.value)


def test_one_holds_it_at_a_time(tmp_path):
  workdir = tmp_path / 'run'
  with lock.hold(workdir):
    assert f'process {os.getpid()} on {socket.gethostname()}' in refused(
      workdir
    )
    (workdir / 'kept').write_text('')
  with lock.hold(workdir):
    pass
  assert [path.name for path in workdir.iterdir()] == ['kept']


def test_a_refused_run_leaves_nothing_behind(tmp_path):
  workdir = tmp_path / 'runs' / 'facts'
  with pytest.raises(KeyError), lock.hold(workdir):
    raise KeyError('data')
  assert list(tmp_path.iterdir()) == []


def test_it_waits_for_a_short_change(tmp_path):
  held, done = threading.Event(), []

  def change():
    with lock.hold(tmp_path):
      held.set()
      time.sleep(0.3)
      done.append('first')

  thread = threading.Thread(target=change)
  thread.start()
  held.wait()
  refused(tmp_path, wait=0.05)
  with lock.hold(tmp_path, wait=10):
    done.append('second')
  thread.join()
  assert done == ['first', 'second']


class TestWithoutFlock:
  @pytest.fixture(autouse=True)
  def no_flock(self, monkeypatch):
    def unsupported(file, flags):
      raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(lock.fcntl, 'flock', unsupported)

  def owned_by(self, folder, **owner):
    (folder / lock.FILE).write_text(json.dumps(owner))

  def test_a_process_that_runs_holds_it(self, tmp_path):
    with lock.hold(tmp_path):
      refused(tmp_path)
    self.owned_by(tmp_path, process=os.getppid(), host=socket.gethostname())
    assert f'process {os.getppid()} on' in refused(tmp_path)

  def test_a_process_that_was_killed_does_not(self, tmp_path):
    child = os.fork()
    if not child:
      os._exit(0)
    os.waitpid(child, 0)
    self.owned_by(tmp_path, process=child, host=socket.gethostname())
    with lock.hold(tmp_path):
      pass
    (tmp_path / lock.FILE).write_text('{"process": 1')  # cut off
    with lock.hold(tmp_path):
      pass

  def test_of_another_machine_nothing_is_known(self, tmp_path):
    self.owned_by(tmp_path, process=1, host='elsewhere')
    assert 'process 1 on elsewhere' in refused(tmp_path)


@pytest.mark.parametrize('name', ['file', 'file/run', 'n' * 300])
def test_what_cannot_be_a_folder_is_one_line(tmp_path, name):
  (tmp_path / 'file').write_text('')
  with (
    pytest.raises(
      ValueError, match=r'(is a file|cannot be written).*--workdir'
    ) as error,
    lock.hold(tmp_path / name),
  ):
    pass
  assert '\n' not in str(error.value)
  assert [path.name for path in tmp_path.iterdir()] == ['file']
