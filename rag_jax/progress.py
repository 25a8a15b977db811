"""Progress of training: a bar on a terminal, otherwise lines in the log."""

import sys
import time

import tqdm

from rag_jax import distributed

FIRST = 5.0  # seconds from the first step of a stage to its first line


class Progress:
  """Shows compilation, then step, loss, speed and remaining time.

  Speed and remaining time exclude the time of compilation.
  """

  def __init__(self, total: int, start: int = 0, *, every: float = 10.0):
    """Starts at step `start` of `total`; `every` is seconds between lines."""
    self._bar = tqdm.tqdm(
      total=total,
      initial=start,
      unit='step',
      disable=not (sys.stderr.isatty() and distributed.is_first()),
    )
    self._total, self._every = total, every
    self._loss = ''
    self._shown = self._then = 0.0  # times of last line, start of compilation
    self._begin(start)

  def __enter__(self) -> 'Progress':
    """Returns itself."""
    return self

  def __exit__(self, *error: object) -> None:
    """Ends the bar."""
    self._bar.close()

  def compiling(self, stage: str) -> None:
    """Shows that compilation of a stage has started."""
    self._then = time.monotonic()
    if self._bar.disable:
      self._print(f'stage {stage!r}: compiling ...')
    else:
      self._bar.set_postfix_str(f'{stage}: compiling')

  def compiled(self, step: int) -> None:
    """Shows the time of compilation; measures speed from here on.

    Args:
      step: steps done, including the first of the stage.
    """
    seconds = time.monotonic() - self._then
    self._begin(step)
    self._shown -= max(self._every - FIRST, 0)  # an early first line
    if self._bar.disable:
      self._print(f'compiled in {seconds:.0f} s')
    else:
      self._bar.set_postfix_str('')
      self._bar.update(step - self._bar.n)

  def step(
    self, step: int, *, examples: int, loss: float | None = None
  ) -> None:
    """Counts one step, and shows the progress if a line is due.

    Args:
      step: steps done.
      examples: number of questions in this step.
      loss: mean loss since the last one given, nats; None = no new value.
    """
    self._examples += examples
    if loss is not None:
      self._loss = f'loss {loss:.3f}  '
    now = time.monotonic()
    due = step == self._total or now - self._shown >= self._every
    if not self._bar.disable:
      self._bar.update(step - self._bar.n)
    if not due and (self._bar.disable or loss is None):
      return
    seconds = max(now - self._start, 1e-9)
    rate = self._examples / seconds
    left = seconds / max(step - self._first, 1) * (self._total - step)
    self._shown = now
    if self._bar.disable:
      self._print(
        f'step {step}/{self._total}  {self._loss}{rate:.0f} examples/s  '
        f'{left:.0f} s left'
      )
    else:
      self._bar.set_postfix_str(f'{self._loss}{rate:.0f} examples/s')

  def _begin(self, step: int) -> None:
    now = time.monotonic()
    self._first, self._examples = step, 0
    self._start = self._shown = self._then = now

  def _print(self, line: str) -> None:
    if not distributed.is_first():
      return
    print(line, file=sys.stderr, flush=True)
