"""The health of the gradient from answers to the search, with warnings.

`measure` summarises `examine.health`. `warnings` compares the numbers with
their normal range and names a remedy.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

QUESTIONS = 128  # that are examined in an evaluation
SYSTEM = 'health'  # row of the results
MOST_COLLAPSED = 0.5  # collapse index
MOST_STARVED = 0.25  # share of questions
LEAST_MASS = 0.5  # beam mass
LEAST_CHANGED = 0.1  # share of answers that change without the cited document
PROBABILITIES = ('log_softmax', 'vocabulary')  # scorings with a beam mass


def measure(found: Any, left_out: np.ndarray) -> dict[str, float]:
  """Summarises the gradients of the answers to n questions.

  Args:
    found: `examine.Health` on the host, with one row per question.
    left_out: float[n, R], `examine.Evidence.left_out` of the same questions.

  Returns:
    gradient COMPONENT: norm of the gradient of the mean -log P(answer), mean
      over batches.
    off support: share of questions whose gold documents have weight 0.
    starved: share of questions whose gold documents have less than half of the
      weight, and whose answer gives no gradient to any score.
    correlation: of -d loss / d score with the gain in log P(answer) that a
      document gives, over documents read with a gradient; left out if there are
      fewer than three.
  """
  known = np.asarray(found.known, bool)
  values = {
    f'gradient {name}': float(np.mean(norm[known]))
    for name, norm in found.norms.items()
    if known.any()
  }
  has_gold = np.asarray(found.has_gold, bool)
  if has_gold.any():
    gold = found.gold[has_gold]
    values['off support'] = float(np.mean(gold <= 0))
    flat = (np.abs(found.slopes) <= 1e-12).all(axis=1)
    values['starved'] = float(np.mean((gold < 0.5) & flat[has_gold]))
  pairs = np.isfinite(left_out) & (np.abs(found.slopes) > 1e-12)
  if pairs.sum() > 2:
    both = np.stack([found.slopes[pairs], left_out[pairs]])
    if both.std(axis=1).min() > 0:
      values['correlation'] = float(np.corrcoef(both)[0, 1])
  return values


def collapse(first: np.ndarray, gold: np.ndarray) -> float:
  """The collapse index: 1 - H(first documents) / H(gold documents).

  H is the entropy of a distribution of documents over questions. 0 means that
  the retrieved documents are as diverse as the gold ones, 1 that all questions
  retrieve the same document.

  Args:
    first: int[n], the best document of each question.
    gold: int[n], its gold document.

  Returns:
    From 0 to 1; NaN if all gold documents are the same.

  Example:
    >>> collapse(np.array([3, 3, 3, 3]), np.array([0, 1, 2, 3]))
    1.0
    >>> collapse(np.array([3, 3, 5, 5]), np.array([0, 1, 2, 3]))
    0.5
  """
  reference = _entropy(gold)
  if reference <= 0:
    return float('nan')
  return float(np.clip(1 - _entropy(first) / reference, 0, 1))


def _entropy(documents: np.ndarray) -> float:
  counts = np.unique(documents, return_counts=True)[1]
  shares = counts / counts.sum()
  return float(-(shares * np.log(shares)).sum())


def warnings(values: Mapping[str, float]) -> list[str]:
  """One sentence with a remedy for each number out of its range.

  Args:
    values: from `measure`, with 'collapse', 'beam mass' and 'changes' where
      they are known.

  Example:
    >>> [text] = warnings({'beam mass': 0.2, 'collapse': 0.1})
    >>> text[:48]
    'beam mass 0.20: the beam misses most of the prob'
  """
  limits = (
    (
      'collapse',
      lambda v: v > MOST_COLLAPSED,
      'questions retrieve the same few documents. Set '
      '--config.stages.STAGE.losses.indexing=1 or a lower learning rate.',
    ),
    (
      'starved',
      lambda v: v > MOST_STARVED,
      'the answers to so many questions give the search no gradient, because '
      'the ranker gives weight to wrong documents alone. Set '
      '--config.ranker.operator=softmax or '
      '--config.stages.STAGE.losses.ranking=1.',
    ),
    (
      'beam mass',
      lambda v: v < LEAST_MASS,
      'the beam misses most of the probability of docids. Raise '
      '--config.search.beam_size.',
    ),
    (
      'changes',
      lambda v: v < LEAST_CHANGED,
      'so few answers change without the cited document: the reader ignores '
      'its documents. Train it on gold documents first, by a stage with '
      '--config.stages.STAGE.candidates=gold.',
    ),
  )
  return [
    f'{name} {values[name]:.2f}: {text}'
    for name, is_bad, text in limits
    if name in values and is_bad(values[name])
  ]
