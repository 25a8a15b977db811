"""Several processes that train one model, by JAX's multi-controller runtime.

Every process runs the same program on its own devices, and arrays may lie on
the devices of all. `start` joins the processes. It has to come before anything
that starts XLA. One process, the first, writes files and prints; `is_first`
tells which one that is. A process that runs alone is the first.

What has to happen in all processes: compiled functions of shared arrays, saves
and loads of checkpoints. What only the first does: files.
"""

import contextlib
import os
import re
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

HEARTBEAT = 20  # seconds without a sign of life until a process counts as dead
JOIN = 300  # seconds to wait for all processes at the start
LONGEST = 24 * 3600  # seconds that others wait for the first, which builds
# Launcher -> variables that it sets for a task: the number of tasks, and one
# that the script of a SLURM job, which runs once, does not have.
LAUNCHERS = {
  'SLURM': ('SLURM_NTASKS', 'SLURM_STEP_NODELIST'),
  'Open MPI': ('OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_RANK'),
}
_FATAL = re.compile(
  b'Polled an error from coordination service'
  b'|JAX distributed service detected fatal errors'
)
# What a collective operation says whose other side is gone.
_LOST = re.compile(r'Gloo|NCCL|[Cc]onnection|UNAVAILABLE|ABORTED|[Bb]arrier')
ENDED = (
  'another process of this run has ended, so this one ends; '
  'run the same command again to resume'
)

_names: dict[str, int] = {}  # barrier -> how often it was used


def start(
  *, coordinator: str = '', num_processes: int = 0, process_id: int = -1
) -> None:
  """Joins the processes of a run; see `jax.distributed.initialize`.

  Args:
    coordinator: HOST:PORT of the first process; '' = found from the variables
      of SLURM, Open MPI, a TPU or Kubernetes.
    num_processes: number of processes; 0 = found in the same way.
    process_id: number of this process, from 0; needed with `num_processes`.

  Raises:
    ValueError: if the processes cannot be found or joined.
  """
  if num_processes and not 0 <= process_id < num_processes:
    raise ValueError(
      f'--process_id must be 0 to {num_processes - 1} with '
      f'--num_processes={num_processes}, got {process_id}. Set --process_id.'
    )
  with contextlib.suppress(AttributeError):  # `signals` handles SIGTERM
    jax.config.update('jax_enable_preemption_service', False)
  # On a CPU, programs that do not depend on each other run at the same time. In
  # two processes they may come in another order, and then wait for each other.
  jax.config.update('jax_cpu_enable_async_dispatch', False)
  try:
    jax.distributed.initialize(
      coordinator or None,
      num_processes or None,
      process_id if process_id >= 0 else None,
      initialization_timeout=JOIN,
      heartbeat_timeout_seconds=HEARTBEAT,
    )
  except Exception as error:  # of many kinds, by the launcher
    reason = re.sub(r'\s+', ' ', str(error)).strip()[:200]
    raise ValueError(
      f'--distributed cannot join the processes of this run ({reason}). Set '
      '--coordinator=HOST:PORT, --num_processes and --process_id.'
    ) from error


def check_alone(environment: Mapping[str, str] = os.environ) -> None:
  """Raises a ValueError if a launcher started several tasks of this command.

  Without `start` each would train alone, all in one workdir.

  Args:
    environment: variables of the process.

  Example:
    >>> check_alone({'SLURM_NTASKS': '1'})
  """
  for name, (number, mark) in LAUNCHERS.items():
    tasks = environment.get(number, '1')
    if mark not in environment or not tasks.isdecimal() or int(tasks) < 2:
      continue
    raise ValueError(
      f'{name} started {tasks} tasks of this command. Set --distributed to '
      'train one model with all of them, or --nodistributed to train one with '
      'each, and then a --workdir of its own for each.'
    )


def count() -> int:
  """Number of processes of the run; does not start XLA."""
  return jax.process_count() if jax.distributed.is_initialized() else 1


def is_first() -> bool:
  """Whether this process writes files and prints; does not start XLA."""
  return not jax.distributed.is_initialized() or jax.process_index() == 0


def wait(name: str) -> None:
  """Waits until every process has come here; does nothing alone.

  It occupies no device, so that the others may wait for hours while the first
  builds an index.

  Args:
    name: name of the place; the same place may come again.
  """
  if count() == 1:
    return
  from orbax.checkpoint import multihost

  _names[name] = _names.get(name, 0) + 1
  barrier = multihost.get_barrier_sync_fn()
  barrier(key=f'rag_jax-{name}-{_names[name]}', timeout_ms=LONGEST * 1000)


@contextlib.contextmanager
def first_then_others(name: str) -> Iterator[None]:
  """A block that the first process runs before all others.

  It builds files there, which the others then read.
  """
  if not is_first():
    wait(name)
  yield
  if is_first():
    wait(name)


def largest(value: int) -> int:
  """The largest of the values that the processes give."""
  if count() == 1:
    return value
  from jax.experimental import multihost_utils

  return int(np.max(multihost_utils.process_allgather(np.asarray(value))))


def on_host(x: Any) -> np.ndarray:
  """An array on the host, whole, also if other processes hold parts of it.

  All processes have to call it.
  """
  if isinstance(x, jax.Array) and not (
    x.is_fully_addressable or x.is_fully_replicated
  ):
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(x, tiled=True))
  return np.asarray(x)


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
  """A block whose errors end this process at once, and with it the others.

  A normal exit would wait for the other processes, which wait for this one.
  Alone, errors pass.
  """
  try:
    yield
  except ValueError as error:
    if count() > 1:
      # A checkpoint cannot be saved without the others.
      lost = error.__cause__ and _LOST.search(str(error.__cause__))
      end(ENDED if lost else str(error))
    raise
  except Exception as error:
    if count() == 1:
      raise
    if isinstance(error, jax.errors.JaxRuntimeError) and _LOST.search(
      str(error)
    ):
      end(ENDED)
    traceback.print_exc()
    end(f'{type(error).__name__}, so this run ends')


def watch() -> None:
  """Turns the page that XLA prints when a process died into one line.

  XLA aborts a process from a thread of its own as soon as another one is gone,
  and prints a stack. From here on a thread reads what comes on file descriptor
  2; Python's `sys.stderr` keeps writing where it wrote before.
  """
  terminal = os.dup(2)
  reads, writes = os.pipe()
  os.dup2(writes, 2)
  os.close(writes)
  sys.stderr = open(  # noqa: SIM115, for the rest of the process
    terminal, 'w', buffering=1, encoding='utf-8', errors='backslashreplace'
  )
  threading.Thread(target=_pass_on, args=(reads, terminal), daemon=True).start()


def _pass_on(reads: int, terminal: int) -> None:
  """Copies what XLA writes, until it says that a process has died."""
  while text := os.read(reads, 1 << 16):
    if _FATAL.search(text):
      end(ENDED)
    with contextlib.suppress(OSError):
      os.write(terminal, text)


def end(text: str, code: int = 1) -> None:
  """Prints one line and ends this process at once.

  A normal exit would wait for the other processes.
  """
  sys.stdout.flush()
  print(f'error: {text}', file=sys.stderr, flush=True)
  os._exit(code)
