"""Paired significance tests between runs on the same questions.

For each measure, the unit is the difference of two runs on one question. The
mean difference gets a 95% interval by the paired bootstrap, and a two-sided
p-value by a paired permutation test that flips the signs of the differences.
"""

import dataclasses
import json
import os
import pathlib
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from rag_jax import outputs, report

DRAWS = 10_000  # of the permutation test
SEED = 0
LOWER_IS_BETTER = ('beam regret',)

Path = str | os.PathLike[str]
Lines = dict[str, dict[str, Any]]  # question id -> its line in an answers file


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference:
  """The difference of two runs in one measure.

  Attributes:
    first: folder of the first run.
    other: folder of the run that is compared with the first.
    split: name of the split.
    system: row of the results table, such as 'after ranker'.
    metric: the measure.
    means: means of the first and of the other run.
    value: mean of other - first.
    low: lower end of its 95% interval, by the paired bootstrap.
    high: upper end of the interval.
    p: two-sided p-value of a paired permutation test, not corrected for
      multiple tests.
    better: number of questions on which the other run is better. Higher values
      are better, except for `LOWER_IS_BETTER`.
    worse: number of questions on which the other run is worse.
    count: number of questions with a value in both runs.
  """

  first: str
  other: str
  split: str
  system: str
  metric: str
  means: tuple[float, float]
  value: float
  low: float
  high: float
  p: float
  better: int
  worse: int
  count: int


def compare(folders: Iterable[Path], *, color: bool = False) -> str:
  """The result of `differences` as text of at most 80 columns.

  Args:
    folders: two or more workdirs, or folders of their evaluations.
    color: as in `report.table`.

  Raises:
    ValueError: if a folder has no answers, or the questions differ.
  """
  names = [os.fspath(folder) for folder in folders]
  found = differences(names)
  blocks = []
  for other in names[1:]:
    head = [f'first  {_shown(names[0])}', f'other  {_shown(other)}']
    lines = [report.styled(line, report.BOLD, color) for line in head]
    pair = [d for d in found if d.other == other]
    for split in dict.fromkeys(d.split for d in pair):
      lines += ['', *_block([d for d in pair if d.split == split], color)]
    blocks.append('\n'.join(lines))
  blocks.append(
    'difference: mean of other - first, with 95% paired bootstrap interval\n'
    'p: two-sided paired permutation test, not corrected for multiple tests'
  )
  return '\n\n'.join(blocks)


def differences(folders: Sequence[Path]) -> list[Difference]:
  """Compares the first run with each of the others.

  It compares every split and measure that both runs have, on the questions with
  a value in both.

  Args:
    folders: two or more workdirs, or folders of their evaluations; each with
      answers-SPLIT.jsonl, which training and `evaluate` write.

  Returns:
    One `Difference` per run, split, system and measure.

  Raises:
    ValueError: if a folder has no answers, or the questions differ.
  """
  paths = [pathlib.Path(folder) for folder in folders]
  if len(paths) < 2:
    raise ValueError(
      f'compare needs at least 2 workdirs, got {len(paths)}. Name them: '
      'rag-jax compare runs/one runs/other.'
    )
  first, *others = [_read(path) for path in paths]
  found: list[Difference] = []
  for path, other in zip(paths[1:], others, strict=True):
    shared = [split for split in first if split in other]
    if not shared:
      raise ValueError(
        f'{str(paths[0])!r} and {str(path)!r} share no split: '
        f'{", ".join(first)} and {", ".join(other)}. Evaluate both on the '
        'same data, with --config.data.eval_splits.'
      )
    for split in shared:
      _check_same(split, paths[0], first[split], path, other[split])
      found += _of_split(
        (str(paths[0]), str(path)), split, first[split], other[split]
      )
  return found


def sign_flip(differences: np.ndarray, *, seed: int = SEED) -> float:
  """Two-sided p-value of a mean difference, by a paired permutation test.

  p = (1 + number of draws with |mean| >= |observed mean|) / (1 + draws), where
  each draw gives every difference a random sign.

  Args:
    differences: float[n], one per question.
    seed: of the draws.

  Example:
    >>> sign_flip(np.zeros(5))
    1.0
    >>> sign_flip(np.ones(20)) < 0.001
    True

  Reference:
    Smucker, Allan and Carterette, A Comparison of Statistical Significance
    Tests for Information Retrieval Evaluation, 2007.
  """
  sizes, counts = np.unique(np.abs(differences), return_counts=True)
  rng = np.random.default_rng(seed)
  totals = np.zeros(DRAWS)
  # Of c differences of equal size, a binomial(c, 1/2) number is positive.
  for size, count in zip(sizes, counts, strict=True):
    if size:
      totals += size * (2 * rng.binomial(count, 0.5, DRAWS) - count)
  observed = abs(differences.sum())
  tolerance = 1e-9 * np.abs(differences).sum()
  at_least = (np.abs(totals) >= observed - tolerance).sum()
  return float((1 + at_least) / (1 + DRAWS))


def _of_split(
  names: tuple[str, str], split: str, first: Lines, other: Lines
) -> Iterator[Difference]:
  """The differences of one split."""
  first_values, other_values = _values(first), _values(other)
  for system, metric in first_values:
    if (system, metric) not in other_values:
      continue
    both = np.stack(
      [first_values[system, metric], other_values[system, metric]]
    )
    both = both[:, np.isfinite(both).all(axis=0)]
    if not both.size:
      continue
    change = both[1] - both[0]
    gain = -change if metric in LOWER_IS_BETTER else change
    mean = report.summarise(split, system, metric, change, seed=SEED)
    yield Difference(
      first=names[0],
      other=names[1],
      split=split,
      system=system,
      metric=metric,
      means=(float(both[0].mean()), float(both[1].mean())),
      value=mean.value,
      low=mean.low,
      high=mean.high,
      p=sign_flip(change),
      better=int((gain > 0).sum()),
      worse=int((gain < 0).sum()),
      count=len(change),
    )


def _values(lines: Lines) -> dict[tuple[str, str], np.ndarray]:
  """(system, measure) -> float[n]; NaN for questions without a value."""
  values: dict[tuple[str, str], np.ndarray] = {}
  for row, name in enumerate(sorted(lines)):
    for system, measured in lines[name]['measures'].items():
      for metric, value in measured.items():
        start = np.full(len(lines), np.nan)
        values.setdefault((system, metric), start)[row] = value
  return values


def _read(folder: pathlib.Path) -> dict[str, Lines]:
  """Split -> question -> line of the answers file of a run.

  A workdir of an earlier version has no answers files; those of its newest
  evaluation are read instead.
  """
  evaluations = sorted((folder / outputs.EVALUATIONS).glob('[0-9]*'))
  for place in (folder, *reversed(evaluations)):
    found = {
      path.stem.removeprefix('answers-'): _lines(path, folder)
      for path in sorted(place.glob('answers-*.jsonl'))
    }
    if found:
      return found
  missing = 'has no answers' if folder.is_dir() else 'is no folder'
  raise ValueError(
    f'{str(folder)!r} {missing}. Name a trained workdir; for one of an earlier '
    f'version, run rag-jax evaluate --workdir={folder} first.'
  )


def _lines(path: pathlib.Path, folder: pathlib.Path) -> Lines:
  """Question id -> line of one answers file."""
  try:
    # Not splitlines, which also splits at Unicode separators inside a text.
    lines = filter(None, path.read_text(encoding='utf-8').split('\n'))
    rows = {row['id']: row for row in map(json.loads, lines)}
    for row in rows.values():
      dict(row['measures'])
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise ValueError(
      f'{str(path)!r} cannot be read ({type(error).__name__}). Remove it and '
      f'run rag-jax evaluate --workdir={folder}.'
    ) from error
  return rows


def _check_same(
  split: str,
  first_path: pathlib.Path,
  first: Lines,
  other_path: pathlib.Path,
  other: Lines,
) -> None:
  """Raises a ValueError if two runs answered different questions."""
  fields = ('question', 'gold_answers', 'gold_documents', 'answerable')
  changed = [
    name
    for name in first.keys() & other.keys()
    if any(first[name].get(f) != other[name].get(f) for f in fields)
  ]
  in_one = first.keys() ^ other.keys()
  if changed or in_one:
    raise ValueError(
      f'{str(first_path)!r} and {str(other_path)!r} have different questions '
      f'in split {split!r}, such as {min(in_one or changed)!r}: {len(in_one)} '
      f'are in only one run and {len(changed)} differ. Evaluate both on the '
      'same data.'
    )


def _block(found: Sequence[Difference], color: bool) -> list[str]:
  """Lines of one split: each system, with its measures below it."""
  count = max(d.count for d in found)
  left = min(20, max(len(d.metric) + 2 for d in found))
  title = f'{found[0].split} ({count:,} question{"s" * (count != 1)})'
  header = (
    f'{"":{left}}{"first":>7}{"other":>7}{"difference":>21}{"p":>8}'
    f'{"better/worse":>15}'
  )
  lines = textwrap.wrap(title, report.WIDTH) + [header]
  lines = [report.styled(line, report.BOLD, color) for line in lines]
  for system in dict.fromkeys(d.system for d in found):
    rows = [d for d in found if d.system == system]
    if not any(d.better or d.worse for d in rows):
      lines.append(f'{system}: equal on every question')
      continue
    lines += [system, *(_line(d, left, color) for d in rows)]
  return lines


def _line(difference: Difference, left: int, color: bool) -> str:
  """The line of one measure."""
  d = difference
  first, other = (report.short(mean, 3) for mean in d.means)
  interval = f'{_signed(d.low)} {_signed(d.high)}'
  interval = report.styled(f'{interval:>13}', report.DIM, color)
  counts = f'{d.better}/{d.worse}'
  return (
    f'  {d.metric[: left - 2]:{left - 2}}{first:>7}{other:>7}'
    f'{_signed(d.value):>8}{interval}{d.p:>8.4f}{counts:>15}'
  )


def _signed(value: float) -> str:
  return ('+' if value >= 0 else '') + report.short(value, 3)


def _shown(path: str) -> str:
  """A path, cut at the start if it is too long for a line."""
  room = report.WIDTH - len('first  ')
  return path if len(path) <= room else '...' + path[3 - room :]
