"""Checkpoints and metrics during training, and stopping by a signal.

Between the first step of a stage and its last, a signal does not end the
process; `Keeper.step` saves a checkpoint at the current step, and raises
`signals.Stopped`. During compilation there is nothing to save.
"""

import contextlib
import math
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from rag_jax import (
  checkpoint,
  distributed,
  objective,
  placement,
  report,
  signals,
  store,
)
from rag_jax import config as configs
from rag_jax import step as steps

Totals = dict[str, list[float]]  # metric -> sum and count, in float64


class Keeper:
  """Writes checkpoints and metrics of the steps of a run.

  A context manager: it closes the files, after any error too.
  """

  def __init__(
    self,
    config: configs.Config,
    workdir: pathlib.Path,
    start: int,
    notes: Mapping[str, Any],
    files: Mapping[str, int],
    nodes: int,
  ):
    """Opens the files of a run.

    Args:
      config: the experiment.
      workdir: folder of the run.
      start: steps done.
      notes: values of the checkpoint that the run resumes from.
      files: `fingerprints.of` the files of the run.
      nodes: rows of the node table.
    """
    self.writer = report.MetricsWriter(
      workdir, start, is_measured=notes.get('measured', True)
    )
    self._config, self._files, self._nodes = config, dict(files), nodes
    self._checkpointer = checkpoint.open(
      workdir / store.CHECKPOINTS, keep=config.train.keep_checkpoints
    )
    self._best, self._bests = _best_of(config, notes), None
    if config.train.keep_best:
      folder = workdir / store.BEST
      with distributed.first_then_others('best'):
        if start == 0 and distributed.is_first():
          shutil.rmtree(folder, ignore_errors=True)  # of another run
      self._bests = checkpoint.open(folder, keep=1)
      if checkpoint.latest_step(self._bests) is None:  # a continued run
        self._best = -math.inf
    self._totals: Totals = dict(notes.get('totals', {}))
    self._recent: list[objective.Sums] = []  # on the device

  def __enter__(self) -> 'Keeper':
    """Returns itself."""
    return self

  def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
    """Waits for the last save; an earlier error has priority over its error."""
    if kind is None:
      checkpoint.close(self._checkpointer)
      if self._bests is not None:
        checkpoint.close(self._bests)
      self.writer.close()
      signals.resume()
      return
    with contextlib.suppress(Exception, signals.Stopped):
      checkpoint.close(self._checkpointer)
      self.writer.close()
      signals.resume()

  def compiling(self) -> None:
    """From now on, a signal ends the process after a save in progress."""
    signals.resume(lambda: checkpoint.wait(self._checkpointer))

  def compiled(self) -> None:
    """From now on, a signal stops the run after the current step."""
    signals.defer()

  def record(
    self, step: int, stage: str, sums: objective.Sums, *, is_last: bool
  ) -> float | None:
    """Adds the metrics of a step, and writes averages if a record is due.

    Args:
      step: steps done.
      stage: name of the stage.
      sums: name -> (sum, count), on the device.
      is_last: whether the stage ends here.

    Returns:
      The mean loss since the last record; None if none is due.

    Raises:
      ValueError: if an average is not finite, or the file cannot be written.
    """
    self._recent.append(sums)
    if step % self._config.train.log_every and not is_last:
      return None
    values = averages(self._recent, self._totals)
    self._recent, self._totals = [], {}
    check_finite(values, step, stage)
    self.writer.write(step, 'train', values)
    return values['loss']

  def step(
    self,
    state: steps.State,
    step: int,
    stage: str,
    *,
    is_last: bool = False,
    is_measured: bool = True,
  ) -> None:
    """Saves a checkpoint if one is due, and stops if a signal came.

    Args:
      state: after the step.
      step: steps done.
      stage: name of the stage.
      is_last: whether the stage ends here.
      is_measured: whether an evaluation that is due here is complete.

    Raises:
      ValueError: if the state is not finite, or the files cannot be written.
      signals.Stopped: after a signal, once the checkpoint is complete.
    """
    number = self._requested(step, is_last)
    due = step % self._config.train.checkpoint_every == 0
    if not (due or is_last or number):
      return
    self._totals, self._recent = totals(self._recent, self._totals), []
    notes = {
      'totals': self._totals,
      'measured': is_measured,
      'files': self._files,
    }
    if self._best > -math.inf:
      notes['best'] = [self._config.train.keep_best, self._best]
    checkpoint.save(
      self._checkpointer,
      step,
      saved(placement.stored(state, self._nodes)),
      notes,
      remedy=remedy(stage),
    )
    if number:
      checkpoint.wait(self._checkpointer)
      text = f'a checkpoint of step {step} is saved'
      raise signals.Stopped(number, signals.line(number, text))

  def best(
    self, params: Any, step: int, results: Sequence[report.Result]
  ) -> None:
    """Keeps parameters in WORKDIR/best if `train.keep_best` is at its largest.

    Args:
      params: parameters of all components.
      step: steps done.
      results: of an evaluation; the first split counts.

    Raises:
      ValueError: if they have no such measure, or the files cannot be written.
    """
    name = self._config.train.keep_best
    if self._bests is None:
      return
    found = {
      f'{own.system}/{own.metric}': own.value
      for own in results
      if own.split == results[0].split
    }
    if name not in found:
      raise ValueError(
        f'train.keep_best must be one of {", ".join(found)}, got {name!r}. Set '
        '--config.train.keep_best, or leave it out.'
      )
    if not found[name] > self._best:
      return
    self._best = found[name]
    notes = {'files': self._files, 'best': [name, self._best]}
    parts = {'params': placement.stored(params, self._nodes)}
    checkpoint.save(self._bests, step, parts, notes)
    checkpoint.wait(self._bests)

  def _requested(self, step: int, is_last: bool) -> int:
    """The signal that came to any process; several agree at records."""
    if distributed.count() == 1:
      return signals.requested()
    if step % self._config.train.log_every and not is_last:
      return 0
    return distributed.largest(signals.requested())


def _best_of(config: configs.Config, notes: Mapping[str, Any]) -> float:
  """The largest value of `train.keep_best` so far."""
  name, value = notes.get('best', ('', -math.inf))
  return value if name == config.train.keep_best else -math.inf


def saved(state: steps.State) -> dict[str, Any]:
  """The parts of a checkpoint; `loading.load` reads only the parameters."""
  training = {'step': state.step, 'optimizer': state.optimizer}
  return {'params': state.params, 'training': training}


def totals(
  records: Sequence[objective.Sums], start: Totals | None = None
) -> Totals:
  """Adds sums and counts in order, so that a resumed run gets equal totals.

  Example:
    >>> totals([{'loss': (6.0, 2.0)}], {'loss': [3.0, 4.0]})
    {'loss': [9.0, 6.0]}
  """
  found = {name: list(pair) for name, pair in (start or {}).items()}
  for record in jax.device_get(list(records)):
    for name, (value, count) in record.items():
      own = found.setdefault(name, [0.0, 0.0])
      own[0] += float(value)
      own[1] += float(count)
  return found


def averages(
  records: Sequence[objective.Sums], start: Totals | None = None
) -> dict[str, float]:
  """Averages metrics over several steps; a step need not have all metrics."""
  found = totals(records, start)
  return {name: s / c for name, (s, c) in found.items() if c > 0}


def check_finite(values: dict[str, float], step: int, stage: str) -> None:
  """Raises a ValueError if a metric is not finite.

  Args:
    values: metric -> value.
    step: for the message.
    stage: for the message.
  """
  bad = [name for name, value in values.items() if not np.isfinite(value)]
  if bad:
    raise ValueError(
      f'{", ".join(bad)} is not finite at step {step}. {remedy(stage)} '
      'The last checkpoint is kept.'
    )


def remedy(stage: str) -> str:
  """The remedy for a stage that diverges, for errors."""
  return (
    f'Lower --config.stages.{stage}.learning_rate; the same command then '
    'resumes from the last checkpoint.'
  )
