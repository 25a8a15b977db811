"""SIGTERM and ctrl-C: an orderly end of a command, also during compilation.

Python calls a signal handler between two instructions of the main thread, and
XLA may keep that thread for minutes. Here a thread of its own reads the signals
from a pipe (`signal.set_wakeup_fd`). It ends the process, except between
`defer` and `resume`; what runs there asks `requested` and saves its work first.
Without `install`, as in a program that imports rag_jax, all of this does
nothing.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

NAMES = {signal.SIGINT: 'ctrl-C', signal.SIGTERM: 'SIGTERM'}
GRACE = 60.0  # seconds for a save that is still running


class Stopped(BaseException):
  """A signal has stopped a command whose work is saved.

  Attributes:
    code: exit code of the process: 128 and the number of the signal.
  """

  def __init__(self, number: int, text: str):
    """Takes the signal, and the line to print."""
    super().__init__(text)
    self.code = 128 + number


class Interrupted(BaseException):
  """A signal has interrupted work that can be done again."""


class _Watch:
  """State that the main thread and the thread of signals share."""

  def __init__(self) -> None:
    self.lock = threading.Lock()
    self.hint = ''  # how to resume
    self.deferred = False
    self.interruptible = False
    self.request = 0  # the signal that came while deferred
    self.has_request = False  # as the thread of signals knows
    self.ending = False
    self.at_end: Callable[[], Any] | None = None


_watch: _Watch | None = None


def install() -> None:
  """Handles SIGTERM and ctrl-C of this process from here on."""
  global _watch
  if _watch is not None:
    return
  _watch = _Watch()
  reads, writes = os.pipe()
  os.set_blocking(writes, False)
  signal.set_wakeup_fd(writes, warn_on_full_buffer=False)
  for number in NAMES:
    signal.signal(number, _interrupt)
  threading.Thread(target=_read, args=(reads, _watch), daemon=True).start()


def set_hint(text: str) -> None:
  """Sets what the line says after the signal, such as how to resume."""
  if _watch is not None:
    _watch.hint = text


def defer() -> None:
  """From here on a signal leaves a request; a second ctrl-C still ends."""
  if _watch is not None:
    with _watch.lock:
      _watch.deferred = True


def resume(at_end: Callable[[], Any] | None = None) -> None:
  """From here on a signal ends the process, which has nothing to save.

  Args:
    at_end: called before, such as to wait for a save in the background.

  Raises:
    Stopped: if a signal came in the meantime.
  """
  if _watch is not None:
    with _watch.lock:
      _watch.at_end = at_end
      _watch.deferred = False
      number, _watch.request = _watch.request, 0
      _watch.has_request = False
    if number:
      raise Stopped(number, line(number))


@contextlib.contextmanager
def deferred() -> Iterator[None]:
  """A block that a signal does not cut short, such as writing of files."""
  defer()
  try:
    yield
  except BaseException:
    with contextlib.suppress(Stopped):
      resume()
    raise
  resume()


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
  """Work between `defer` and `resume` that can be done again.

  Raises:
    Interrupted: if a signal came before or comes meanwhile.
  """
  if _watch is None:
    yield
    return
  _watch.interruptible = True
  try:
    if _watch.request:
      raise Interrupted
    yield
  finally:
    _watch.interruptible = False


def requested() -> int:
  """The signal that came since `defer`; 0 = none."""
  return 0 if _watch is None else _watch.request


def line(number: int, text: str = '') -> str:
  """One line: the signal, what was done, and how to resume."""
  name = NAMES.get(signal.Signals(number), str(number))
  parts = [f'interrupted by {name}', text, _watch.hint if _watch else '']
  return '; '.join(filter(None, parts))


def _interrupt(number: int, frame: Any) -> None:
  """The handler in the main thread, where Python gets to call it."""
  del frame
  if _watch is not None and _watch.interruptible:
    _watch.interruptible = False
    _watch.request = _watch.request or number  # the thread may come later
    raise Interrupted


def _read(pipe: int, watch: _Watch) -> None:
  """Acts on the signals that come through the pipe, one byte each."""
  while True:
    for number in os.read(pipe, 64):
      if number in NAMES:
        _act(number, watch)


def _act(number: int, watch: _Watch) -> None:
  with watch.lock:
    is_second = number == signal.SIGINT and (watch.has_request or watch.ending)
    if not is_second and watch.deferred:
      watch.request = watch.request or number
      watch.has_request = True
      return
    is_first, watch.ending = not watch.ending, True
  if is_second:
    _end(number, f'interrupted by {NAMES[signal.SIGINT]} at once')
  elif is_first:  # not in this thread, which reads a second ctrl-C meanwhile
    threading.Thread(target=_finish, args=(number, watch), daemon=True).start()


def _finish(number: int, watch: _Watch) -> None:
  """Ends the process once a save in the background is complete."""
  if watch.at_end is not None:
    last = threading.Thread(target=_quietly, args=(watch.at_end,), daemon=True)
    last.start()
    last.join(GRACE)
  _end(number, line(number))


def _quietly(function: Callable[[], Any]) -> None:
  with contextlib.suppress(Exception):  # the checkpoint before is kept
    function()


def _end(number: int, text: str) -> None:
  """Ends without waiting for threads; files are written whole or not at all."""
  with contextlib.suppress(OSError, ValueError):
    terminal = sys.stderr.fileno()  # see `distributed.watch`
    start = '\n' if os.isatty(terminal) else ''  # below the bar, or ^C
    os.write(terminal, f'{start}{text}\n'.encode())
  os._exit(128 + number)
