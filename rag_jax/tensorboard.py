"""Event files of TensorBoard."""

import contextlib
import os
import pathlib
import time
from typing import Any

from rag_jax import console


def open(folder: pathlib.Path, start_step: int) -> 'Board | None':
  """Starts a new event file; prints a note and gives None if it cannot."""
  try:
    return Board(folder, start_step)
  except ImportError:
    console.note("for TensorBoard files, pip install '.[tensorboard]'")
  except OSError as error:
    console.note(f'no TensorBoard files in {str(folder)!r} ({error.strerror})')
  return None


class Board:
  """Event files of TensorBoard, written at once.

  The usual `SummaryWriter` writes in a thread, which a full disk ends; its
  queue then blocks for ever.
  """

  def __init__(self, folder: pathlib.Path, start_step: int):
    """Starts a new file, for a run at `start_step`."""
    from tensorboardX import event_file_writer
    from tensorboardX.proto import event_pb2

    folder.mkdir(exist_ok=True)
    self._folder, self._event = folder, event_pb2.Event
    # The process number keeps files of the same second apart.
    self._events = event_file_writer.EventsWriter(
      str(folder / 'events'), f'.{os.getpid()}'
    )
    if start_step:  # later events of earlier files are written again
      start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
      self._add(start_step + 1, session_log=start)
      self._events.flush()

  def write(self, step: int, split: str, values: dict[str, float]) -> bool:
    """Adds scalars; False with a note if the file cannot be written."""
    from tensorboardX import summary

    try:
      for name, value in values.items():
        scalar = summary.scalar(f'{split}/{name}', value)
        self._add(step, summary=scalar)
      self._events.flush()
      return True
    except OSError as error:
      console.note(
        f'TensorBoard files in {str(self._folder)!r} end at step {step} '
        f'({error.strerror})'
      )
      return False

  def close(self) -> None:
    """Closes the file."""
    with contextlib.suppress(OSError):
      self._events.close()

  def _add(self, step: int, **fields: Any) -> None:
    event = self._event(step=step, wall_time=time.time(), **fields)
    self._events.write_event(event)
