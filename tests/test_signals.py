"""Signals to a process of its own; to a run in training: faults/."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

from rag_jax import signals

ROOT = pathlib.Path(__file__).parents[1]
START = """
import sys, time
from rag_jax import signals
signals.install()
signals.set_hint('run it again')
def ready(): print('ready', flush=True)
"""


def run(code, *numbers):
  """Runs code, sends a signal for each line 'ready'; exit code and output."""
  process = subprocess.Popen(
    [sys.executable, '-c', START + code],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    env=os.environ | {'PYTHONPATH': str(ROOT)},
  )
  for number in numbers:
    assert process.stdout.readline() == 'ready\n'
    process.send_signal(number)
  output, errors = process.communicate(timeout=60)
  return process.returncode, output, errors


@pytest.mark.parametrize(
  'number, name', [(signal.SIGTERM, 'SIGTERM'), (signal.SIGINT, 'ctrl-C')]
)
def test_without_work_to_keep_a_signal_ends_the_process(number, name):
  code, _, errors = run('ready(); time.sleep(60)', number)
  assert code == 128 + number
  assert errors == f'interrupted by {name}; run it again\n'


def test_it_ends_while_the_main_thread_runs_no_python():
  # A lock that is never released stands for XLA, which keeps the main thread.
  body = """
import ctypes
system = ctypes.CDLL(None)
mutex = ctypes.create_string_buffer(128)
system.pthread_mutex_init(mutex, None)
system.pthread_mutex_lock(mutex)
ready()
system.pthread_mutex_lock(mutex)
"""
  code, _, _ = run(body, signal.SIGTERM)
  assert code == 143


def test_deferred_work_is_done_first():
  body = """
signals.defer()
ready()
while not signals.requested(): time.sleep(0.01)
print('saved', signals.requested(), flush=True)
try: signals.resume()
except signals.Stopped as error: print(error, error.code)
signals.resume()
"""
  code, output, errors = run(body, signal.SIGTERM)
  assert (code, errors) == (0, '')
  line = 'interrupted by SIGTERM; run it again 143'
  assert output == f'saved 15\n{line}\n'


def test_a_second_ctrl_c_ends_deferred_work_at_once():
  body = """
signals.defer()
ready()
while not signals.requested(): time.sleep(0.01)
ready()
time.sleep(60)
"""
  code, _, errors = run(body, signal.SIGINT, signal.SIGINT)
  assert code == 130
  assert errors == 'interrupted by ctrl-C at once\n'


def test_a_second_sigterm_does_not():
  body = """
signals.defer()
ready()
while not signals.requested(): time.sleep(0.01)
ready()
time.sleep(0.5)
print('saved', flush=True)
"""
  code, output, _ = run(body, signal.SIGTERM, signal.SIGTERM)
  assert (code, output) == (0, 'saved\n')


def test_work_that_can_be_done_again_is_left_out():
  body = """
signals.defer()
try:
  with signals.interruptible():
    ready()
    time.sleep(60)
except signals.Interrupted: print('left', signals.requested())
try:
  with signals.interruptible(): print('never')
except signals.Interrupted: print('left again')
"""
  code, output, _ = run(body, signal.SIGTERM)
  assert (code, output) == (0, 'left 15\nleft again\n')


def test_a_save_in_the_background_is_waited_for():
  body = """
def at_end(): time.sleep(0.5); print('complete', flush=True)
signals.resume(at_end)
ready()
time.sleep(60)
"""
  code, output, _ = run(body, signal.SIGTERM)
  assert (code, output) == (143, 'complete\n')


def test_an_error_in_a_deferred_block_is_not_hidden():
  body = """
with signals.deferred():
  ready()
  while not signals.requested(): time.sleep(0.01)
  raise KeyError('its own')
"""
  code, _, errors = run(body, signal.SIGTERM)
  assert code == 1
  assert "KeyError: 'its own'" in errors


def test_without_install_nothing_is_handled():
  handler = signal.getsignal(signal.SIGINT)
  signals.defer()
  with signals.interruptible(), signals.deferred():
    assert signals.requested() == 0
  signals.resume()
  assert signal.getsignal(signal.SIGINT) is handler
