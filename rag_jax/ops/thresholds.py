"""The kernels of `selection`: weights max(x - tau, 0)^q and their thresholds.

Each takes x float[..., K] and where bool[..., K], and gives weights [..., K].
Of a sum of 1, x is 0 at best, 0 in masked slots, and NaN in all real slots of a
row without an answer; kernels that choose k take the scores as they are, 0 in
masked slots. The Jacobian of all is diag(s) - s s^T / sum s for some s, so one
rule serves both modes of differentiation, and differentiating s gives the
derivatives above the first.
"""

import functools

import jax
import jax.numpy as jnp

from rag_jax.ops import masking

NEAR_SOFTMAX = 1.01  # alphas below it are solved in another form


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
      new = jnp.maximum((total - 1) / count.astype(x.dtype), tau)
      return new, jnp.any(new > tau)

    return jax.lax.while_loop(_climbs, update, (start, _some(start)))[0]

  tau = climb(x, _head_start(climb, x))
  return jnp.where(where, jnp.maximum(x - tau, 0), 0)


@sparsemax.defjvp
def _sparsemax_jvp(primals, tangents):
  weights = sparsemax(*primals)
  support = jnp.where(weights > 0, 1, 0 * weights)  # NaN stays NaN
  return weights, _project(support, tangents[0], primals[1])


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

    return jax.lax.while_loop(_climbs, update, (start, _some(start)))[0]

  tau = climb(x, _head_start(climb, x))
  weights = jnp.where(where, jnp.maximum(x - tau, 0) ** 2, 0)
  total = weights.sum(axis=-1, keepdims=True)
  return weights / jnp.where(total > 0, total, 1)


@entmax15.defjvp
def _entmax15_jvp(primals, tangents):
  weights = entmax15(*primals)
  return weights, _project(_root(weights), tangents[0], primals[1])


@jax.custom_jvp
def _root(weights):
  """sqrt, with a slope of 0 where a weight is 0: there it stays 0."""
  return jnp.sqrt(weights)


@_root.defjvp
def _root_jvp(primals, tangents):
  root = _root(*primals)
  safe = jnp.where(root == 0, 1, root)
  return root, jnp.where(root == 0, 0, tangents[0] / (2 * safe))


@jax.custom_jvp
def entmax(x, where, alpha):
  """max((alpha - 1) x - tau, 0)^(1 / (alpha - 1)), by guarded Newton steps.

  `alpha` is float[...] of as many axes as x, at least `NEAR_SOFTMAX`.
  """
  # sum max((alpha - 1) x - tau, 0)^(1 / (alpha - 1)) = 1
  x = masking.varies_with(x, alpha)
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
  _, where, alpha = primals
  weights = entmax(*primals)
  s, safe = _entmax_slope(weights, alpha)
  total = s.sum(axis=-1, keepdims=True)
  share = s / jnp.where(total > 0, total, 1)
  entropy = jnp.where(weights == 0, 0, weights * jnp.log(safe))
  slope = (weights - share) / (alpha - 1) ** 2
  slope -= (entropy - share * entropy.sum(-1, keepdims=True)) / (alpha - 1)
  slope = jnp.where(where, slope, 0)
  return weights, _project(s, tangents[0], where) + slope * tangents[2]


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def entmax_near_softmax(x, where, alpha):
  """`entmax` for a number 1 < alpha < `NEAR_SOFTMAX`.

  With tau = (alpha - 1) sigma - 1 the weights are (1 + (alpha - 1) (x -
  sigma))^(1 / (alpha - 1)), which tends to exp(x - sigma) without loss.
  """
  gap = jnp.asarray(alpha - 1, x.dtype)
  count = jnp.maximum(where.sum(axis=-1, keepdims=True), 1).astype(x.dtype)

  def weigh(sigma):
    base = 1 + gap * (x - sigma)
    some = where & ~(base <= 0)
    inner = jnp.where(some, gap * (x - sigma), 0)
    mass = jnp.where(some, jnp.exp(jnp.log1p(inner) / gap), 0)
    return mass, jnp.where(some, base, 1)

  def excess(sigma):
    mass, base = weigh(sigma)
    return mass.sum(-1, keepdims=True) - 1, (mass / base).sum(-1, keepdims=True)

  low = jnp.zeros_like(x[..., :1])
  high = -jnp.expm1(-gap * jnp.log(count)) / gap + low
  weights, _ = weigh(_solve(excess, low, high, low))
  total = weights.sum(axis=-1, keepdims=True)
  return jnp.where(where, weights / jnp.where(total > 0, total, 1), 0)


@entmax_near_softmax.defjvp
def _entmax_near_softmax_jvp(alpha, primals, tangents):
  weights = entmax_near_softmax(*primals, alpha)
  s, _ = _entmax_slope(weights, alpha)
  return weights, _project(s, tangents[0], primals[1])


def _entmax_slope(weights, alpha):
  """weights^(2 - alpha) on the support, and weights with 1 for 0."""
  safe = jnp.where(weights == 0, 1, weights)
  return jnp.where(weights == 0, 0, safe ** (2 - alpha)), safe


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def capped_simplex(x, where, k):
  """min(max(x - tau, 0), 1) with sum k, by guarded Newton steps."""
  # sum min(max(x - tau, 0), 1) = k; with k or fewer real slots all are taken.
  count = where.sum(axis=-1, keepdims=True)
  x, least = _centre(x, where, k)
  enough = (count <= k) & ~jnp.isnan(least)  # but NaN stays NaN
  # In a far row the threshold is at most 1 below the k-th best, which is 0.
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
  over = total + whole.astype(x.dtype) - k
  share = jnp.maximum(count, 1).astype(x.dtype)
  tau = jnp.where(count > 0, over / share, 0)
  weights = jnp.where(enough, 1, jnp.clip(rest - tau, 0, 1))
  return jnp.where(where, weights, 0)


@capped_simplex.defjvp
def _capped_simplex_jvp(k, primals, tangents):
  weights = capped_simplex(*primals, k)
  inside = (weights > 0) & (weights < 1)
  inside = jnp.where(inside, 1, 0 * weights)  # NaN stays NaN
  return weights, _project(inside, tangents[0], primals[1])


def best(x, where, k):
  """1 for the k best real slots of [..., K], else 0; `lax.top_k`'s choice."""
  # A real -inf comes before masked slots, which are -inf from here on.
  least = jnp.finfo(x.dtype).min
  second = jnp.nextafter(jnp.asarray(least, x.dtype), jnp.zeros((), x.dtype))
  nothing = (where & jnp.isnan(x)).any(axis=-1, keepdims=True)
  x = jnp.where(x == -jnp.inf, least, jnp.where(x == least, second, x))
  order = jax.lax.top_k(jnp.where(where, x, -jnp.inf), k)[1]
  chosen = jax.nn.one_hot(order, x.shape[-1], dtype=x.dtype).sum(axis=-2)
  return jnp.where(where, jnp.where(nothing, jnp.nan, chosen), 0)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def centred(x, where, k):
  """Scores less the best, or in a row of a wide range less the k-th best.

  What lies far below the best keeps its order, which the best alone would lose.
  """
  return jnp.where(where, _centre(x, where, k)[0], 0)


@centred.defjvp
def _centred_jvp(k, primals, tangents):
  x, where = primals
  tangent = jnp.where(where & ~jnp.isinf(x), tangents[0], 0)
  return centred(x, where, k), tangent


def _centre(x, where, k):
  """`centred`, any in masked slots, and its least entry; 0 in rows so wide."""
  best = jnp.max(x, axis=-1, keepdims=True, where=where, initial=-jnp.inf)
  low = jnp.min(x, axis=-1, keepdims=True, where=where, initial=jnp.inf)
  far = ~(best - low <= _FAR)
  pivot = jnp.where(far, _kth_best(x, where, k, far), best)
  pivot = jnp.where(jnp.isnan(best), jnp.nan, pivot)
  infinite = jnp.where(jnp.isinf(pivot), pivot, jnp.nan)  # NaN is equal to none
  least = jnp.where(far, 0, jnp.minimum(low - best, 0))
  least = jnp.where(jnp.isnan(best), jnp.nan, least)
  return jnp.where(x == infinite, 0, x - pivot), least


def _kth_best(x, where, k, wanted):
  """The k-th best real entry of each wanted row, by halving; any of others.

  Of fewer than k it is the least.

  Nothing is done where no row is wanted, also under vmap.
  """
  bits = jnp.int64 if x.dtype == jnp.float64 else jnp.int32
  most = jnp.iinfo(bits).max

  need = jnp.minimum(where.sum(axis=-1, keepdims=True), k)

  def order(bits):  # of floats as integers, and back
    return jnp.where(bits < 0, bits ^ most, bits)

  def update(carry):
    low, high = carry
    middle = (low >> 1) + (high >> 1) + ((low | high) & 1)
    rank = order(jax.lax.bitcast_convert_type(x, bits))
    count = (where & (rank >= middle)).sum(axis=-1, keepdims=True)
    enough = count >= need
    return jnp.where(enough, middle, low), jnp.where(enough, high, middle - 1)

  def apart(carry):
    return jnp.any(carry[0] < carry[1])

  zero = jnp.zeros_like(wanted, dtype=bits)
  start = (
    jnp.where(wanted, jnp.iinfo(bits).min, zero),
    jnp.where(wanted, most, zero),
  )
  found = jax.lax.while_loop(apart, update, start)[0]
  return jax.lax.bitcast_convert_type(order(found), x.dtype)


def _head_start(climb, x):
  """The threshold of the best entry of each of K / 50 groups.

  Fewer entries have less mass, so this is never too high; on a long row it
  leaves few steps over all of it.
  """
  low = jnp.full_like(x[..., :1], -1)
  if not isinstance(x.shape[-1], int):  # exported for rows of any length
    return low
  size = x.shape[-1] // _GROUP
  if size < 10:
    return low
  groups = x[..., : size * _GROUP].reshape(*x.shape[:-1], _GROUP, size)
  return climb(groups.max(axis=-2), low)


def _climbs(carry):
  return carry[1]


def _some(x):
  """True, which varies over devices as x does; `jax.shard_map` asks for it."""
  return jnp.any(x == x)


_GROUP = 50  # entries of which only the best counts for a head start
_FAR = 64  # nats; within them, float32 tells scores 4e-6 apart


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
    done = ~(jnp.abs(mass) > close) | (new == tau)  # NaN has no answer
    return low, high, jnp.where(done, tau, new), ~done.all(), turn + 1

  def unfinished(carry):
    return carry[3] & (carry[4] < 100)

  start = (low, high, start, _some(start), 0)
  return jax.lax.while_loop(unfinished, update, start)[2]


def _project(s, tangent, where):
  """(diag(s) - s s^T / sum s) tangent, the Jacobian of every operator here."""
  tangent = s * tangent
  total = s.sum(axis=-1, keepdims=True)
  mean = tangent.sum(axis=-1, keepdims=True) / jnp.where(total == 0, 1, total)
  return jnp.where(where, tangent - s * mean, 0)
