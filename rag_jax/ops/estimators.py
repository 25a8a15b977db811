"""Gradients of a random choice: losses whose gradient estimates the true one.

A search draws documents s with chances p = softmax(z); document s costs c_s.
What should fall is the expected cost sum_s p_s c_s. `enumerate_all` computes
that, and everything else here estimates its gradient from a few documents, for
corpora where enumeration is out of reach. Each returns a loss a row; its value
estimates the expected cost and its gradient in `scores` the true gradient:

| estimator | looks at | bias | variance |
|---|---|---|---|
| `enumerate_all` | all documents | none | none |
| `rescore` | the best k | the mass it leaves out | none |
| `straight_through` | a soft choice | grows with temperature | low |
| `leave_one_out` | k draws | none | high |
| `leave_one_out_set` | k distinct draws | none | lower |
| `expected_utility` | k distinct draws | the mass it leaves out | low |

`scores` are float[..., N] in nats; `costs` float[..., N] carry no gradient;
`where` is bool[..., N], True = real. What is returned is computed in float32 or
wider and has the dtype of both. A document that cannot be drawn, whose weight
is 0, may have any cost. What is not finite gives what `selection` says.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from rag_jax.ops import checks, sampling, selection, set_chances

set_chance = set_chances.set_chance
MAX_SET = set_chances.MAX_SET


def enumerate_all(
  scores: jax.Array, costs: jax.Array, *, where: jax.Array | None = None
) -> jax.Array:
  """sum_s p_s c_s over all documents: exact, the yardstick.

  Example:
    >>> enumerate_all(jnp.zeros(2), jnp.array([1.0, 3.0]))
    Array(2., dtype=float32)
  """
  return _enumerate(*_checked(scores, costs, where))


@checks.compiled
def _enumerate(scores, costs, where):
  dtype, scores, costs, where = _spread(scores, costs, where)
  weights = selection.softmax(scores, where=where)
  return (weights * _fixed(costs, weights)).sum(-1).astype(dtype)


def rescore(
  scores: jax.Array,
  costs: jax.Array,
  *,
  k: int,
  where: jax.Array | None = None,
) -> jax.Array:
  """The expected cost among the best k documents, their chances renormalised.

  What this project trains with: beam search finds the candidates, which are
  scored again with a gradient. Exact on the candidates; the error is the share
  of probability outside them, which `beam.beam_mass` reports.

  Example:
    >>> z = jnp.array([0.0, 0.0, -30.0])
    >>> rescore(z, jnp.array([1.0, 3.0, 9.0]), k=2)
    Array(2., dtype=float32)
  """
  scores, costs, where = _checked(scores, costs, where)
  return _rescore(scores, costs, where, _k_of(k, scores))


@functools.partial(checks.compiled, static_argnums=3)
def _rescore(scores, costs, where, k):
  chosen = sampling.top_k(scores, k=k, where=where)
  return _enumerate(scores, costs, ~(chosen <= 0))


def straight_through(
  rng: jax.Array,
  scores: jax.Array,
  costs: jax.Array,
  *,
  temperature: float = 1.0,
  where: jax.Array | None = None,
) -> jax.Array:
  """The cost of one draw, with the gradient of a softmax at a temperature.

  Reference:
    Jang et al., Categorical Reparameterization with Gumbel-Softmax, 2017.
  """
  rng = checks.key(rng)
  temperature = checks.temperature(temperature)
  arrays = _checked(scores, costs, where)
  return _straight_through(rng, *arrays, temperature)


@checks.compiled
def _straight_through(rng, scores, costs, where, temperature):
  dtype, scores, costs, where = _spread(scores, costs, where)
  noisy = scores + jax.random.gumbel(rng, scores.shape, scores.dtype)
  hard = sampling.top_k(noisy, k=1, where=where)
  noisy = noisy / jnp.asarray(temperature, noisy.dtype)
  soft = selection.softmax(noisy, where=where)
  weights = sampling.straight_through(hard, soft)
  return (weights * _fixed(costs, weights)).sum(-1).astype(dtype)


def leave_one_out(
  rng: jax.Array,
  scores: jax.Array,
  costs: jax.Array,
  *,
  num_samples: int,
  where: jax.Array | None = None,
) -> jax.Array:
  """REINFORCE; the other draws' mean cost is each draw's baseline.

  Args:
    rng: PRNG key.
    scores: float[..., N], nats.
    costs: float[..., N].
    num_samples: independent draws, at least 2.
    where: bool[..., N].

  Returns:
    float[...]; unbiased in value and gradient.

  Raises:
    ValueError: if there are fewer than 2 draws.

  Reference:
    Kool et al., Buy 4 REINFORCE Samples, Get a Baseline for Free, 2019.
  """
  num_samples = checks.whole(num_samples, 'num_samples')
  if num_samples < 2:
    raise ValueError(
      f'num_samples must be at least 2, got {num_samples}. '
      'One draw has no other for its baseline.'
    )
  rng = checks.key(rng)
  return _leave_one_out(rng, *_checked(scores, costs, where), num_samples)


@functools.partial(checks.compiled, static_argnums=4)
def _leave_one_out(rng, scores, costs, where, num_samples):
  dtype, scores, costs, where = _spread(scores, costs, where)
  weights = selection.softmax(scores, where=where)
  never = weights <= 0
  log_p = jnp.log(jnp.where(never, 1, weights))
  chances = jnp.where(never, -jnp.inf, log_p)
  draws = jax.random.categorical(
    rng, chances, shape=(num_samples, *scores.shape[:-1])
  )
  draws = jnp.moveaxis(draws, 0, -1)  # [..., S]
  cost = jnp.take_along_axis(_fixed(costs, weights), draws, axis=-1)
  others = (cost.sum(-1, keepdims=True) - cost) / (num_samples - 1)
  chosen = jnp.take_along_axis(log_p, draws, axis=-1)
  return _surrogate(cost.mean(-1), ((cost - others) * chosen).mean(-1), dtype)


def leave_one_out_set(
  rng: jax.Array,
  scores: jax.Array,
  costs: jax.Array,
  *,
  k: int,
  where: jax.Array | None = None,
) -> jax.Array:
  """REINFORCE over a set of k distinct documents, drawn by Gumbel top-k.

  No draw is wasted on a document that has been seen. Each document counts by
  p_s R(S, s), with R(S, s) the chance that the rest of the set follows s
  relative to the chance of the set, which is computed exactly; its baseline is
  the same estimate with s taken out.

  Args:
    rng: PRNG key.
    scores: float[..., N], nats.
    costs: float[..., N].
    k: size of the set, 2 to `MAX_SET`; less than the real documents of a row.
    where: bool[..., N].

  Returns:
    float[...]; unbiased in value and gradient.

  Raises:
    ValueError: if k is out of range.

  Reference:
    Kool et al., Estimating Gradients for Discrete Random Variables by Sampling
    without Replacement, 2020.
  """
  rng, k = checks.key(rng), checks.whole(k, 'k')
  scores, costs, where = _checked(scores, costs, where)
  count = scores.shape[-1]
  # How many there are is not known where a program is exported for any number.
  if not 2 <= k <= MAX_SET or (isinstance(count, int) and k >= count):
    raise ValueError(
      f'k must be between 2 and {MAX_SET} and less than the number of scores '
      f'({count}), got {k}. Draw smaller sets.'
    )
  return _leave_one_out_set(rng, scores, costs, where, k)


@functools.partial(checks.compiled, static_argnums=4)
def _leave_one_out_set(rng, scores, costs, where, k):
  dtype, scores, costs, where = _spread(scores, costs, where)
  weights = selection.softmax(scores, where=where)
  log_p = _log_softmax(scores, weights, where)
  noisy = log_p + jax.random.gumbel(rng, scores.shape, scores.dtype)
  drawn = jax.lax.stop_gradient(jnp.where(where, noisy, -jnp.inf))
  chosen = jax.lax.top_k(drawn, k)[1]

  def take(x):
    return jnp.take_along_axis(x, chosen, axis=-1)

  # A row with fewer than k documents that can be drawn has a smaller set.
  log_p = jax.lax.stop_gradient(log_p)
  there = take(where & (log_p != -jnp.inf))
  p = jnp.where(there, take(weights), 0)  # [..., k]
  cost = jnp.where(there, take(_fixed(costs, weights)), 0)
  places = jnp.arange(scores.shape[-1])
  inside = (
    chosen[..., None, :] == _rows(places[:, None], chosen.ndim + 1)
  ).any(-1)
  outside = _log_sum_exp(jnp.where(where & ~inside, log_p, -jnp.inf))
  chance = functools.partial(
    set_chances.relative_chance, take(log_p), outside, there
  )
  eye = np.eye(k, dtype=bool)
  whole = chance(np.zeros(k, bool))
  # without[s]: the set without s, from the corpus without s; pair[s, t] alike.
  without = chance(eye)
  pair = chance(eye[:, None] | eye)
  ratio = without / whole[..., None]
  second = pair / without[..., None]  # R of t in the corpus without s
  fixed = jax.lax.stop_gradient(p)
  baseline = (fixed[..., None, :] * second * cost[..., None, :]).sum(-1)
  value = (fixed * ratio * cost).sum(-1)
  slope = (p * ratio * (cost - baseline)).sum(-1)
  return _surrogate(value, slope, dtype)


def expected_utility(
  rng: jax.Array,
  scores: jax.Array,
  utilities: jax.Array,
  *,
  k: int,
  temperature: float = 1.0,
  where: jax.Array | None = None,
) -> jax.Array:
  """Minus the expected utility over k documents drawn without replacement.

  The chances of the drawn documents are renormalised, as Stochastic RAG does;
  a utility is a measure of the answer, such as F1, and needs no gradient.

  Args:
    rng: PRNG key.
    scores: float[..., N], nats.
    utilities: float[..., N], of the answer that each document leads to.
    k: documents drawn, 1 to N.
    temperature: of the draw.
    where: bool[..., N].

  Returns:
    float[...].

  Example:
    >>> z = jnp.zeros(3)
    >>> expected_utility(jax.random.key(0), z, jnp.ones(3), k=2)
    Array(-1., dtype=float32)

  Reference:
    Zamani and Bendersky, Stochastic RAG: End-to-End Retrieval-Augmented
    Generation through Expected Utility Maximization, 2024.
  """
  scores, utilities, where = _checked(scores, utilities, where, 'utilities')
  drawn = sampling.gumbel_top_k(
    rng, scores, k=k, temperature=temperature, where=where
  )
  return _minus_utility(scores, utilities, drawn)


@checks.compiled
def _minus_utility(scores, utilities, drawn):
  return _enumerate(scores, -utilities, ~(drawn <= 0))


def _log_softmax(scores, weights, where):
  """Log softmax of the real slots, also where a weight is too small for one."""
  best = jnp.max(scores, axis=-1, keepdims=True, where=where, initial=-jnp.inf)
  shifted = jnp.where(where, scores - jax.lax.stop_gradient(best), 0)
  total = jnp.where(where, jnp.exp(shifted), 0).sum(-1, keepdims=True)
  tiny = jnp.finfo(weights.dtype).tiny
  return jnp.where(
    weights > tiny,
    jnp.log(jnp.where(weights > tiny, weights, 1)),
    shifted - jnp.log(jnp.where(total == 0, 1, total)),
  )


def _log_sum_exp(logs):
  """Log of the sum of exp along the last axis; -inf where all are -inf."""
  best = jnp.max(logs, axis=-1, keepdims=True, initial=-jnp.inf)
  best = jnp.where(best == -jnp.inf, 0, best)
  return best[..., 0] + jnp.log(jnp.exp(logs - best).sum(-1))


def _fixed(costs, like):
  """Costs without a gradient, 0 where a weight is 0 whatever stands there."""
  costs = jax.lax.stop_gradient(costs)
  return jnp.where(jax.lax.stop_gradient(like) == 0, 0, costs)


def _surrogate(value, slope, dtype):
  """The value of one, the gradient of the other."""
  return (jax.lax.stop_gradient(value - slope) + slope).astype(dtype)


def _checked(scores, costs, where, name='costs'):
  scores, costs = checks.floats(scores), checks.floats(costs, name)
  where = checks.mask(where)
  checks.together(**{'scores': scores, name: costs, 'where': where})
  return scores, costs, where


def _spread(scores, costs, where):
  dtype = checks.result_dtype(scores, costs)
  return dtype, *checks.spread(scores, costs, where=where)


def _k_of(k, scores):
  return checks.k_of(k, scores.shape[checks.axis_of(-1, scores.ndim)])


def _rows(x, ndim):
  return x.reshape((1,) * (ndim - x.ndim) + x.shape)
