"""Where training stands: a bar on a terminal, else a line at times."""

import sys
import time

import tqdm

FIRST = 5.0  # seconds after a stage's first step: a line comes at the latest


class Progress:
  """Says what is compiled, then step, loss, speed and time left.

  The time to compile is in neither speed nor time left.
  """

  def __init__(self, total: int, start: int = 0, *, every: float = 10.0):
    """Counts from `start` to `total`; `every` is seconds between lines."""
    self._bar = tqdm.tqdm(
      total=total,
      initial=start,
      unit='step',
      disable=not sys.stderr.isatty(),
    )
    self._total, self._every = total, every
    self._loss = ''
    self._shown = self._then = 0.0  # last line, start of the compilation
    self._begin(start)

  def __enter__(self) -> 'Progress':
    """Does nothing."""
    return self

  def __exit__(self, *error: object) -> None:
    """Ends the bar."""
    self._bar.close()

  def compiling(self, stage: str) -> None:
    """Says at once that a stage's step is compiled."""
    self._then = time.monotonic()
    if self._bar.disable:
      self._print(f'stage {stage!r}: compiling ...')
    else:
      self._bar.set_postfix_str(f'{stage}: compiling')

  def compiled(self, step: int) -> None:
    """Says how long it took; speed is measured from here.

    Args:
      step: steps done, the first of the stage among them.
    """
    seconds = time.monotonic() - self._then
    self._begin(step)
    self._shown -= max(self._every - FIRST, 0)  # the first line comes early
    if self._bar.disable:
      self._print(f'compiled in {seconds:.0f} s')
    else:
      self._bar.set_postfix_str('')
      self._bar.update(step - self._bar.n)

  def step(
    self, step: int, *, examples: int, loss: float | None = None
  ) -> None:
    """Counts one step, and shows where training stands if it is time.

    Args:
      step: steps done.
      examples: questions of this step.
      loss: mean over the steps since it was last given, nats.
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
    print(line, file=sys.stderr, flush=True)
