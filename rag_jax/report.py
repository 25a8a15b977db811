"""What a run shows and keeps: progress, metrics, results. The only output."""

import dataclasses
import json
import math
import os
import pathlib
import sys
import time
from collections.abc import Sequence

import numpy as np
import tqdm

SAMPLES = 1000  # of the bootstrap
KEPT_ONLY = ('ECE', 'AURC')  # measures for results.json, not for the table


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
  """One measured number, with its 95% interval."""

  split: str
  system: str
  metric: str
  value: float
  low: float
  high: float
  count: int


def summarise(
  split: str,
  system: str,
  metric: str,
  values: np.ndarray,
  *,
  seed: int = 0,
) -> Result:
  """The mean of one value a question, and its bootstrap interval.

  Args:
    split: questions that were measured.
    system: what was measured.
    metric: the measure.
    values: float[n], n at least 1, finite.
    seed: of the bootstrap.

  Example:
    >>> result = summarise('test', 'BM25', 'Hits@1', np.array([1.0, 0.0]))
    >>> result.value, result.low, result.high, result.count
    (0.5, 0.0, 1.0, 2)
  """
  values = np.asarray(values, np.float64)
  if not values.size or not np.isfinite(values).all():
    raise ValueError(
      f'{metric} of {system} on {split} must be finite and not empty, got '
      f'{values.size} values. Check the split and the predictions.'
    )
  # Resampling n values is a multinomial draw of how often each is taken.
  rng = np.random.default_rng(seed)
  distinct, counts = np.unique(values, return_counts=True)
  draws = rng.multinomial(len(values), counts / len(values), SAMPLES)
  means = draws @ distinct / len(values)
  low, high = np.quantile(means, [0.025, 0.975])
  return Result(
    split=split,
    system=system,
    metric=metric,
    value=float(values.mean()),
    low=float(low),
    high=float(high),
    count=len(values),
  )


def table(results: Sequence[Result]) -> str:
  """Results as plain text: a block a split, a row a system.

  Measures in `KEPT_ONLY` are named below it, for they would make it too wide.

  Example:
    >>> print(table([summarise('dev', 'BM25', 'EM', np.array([1.0]))]))
    dev (1 questions)
                      EM
    BM25 1.000 1.00-1.00
  """
  blocks = []
  for split in dict.fromkeys(r.split for r in results):
    own = [r for r in results if r.split == split and r.metric not in KEPT_ONLY]
    metrics = list(dict.fromkeys(r.metric for r in own))
    cells = {
      (r.system, r.metric): f'{r.value:.3f} {r.low:.2f}-{r.high:.2f}'
      for r in own
    }
    systems = list(dict.fromkeys(r.system for r in own))
    left = max(map(len, systems))
    width = max(15, *map(len, metrics))
    lines = [f'{split} ({max(r.count for r in own)} questions)']
    lines.append(' ' * left + ''.join(f'{m:>{width + 1}}' for m in metrics))
    for system in systems:
      row = [cells.get((system, m), '') for m in metrics]
      lines.append(
        f'{system:<{left}}' + ''.join(f'{c:>{width + 1}}' for c in row)
      )
    blocks.append('\n'.join(line.rstrip() for line in lines))
  kept = [name for name in KEPT_ONLY if name in {r.metric for r in results}]
  if kept:
    blocks.append(f'not in the table: {", ".join(kept)} (see results.json)')
  return '\n\n'.join(blocks)


def merge(
  results: Sequence[Result], untrained: Sequence[Result]
) -> list[Result]:
  """Puts what was measured before training beside each system's row."""
  first = [
    dataclasses.replace(r, system=f'{r.system}, untrained') for r in untrained
  ]
  systems = list(dict.fromkeys(r.system for r in results))
  order = {name: i for i, name in enumerate(systems)}

  def place(result):
    name = result.system.removesuffix(', untrained')
    return order.get(name, len(order)), name == result.system

  splits = dict.fromkeys(r.split for r in results)
  return [
    r
    for split in splits
    for r in sorted([*results, *first], key=place)
    if r.split == split
  ]


def save_results(
  path: str | os.PathLike[str], results: Sequence[Result]
) -> None:
  """Writes results as a JSON list, atomically."""
  path = pathlib.Path(path)
  rows = [dataclasses.asdict(result) for result in results]
  text = json.dumps(rows, indent=1, allow_nan=False)
  partial = path.with_suffix('.partial')
  partial.write_text(text + '\n', encoding='utf-8')
  os.replace(partial, path)


def load_results(path: str | os.PathLike[str]) -> list[Result]:
  """Reads what `save_results` wrote."""
  rows = json.loads(pathlib.Path(path).read_text(encoding='utf-8'))
  return [Result(**row) for row in rows]


class Progress:
  """Loss, speed and time left: a bar on a terminal, else a line at times."""

  def __init__(self, total: int, start: int = 0, *, every: float = 10.0):
    """Counts from `start` to `total`; `every` is seconds between lines."""
    self._bar = tqdm.tqdm(
      total=total,
      initial=start,
      unit='step',
      disable=not sys.stderr.isatty(),
    )
    self._total, self._every = total, every
    self._last = start
    self._then = self._shown = time.monotonic()

  def __enter__(self) -> 'Progress':
    """Starts the clock."""
    self._then = time.monotonic()
    return self

  def __exit__(self, *error: object) -> None:
    """Ends the bar."""
    self._bar.close()

  def update(self, step: int, *, loss: float, examples: int) -> None:
    """Shows where training stands.

    Speed and time left are those since the update before, so that the time
    to compile is forgotten after the first.

    Args:
      step: steps done.
      loss: mean since the update before, nats.
      examples: questions seen since the update before.
    """
    now = time.monotonic()
    pace = max(now - self._then, 1e-9)
    rate, pace = examples / pace, pace / max(step - self._last, 1)
    self._then, self._last = now, step
    if not self._bar.disable:
      self._bar.set_postfix_str(f'loss {loss:.3f}, {rate:.0f} examples/s')
      self._bar.update(step - self._bar.n)
    elif step == self._total or now - self._shown >= self._every:
      self._shown = now
      print(
        f'step {step}/{self._total}  loss {loss:.3f}  {rate:.0f} examples/s  '
        f'{pace * (self._total - step):.0f} s left',
        file=sys.stderr,
        flush=True,
      )


class MetricsWriter:
  """Appends metrics to metrics.jsonl, and to TensorBoard if installed."""

  def __init__(self, workdir: str | os.PathLike[str], start_step: int = 0):
    """Takes up after `start_step`; later records are dropped."""
    path = pathlib.Path(workdir) / 'metrics.jsonl'
    kept = []
    if path.exists():
      for line in path.read_text(encoding='utf-8').splitlines():
        try:
          if json.loads(line)['step'] <= start_step:
            kept.append(line + '\n')
        except (ValueError, KeyError):  # the line that a kill cut off
          break
    partial = path.with_suffix('.partial')
    partial.write_text(''.join(kept), encoding='utf-8')
    os.replace(partial, path)
    self._file = path.open('a', encoding='utf-8')
    self._board = None
    try:
      import tensorboardX

      self._board = tensorboardX.SummaryWriter(
        str(pathlib.Path(workdir) / 'tensorboard')
      )
    except ImportError:
      print(
        "note: for TensorBoard files, pip install '.[tensorboard]'",
        file=sys.stderr,
      )

  def write(self, step: int, split: str, values: dict[str, float]) -> None:
    """Adds a record of finite values."""
    record = {'step': step, 'split': split}
    for name, value in values.items():
      if math.isfinite(value):
        record[name] = round(value, 6)
        if self._board is not None:
          self._board.add_scalar(f'{split}/{name}', value, step)
    self._file.write(json.dumps(record) + '\n')
    self._file.flush()

  def close(self) -> None:
    """Closes the files."""
    self._file.close()
    if self._board is not None:
      self._board.close()
