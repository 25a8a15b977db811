"""Results and training metrics: tables for the terminal, and files."""

import dataclasses
import json
import math
import os
import pathlib
import re
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

import numpy as np

from rag_jax import console, distributed, files, tensorboard

METRICS = 'metrics.jsonl'  # in a workdir: records of training
UNTRAINED = 'results-untrained.json'  # in a workdir: results before training
SAMPLES = 1000  # bootstrap resamples
WIDTH = 80  # width of the table, characters
CELL = 12  # width of one cell, such as .922 .90-.94, characters
# Measures in results.json but not in the table.
KEPT_ONLY = (
  *('ECE unscaled', 'ECE temperature', 'certified risk', 'refused'),
  *('holds', 'changes', 'unsupported', 'words', 'length'),
  *(
    f'gradient {n}' for n in ('query_encoder', 'id_decoder', 'ranker', 'reader')
  ),
)
# Redundant with Hits@k and MRR@10 if each question has one gold document.
SEVERAL = ('nDCG@10', 'MAP', 'Recall@100')
ANSWERS = ('EM', 'F1', 'ROUGE-L', 'answered')  # shown below the retrieval ones
# Answers of several sentences, below the others.
SUMMARIES = (
  *('ROUGE-1', 'ROUGE-2', 'ROUGE-Lsum', 'claim recall', 'claim precision'),
  *('citation recall', 'citation precision', 'no support', 'sentences'),
)
# Shown below the answers: how far scores can be trusted, and health.
TRUST = (
  *('ECE', 'Brier', 'AUROC', 'AURC', 'EM@50%', 'EM@80%', 'EM@100%'),
  *('null AUROC', 'certified'),
)
HEALTH = ('off support', 'starved', 'collapse', 'beam mass', 'correlation')
ORDER = (
  *('Hits@1', 'Hits@10', 'MRR@10', 'nDCG@10', 'Hits@100', 'MAP', 'R-precision'),
  'gold in support',
  *('Recall@100', 'has-answer@1', 'has-answer@5', 'has-answer@20'),
  *('has-answer@100', 'valid docids', 'beam regret', *ANSWERS, *SUMMARIES),
  *TRUST,
  *HEALTH,
)
BOLD, DIM, PLAIN = '\033[1m', '\033[2m', '\033[0m'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
  """The mean of one measure, with its 95% interval and number of questions."""

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
  """The mean of a measure over questions, with its 95% bootstrap interval.

  Args:
    split: name of the split.
    system: name of the system.
    metric: name of the measure.
    values: float[n], one per question; n >= 1, all finite.
    seed: of the bootstrap.

  Raises:
    ValueError: if there are no values, or some are not finite.

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
  # The counts of distinct values in a resample follow a multinomial.
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
  """Formats results as text of at most 80 columns, with a block per split.

  A row is a system, with measures of retrieval above those of answers. A cell
  is the mean and its 95% interval, with .922 for 0.922. Redundant measures are
  listed below the table.

  Args:
    results: results of all splits and systems.
    color: whether to use terminal codes for headers and intervals; see
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
    rows = [r for r in results if r.split == split]
    names = _columns(rows)
    kept |= dict.fromkeys(r.metric for r in rows if r.metric not in names)
    count = max(r.count for r in rows)
    title = f'{split} ({count:,} question{"s" * (count != 1)})'
    lines = [styled(line, BOLD, color) for line in textwrap.wrap(title, WIDTH)]
    left = max(len(r.system) for r in rows)
    below = (ANSWERS, SUMMARIES, TRUST, HEALTH)
    others = {name for group in below for name in group}
    for group in ([n for n in names if n not in others], *below):
      shown = [name for name in names if name in group]
      lines += _rows(rows, shown, left, color)
    blocks.append('\n'.join(lines))
  if kept:
    note = f'not in the table: {", ".join(kept)} (see results.json)'
    blocks.append(textwrap.fill(note, WIDTH))
  return '\n\n'.join(blocks)


def _columns(results: Sequence[Result]) -> list[str]:
  """Measures of one split that the table shows, in the order of `ORDER`."""
  names = dict.fromkeys(r.metric for r in results)
  several = 'R-precision' in names  # several gold documents per question
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
  """Lines of one group of measures, wrapped to the width of the table."""
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
  """The mean and its interval in `width` visible characters."""
  if result is None:
    return ' ' * width
  interval = f'{short(result.low, 2)}-{short(result.high, 2)}'
  mean = f'{short(result.value, 3):>{width - len(interval) - 1}}'
  return f'{mean} {styled(interval, DIM, color)}'


def short(value: float, digits: int) -> str:
  """A number in [-1, 1] as text, without the zero before the point.

  Example:
    >>> short(0.9216, 3), short(1.0, 3), short(-0.05, 2)
    ('.922', '1.00', '-.05')
  """
  text = f'{value:.{digits}f}'
  if abs(float(text)) >= 1:
    return f'{value:.{digits - 1}f}'
  return text.replace('0.', '.', 1)


def styled(text: str, code: str, color: bool) -> str:
  """The text in a terminal style, if `color`."""
  return f'{code}{text}{PLAIN}' if color else text


def wants_color(stream: TextIO) -> bool:
  """Whether a stream is a terminal that shows colour; respects NO_COLOR."""
  plain = os.environ.get('NO_COLOR') or os.environ.get('TERM') == 'dumb'
  return stream.isatty() and not plain


def show(results: Sequence[Result]) -> None:
  """Prints the table, with colour on a terminal."""
  print(table(results, color=wants_color(sys.stdout)), flush=True)


def merge(
  results: Sequence[Result], untrained: Sequence[Result]
) -> list[Result]:
  """Adds results before training as rows 'SYSTEM, untrained'."""
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
  *,
  warnings: Sequence[str] = (),
) -> None:
  """Writes provenance, warnings and results as JSON, atomically.

  Args:
    path: the file.
    results: the results.
    provenance: from `provenance.collect`.
    warnings: from `health.warnings`.

  Raises:
    OSError: if the file cannot be written; an older file is then unchanged.
  """
  rows = [dataclasses.asdict(result) for result in results]
  everything = {
    'provenance': dict(provenance or {}),
    'warnings': list(warnings),
    'results': rows,
  }
  files.write(path, json.dumps(everything, indent=1, allow_nan=False) + '\n')


def load_results(path: str | os.PathLike[str]) -> list[Result]:
  """Reads a file of `save_results`, or of an older version (a plain list).

  Raises:
    ValueError: if the file is damaged.
  """
  try:
    both = json.loads(pathlib.Path(path).read_text(encoding='utf-8'))
    rows = both if isinstance(both, list) else both['results']
    return [Result(**row) for row in rows]
  except (ValueError, KeyError, TypeError) as error:
    raise ValueError(
      f'{str(path)!r} is damaged ({type(error).__name__}). Delete it, and run '
      'rag-jax train or evaluate with the same --workdir, which writes it.'
    ) from error


class MetricsWriter:
  """Appends metrics to metrics.jsonl, and to TensorBoard if installed."""

  def __init__(
    self,
    workdir: str | os.PathLike[str],
    start_step: int = 0,
    *,
    is_measured: bool = True,
  ):
    """Opens the files for a run at `start_step`, whose later records go.

    Args:
      workdir: folder of the run.
      start_step: steps done.
      is_measured: whether the evaluation at that step is complete; otherwise
        its records go, too.

    Raises:
      ValueError: if the file cannot be written.
    """
    self._path = pathlib.Path(workdir) / METRICS
    self._writes = distributed.is_first()
    if not self._writes:
      return
    try:
      files.write(self._path, _kept(self._path, start_step, is_measured))
      # Without a buffer, which would be written again after an error.
      self._file = self._path.open('ab', buffering=0)
    except OSError as error:
      raise self._unwritable(error) from error
    self._board = tensorboard.open(
      pathlib.Path(workdir) / 'tensorboard', start_step
    )

  def write(self, step: int, split: str, values: dict[str, float]) -> None:
    """Adds a record; leaves out values that are not finite.

    Raises:
      ValueError: if the file cannot be written.
    """
    if not self._writes:
      return
    finite = {k: v for k, v in values.items() if math.isfinite(v)}
    record: dict[str, Any] = {'step': step, 'split': split}
    record |= {name: round(value, 6) for name, value in finite.items()}
    text = (json.dumps(record) + '\n').encode()
    try:
      while text:
        text = text[self._file.write(text) :]
    except OSError as error:
      raise self._unwritable(error) from error
    if self._board is not None and not self._board.write(step, split, finite):
      self._board = None

  def close(self) -> None:
    """Closes the files."""
    if not self._writes:
      return
    self._file.close()
    if self._board is not None:
      self._board.close()

  def _unwritable(self, error: OSError) -> ValueError:
    return ValueError(
      f'{str(self._path)!r} cannot be written ({files.reason(error)}). '
      'Free disk space or permit writing, and run the same command to resume.'
    )


def _kept(path: pathlib.Path, start_step: int, is_measured: bool) -> str:
  """The records up to a step; prints a note about what is damaged."""
  if not path.exists():
    if start_step:
      console.note(
        f'{str(path)!r} is missing; records start after step {start_step}'
      )
    return ''
  kept, bad = [], []
  lines = path.read_text(encoding='utf-8', errors='replace').split('\n')
  for number, line in enumerate(lines, 1):
    try:
      record = json.loads(line)
      step, split = int(record['step']), str(record['split'])
    except (ValueError, KeyError, TypeError):
      # What a kill cut off is of a later step, and written again.
      step_text = re.match(r'\{"step": (\d+),', line)
      is_later = step_text is not None and int(step_text[1]) > start_step
      if line and not is_later:
        bad.append(number)
      continue
    if step < start_step or (
      step == start_step and (split == 'train' or is_measured)
    ):
      kept.append(line + '\n')
  if bad:
    console.note(
      f'{str(path)!r} is damaged in line {", ".join(map(str, bad))}; what '
      'follows is kept'
    )
  return ''.join(kept)
