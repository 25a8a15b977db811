"""Random and relaxed choices of k slots.

As in `selection`, every operator takes `scores` float[..., K, ...] in nats and
`where`, bool, True = real, and gives weights of the same shape and dtype; a
masked slot gets exactly 0 and no gradient. A choice of k has weights that sum
to k, or to the number of real slots where there are fewer.
"""

import functools

import jax
import jax.numpy as jnp
import optax

from rag_jax.ops import selection


def gumbel_top_k(
  rng: jax.Array,
  scores: jax.Array,
  *,
  k: int,
  temperature: float = 1.0,
  where: jax.Array | None = None,
  axis: int = -1,
) -> jax.Array:
  """Draws k slots without replacement, with chances softmax(z / temperature).

  The k largest of z / temperature + Gumbel noise are a draw from the
  Plackett-Luce distribution. Weights are 0 or 1 and carry no gradient; see
  `straight_through` and `estimators`.

  Args:
    rng: PRNG key.
    scores: float[..., K, ...], nats.
    k: how many to draw, 1 to K.
    temperature: positive; larger is more random.
    where: bool, broadcasts to scores.
    axis: the axis to draw along.

  Returns:
    Weights of 0 and 1.

  Example:
    >>> draw = gumbel_top_k(jax.random.key(0), jnp.zeros(5), k=2)
    >>> float(draw.sum())
    2.0

  Reference:
    Kool et al., Stochastic Beams and Where to Find Them, 2019.
  """
  selection.check_k(k, scores.shape[axis])
  selection.check_temperature(temperature)
  scores = jax.lax.stop_gradient(scores)

  def kernel(x, real):
    noise = jax.random.gumbel(rng, x.shape, x.dtype)
    return _best(x / temperature + noise, real, k=k)

  return selection.along(kernel, scores, where, axis)


def top_k(
  scores: jax.Array,
  *,
  k: int,
  where: jax.Array | None = None,
  axis: int = -1,
) -> jax.Array:
  """1 for the k best slots, else 0; of equal scores the earlier is taken.

  Example:
    >>> top_k(jnp.array([0.5, 2.0, 1.0]), k=2)
    Array([0., 1., 1.], dtype=float32)
  """
  selection.check_k(k, scores.shape[axis])
  scores = jax.lax.stop_gradient(scores)
  kernel = functools.partial(_best, k=k)
  return selection.along(kernel, scores, where, axis)


def relaxed_top_k(
  scores: jax.Array,
  *,
  k: int,
  temperature: float = 1.0,
  rng: jax.Array | None = None,
  where: jax.Array | None = None,
  axis: int = -1,
) -> jax.Array:
  """Takes a softmax k times, each time setting what was taken aside.

  a_i = softmax(z / t), z <- z + log(1 - a_i); the weights are the sum of the
  a_i. As t goes to 0 this is the top k, with noise a draw without replacement.

  Args:
    scores: float[..., K, ...], nats.
    k: how many to take, 1 to K.
    temperature: t, positive.
    rng: PRNG key for Gumbel noise on the scores; None adds none.
    where: bool, broadcasts to scores.
    axis: the axis to take along.

  Returns:
    Weights that sum to k; at a high temperature one may be more than 1.

  Example:
    >>> weights = relaxed_top_k(jnp.array([3.0, 2.0, 0.0]), k=2,
    ...                         temperature=0.1)
    >>> weights.round(2)
    Array([1., 1., 0.], dtype=float32)

  Reference:
    Xie and Ermon, Reparameterizable Subset Sampling via Continuous
    Relaxations, 2019.
  """
  selection.check_k(k, scores.shape[axis])
  selection.check_temperature(temperature)

  def kernel(x, real):
    if rng is not None:
      x = x + jax.random.gumbel(rng, x.shape, x.dtype)
    count = real.sum(axis=-1, keepdims=True)
    total = jnp.zeros_like(x)
    for turn in range(k):
      # A row that has run out of slots takes no more.
      open_ = real & (turn < count)
      share = selection.softmax(x / temperature, where=open_)
      total = total + share
      # A share of 1 would set its slot aside for good, with a gradient of nan.
      x = x + jnp.log1p(-jnp.minimum(share, 1 - _ALMOST))
    few = count <= k
    return jnp.where(real, jnp.where(few, 1.0, total), 0)

  return selection.along(kernel, scores, where, axis)


def straight_through(hard: jax.Array, soft: jax.Array) -> jax.Array:
  """The value of `hard` with the gradient of `soft`.

  Biased, but of low variance: the forward pass sees a real choice.

  Example:
    >>> z = jnp.array([1.0, 0.0])
    >>> choose = lambda z: straight_through(top_k(z, k=1),
    ...                                     selection.softmax(z))
    >>> choose(z)
    Array([1., 0.], dtype=float32)
    >>> bool((jax.jacobian(choose)(z) != 0).all())
    True

  Reference:
    Bengio et al., Estimating or Propagating Gradients Through Stochastic
    Neurons, 2013.
  """
  return soft + jax.lax.stop_gradient(hard - soft)


def perturbed_top_k(
  rng: jax.Array,
  scores: jax.Array,
  *,
  k: int,
  temperature: float = 1.0,
  num_samples: int = 100,
  where: jax.Array | None = None,
  axis: int = -1,
) -> jax.Array:
  """The mean of the top k over noisy scores, differentiable.

  E[top_k(z + temperature * Gumbel)], estimated with `num_samples` draws; its
  gradient is estimated from the same draws.

  Args:
    rng: PRNG key.
    scores: float[..., K, ...], nats.
    k: how many to choose, 1 to K.
    temperature: positive; scale of the noise.
    num_samples: draws, at least 1.
    where: bool, broadcasts to scores.
    axis: the axis to choose along.

  Returns:
    Weights that sum to k: the share of draws in which a slot was chosen.

  Example:
    >>> weights = perturbed_top_k(jax.random.key(0), jnp.array([9.0, 0.0]), k=1)
    >>> weights.round(1)
    Array([1., 0.], dtype=float32)

  Reference:
    Berthet et al., Learning with Differentiable Perturbed Optimizers, 2020.
  """
  selection.check_k(k, scores.shape[axis])
  selection.check_temperature(temperature)
  if num_samples < 1:
    raise ValueError(
      f'num_samples must be at least 1, got {num_samples}. Draw more.'
    )

  def row(rng, x, real):  # a row a key, or rows would add noise to each other
    noisy = optax.perturbations.make_perturbed_fun(
      lambda x: _best(x, real, k=k), num_samples=num_samples, sigma=temperature
    )
    return jnp.where(real, noisy(rng, x), 0)

  def kernel(x, real):
    keys = jax.random.split(rng, x.shape[:-1])
    return jnp.vectorize(row, signature='(),(n),(n)->(n)')(keys, x, real)

  return selection.along(kernel, scores, where, axis)


def _best(x, where, *, k):
  """1 for the k best real slots of [..., K], else 0."""
  order = jax.lax.top_k(jnp.where(where, x, selection.LOW), k)[1]
  chosen = jax.nn.one_hot(order, x.shape[-1], dtype=x.dtype).sum(axis=-2)
  return jnp.where(where, chosen, 0)


_ALMOST = 1e-6
