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
  return _along(_softmax, scores, where, axis)


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
  return _along(_sparsemax, scores, where, axis)


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
  return _along(_entmax15, scores, where, axis)


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


def _along(kernel, scores, where, axis):
  """Runs a kernel over the last axis of clean, shifted float32 scores."""
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

  def update(carry):
    tau, _ = carry
    support = x > tau
    count = jnp.maximum(support.sum(axis=-1, keepdims=True), 1)
    total = jnp.where(support, x, 0).sum(axis=-1, keepdims=True)
    new = jnp.maximum((total - 1) / count, tau)
    return new, jnp.any(new > tau)

  start = jnp.full_like(x[..., :1], -1)
  tau, _ = jax.lax.while_loop(lambda c: c[1], update, (start, jnp.array(True)))
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

  def update(carry):
    tau, _ = carry
    rest = jnp.maximum(x - tau, 0)
    slope = 2 * rest.sum(axis=-1, keepdims=True)
    excess = (rest * rest).sum(axis=-1, keepdims=True) - 1
    safe = jnp.where(slope > 0, slope, 1)
    new = jnp.maximum(tau + jnp.where(slope > 0, excess / safe, 0), tau)
    return new, jnp.any(new > tau + 1e-7)

  start = jnp.full_like(x[..., :1], -1)
  tau, _ = jax.lax.while_loop(lambda c: c[1], update, (start, jnp.array(True)))
  weights = jnp.where(where, jnp.maximum(x - tau, 0) ** 2, 0)
  total = weights.sum(axis=-1, keepdims=True)
  return weights / jnp.where(total > 0, total, 1)


@_entmax15.defjvp
def _entmax15_jvp(primals, tangents):
  weights = _entmax15(*primals)
  return weights, _project(jnp.sqrt(weights), tangents[0])


def _project(s, tangent):
  """(diag(s) - s s^T / sum s) tangent, the Jacobian of every operator here."""
  tangent = s * tangent
  total = s.sum(axis=-1, keepdims=True)
  mean = tangent.sum(axis=-1, keepdims=True) / jnp.where(total > 0, total, 1)
  return tangent - s * mean
