"""Measures of answers as tokens, and of the calibration of probabilities."""

import jax
import jax.numpy as jnp
import numpy as np

from rag_jax.ops import checks, tie_order


def token_exact_match(prediction: jax.Array, answers: jax.Array) -> jax.Array:
  """1 where the tokens are those of one of the answers, else 0.

  Args:
    prediction: int[..., A], 0 = padding at the end.
    answers: int[..., M, A'], 0 = padding; an all-zero answer is none. Leading
      axes broadcast with those of `prediction`.

  Returns:
    float32[...].

  Raises:
    ValueError: if shapes do not go together.

  Example:
    >>> token_exact_match(jnp.array([7, 8, 0]), jnp.array([[7, 8], [9, 0]]))
    Array(1., dtype=float32)
  """
  prediction, answers = _answers(prediction, answers)
  size = max(prediction.shape[-1], answers.shape[-1])

  def pad(x):
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, size - x.shape[-1])])

  same = (pad(prediction)[..., None, :] == pad(answers)).all(-1)
  return (same & (answers != 0).any(-1)).any(-1).astype(jnp.float32)


def token_f1(prediction: jax.Array, answers: jax.Array) -> jax.Array:
  """2 * overlap / (length + length'), tokens as multisets; the best answer's.

  Args:
    prediction: int[..., A], 0 = padding at the end.
    answers: int[..., M, A'], 0 = padding; an all-zero answer is none. Leading
      axes broadcast with those of `prediction`.

  Returns:
    float32[...], from 0 to 1.

  Raises:
    ValueError: if shapes do not go together.

  Example:
    >>> token_f1(jnp.array([7, 8, 0]), jnp.array([[7, 9], [5, 0]]))
    Array(0.5, dtype=float32)
  """
  prediction, answers = _answers(prediction, answers)
  prediction = jnp.broadcast_to(
    prediction[..., None, :], (*answers.shape[:-1], prediction.shape[-1])
  )
  tokens = jnp.concatenate([prediction, answers], axis=-1)
  own = jnp.arange(tokens.shape[-1]) < prediction.shape[-1]
  own = jnp.broadcast_to(own, tokens.shape)
  tokens, own = jax.lax.sort((tokens, own), num_keys=1)
  # Of a token that comes a times here and b times there, min(a, b) are shared.
  groups = tie_order.groups_of(tokens[..., 1:] != tokens[..., :-1])
  real = tokens != 0
  ours = tie_order.group_sums(groups, (own & real).astype(jnp.float32))[0]
  theirs = tie_order.group_sums(groups, (~own & real).astype(jnp.float32))[0]
  shared = jnp.where(groups.within == 0, jnp.minimum(ours, theirs), 0.0).sum(-1)
  lengths = real.sum(-1).astype(jnp.float32)
  value = tie_order.ratio(2 * shared, lengths)
  return jnp.where((answers != 0).any(-1), value, 0.0).max(-1, initial=0.0)


def expected_calibration_error(
  confidence: jax.Array,
  correct: jax.Array,
  *,
  bins: int = 15,
  where: jax.Array | None = None,
) -> jax.Array:
  """How far stated chances are from the share that comes true.

  sum over bins of (share of predictions in it) * |mean confidence - accuracy|,
  with bins of equal width.

  Args:
    confidence: float[n], from 0 to 1.
    correct: bool[n].
    bins: at least 1.
    where: bool[n], True = real.

  Returns:
    float32[]; NaN where a real confidence is NaN or nothing is real.

  Raises:
    ValueError: if shapes differ or `bins` is below 1.

  Example:
    >>> sure = jnp.array([0.75, 0.75])
    >>> expected_calibration_error(sure, jnp.array([True, False]))
    Array(0.25, dtype=float32)

  Reference:
    Guo et al., On Calibration of Modern Neural Networks, 2017.
  """
  confidence, correct = _predictions(confidence, correct)
  bins = checks.number_of(bins, 'bins', least=1)
  where = tie_order.check_mask(where, 'confidence', confidence)
  kept = jnp.where(where, confidence, 0.0)
  place = jnp.ceil(jnp.nan_to_num(kept) * bins).astype(jnp.int32) - 1
  place = jnp.clip(place, 0, bins - 1)
  gap = jnp.where(where, kept - correct, 0.0)
  gaps = jax.ops.segment_sum(gap, place, bins)
  return jnp.abs(gaps).sum() / where.sum().astype(jnp.float32)


def risk_coverage(
  confidence: jax.Array, correct: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Error among the surest answers, for every share that is answered.

  Args:
    confidence: float[n].
    correct: bool[n], or float[n] from 0 to 1.

  Returns:
    float32[n] risks, entry i over the surest i + 1 answers (those of equal
    confidence have their mean error), and float32[], the area under them. A
    confidence of NaN comes last, and is a risk of NaN: so is the area.

  Raises:
    ValueError: if shapes differ.

  Example:
    >>> risks, area = risk_coverage(jnp.array([0.9, 0.2]),
    ...                             jnp.array([True, False]))
    >>> risks.tolist(), float(area)
    ([0.0, 0.5], 0.25)

  Reference:
    Geifman and El-Yaniv, Selective Classification for Deep Neural Networks,
    2017.
  """
  given = jnp.asarray(confidence)
  _, correct = _predictions(given, correct)
  known = ~jnp.isnan(given)
  order, groups = tie_order.sort(given, known)
  wrong = jnp.take_along_axis(1 - correct, order, axis=-1)
  sums, before = tie_order.group_sums(groups, wrong)
  places = jnp.arange(len(given), dtype=jnp.float32)
  within = (groups.within + 1) * sums / groups.sizes
  risks = (before + within) / (places + 1)
  risks = jnp.where(
    places < tie_order.count_relevant(known.astype(jnp.float32)), risks, jnp.nan
  )
  return risks, risks.mean()


def auroc(
  scores: jax.Array,
  positive: jax.Array,
  *,
  where: jax.Array | None = None,
) -> jax.Array:
  """Chance that a positive has a larger score than a negative.

  P(s+ > s-) + P(s+ = s-) / 2, the area under the ROC curve, in O(n log n).

  Args:
    scores: float[n].
    positive: bool[n].
    where: bool[n], True = real.

  Returns:
    float32[]; NaN without positives or without negatives, or with a real score
    that is NaN.

  Raises:
    ValueError: if shapes differ.

  Example:
    >>> auroc(jnp.array([0.9, 0.4, 0.4]), jnp.array([True, True, False]))
    Array(0.75, dtype=float32)

  Reference:
    Fawcett, An Introduction to ROC Analysis, 2006.
  """
  scores, positive = _predictions(scores, positive)
  where = tie_order.check_mask(where, 'scores', scores)
  negative = where & (positive == 0)
  positive = where & (positive > 0)
  count = negative.sum()
  others = jnp.sort(jnp.where(negative, scores, jnp.inf))

  def below(side):
    return jnp.minimum(jnp.searchsorted(others, scores, side=side), count)

  wins = (below('left') + below('right')) / 2
  pairs = positive.sum().astype(jnp.float32) * count
  missing = (where & jnp.isnan(scores)).any()
  return jnp.where(missing, jnp.nan, (wins * positive).sum() / pairs)


def _answers(prediction, answers):
  """Both as arrays whose leading axes go together."""
  prediction, answers = tie_order.arrays(prediction=prediction, answers=answers)
  leading = answers.shape[:-2]
  try:
    if answers.ndim < 2:
      raise ValueError
    leading = np.broadcast_shapes(prediction.shape[:-1], leading)
  except ValueError:
    raise ValueError(
      f"answers must be int[..., M, A'], M answers for each prediction, got "
      f'{answers.shape} for a prediction of {prediction.shape}. Add an axis of '
      'size 1 where there is one answer.'
    ) from None
  dtype = np.promote_types(prediction.dtype, answers.dtype)
  answers = jnp.broadcast_to(answers, (*leading, *answers.shape[-2:]))
  prediction = jnp.broadcast_to(prediction, (*leading, prediction.shape[-1]))
  return prediction.astype(dtype), answers.astype(dtype)


def _predictions(confidence, correct):
  """Both as float32[n]."""
  confidence, correct = tie_order.arrays(confidence=confidence, correct=correct)
  if confidence.ndim != 1:
    raise ValueError(
      f'confidence must be float[n], got {confidence.shape}. Flatten it, or '
      'use jax.vmap for a value a row.'
    )
  tie_order.check_shape('correct', correct, 'confidence', confidence)
  return confidence.astype(jnp.float32), correct.astype(jnp.float32)
