"""Progress messages of training."""

import re

import pytest

from rag_jax import progress


@pytest.fixture
def clock(monkeypatch):
  """A fake clock; call it to advance the time."""
  seconds = [0.0]
  monkeypatch.setattr(progress.time, 'monotonic', lambda: seconds[0])

  def wait(more):
    seconds[0] += more

  return wait


def test_speed_and_remaining_time_exclude_compilation(capsys, clock):
  with progress.Progress(100, every=10) as shown:
    shown.compiling('joint')
    clock(40)
    shown.compiled(1)
    for step in range(2, 101):
      clock(1)
      shown.step(step, examples=32, loss=1.5 if step % 50 == 0 else None)
  lines = capsys.readouterr().err.splitlines()
  assert lines[:2] == ["stage 'joint': compiling ...", 'compiled in 40 s']
  # The first line comes after 5 s, the others every 10 s.
  assert lines[2] == 'step 6/100  32 examples/s  94 s left'
  assert lines[3] == 'step 16/100  32 examples/s  84 s left'
  assert lines[-1] == 'step 100/100  loss 1.500  32 examples/s  0 s left'
  shown = [int(re.match(r'step (\d+)', line)[1]) for line in lines[2:]]
  assert shown == [*range(6, 100, 10), 100]


def test_a_resumed_run_counts_from_its_step(capsys, clock):
  with progress.Progress(60, 50, every=10) as shown:
    shown.compiling('joint')
    shown.compiled(51)
    for step in range(52, 61):
      clock(2)
      shown.step(step, examples=8)
  lines = capsys.readouterr().err.splitlines()
  assert lines[2] == 'step 54/60  4 examples/s  12 s left'
