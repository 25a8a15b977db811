"""Random and relaxed choices of k slots.

As in `selection`, every operator takes `scores` float[..., K, ...] in nats and
`where`, bool, True = real, and gives weights of the same shape and dtype; a
masked slot gets exactly 0 and no gradient. A choice of k has weights that sum
to k, or to the number of real slots where there are fewer.
"""

import jax
import jax.numpy as jnp

from rag_jax.ops import checks, selection, thresholds


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
  rng, scores = checks.key(rng), checks.floats(scores)
  return selection.apply(
    _gumbel_top_k,
    jax.lax.stop_gradient(scores),
    where,
    axis,
    rng,
    checks.temperature(temperature),
    raw=True,
    k=_k_of(k, scores, axis),
  )


def _gumbel_top_k(x, real, rng, temperature, *, k):
  noise = jax.random.gumbel(rng, x.shape, x.dtype)
  x = thresholds.centred(x, real, k) / _like(temperature, x)
  return thresholds.best(x + noise, real, k)


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
  scores = checks.floats(scores)
  k = _k_of(k, scores, axis)
  scores = jax.lax.stop_gradient(scores)
  return selection.apply(thresholds.best, scores, where, axis, raw=True, k=k)


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
  scores = checks.floats(scores)
  return selection.apply(
    _relaxed_top_k,
    scores,
    where,
    axis,
    None if rng is None else checks.key(rng),
    checks.temperature(temperature),
    raw=True,
    k=_k_of(k, scores, axis),
  )


def _relaxed_top_k(x, real, rng, temperature, *, k):
  temperature = _like(temperature, x)
  x = jnp.clip(thresholds.centred(x, real, k), -_FAR, _FAR)
  if rng is not None:
    x = x + jax.random.gumbel(rng, x.shape, x.dtype)
  count = real.sum(axis=-1, keepdims=True)
  total = jnp.zeros_like(x)
  for turn in range(k):
    # A row that has run out of slots takes no more.
    open_ = real & (turn < count)
    # The best at 0 before it is divided: XLA may work out a quotient in several
    # places, and round it differently there.
    best = jnp.max(x, axis=-1, keepdims=True, where=open_, initial=-jnp.inf)
    logits = jnp.where(open_, x - best, 0) / temperature
    share = selection.softmax(logits, where=open_)
    total = total + share
    aside = jnp.log1p(-jnp.minimum(share, 1 - _ALMOST))
    aside = jnp.where(share > 1 - _ALMOST, _log_of_rest(logits, open_), aside)
    x = x + aside
  few = count <= k
  all_taken = few & (x == x)  # but NaN stays NaN
  return jnp.where(real, jnp.where(all_taken, 1, total), 0)


def _log_of_rest(x, where):
  """log(1 - softmax(x)) of the best, precise where its share rounds to 1."""
  best = jnp.max(x, axis=-1, keepdims=True, where=where, initial=-jnp.inf)
  others = where & (x < best)
  second = jnp.max(x, axis=-1, keepdims=True, where=others, initial=-jnp.inf)
  second = jax.lax.stop_gradient(jnp.where(second > -jnp.inf, second, best))
  rest = jnp.exp(jnp.where(others, x - second, 0))
  total = jnp.where(others, rest, 0).sum(axis=-1, keepdims=True)
  log_total = jnp.log(jnp.where(total > 0, total, 1))
  # The best has nearly all of the whole, whose log is therefore its own.
  return second + log_total - best


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
  hard, soft = checks.floats(hard, 'hard'), checks.floats(soft, 'soft')
  checks.together(hard=hard, soft=soft)
  return _straight_through(hard, soft)


@checks.compiled
def _straight_through(hard, soft):
  dtype = checks.result_dtype(hard, soft)
  shape = jnp.broadcast_shapes(hard.shape, soft.shape)
  hard, soft = (jnp.broadcast_to(x.astype(dtype), shape) for x in (hard, soft))
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
  rng, scores = checks.key(rng), checks.floats(scores)
  return selection.apply(
    _perturbed_top_k,
    scores,
    where,
    axis,
    rng,
    checks.temperature(temperature),
    raw=True,
    k=_k_of(k, scores, axis),
    num_samples=checks.number_of(num_samples, 'num_samples', least=1),
  )


def _perturbed_top_k(x, real, rng, temperature, *, k, num_samples):
  x = thresholds.centred(x, real, k)

  def row(rng, x, real):  # a row a key, or rows would add noise to each other
    return _perturbed(rng, x, real, _like(temperature, x), k, num_samples)

  for _ in x.shape[:-1]:
    row = jax.vmap(row)
  return jnp.where(real, row(jax.random.split(rng, x.shape[:-1]), x, real), 0)


def _perturbed(rng, x, real, scale, k, num_samples):
  """The mean of the top k of float[K] over noise, by the score function.

  Its derivatives of any order are estimates from the same draws, with the
  choice without noise as their baseline (Foerster et al., DiCE, 2018).
  """
  finite = ~jnp.isinf(x)
  clean = jnp.where(finite, x, 0)
  baseline = thresholds.best(jax.lax.stop_gradient(x), real, k)

  def draw(key):
    key = jax.random.split(key, 1)[0]
    noise = jax.random.gumbel(key, x.shape, x.dtype)
    noisy = jax.lax.stop_gradient(clean + scale * noise)
    noise = (noisy - clean) / scale
    log_p = (-noise - jnp.exp(-noise)).sum()
    box = jnp.exp(log_p - jax.lax.stop_gradient(log_p))  # 1, with a gradient
    chosen = jnp.where(finite, noisy, jax.lax.stop_gradient(x))
    return box * thresholds.best(chosen, real, k) + (1 - box) * baseline

  return jax.vmap(draw)(jax.random.split(rng, num_samples)).mean(axis=0)


def nucleus(
  rng: jax.Array,
  scores: jax.Array,
  *,
  temperature: float = 1.0,
  top_k: int = 0,
  top_p: float = 1.0,
) -> jax.Array:
  """Draws a slot of each row from the head of its softmax.

  The chances are softmax(z / temperature) over the `top_k` best slots, and of
  these over the fewest best whose chances sum to `top_p` or more, renormalised.

  Args:
    rng: PRNG keys [B], one per row.
    scores: float[B, V], nats.
    temperature: positive; towards 0 the best slot is always drawn.
    top_k: number of best slots; 0 = all.
    top_p: total chance of the nucleus, above 0 to 1; 1 = all.

  Returns:
    The slots, int32[B].

  Raises:
    ValueError: if a value is out of range.

  Example:
    >>> keys = jax.random.split(jax.random.key(0), 2)
    >>> z = jnp.array([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]])
    >>> nucleus(keys, z, top_k=1).tolist()
    [1, 0]

  Reference:
    Fan et al., Hierarchical Neural Story Generation, 2018, for `top_k`;
    Holtzman et al., The Curious Case of Neural Text Degeneration, 2020.
  """
  if not temperature > 0 or top_k < 0 or not 0 < top_p <= 1:
    raise ValueError(
      'sampling needs temperature > 0, top_k >= 0 and 0 < top_p <= 1, got '
      f'{temperature}, {top_k} and {top_p}. Set top_k=0 and top_p=1 for all.'
    )
  size = scores.shape[-1]
  best, slots = jax.lax.top_k(scores / temperature, min(top_k or size, size))
  chances = jax.nn.softmax(best, axis=-1)
  # The first slot is always in: nothing comes before it.
  before = jnp.cumsum(chances, axis=-1) - chances
  best = jnp.where(before < top_p, best, -jnp.inf)
  drawn = jax.vmap(jax.random.categorical)(rng, best)
  return jnp.take_along_axis(slots, drawn[:, None], axis=-1)[:, 0]


def _k_of(k, scores, axis):
  return checks.k_of(k, scores.shape[checks.axis_of(axis, scores.ndim)])


def _like(temperature, x):
  """A temperature as an array of the dtype and axes of x."""
  temperature = jnp.asarray(temperature, x.dtype)
  return temperature.reshape(
    (1,) * (x.ndim - temperature.ndim) + temperature.shape
  )


_ALMOST = 1e-6
_FAR = 1e18  # nats from the k-th best; what is further is as good as infinite
