"""How far scores of answers can be trusted: rows of the results.

Scores order answers from the surest to the least sure. All measures have 95%
bootstrap intervals over questions.
"""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from rag_jax import report
from rag_jax.ops import answer_metrics

RESAMPLES = 100  # bootstrap resamples
LEAST = 1024  # lengths are rounded up to it times a power of 4, and compiled
COVERAGES = (50, 80, 100)  # percent of the questions that are answered
MEASURES = ('ECE', 'Brier', 'AUROC', 'AURC', *(f'EM@{c}%' for c in COVERAGES))


def of_answers(scores: np.ndarray, right: np.ndarray) -> dict[str, np.ndarray]:
  """Measures of scores as probabilities that answers are right.

  ECE is the expected calibration error, Brier the mean squared error, AUROC the
  chance that a right answer has a larger score than a wrong one, AURC the area
  under the risk-coverage curve, and EM@50% the share of right answers among the
  surest 50%.

  Args:
    scores: float[n], from 0 to 1.
    right: bool[n], whether the best answer is right, also if it is withheld.

  Returns:
    Measure -> float64[1 + RESAMPLES]: its value, and those of the resamples;
    NaN where it is undefined.

  Example:
    >>> found = of_answers(np.array([0.9, 0.5]), np.array([True, False]))
    >>> {name: round(float(value[0]), 2) for name, value in found.items()}
    ... # doctest: +NORMALIZE_WHITESPACE
    {'ECE': 0.3, 'Brier': 0.13, 'AUROC': 1.0, 'AURC': 0.25, 'EM@50%': 1.0,
     'EM@80%': 0.5, 'EM@100%': 0.5}
  """
  found = _resampled(_measure_answers, scores, right)
  return {name: found[name] for name in MEASURES if name in found}


def separation(scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
  """The AUROC of positives against negatives, and those of resamples."""
  return _resampled(_measure_separation, scores, positive)['AUROC']


def of_documents(weights: np.ndarray, is_gold: np.ndarray) -> np.ndarray:
  """The ECE of document weights above 0, and that of resamples.

  Args:
    weights: float[n, K].
    is_gold: bool[n, K].
  """
  weights, is_gold = np.asarray(weights), np.asarray(is_gold)
  some = weights > 0
  return _resampled(_measure_error, weights[some], is_gold[some])['ECE']


def results(
  split: str, system: str, found: Mapping[str, np.ndarray], count: int
) -> list[report.Result]:
  """Rows of the results, without those that are undefined."""
  rows = []
  for metric, values in found.items():
    if not np.isfinite(values[0]):
      continue
    low, high = np.nanquantile(values[1:], [0.025, 0.975])
    rows.append(
      report.Result(
        split=split,
        system=system,
        metric=metric,
        value=float(values[0]),
        low=float(low),
        high=float(high),
        count=count,
      )
    )
  return rows


def _resampled(function, scores, right) -> dict[str, np.ndarray]:
  """The measures of the data and of bootstrap resamples of it."""
  count = len(scores)
  if not count:
    return dict.fromkeys(MEASURES, np.array([np.nan]))
  size = LEAST
  while size < count:
    size *= 4
  rng = np.random.default_rng(0)
  draws = rng.integers(0, count, (RESAMPLES, count))
  rows = np.zeros((RESAMPLES + 1, size), int)
  rows[0, :count], rows[1:, :count] = np.arange(count), draws
  found = function(
    jnp.asarray(np.asarray(scores, np.float32)[rows]),
    jnp.asarray(np.asarray(right, bool)[rows]),
    jnp.asarray(np.arange(size) < count),
  )
  return {name: np.asarray(value, np.float64) for name, value in found.items()}


@jax.jit
@functools.partial(jax.vmap, in_axes=(0, 0, None))
def _measure_answers(scores, right, where):
  risks, _ = answer_metrics.risk_coverage(
    jnp.where(where, scores, jnp.nan), right
  )
  count = where.sum()
  error = answer_metrics.expected_calibration_error
  found = {
    'ECE': error(scores, right, where=where),
    'AUROC': answer_metrics.auroc(scores, right, where=where),
    'AURC': jnp.nanmean(risks),
    'Brier': jnp.where(where, (scores - right) ** 2, 0.0).sum() / count,
  }
  for share in COVERAGES:
    last = jnp.ceil(count * (share / 100)).astype(jnp.int32) - 1
    found[f'EM@{share}%'] = 1 - risks[jnp.maximum(last, 0)]
  return found


@jax.jit
@functools.partial(jax.vmap, in_axes=(0, 0, None))
def _measure_separation(scores, right, where):
  return {'AUROC': answer_metrics.auroc(scores, right, where=where)}


@jax.jit
@functools.partial(jax.vmap, in_axes=(0, 0, None))
def _measure_error(scores, right, where):
  error = answer_metrics.expected_calibration_error
  return {'ECE': error(scores, right, where=where)}
