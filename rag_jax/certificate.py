"""A certificate for answers: a distribution-free bound on the share of errors.

  Of the questions that the system answers, at most alpha are answered wrongly,
  with confidence 1 - delta.

The system answers a question if its score reaches a threshold, and
`certify` chooses the threshold by fixed-sequence testing. It assumes that
questions are independent draws from the distribution of the held-out ones, and
nothing about the scores.

Reference:
  Angelopoulos et al., Learn then Test: Calibrating Predictive Algorithms to
  Achieve Risk Control, 2021. Bauer, Multiple Testing in Clinical Trials, 1991.
"""

import dataclasses
from typing import Any

import numpy as np
from scipy import stats

THRESHOLDS = 60  # that are tested at most


@dataclasses.dataclass(frozen=True, kw_only=True)
class Test:
  """The test of one threshold: whether more than alpha are wrong.

  Attributes:
    threshold: least score of an answer that is given.
    answered: number of testing questions with such a score.
    wrong: number of them whose answer is wrong.
    p: P(Bin(answered, alpha) <= wrong).
  """

  threshold: float
  answered: int
  wrong: int
  p: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Certificate:
  """The bound, with the numbers behind it.

  Attributes:
    alpha: largest share of wrong answers among those given.
    delta: chance that the bound does not hold.
    questions: number of testing questions.
    tests: the tests in their order, up to the first that is not rejected.
  """

  alpha: float
  delta: float
  questions: int
  tests: tuple[Test, ...]

  @property
  def accepted(self) -> Test | None:
    """The last test that passed; None if nothing can be promised."""
    passed = [test for test in self.tests if test.p <= self.delta]
    return passed[-1] if passed else None

  def covers(self, score: float) -> bool:
    """Whether an answer with this score is among those of the bound."""
    accepted = self.accepted
    return accepted is not None and score >= accepted.threshold

  def to_dict(self, *, split: str = '') -> dict[str, Any]:
    """The certificate as JSON-serialisable values.

    Args:
      split: name of the split with the held-out questions.
    """
    accepted = self.accepted
    return {
      'alpha': self.alpha,
      'delta': self.delta,
      'promises': accepted is not None,
      'threshold': accepted.threshold if accepted else None,
      'share_answered': accepted.answered / self.questions if accepted else 0.0,
      'answered': accepted.answered if accepted else 0,
      'wrong': accepted.wrong if accepted else 0,
      'questions': self.questions,
      'assumes': (
        'questions are independent draws from the distribution of those in '
        f'split {split!r}; it promises nothing for other questions'
      ),
      'tests': [dataclasses.asdict(test) for test in self.tests],
    }

  def show(self) -> str:
    """One sentence about what is promised."""
    accepted = self.accepted
    chance = f'with confidence {1 - self.delta:.0%}'
    if accepted is None:
      return (
        f'certificate: nothing can be promised at alpha {self.alpha:g}, from '
        f'{self.questions} held-out questions'
      )
    return (
      f'certificate: of the answers with a score of at least '
      f'{accepted.threshold:.3f}, at most {self.alpha:.0%} are wrong, '
      f'{chance}; they were {accepted.answered / self.questions:.0%} of '
      f'{self.questions} held-out questions, {accepted.wrong} wrong'
    )


def check(alpha: float, delta: float, *, prefix: str = '') -> None:
  """Raises a ValueError if a level is not between 0 and 1."""
  for name, value in (('alpha', alpha), ('delta', delta)):
    if not 0 < value < 1:
      raise ValueError(
        f'{prefix}{name} must be between 0 and 1, got {value}. '
        f'Set {"--config." if prefix else ""}{prefix}{name}=0.05.'
      )


def certify(
  ordering: tuple[np.ndarray, np.ndarray],
  testing: tuple[np.ndarray, np.ndarray],
  *,
  alpha: float,
  delta: float,
) -> Certificate:
  """Chooses a threshold of the score by fixed-sequence testing.

  The candidates are `THRESHOLDS` quantiles of the ordering scores. The sequence
  starts at the one with the least p-value on the ordering questions and goes on
  to lower ones. Each is tested on the testing questions at level delta, and the
  first failure ends the sequence. The order does not depend on the testing
  questions, so the chance of any false promise is at most delta.

  Args:
    ordering: scores float[m] and whether each answer is right, bool[m].
    testing: the same of n other questions. The score must not have been fitted
      on them.
    alpha: largest share of wrong answers among those given.
    delta: chance that the bound does not hold.

  Returns:
    The certificate; it promises nothing if the first test fails.

  Raises:
    ValueError: if a level is not between 0 and 1.

  Example:
    >>> scores = np.linspace(0, 1, 400)
    >>> right = scores > 0.3
    >>> found = certify(
    ...   (scores[::2], right[::2]), (scores[1::2], right[1::2]),
    ...   alpha=0.1, delta=0.05,
    ... )
    >>> 0.2 < found.accepted.threshold < 0.3
    True
  """
  check(alpha, delta)
  scores, right = _arrays(ordering)
  others, others_right = _arrays(testing)
  if not scores.size or not others.size:
    return Certificate(
      alpha=alpha, delta=delta, questions=len(others), tests=()
    )
  thresholds = np.unique(
    np.quantile(scores, np.linspace(1, 0, THRESHOLDS), method='lower')
  )[::-1]
  first = int(np.argmin(_test(scores, right, thresholds, alpha)[2]))
  thresholds = thresholds[first:]
  counts, wrong, p = _test(others, others_right, thresholds, alpha)
  failed = np.flatnonzero(p > delta)
  last = failed[0] + 1 if failed.size else len(thresholds)
  return Certificate(
    alpha=alpha,
    delta=delta,
    questions=len(others),
    tests=tuple(
      Test(
        threshold=float(thresholds[t]),
        answered=int(counts[t]),
        wrong=int(wrong[t]),
        p=float(p[t]),
      )
      for t in range(last)
    ),
  )


def _test(
  scores: np.ndarray, right: np.ndarray, thresholds: np.ndarray, alpha: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Answered and wrong questions above each threshold, and their p-values."""
  order = np.argsort(scores)
  start = np.searchsorted(scores[order], thresholds)
  counts = len(scores) - start
  errors = np.append(np.cumsum(~right[order][::-1])[::-1], 0)
  wrong = errors[start]
  return counts, wrong, stats.binom.cdf(wrong, counts, alpha)


def _arrays(pair: tuple[np.ndarray, np.ndarray]):
  """Scores and rights as arrays; a score that is NaN counts as the lowest."""
  scores = np.asarray(pair[0], np.float64)
  right = np.asarray(pair[1], bool)
  if scores.shape != right.shape or scores.ndim != 1:
    raise ValueError(
      f'scores and right must have the same shape [n], got {scores.shape} and '
      f'{right.shape}.'
    )
  return np.nan_to_num(scores, nan=-np.inf), right
