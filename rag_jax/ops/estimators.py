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
`where` is bool[..., N], True = real.
"""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np

from rag_jax.ops import sampling, selection

MAX_SET = 6  # documents of a set whose chance is computed exactly


def enumerate_all(
  scores: jax.Array, costs: jax.Array, *, where: jax.Array | None = None
) -> jax.Array:
  """sum_s p_s c_s over all documents: exact, the yardstick.

  Example:
    >>> enumerate_all(jnp.zeros(2), jnp.array([1.0, 3.0]))
    Array(2., dtype=float32)
  """
  weights = selection.softmax(scores, where=where)
  return (weights * _fixed(costs, weights)).sum(-1)


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
  chosen = sampling.top_k(scores, k=k, where=where) > 0
  return enumerate_all(scores, costs, where=chosen)


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
  selection.check_temperature(temperature)
  noise = jax.random.gumbel(rng, scores.shape, jnp.float32)
  noisy = scores + noise
  hard = sampling.top_k(noisy, k=1, where=where)
  soft = selection.softmax(noisy / temperature, where=where)
  weights = sampling.straight_through(hard, soft)
  return (weights * _fixed(costs, weights)).sum(-1)


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
    float32[...]; unbiased in value and gradient.

  Raises:
    ValueError: if there are fewer than 2 draws.

  Reference:
    Kool et al., Buy 4 REINFORCE Samples, Get a Baseline for Free, 2019.
  """
  if num_samples < 2:
    raise ValueError(
      f'num_samples must be at least 2, got {num_samples}. '
      'One draw has no other for its baseline.'
    )
  weights = selection.softmax(scores, where=where)
  log_p = jnp.log(jnp.where(weights > 0, weights, 1))
  chances = jnp.where(weights > 0, log_p, selection.LOW)
  draws = jax.random.categorical(
    rng, chances, shape=(num_samples, *scores.shape[:-1])
  )
  draws = jnp.moveaxis(draws, 0, -1)  # [..., S]
  cost = jnp.take_along_axis(_fixed(costs, weights), draws, axis=-1)
  others = (cost.sum(-1, keepdims=True) - cost) / (num_samples - 1)
  chosen = jnp.take_along_axis(log_p, draws, axis=-1)
  return _surrogate(cost.mean(-1), ((cost - others) * chosen).mean(-1))


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
    float32[...]; unbiased in value and gradient.

  Raises:
    ValueError: if k is out of range.

  Reference:
    Kool et al., Estimating Gradients for Discrete Random Variables by Sampling
    without Replacement, 2020.
  """
  if not 2 <= k <= min(MAX_SET, scores.shape[-1] - 1):
    raise ValueError(
      f'k must be between 2 and {MAX_SET} and less than the number of scores '
      f'({scores.shape[-1]}), got {k}. Draw smaller sets.'
    )
  weights = selection.softmax(scores, where=where)
  noise = jax.random.gumbel(rng, scores.shape, jnp.float32)
  log_p = jnp.log(jnp.where(weights > 0, weights, 1))
  noisy = jnp.where(weights > 0, log_p + noise, selection.LOW)
  chosen = jax.lax.top_k(jax.lax.stop_gradient(noisy), k)[1]
  p = jnp.take_along_axis(weights, chosen, axis=-1)  # [..., k]
  cost = jnp.take_along_axis(_fixed(costs, weights), chosen, axis=-1)
  fixed = jax.lax.stop_gradient(p)
  outside = jnp.put_along_axis(
    jax.lax.stop_gradient(weights), chosen, 0.0, axis=-1, inplace=False
  ).sum(-1)
  whole = set_chance(fixed, outside)
  # without[s]: the set without s, from the corpus without s; pair[s, t] alike.
  eye = np.eye(k)
  without = _chance_without(fixed, outside, eye)
  pair = _chance_without(
    fixed, outside, eye[:, None] + eye * (1 - eye[:, None])
  )
  ratio = without / whole[..., None]
  second = pair / without[..., None]  # R of t in the corpus without s
  second = jnp.where(eye > 0, 1.0, second)
  baseline = (fixed[..., None, :] * second * cost[..., None, :]).sum(-1)
  value = (fixed * ratio * cost).sum(-1)
  slope = (p * ratio * (cost - baseline)).sum(-1)
  return _surrogate(value, slope)


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
    float32[...].

  Example:
    >>> z = jnp.zeros(3)
    >>> expected_utility(jax.random.key(0), z, jnp.ones(3), k=2)
    Array(-1., dtype=float32)

  Reference:
    Zamani and Bendersky, Stochastic RAG: End-to-End Retrieval-Augmented
    Generation through Expected Utility Maximization, 2024.
  """
  drawn = sampling.gumbel_top_k(
    rng, scores, k=k, temperature=temperature, where=where
  )
  return enumerate_all(scores, -utilities, where=drawn > 0)


def set_chance(chances: jax.Array, outside: jax.Array) -> jax.Array:
  """Chance that a set is what is drawn first, in any order.

  Args:
    chances: float[..., k], of the documents of the set; k at most `MAX_SET`.
    outside: float[...], of all documents outside, together.

  Returns:
    float[...]. Only sums and products of positive numbers are formed.

  Example:
    >>> chance = set_chance(jnp.array([0.5, 0.25]), jnp.float32(0.25))
    >>> round(float(chance), 3)  # .5 * .25 / .5 + .25 * .5 / .75
    0.417
  """
  return _chance_without(chances, outside, np.zeros(chances.shape[-1]))


def _chance_without(chances, outside, removed):
  """`set_chance` of the set less some of its documents, which are gone.

  `removed` is [..., k] of 0 and 1, with one leading axis for each that the
  result has beyond those of `outside`.
  """
  k = chances.shape[-1]
  orders = np.array(list(itertools.permutations(range(k))))  # [k!, k]
  gone = removed[..., orders] > 0
  shape = chances.shape[:-1] + (1,) * (removed.ndim - 1)
  each = jnp.where(gone, 0, chances[..., orders].reshape(*shape, -1, k))
  # What is left when a document's turn comes: those after it, and the outside.
  after = jnp.cumsum(each[..., ::-1], axis=-1)[..., ::-1]
  left = outside.reshape(*shape, 1, 1) + after
  chance = jnp.where(gone, 1, each / left).prod(-1).sum(-1)
  # Each order of what stays was met once for every place of what is gone.
  stays = (k - removed.sum(-1)).astype(int)
  met = math.factorial(k) / np.vectorize(math.factorial)(stays)
  return chance / met


def _fixed(costs, like):
  """Costs without a gradient, 0 where a weight is 0 whatever stands there."""
  costs = jax.lax.stop_gradient(costs)
  return jnp.where(jax.lax.stop_gradient(like) > 0, costs, 0)


def _surrogate(value, slope):
  """The value of one, the gradient of the other."""
  return jax.lax.stop_gradient(value - slope) + slope
