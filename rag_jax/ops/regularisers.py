"""Fenchel-Young losses: the regularisers of the operators of `selection`."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rag_jax.ops import checks, masking, selection, thresholds


@functools.partial(checks.compiled, static_argnums=(4, 5, 6))
def fenchel_young(scores, targets, where, alpha, operator, fixed, k):
  """The loss of checked arguments; `fixed` is an alpha that is a number."""
  dtype = checks.result_dtype(scores, targets)
  scores, targets, where = checks.spread(scores, targets, where=where)
  if scores.shape[-1] == 0:
    return jnp.zeros(scores.shape[:-1], dtype)
  clean = jnp.where(where, scores, 0)
  targets = jax.lax.stop_gradient(jnp.where(where, targets, 0))
  best = jnp.max(clean, axis=-1, keepdims=True, where=where, initial=-jnp.inf)
  shifted = jnp.where(where, clean - jax.lax.stop_gradient(best), 0)
  if alpha is not None:
    alpha = jnp.maximum(alpha.astype(scores.dtype), thresholds.NEAR_SOFTMAX)
  family = _Family(operator, fixed, k)
  loss = _distance(family, clean, shifted, targets, where, alpha)
  loss = masking.poison(loss, jnp.isnan(targets).any(-1))
  real = where.any(-1) & ~(targets.sum(-1) <= 0)
  return jnp.where(real, loss, 0).astype(dtype)


class _Family(NamedTuple):
  """An operator with its options, and the regulariser that it comes from."""

  operator: str
  alpha: float | None
  k: int | None

  def select(self, scores, where, alpha):
    options = {'k': self.k} if self.k is not None else {}
    if self.operator == 'entmax':
      options['alpha'] = self.alpha if alpha is None else alpha
    return FAMILIES[self.operator][0](scores, where=where, **options)

  def omega(self, p, alpha):
    if self.operator == 'entmax':
      return _tsallis(p, self.alpha if alpha is None else alpha)
    return FAMILIES[self.operator][1](p)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _distance(family, scores, shifted, targets, where, alpha):
  """<p - q, z> + Omega(q) - Omega(p), z = `shifted`, p that of `scores`."""
  weights = family.select(scores, where, alpha)
  gap = weights - targets
  # A score of -inf that has no weight and is to have none costs nothing.
  product = jnp.where(gap == 0, 0, gap * shifted)
  return (
    product.sum(-1)
    + family.omega(targets, alpha)
    - family.omega(weights, alpha)
  )


@_distance.defjvp
def _distance_jvp(family, primals, tangents):
  # By Danskin's theorem the derivative through p vanishes at the optimum, in
  # the first derivative; those above it are derivatives of p.
  scores, _, targets, where, alpha = primals
  weights = family.select(scores, where, alpha)
  slope = ((weights - targets) * tangents[1]).sum(-1)
  if alpha is not None:
    _, by_alpha = jax.jvp(
      lambda alpha: family.omega(targets, alpha) - family.omega(weights, alpha),
      (alpha,),
      (tangents[4],),
    )
    slope += by_alpha
  return _distance(family, *primals), slope


def _half_square(p: jax.Array) -> jax.Array:
  return (p * p).sum(-1) / 2


def _negentropy(p: jax.Array) -> jax.Array:
  return (p * jnp.log(jnp.where(p == 0, 1, p))).sum(-1)


def _tsallis15(p: jax.Array) -> jax.Array:
  return ((p**1.5).sum(-1) - p.sum(-1)) / 0.75


def _tsallis(p: jax.Array, alpha: float | jax.Array) -> jax.Array:
  if isinstance(alpha, float) and alpha < thresholds.NEAR_SOFTMAX:
    # p^alpha - p, without the loss of taking one from the other.
    log_p = jnp.log(jnp.where(p == 0, 1, p))
    less = p * jnp.expm1(jnp.asarray(alpha - 1, p.dtype) * log_p)
    return less.sum(-1) / (alpha - 1) / alpha
  return ((p**alpha).sum(-1) - p.sum(-1)) / (alpha * (alpha - 1))


FAMILIES: dict[str, tuple[Callable, Callable | None]] = {
  'softmax': (selection.softmax, _negentropy),
  'sparsemax': (selection.sparsemax, _half_square),
  'entmax15': (selection.entmax15, _tsallis15),
  'entmax': (selection.entmax, None),
  'capped_simplex': (selection.capped_simplex, _half_square),
}
