"""A calibrated probability that an answer is right.

A logistic regression on `confidence.FEATURES`, with an L2 penalty, is fitted on
questions that training has not seen. One half of them fits it, the other half
tests its certificate. Two temperatures are fitted too: of answer probabilities
and of the ranker's scores.
"""

import dataclasses
import functools
import json
import os
import pathlib
from typing import Any

import numpy as np
from scipy import optimize, special

from rag_jax import certificate as certificates
from rag_jax import confidence, files

NAME = 'calibrator.json'  # in the workdir
FOLDS = 5  # of the cross-fitting
LEAST = 40  # questions that a calibrator needs, with both right and wrong ones
L2 = 1.0  # penalty L2 / 2 * |weights|^2 of standardised features
SEED = 0  # of the halves and folds
# Features whose values outside those of the data make a score 0.
STRANGE = (confidence.FEATURES.index('length'),)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CalibrationConfig:
  """When the system answers, and what its certificate promises."""

  # abstain if the score of the answer is below this; 0 = never
  threshold: float = 0.25
  # abstain also if the certificate does not cover the answer
  certified: bool = False
  # certificate: largest share of wrong answers among those given
  alpha: float = 0.05
  # certificate: chance that its bound does not hold
  delta: float = 0.05

  def __post_init__(self) -> None:
    """Raises a ValueError on a value out of range."""
    certificates.check(self.alpha, self.delta, prefix='calibration.')
    if not 0 <= self.threshold <= 1:
      raise ValueError(
        f'calibration.threshold must be from 0 to 1, got {self.threshold}. '
        'Set --config.calibration.threshold=0.5.'
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Logistic:
  """P(right) = sigmoid(bias + weights @ z), z = (clip(x) - center) / scale.

  It is 0 for a question that is shorter or longer than all in the data, of
  which the data says nothing.

  Attributes:
    center: mean of each feature, float64[F].
    scale: standard deviation of each feature; 1 if it is constant.
    low: least value of each feature in the data; lower ones are cut.
    high: largest value of each feature.
    weights: float64[F].
    bias: the constant.
  """

  center: np.ndarray
  scale: np.ndarray
  low: np.ndarray
  high: np.ndarray
  weights: np.ndarray
  bias: float

  def __call__(self, features: Any) -> np.ndarray:
    """The probability of each row of features float[n, F], float64[n]."""
    given = np.asarray(features, np.float64)
    x = np.clip(given, self.low, self.high)
    z = (x - self.center) / self.scale
    chance = special.expit(z @ self.weights + self.bias)
    return np.where((x != given)[..., list(STRANGE)].any(-1), 0.0, chance)


def fit_logistic(features: np.ndarray, right: np.ndarray) -> Logistic:
  """Fits a logistic regression by L-BFGS; the minimum is unique.

  Args:
    features: float[n, F], of `confidence.FEATURES`.
    right: bool[n].

  Example:
    >>> x = np.zeros((4, len(confidence.FEATURES)))
    >>> x[:, 0] = [0, 1, 2, 3]
    >>> model = fit_logistic(x, np.array([0, 0, 1, 1], bool))
    >>> model(x).round(2).tolist()
    [0.22, 0.4, 0.6, 0.78]
  """
  x = np.asarray(features, np.float64)
  low, high = x.min(axis=0), x.max(axis=0)
  center, scale = x.mean(axis=0), x.std(axis=0)
  scale = np.where(scale > 1e-9, scale, 1.0)
  z = np.column_stack([(x - center) / scale, np.ones(len(x))])
  sign = np.where(right, 1.0, -1.0)

  def loss(weights):
    margin = sign * (z @ weights)
    value = np.logaddexp(0, -margin).sum() + L2 / 2 * (weights[:-1] ** 2).sum()
    gradient = -(z.T @ (sign * special.expit(-margin)))
    gradient[:-1] += L2 * weights[:-1]
    return value, gradient

  found = optimize.minimize(
    loss, np.zeros(z.shape[1]), jac=True, method='L-BFGS-B'
  )
  return Logistic(
    center=center,
    scale=scale,
    low=low,
    high=high,
    weights=found.x[:-1],
    bias=float(found.x[-1]),
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trust:
  """How far one answer can be trusted.

  Attributes:
    score: probability that it is right; None without a calibrator.
    certified: whether the certificate covers it; None without a calibrator.
    withheld: whether the system abstains from it.
  """

  score: float | None = None
  certified: bool | None = None
  withheld: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Calibrator:
  """A fitted calibrator, compared by identity for the cache of certificates.

  Attributes:
    features: names of the features.
    logistic: the probability that an answer is right.
    answer_temperature: T of sigmoid(log-odds of the answer probability / T).
    document_temperature: T of softmax(ranker's scores / T).
    split: name of the split with the calibration questions.
    known: words of training questions with answers, for `confidence.complete`.
    ordering: scores float[m] of the fitting half, each by a model fitted
      without it, and whether each answer is right.
    testing: the same of the other half.
  """

  features: tuple[str, ...]
  logistic: Logistic
  answer_temperature: float
  document_temperature: float
  split: str
  known: frozenset[str]
  ordering: tuple[np.ndarray, np.ndarray]
  testing: tuple[np.ndarray, np.ndarray]

  def to_json(self) -> str:
    """The text of calibrator.json."""
    values: dict[str, Any] = {
      'features': list(self.features),
      'split': self.split,
      'known': sorted(self.known),
      'answer_temperature': self.answer_temperature,
      'document_temperature': self.document_temperature,
      'bias': self.logistic.bias,
    }
    for name in ('center', 'scale', 'low', 'high', 'weights'):
      values[name] = getattr(self.logistic, name).tolist()
    for name in ('ordering', 'testing'):
      scores, right = getattr(self, name)
      values[name] = {
        'scores': scores.tolist(),
        'right': right.astype(int).tolist(),
      }
    return json.dumps(values, ensure_ascii=False) + '\n'


def trust(
  calibrator: Calibrator | None, score: float | None, config: CalibrationConfig
) -> Trust:
  """How far an answer with this score can be trusted.

  Args:
    calibrator: None = nothing is known.
    score: from the calibrator; None = nothing is known.
    config: when to abstain.
  """
  if calibrator is None or score is None:
    return Trust()
  own = certificate(calibrator, config)
  certified = own is not None and own.covers(score)
  withheld = score < config.threshold or (config.certified and not certified)
  return Trust(score=score, certified=certified, withheld=withheld)


@functools.lru_cache(maxsize=16)
def certificate(
  calibrator: Calibrator | None, config: CalibrationConfig
) -> certificates.Certificate | None:
  """The certificate of the scores; None without a calibrator."""
  if calibrator is None:
    return None
  return certificates.certify(
    calibrator.ordering,
    calibrator.testing,
    alpha=config.alpha,
    delta=config.delta,
  )


def load(path: str | os.PathLike[str]) -> Calibrator:
  """Reads calibrator.json.

  Raises:
    ValueError: if the file is damaged.
  """
  damage = 'Delete it, and run rag-jax train with the same --workdir.'
  try:
    values = json.loads(pathlib.Path(path).read_text(encoding='utf-8'))
    arrays = {
      name: np.asarray(values[name], np.float64)
      for name in ('center', 'scale', 'low', 'high', 'weights')
    }
    halves = {
      name: (
        np.asarray(values[name]['scores'], np.float64),
        np.asarray(values[name]['right'], bool),
      )
      for name in ('ordering', 'testing')
    }
    if tuple(values['features']) != confidence.FEATURES:
      raise KeyError('features')
    return Calibrator(
      features=tuple(values['features']),
      logistic=Logistic(bias=float(values['bias']), **arrays),
      answer_temperature=float(values['answer_temperature']),
      document_temperature=float(values['document_temperature']),
      split=str(values['split']),
      known=frozenset(values['known']),
      **halves,
    )
  except (ValueError, KeyError, TypeError) as error:
    raise ValueError(
      f'{str(path)!r} is damaged, or of another version '
      f'({type(error).__name__}). {damage}'
    ) from error


def save(calibrator: Calibrator, folder: pathlib.Path) -> None:
  """Writes calibrator.json."""
  files.write(folder / NAME, calibrator.to_json())


def halves(count: int) -> tuple[np.ndarray, np.ndarray]:
  """Random rows of the fitting and the testing half of n questions."""
  order = np.random.default_rng(SEED).permutation(count)
  return order[: (count + 1) // 2], order[(count + 1) // 2 :]


def cross_fit(features: np.ndarray, right: np.ndarray) -> np.ndarray:
  """The score of each question by a model fitted on the other folds.

  Args:
    features: float[n, F].
    right: bool[n].

  Returns:
    float64[n].
  """
  order = np.random.default_rng(SEED + 1).permutation(len(right))
  scores = np.zeros(len(right))
  for fold in range(FOLDS):
    rows, others = (
      order[fold::FOLDS],
      np.delete(order, np.arange(fold, len(order), FOLDS)),
    )
    scores[rows] = fit_logistic(features[others], right[others])(features[rows])
  return scores


def fit(
  names: tuple[str, ...],
  features: np.ndarray,
  right: np.ndarray,
  *,
  chance: np.ndarray,
  scores: np.ndarray,
  is_gold: np.ndarray,
  split: str,
  known: frozenset[str] = frozenset(),
) -> Calibrator | None:
  """Fits a calibrator on held-out questions.

  Args:
    names: names of the features.
    features: float[n, F].
    right: bool[n], whether the best answer is right; False if there is none.
    chance: float[n], probability of each answer.
    scores: float[n, K], the ranker's scores of the candidates; -inf = none.
    is_gold: bool[n, K], gold documents among them.
    split: name of the split.
    known: words of training questions with answers.

  Returns:
    The calibrator; None with fewer than `LEAST` questions, or if all answers of
    the fitting half are right, or all are wrong.
  """
  first, second = halves(len(right))
  if len(right) < LEAST or right[first].all() or not right[first].any():
    return None
  logistic = fit_logistic(features[first], right[first])
  return Calibrator(
    features=names,
    logistic=logistic,
    answer_temperature=answer_temperature(chance[first], right[first]),
    document_temperature=document_temperature(scores[first], is_gold[first]),
    split=split,
    known=known,
    ordering=(cross_fit(features[first], right[first]), right[first]),
    testing=(logistic(features[second]), right[second]),
  )


def answer_temperature(chance: np.ndarray, right: np.ndarray) -> float:
  """T that minimises the cross-entropy of sigmoid(log-odds / T).

  Reference:
    Guo et al., On Calibration of Modern Neural Networks, 2017.
  """
  odds = special.logit(np.clip(chance, 1e-6, 1 - 1e-6))
  sign = np.where(right, 1.0, -1.0)

  def loss(log_temperature):
    return np.logaddexp(0, -sign * odds / np.exp(log_temperature)).mean()

  return _minimum(loss)


def scaled(chance: np.ndarray, temperature: float) -> np.ndarray:
  """Answer probabilities at a temperature.

  Example:
    >>> scaled(np.array([0.9]), 2.0).round(2).tolist()
    [0.75]
  """
  odds = special.logit(np.clip(chance, 1e-6, 1 - 1e-6))
  return special.expit(odds / temperature)


def document_temperature(scores: np.ndarray, is_gold: np.ndarray) -> float:
  """T that minimises -log P(gold documents) under softmax(scores / T).

  Questions without a gold document among the candidates do not count.
  """
  known = is_gold.any(axis=1)
  if not known.any():
    return 1.0
  scores, is_gold = scores[known], is_gold[known]

  def loss(log_temperature):
    logits = scores / np.exp(log_temperature)
    gold = special.logsumexp(np.where(is_gold, logits, -np.inf), axis=1)
    return (special.logsumexp(logits, axis=1) - gold).mean()

  return _minimum(loss)


def _minimum(loss) -> float:
  found = optimize.minimize_scalar(loss, bounds=(-3, 5), method='bounded')
  return float(np.exp(found.x))
