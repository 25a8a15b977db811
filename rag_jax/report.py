"""What a run shows and keeps: progress, metrics, results. The only output."""

import contextlib
import dataclasses
import json
import math
import os
import pathlib
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

import numpy as np

SAMPLES = 1000  # of the bootstrap
WIDTH = 80  # columns of a table
CELL = 12  # of them for one number, such as .922 .90-.94
KEPT_ONLY = ('ECE', 'AURC')  # measures for results.json, not for the table
# With one gold document a question these say what Hits@k and MRR@10 say.
SEVERAL = ('nDCG@10', 'MAP', 'Recall@100')
ANSWERS = ('EM', 'F1', 'ROUGE-L', 'answered')  # measures below retrieval's
ORDER = (
  *('Hits@1', 'Hits@10', 'MRR@10', 'nDCG@10', 'Hits@100', 'MAP', 'R-precision'),
  *('Recall@100', 'valid docids', 'beam regret', *ANSWERS),
)
BOLD, DIM, PLAIN = '\033[1m', '\033[2m', '\033[0m'


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


def table(results: Sequence[Result], *, color: bool = False) -> str:
  """Results as plain text of at most 80 columns: a block a split.

  A row is a system. Retrieval stands above answers. A cell is the mean and its
  95% interval, with .922 for 0.922. Measures that would say nothing new are
  named below instead.

  Args:
    results: of all splits and systems.
    color: whether to set off headers and intervals by terminal codes; see
      `wants_color`.

  Example:
    >>> print(table([summarise('dev', 'BM25', 'EM', np.array([1.0]))]))
    dev (1 question)
                   EM
    BM25 1.00 1.0-1.0
  """
  blocks = []
  kept: dict[str, None] = {}
  for split in dict.fromkeys(r.split for r in results):
    own = [r for r in results if r.split == split]
    names = _columns(own)
    kept |= dict.fromkeys(r.metric for r in own if r.metric not in names)
    count = max(r.count for r in own)
    title = f'{split} ({count:,} question{"s" * (count != 1)})'
    lines = [styled(line, BOLD, color) for line in textwrap.wrap(title, WIDTH)]
    left = max(len(r.system) for r in own)
    found = [name for name in names if name not in ANSWERS]
    for group in (found, [name for name in names if name in ANSWERS]):
      lines += _rows(own, group, left, color)
    blocks.append('\n'.join(lines))
  if kept:
    note = f'not in the table: {", ".join(kept)} (see results.json)'
    blocks.append(textwrap.fill(note, WIDTH))
  return '\n\n'.join(blocks)


def _columns(results: Sequence[Result]) -> list[str]:
  """Measures of one split that are shown, in the order of `ORDER`."""
  names = dict.fromkeys(r.metric for r in results)
  several = 'R-precision' in names  # gold documents a question
  shown = [
    name
    for name in names
    if name not in KEPT_ONLY and (several or name not in SEVERAL)
  ]
  rank = {name: place for place, name in enumerate(ORDER)}
  return sorted(shown, key=lambda name: rank.get(name, len(ORDER)))


def _rows(
  results: Sequence[Result], names: Sequence[str], left: int, color: bool
) -> list[str]:
  """Lines of one group of measures, as many side by side as there is room."""
  width = min(max([CELL, *map(len, names)]), WIDTH // 2)
  left = min(left, WIDTH - width - 1)
  most = (WIDTH - left) // (width + 1)
  cells = {(r.system, r.metric): r for r in results}
  lines = []
  for start in range(0, len(names), most):
    part = names[start : start + most]
    header = ' ' * left + ''.join(f' {name[:width]:>{width}}' for name in part)
    lines.append(styled(header, BOLD, color))
    for system in dict.fromkeys(r.system for r in results if r.metric in part):
      row = [_cell(cells.get((system, name)), width, color) for name in part]
      lines.append(f'{system[:left]:<{left}} {" ".join(row)}'.rstrip())
  return lines


def _cell(result: Result | None, width: int, color: bool) -> str:
  """The mean and its interval, in so many characters that are seen."""
  if result is None:
    return ' ' * width
  interval = f'{short(result.low, 2)}-{short(result.high, 2)}'
  mean = f'{short(result.value, 3):>{width - len(interval) - 1}}'
  return f'{mean} {styled(interval, DIM, color)}'


def short(value: float, digits: int) -> str:
  """A share in so many digits, without the zero before the point.

  Example:
    >>> short(0.9216, 3), short(1.0, 3), short(-0.05, 2)
    ('.922', '1.00', '-.05')
  """
  text = f'{value:.{digits}f}'
  if abs(float(text)) >= 1:
    return f'{value:.{digits - 1}f}'
  return text.replace('0.', '.', 1)


def styled(text: str, code: str, color: bool) -> str:
  """The text between terminal codes, if colour is wanted."""
  return f'{code}{text}{PLAIN}' if color else text


def wants_color(stream: TextIO) -> bool:
  """Whether a stream is a terminal, and NO_COLOR is not set to anything."""
  plain = os.environ.get('NO_COLOR') or os.environ.get('TERM') == 'dumb'
  return stream.isatty() and not plain


def show(results: Sequence[Result]) -> None:
  """Prints the table, with colour where that is wanted."""
  print(table(results, color=wants_color(sys.stdout)), flush=True)


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
  path: str | os.PathLike[str],
  results: Sequence[Result],
  provenance: Mapping[str, Any] | None = None,
) -> None:
  """Writes {"provenance": ..., "results": [...]} as JSON, atomically.

  Args:
    path: the file.
    results: the numbers, which depend on the experiment alone.
    provenance: what made them, and when; see `provenance.collect`.

  Raises:
    OSError: if the file cannot be written; an older one is left as it was.
  """
  rows = [dataclasses.asdict(result) for result in results]
  both = {'provenance': dict(provenance or {}), 'results': rows}
  write(path, json.dumps(both, indent=1, allow_nan=False) + '\n')


def load_results(path: str | os.PathLike[str]) -> list[Result]:
  """Reads what `save_results` wrote, or a plain list of an older version."""
  both = json.loads(pathlib.Path(path).read_text(encoding='utf-8'))
  rows = both if isinstance(both, list) else both['results']
  return [Result(**row) for row in rows]


def write(path: str | os.PathLike[str], text: str) -> None:
  """Writes a text file whole or not at all."""
  path = pathlib.Path(path)
  partial = path.with_name(path.name + '.partial')
  try:
    partial.write_text(text, encoding='utf-8')
    os.replace(partial, path)
  except BaseException:
    with contextlib.suppress(OSError):
      partial.unlink(missing_ok=True)
    raise


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
