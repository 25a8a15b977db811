"""Differentiable selection: scores in, weights of a distribution out.

Every operator has the signature `op(scores, *, where=None, axis=-1)`:

  scores: float[..., K, ...], in nats; computed in float32 and cast back.
  where: bool, broadcasts to scores; True = real. A masked slot gets exactly 0
    and no gradient, whatever it holds.
  axis: the axis to select along.

It returns weights of the shape and dtype of `scores` that sum to 1 along
`axis`, or are all 0 where everything is masked. Adding a constant to the
scores changes nothing. All work under jit, vmap, grad and jvp.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

LOW = -1e30  # stands for minus infinity, but survives subtraction


def softmax(
  scores: jax.Array, *, where: jax.Array | None = None, axis: int = -1
) -> jax.Array:
  """exp(z) / sum exp(z) over the real slots; dense.

  Example:
    >>> where = jnp.array([True, True, False])
    >>> softmax(jnp.array([1.0, 1.0, 9.0]), where=where)
    Array([0.5, 0.5, 0. ], dtype=float32)
  """
  return along(_softmax, scores, where, axis)


def sparsemax(
  scores: jax.Array, *, where: jax.Array | None = None, axis: int = -1
) -> jax.Array:
  """The point of the simplex closest to the scores; sparse.

  p = max(z - tau, 0) with tau such that p sums to 1. Scores that are more than
  1 nat under the best get nothing.

  Example:
    >>> sparsemax(jnp.array([1.0, 0.5, -1.0]))
    Array([0.75, 0.25, 0.  ], dtype=float32)

  Reference:
    Martins and Astudillo, From Softmax to Sparsemax, 2016.
  """
  return along(_sparsemax, scores, where, axis)


def entmax15(
  scores: jax.Array, *, where: jax.Array | None = None, axis: int = -1
) -> jax.Array:
  """Between softmax and sparsemax: sparse, with a smooth edge.

  p = max(z / 2 - tau, 0)^2 with tau such that p sums to 1.

  Example:
    >>> entmax15(jnp.array([0.0, 0.0, -3.0]))
    Array([0.5, 0.5, 0. ], dtype=float32)

  Reference:
    Peters et al., Sparse Sequence-to-Sequence Models, 2019.
  """
  return along(_entmax15, scores, where, axis)


def entmax(
  scores: jax.Array,
  *,
  alpha: float | jax.Array = 1.5,
  where: jax.Array | None = None,
  axis: int = -1,
) -> jax.Array:
  """From softmax (alpha 1) over entmax15 (1.5) to sparsemax (2) and beyond.

  p = max((alpha - 1) z - tau, 0)^(1 / (alpha - 1)) with tau such that p sums
  to 1. Differentiable in an array `alpha` too, so that sparsity can be learned
  or annealed.

  Args:
    scores: float[..., K, ...], nats.
    alpha: at least 1; a number, or an array that broadcasts to `scores` with
      1 entry along `axis` (a scalar array is one alpha for all). Entries under
      1.01 of an array are computed at 1.01; pass the number 1 for softmax.
    where: bool, broadcasts to scores.
    axis: the axis to select along.

  Returns:
    Weights of the shape and dtype of `scores`.

  Raises:
    ValueError: if `alpha` is a number below 1.

  Example:
    >>> entmax(jnp.array([1.0, 0.5, -1.0]), alpha=2.0)
    Array([0.75, 0.25, 0.  ], dtype=float32)
    >>> grow = jax.grad(lambda a: entmax(jnp.array([1.0, 0.0]), alpha=a)[0])
    >>> bool(grow(jnp.float32(1.5)) > 0)
    True

  Reference:
    Peters et al., Sparse Sequence-to-Sequence Models, 2019; the gradient in
    alpha: Correia et al., Adaptively Sparse Transformers, 2019.
  """
  if isinstance(alpha, (int, float)):
    if not alpha >= 1:
      raise ValueError(
        f'alpha must be at least 1, got {alpha}. 1 is softmax, 2 sparsemax.'
      )
    if alpha in _CLOSED_FORMS:
      return _CLOSED_FORMS[alpha](scores, where=where, axis=axis)
  alpha = jnp.asarray(alpha, jnp.promote_types(scores.dtype, jnp.float32))
  alpha = jnp.maximum(alpha, 1.01)
  if alpha.ndim:
    alpha = jnp.moveaxis(alpha, axis, -1)
  return along(lambda x, real: _entmax(x, alpha, real), scores, where, axis)


def budget(
  scores: jax.Array,
  *,
  k: int,
  where: jax.Array | None = None,
  axis: int = -1,
) -> jax.Array:
  """The point closest to the scores whose weights are at most 1 and sum to k.

  p = min(max(z - tau, 0), 1): a soft, sparse choice of k slots. Scores that
  are more than 1 nat apart are chosen hard.

  Args:
    scores: float[..., K, ...], nats.
    k: how many to choose, 1 to K. A row with fewer real slots gets all of them.
    where: bool, broadcasts to scores.
    axis: the axis to select along.

  Returns:
    Weights in [0, 1], of the shape and dtype of `scores`.

  Raises:
    ValueError: if k is not between 1 and K.

  Example:
    >>> budget(jnp.array([3.0, 1.0, 0.75, -1.0]), k=2)
    Array([1.   , 0.625, 0.375, 0.   ], dtype=float32)

  Reference:
    Wang and Lu, Projection onto the Capped Simplex, 2015; Malaviya et al.,
    Sparse and Constrained Attention for Neural Machine Translation, 2018.
  """
  check_k(k, scores.shape[axis])
  return along(lambda x, real: _budget(x, real, k), scores, where, axis)


def along(
  kernel: Callable[[jax.Array, jax.Array], jax.Array],
  scores: jax.Array,
  where: jax.Array | None,
  axis: int,
) -> jax.Array:
  """Runs a kernel under the contract of this module.

  Args:
    kernel: (x, where), both [..., K], to weights [..., K]. x is float32 or
      wider, 0 at best, and 0 in masked slots.
    scores: float[..., K, ...].
    where: bool, broadcasts to scores, or None.
    axis: of K.

  Returns:
    The weights in the shape and dtype of `scores`.
  """
  if not jnp.issubdtype(scores.dtype, jnp.floating):
    raise ValueError(
      f'scores must be floating point, got {scores.dtype}. '
      'Convert them with .astype(jnp.float32).'
    )
  if where is None:
    where = jnp.ones(scores.shape, bool)
  try:
    where = jnp.moveaxis(jnp.broadcast_to(where, scores.shape), axis, -1)
  except ValueError as error:
    raise ValueError(
      f'where must broadcast to scores {scores.shape}, got {where.shape}. '
      'Give one truth value a score.'
    ) from error
  dtype = jnp.promote_types(scores.dtype, jnp.float32)
  clean = jnp.where(where, jnp.moveaxis(scores, axis, -1), 0).astype(dtype)
  best = jnp.max(clean, axis=-1, keepdims=True, where=where, initial=LOW)
  shifted = jnp.where(where, clean - jax.lax.stop_gradient(best), 0)
  weights = kernel(shifted, where)
  return jnp.moveaxis(weights, -1, axis).astype(scores.dtype)


def check_k(k: int, count: int) -> None:
  """Raises a ValueError unless k of `count` slots can be chosen."""
  if not 1 <= k <= count:
    raise ValueError(
      f'k must be between 1 and the number of scores ({count}), got {k}. '
      'Choose fewer, or give more scores.'
    )


def check_temperature(temperature: float | jax.Array) -> None:
  """Raises a ValueError unless a temperature that is a number is positive."""
  if isinstance(temperature, (int, float)) and not temperature > 0:
    raise ValueError(
      f'temperature must be positive, got {temperature}. '
      'Small is close to a hard choice, large close to an even one.'
    )


def select(
  scores: jax.Array,
  *,
  operator: str,
  where: jax.Array | None = None,
  axis: int = -1,
) -> jax.Array:
  """Applies the operator of a name.

  Raises:
    ValueError: if there is no operator of that name.
  """
  return get(operator)(scores, where=where, axis=axis)


def get(operator: str) -> Callable[..., jax.Array]:
  """The operator of a name, or a ValueError that lists them."""
  if operator not in OPERATORS:
    raise ValueError(
      f'operator must be one of {", ".join(OPERATORS)}, got {operator!r}. '
      'Set --config.ranker.operator.'
    )
  return OPERATORS[operator]


OPERATORS = {
  'softmax': softmax,
  'sparsemax': sparsemax,
  'entmax15': entmax15,
}
_CLOSED_FORMS = {1: softmax, 1.5: entmax15, 2: sparsemax}


def _softmax(x, where):
  share = jnp.where(where, jnp.exp(x), 0)
  total = share.sum(axis=-1, keepdims=True)
  return share / jnp.where(total > 0, total, 1)


@jax.custom_jvp
def _sparsemax(x, where):
  # Newton from below: tau <- (sum_S x - 1) / |S| with S = {x > tau} only
  # grows, and is exact once S no longer changes. Entries at -1 and below are
  # never chosen, because the best one is 0.
  x = jnp.where(where, jnp.maximum(x, -2), -2)

  def climb(x, start):
    def update(carry):
      tau, _ = carry
      support = x > tau
      count = jnp.maximum(support.sum(axis=-1, keepdims=True), 1)
      total = jnp.where(support, x, 0).sum(axis=-1, keepdims=True)
      new = jnp.maximum((total - 1) / count, tau)
      return new, jnp.any(new > tau)

    return jax.lax.while_loop(_climbs, update, (start, jnp.array(True)))[0]

  tau = climb(x, _head_start(climb, x))
  return jnp.where(where, jnp.maximum(x - tau, 0), 0)


@_sparsemax.defjvp
def _sparsemax_jvp(primals, tangents):
  weights = _sparsemax(*primals)
  support = (weights > 0).astype(weights.dtype)
  return weights, _project(support, tangents[0])


@jax.custom_jvp
def _entmax15(x, where):
  # Newton on f(tau) = sum max(x / 2 - tau, 0)^2 - 1: convex and decreasing,
  # so steps from below never overshoot.
  x = jnp.where(where, jnp.maximum(x / 2, -2), -2)

  def climb(x, start):
    def update(carry):
      tau, _ = carry
      rest = jnp.maximum(x - tau, 0)
      slope = 2 * rest.sum(axis=-1, keepdims=True)
      excess = (rest * rest).sum(axis=-1, keepdims=True) - 1
      safe = jnp.where(slope > 0, slope, 1)
      new = jnp.maximum(tau + jnp.where(slope > 0, excess / safe, 0), tau)
      return new, jnp.any(new > tau + 1e-7)

    return jax.lax.while_loop(_climbs, update, (start, jnp.array(True)))[0]

  tau = climb(x, _head_start(climb, x))
  weights = jnp.where(where, jnp.maximum(x - tau, 0) ** 2, 0)
  total = weights.sum(axis=-1, keepdims=True)
  return weights / jnp.where(total > 0, total, 1)


@_entmax15.defjvp
def _entmax15_jvp(primals, tangents):
  weights = _entmax15(*primals)
  return weights, _project(jnp.sqrt(weights), tangents[0])


@jax.custom_jvp
def _entmax(x, alpha, where):
  # sum max((alpha - 1) x - tau, 0)^(1 / (alpha - 1)) = 1
  count = jnp.maximum(where.sum(axis=-1, keepdims=True), 1)
  power = 1 / (alpha - 1)
  x = jnp.where(where, jnp.maximum((alpha - 1) * x, -2), -2)

  def excess(tau):
    rest = jnp.maximum(x - tau, 0)
    mass = rest**power
    slope = power * jnp.where(rest > 0, mass / jnp.where(rest > 0, rest, 1), 0)
    return mass.sum(-1, keepdims=True) - 1, slope.sum(-1, keepdims=True)

  low = jnp.full_like(x[..., :1], -1)
  high = -(count.astype(x.dtype) ** (1 - alpha)) + jnp.zeros_like(low)
  tau = _solve(excess, low, high, low)
  weights = jnp.where(where, jnp.maximum(x - tau, 0) ** power, 0)
  total = weights.sum(axis=-1, keepdims=True)
  return weights / jnp.where(total > 0, total, 1)


@_entmax.defjvp
def _entmax_jvp(primals, tangents):
  x, alpha, where = primals
  weights = _entmax(x, alpha, where)
  support = weights > 0
  safe = jnp.where(support, weights, 1)
  s = jnp.where(support, safe ** (2 - alpha), 0)
  total = s.sum(axis=-1, keepdims=True)
  share = s / jnp.where(total > 0, total, 1)
  entropy = jnp.where(support, weights * jnp.log(safe), 0)
  slope = (weights - share) / (alpha - 1) ** 2
  slope -= (entropy - share * entropy.sum(-1, keepdims=True)) / (alpha - 1)
  return weights, _project(s, tangents[0]) + slope * tangents[1]


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _budget(x, where, k):
  # sum min(max(x - tau, 0), 1) = k; with k or fewer real slots all are taken.
  enough = where.sum(axis=-1, keepdims=True) <= k
  least = jnp.min(x, axis=-1, keepdims=True, where=where, initial=0)
  x = jnp.where(where, x, least - 2)

  def excess(tau):
    rest = x - tau
    inside = (rest > 0) & (rest < 1)
    mass = jnp.clip(rest, 0, 1).sum(axis=-1, keepdims=True)
    mass = jnp.where(enough, 0, mass - k)
    return mass, inside.sum(axis=-1, keepdims=True).astype(x.dtype)

  high = jnp.zeros_like(x[..., :1])
  start = jnp.maximum(high - 1, least - 1)
  near = _solve(excess, least - 1, high, start)
  # One exact step on the slots strictly between 0 and 1.
  rest = x - near
  inside = (rest > 0) & (rest < 1)
  count = inside.sum(axis=-1, keepdims=True)
  whole = (rest >= 1).sum(axis=-1, keepdims=True)
  total = jnp.where(inside, rest, 0).sum(axis=-1, keepdims=True)
  tau = jnp.where(count > 0, (total + whole - k) / jnp.maximum(count, 1), 0)
  weights = jnp.where(enough, 1.0, jnp.clip(rest - tau, 0, 1))
  return jnp.where(where, weights, 0)


@_budget.defjvp
def _budget_jvp(k, primals, tangents):
  weights = _budget(*primals, k)
  inside = ((weights > 0) & (weights < 1)).astype(weights.dtype)
  return weights, _project(inside, tangents[0])


def _head_start(climb, x):
  """The threshold of the best entry of each of K / 50 groups.

  Fewer entries have less mass, so this is never too high; on a long row it
  leaves few steps over all of it.
  """
  low = jnp.full_like(x[..., :1], -1)
  size = x.shape[-1] // _GROUP
  if size < 10:
    return low
  groups = x[..., : size * _GROUP].reshape(*x.shape[:-1], _GROUP, size)
  return climb(groups.max(axis=-2), low)


def _climbs(carry):
  return carry[1]


_GROUP = 50  # entries of which only the best counts for a head start


def _solve(excess, low, high, start):
  """Where a falling function is 0: Newton's steps, halving where they leave.

  `excess(tau)` is the function and minus its slope; it is at least 0 at `low`
  and at most 0 at `high`.
  """
  close = 1e-6 if low.dtype == jnp.float32 else 1e-13

  def update(carry):
    low, high, tau, _, turn = carry
    mass, slope = excess(tau)
    low = jnp.where(mass >= 0, tau, low)
    high = jnp.where(mass >= 0, high, tau)
    step = tau + mass / jnp.where(slope > 0, slope, 1)
    inside = (step > low) & (step < high) & (slope > 0)
    new = jnp.where(inside, step, (low + high) / 2)
    done = (jnp.abs(mass) <= close) | (new == tau)
    return low, high, jnp.where(done, tau, new), ~done.all(), turn + 1

  def unfinished(carry):
    return carry[3] & (carry[4] < 100)

  start = (low, high, start, jnp.array(True), 0)
  return jax.lax.while_loop(unfinished, update, start)[2]


def _project(s, tangent):
  """(diag(s) - s s^T / sum s) tangent, the Jacobian of every operator here."""
  tangent = s * tangent
  total = s.sum(axis=-1, keepdims=True)
  mean = tangent.sum(axis=-1, keepdims=True) / jnp.where(total > 0, total, 1)
  return tangent - s * mean
