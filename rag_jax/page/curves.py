"""Curves of the page: risk and coverage, calibration, use of docid codes."""

from typing import Any

import numpy as np

POINTS = 200  # at most, of a risk-coverage curve
BINS = 10  # of a reliability diagram
Z = 1.96  # standard normal quantile of a 95% interval


def risk_coverage(
  confidence: np.ndarray, right: np.ndarray
) -> list[tuple[float, float, float]]:
  """Error rate of the most confident answers, by their share of all questions.

  Args:
    confidence: float[n], n >= 1.
    right: bool[n], whether each answer is right.

  Returns:
    (coverage, risk, threshold) for at most `POINTS` thresholds, highest first;
    answers of equal confidence are answered together.

  Example:
    >>> risk_coverage(np.array([0.9, 0.5, 0.5]), np.array([1, 1, 0]))
    [(0.3333, 0.0, 0.9), (1.0, 0.3333, 0.5)]
  """
  order = np.argsort(-confidence, kind='stable')
  sorted_confidence = confidence[order]
  errors = np.cumsum(~right[order].astype(bool))
  last = np.append(sorted_confidence[1:] != sorted_confidence[:-1], True)
  ends = np.flatnonzero(last)
  if len(ends) > POINTS:
    chosen = np.linspace(0, len(ends) - 1, POINTS).round().astype(int)
    ends = ends[np.unique(chosen)]
  count = len(confidence)
  return [
    (
      round((end + 1) / count, 4),
      round(int(errors[end]) / (end + 1), 4),
      float(f'{sorted_confidence[end]:.6g}'),
    )
    for end in ends.tolist()
  ]


def reliability(
  confidence: np.ndarray, right: np.ndarray
) -> list[dict[str, float]]:
  """Accuracy of answers of similar confidence, with its 95% Wilson interval.

  Args:
    confidence: float[n], n >= 1.
    right: bool[n], whether each answer is right.

  Returns:
    Up to `BINS` bins with about equally many answers: 'confidence' (mean),
    'accuracy', 'low', 'high' and 'count'.

  Example:
    >>> reliability(np.array([0.5]), np.array([True]))[0]['low']
    0.2065
  """
  order = np.argsort(confidence, kind='stable')
  bins = []
  for rows in np.array_split(order, min(BINS, len(order))):
    low, high = wilson(int(right[rows].sum()), len(rows))
    bins.append(
      {
        'confidence': round(float(confidence[rows].mean()), 4),
        'accuracy': round(float(right[rows].mean()), 4),
        'low': round(low, 4),
        'high': round(high, 4),
        'count': len(rows),
      }
    )
  return bins


def wilson(successes: int, count: int) -> tuple[float, float]:
  """The 95% interval of a proportion.

  Example:
    >>> [round(x, 3) for x in wilson(8, 10)]
    [0.49, 0.943]

  Reference:
    Wilson, Probable Inference, the Law of Succession, and Statistical
    Inference, 1927.
  """
  share, z = successes / count, Z**2 / count
  middle = (share + z / 2) / (1 + z)
  half = Z * np.sqrt(share * (1 - share) / count + z / 4 / count) / (1 + z)
  return max(float(middle - half), 0.0), min(float(middle + half), 1.0)


def code_use(codes: np.ndarray, found: np.ndarray) -> list[dict[str, Any]]:
  """How often each code occurs, at each level of the docids.

  Args:
    codes: int[N, L], docids of the corpus.
    found: int[n, L], docids of the first document of each question.

  Returns:
    One mapping per level: 'documents' and 'found', counts by code; and
    'perplexity' of each, the number of equally frequent codes with the same
    entropy.

  Example:
    >>> code_use(np.array([[0], [1], [1]]), np.array([[1], [1]]))[0]['found']
    [0, 2]
  """
  levels = []
  for level in range(codes.shape[1]):
    size = int(codes[:, level].max()) + 1
    documents = np.bincount(codes[:, level], minlength=size)
    first = np.bincount(found[:, level], minlength=size)[:size]
    levels.append(
      {
        'documents': documents.tolist(),
        'found': first.tolist(),
        'perplexity': [perplexity(documents), perplexity(first)],
      }
    )
  return levels


def perplexity(counts: np.ndarray) -> float:
  """Exponential of the entropy of a distribution, given by its counts.

  Example:
    >>> perplexity(np.array([3, 3, 0]))
    2.0
  """
  shares = counts[counts > 0] / max(counts.sum(), 1)
  return round(float(np.exp(-(shares * np.log(shares)).sum())), 2)
