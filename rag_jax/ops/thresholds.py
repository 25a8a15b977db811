"""The kernels of `selection`: weights max(x - tau, 0)^q and their thresholds.

Each takes x float[..., K], 0 at best and 0 in masked slots, and where bool[...,
K], and gives weights [..., K]. The Jacobian of all is diag(s) - s s^T / sum s
for some s, so one rule serves both modes of differentiation.
"""

import functools

import jax
import jax.numpy as jnp


def softmax(x, where):
  """exp(x) / sum exp(x)."""
  share = jnp.where(where, jnp.exp(x), 0)
  total = share.sum(axis=-1, keepdims=True)
  return share / jnp.where(total > 0, total, 1)


@jax.custom_jvp
def sparsemax(x, where):
  """max(x - tau, 0), by Newton steps from below."""
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


@sparsemax.defjvp
def _sparsemax_jvp(primals, tangents):
  weights = sparsemax(*primals)
  support = (weights > 0).astype(weights.dtype)
  return weights, _project(support, tangents[0])


@jax.custom_jvp
def entmax15(x, where):
  """max(x / 2 - tau, 0)^2, by Newton steps from below."""
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


@entmax15.defjvp
def _entmax15_jvp(primals, tangents):
  weights = entmax15(*primals)
  return weights, _project(jnp.sqrt(weights), tangents[0])


@jax.custom_jvp
def entmax(x, alpha, where):
  """max((alpha - 1) x - tau, 0)^(1 / (alpha - 1)), by guarded Newton steps."""
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


@entmax.defjvp
def _entmax_jvp(primals, tangents):
  x, alpha, where = primals
  weights = entmax(x, alpha, where)
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
def capped_simplex(x, where, k):
  """min(max(x - tau, 0), 1) with sum k, by guarded Newton steps."""
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


@capped_simplex.defjvp
def _capped_simplex_jvp(k, primals, tangents):
  weights = capped_simplex(*primals, k)
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
