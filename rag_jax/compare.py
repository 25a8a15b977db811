"""Runs against each other, question by question.

The same questions were put to each run, so the difference of two runs on one
question is one draw: its mean has an interval by the paired bootstrap, and the
chance of a mean as large where the runs are alike by a paired permutation test,
which flips the sign of each difference.
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

DRAWS = 10_000  # of signs
SEED = 0
LOWER = ('beam regret',)  # measures that are better if they are lower

Path = str | os.PathLike[str]
Lines = dict[str, dict[str, Any]]  # of an answers file, by the question's id


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference:
  """One measure of two runs on the same questions.

  Attributes:
    first: folder of the run that is compared with.
    other: folder of the other run.
    split: the questions.
    system: what was measured, such as 'after ranker'.
    metric: the measure.
    means: of the first and of the other run.
    value: mean of other - first.
    low: lower end of its 95% interval, from the paired bootstrap.
    high: upper end.
    p: of a two-sided paired permutation test; not corrected for the number of
      tests that are made.
    better: questions on which the other run is better; lower is better for
      beam regret alone.
    worse: questions on which it is worse.
    count: questions that both have a value for.
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
  """What `differences` finds, as text of at most 80 columns.

  Args:
    folders: two or more workdirs, or folders of their evaluations.
    color: as in `report.table`.

  Raises:
    ValueError: if a folder has no answers, or of other questions.
  """
  names = [os.fspath(folder) for folder in folders]
  found = differences(names)
  blocks = []
  for other in names[1:]:
    head = [f'first  {_shown(names[0])}', f'other  {_shown(other)}']
    lines = [report.styled(line, report.BOLD, color) for line in head]
    own = [d for d in found if d.other == other]
    for split in dict.fromkeys(d.split for d in own):
      lines += ['', *_block([d for d in own if d.split == split], color)]
    blocks.append('\n'.join(lines))
  blocks.append(
    'Difference: other - first, and its 95% interval by the paired bootstrap.\n'
    'p: of a two-sided paired permutation test, not corrected for many tests.'
  )
  return '\n\n'.join(blocks)


def differences(folders: Sequence[Path]) -> list[Difference]:
  """Compares the first run with each of the others.

  Every split and measure that both have is compared, on the questions that
  have a value in both.

  Args:
    folders: two or more workdirs, or folders of their evaluations; each with
      answers-SPLIT.jsonl, which training and `evaluate` write.

  Returns:
    One `Difference` a run, split, system and measure.

  Raises:
    ValueError: if a folder has no answers, or of other questions.
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

  (1 + draws whose |mean| is at least the one observed) / (1 + draws), where a
  draw gives each difference a sign at random.

  Args:
    differences: float[n], a row a question.
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
  # Of c differences of one size, so many keep their sign as heads of c coins.
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
  own, theirs = _values(first), _values(other)
  for system, metric in own:
    if (system, metric) not in theirs:
      continue
    both = np.stack([own[system, metric], theirs[system, metric]])
    both = both[:, np.isfinite(both).all(axis=0)]
    if not both.size:
      continue
    change = both[1] - both[0]
    gain = -change if metric in LOWER else change
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
  """Each measure as float[n], NaN where a question has no value."""
  values: dict[tuple[str, str], np.ndarray] = {}
  for row, name in enumerate(sorted(lines)):
    for system, own in lines[name]['measures'].items():
      for metric, value in own.items():
        start = np.full(len(lines), np.nan)
        values.setdefault((system, metric), start)[row] = value
  return values


def _read(folder: pathlib.Path) -> dict[str, Lines]:
  """The lines of each answers file of a run, by split and question.

  A workdir that has none, as earlier versions trained it, has those of its
  newest evaluation.
  """
  evaluations = sorted((folder / outputs.EVALUATIONS).glob('[0-9]*'))
  for place in (folder, *reversed(evaluations)):
    found = {
      path.stem.removeprefix('answers-'): _lines(path, folder)
      for path in sorted(place.glob('answers-*.jsonl'))
    }
    if found:
      return found
  missing = 'holds no answers' if folder.is_dir() else 'is no folder'
  raise ValueError(
    f'{str(folder)!r} {missing}. Name a workdir that was trained; for one of '
    f'an earlier version, run rag-jax evaluate --workdir={folder} first.'
  )


def _lines(path: pathlib.Path, folder: pathlib.Path) -> Lines:
  """The lines of one answers file by the id of the question."""
  try:
    # Not splitlines, which also splits at separators inside a text.
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
  path: pathlib.Path,
  first: Lines,
  beside: pathlib.Path,
  other: Lines,
) -> None:
  """Raises a ValueError if two runs were asked other questions."""
  fields = ('question', 'gold_answers', 'gold_documents', 'answerable')
  changed = [
    name
    for name in first.keys() & other.keys()
    if any(first[name].get(f) != other[name].get(f) for f in fields)
  ]
  lost = first.keys() ^ other.keys()
  if changed or lost:
    raise ValueError(
      f'{str(path)!r} and {str(beside)!r} were asked other questions in '
      f'{split}: such as {min(lost or changed)!r}, {len(lost)} are in one '
      f'alone and {len(changed)} differ. Evaluate both on the same data.'
    )


def _block(found: Sequence[Difference], color: bool) -> list[str]:
  """Lines of one split: a system, and its measures below it."""
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
    own = [d for d in found if d.system == system]
    if not any(d.better or d.worse for d in own):
      lines.append(f'{system}: the same on every question')
      continue
    lines += [system, *(_line(d, left, color) for d in own)]
  return lines


def _line(own: Difference, left: int, color: bool) -> str:
  """One measure of two runs."""
  first, other = (report.short(mean, 3) for mean in own.means)
  interval = f'{_signed(own.low)} {_signed(own.high)}'
  interval = report.styled(f'{interval:>13}', report.DIM, color)
  counts = f'{own.better}/{own.worse}'
  return (
    f'  {own.metric[: left - 2]:{left - 2}}{first:>7}{other:>7}'
    f'{_signed(own.value):>8}{interval}{own.p:>8.4f}{counts:>15}'
  )


def _signed(value: float) -> str:
  return ('+' if value >= 0 else '') + report.short(value, 3)


def _shown(path: str) -> str:
  """A path, or the end of a long one."""
  room = report.WIDTH - len('first  ')
  return path if len(path) <= room else '...' + path[3 - room :]
