"""Differentiable selection: scores in, weights of a distribution out.

Every operator has the signature `op(scores, *, where=None, axis=-1)`:

  scores: float[..., K, ...], in nats; computed in float32, or in float64 where
    they are float64, and cast back.
  where: bool, broadcasts to scores; True = real. A masked slot gets exactly 0
    and no gradient, whatever it holds.
  axis: the axis to select along.

It returns weights of the shape and dtype of `scores` that sum to 1 along
`axis`, or are all 0 where everything is masked. Adding a constant to the
scores changes nothing. All work under jit, vmap, grad, jvp, their compositions,
shard_map and export, and compile once a shape where nothing else compiles them.

What is not finite, for everything in `rag_jax.ops`:

  masked, anything: as if it were not there.
  real, -inf: a score below every number. It gets weight 0 and no gradient; an
    operator that chooses k takes it last, but before masked slots. A
    log-likelihood of -inf is a likelihood of 0.
  real, +inf: above every number to an operator that chooses k, which takes it
    first. To all others it is an overflow: the row is NaN.
  real, NaN: the row is NaN.
  nothing above -inf: where weights sum to 1 there is no such distribution, so
    the row is NaN; of k, all are as good, and ties are broken as always.

A row that is NaN has NaN in all its real slots, in value and gradient, and
leaves other rows alone. A loss is +inf where what should be likely is
impossible; its gradient is what the formula gives, NaN where that is 0 / 0.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rag_jax.ops import checks, thresholds


def softmax(
  scores: jax.Array, *, where: jax.Array | None = None, axis: int = -1
) -> jax.Array:
  """exp(z) / sum exp(z) over the real slots; dense.

  Example:
    >>> where = jnp.array([True, True, False])
    >>> softmax(jnp.array([1.0, 1.0, 9.0]), where=where)
    Array([0.5, 0.5, 0. ], dtype=float32)
  """
  return apply(thresholds.softmax, scores, where, axis)


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
  return apply(thresholds.sparsemax, scores, where, axis)


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
  return apply(thresholds.entmax15, scores, where, axis)


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
      1.01 of an array are computed at 1.01; a number may be as close to 1 as
      it likes.
    where: bool, broadcasts to scores.
    axis: the axis to select along.

  Returns:
    Weights of the shape and dtype of `scores`.

  Raises:
    ValueError: if `alpha` is a number below 1, or has another shape.

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
  scores = checks.floats(scores)
  alpha = alpha_of(alpha)
  if isinstance(alpha, float):
    if alpha in _CLOSED_FORMS:
      return _CLOSED_FORMS[alpha](scores, where=where, axis=axis)
    if alpha < thresholds.NEAR_SOFTMAX:
      kernel = thresholds.entmax_near_softmax
      return apply(kernel, scores, where, axis, alpha=alpha)
  dtype = checks.compute_dtype(scores)
  alpha = jnp.maximum(jnp.asarray(alpha, dtype), thresholds.NEAR_SOFTMAX)
  if alpha.ndim:
    axis = checks.axis_of(axis, scores.ndim)
    shape = (*scores.shape[:axis], 1, *scores.shape[axis:][1:])
    try:
      fits = jnp.broadcast_shapes(alpha.shape, shape) == shape
    except ValueError:
      fits = False
    if not fits:
      raise ValueError(
        f'alpha must broadcast to scores {scores.shape} with 1 entry along '
        f'axis {axis}, got {alpha.shape}. Give one number a row.'
      )
    alpha = alpha.reshape((1,) * (len(shape) - alpha.ndim) + alpha.shape)
    alpha = jnp.moveaxis(alpha, axis, -1)
  else:
    alpha = alpha.reshape((1,) * scores.ndim)
  return apply(thresholds.entmax, scores, where, axis, alpha)


def capped_simplex(
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
    >>> capped_simplex(jnp.array([3.0, 1.0, 0.75, -1.0]), k=2)
    Array([1.   , 0.625, 0.375, 0.   ], dtype=float32)

  Reference:
    Wang and Lu, Projection onto the Capped Simplex, 2015; Malaviya et al.,
    Sparse and Constrained Attention for Neural Machine Translation, 2018.
  """
  scores = checks.floats(scores)
  axis = checks.axis_of(axis, scores.ndim)
  k = checks.k_of(k, scores.shape[axis])
  return apply(thresholds.capped_simplex, scores, where, axis, k=k, raw=True)


def apply(
  kernel: Callable[..., jax.Array],
  scores: Any,
  where: Any,
  axis: int,
  *operands: Any,
  raw: bool = False,
  **options: Any,
) -> jax.Array:
  """Runs a kernel under the contract of this module.

  Args:
    kernel: (x, where, *operands, **options), x and where [..., K], to weights
      [..., K]. x is float32 or wider, and 0 in masked slots. A function of a
      module, so that it is compiled once.
    scores: float[..., K, ...].
    where: bool, broadcasts to scores, or None.
    axis: of K.
    *operands: arrays.
    raw: whether x are the scores themselves. If not, x is 0 at best, and NaN
      in the real slots of a row that has no best.
    **options: of the kernel, hashable.

  Returns:
    The weights in the shape and dtype of `scores`.

  Raises:
    ValueError: if scores are not floating point, there is no such axis, or the
      mask is not boolean or has another shape.
  """
  scores = checks.floats(scores)
  axis = checks.axis_of(axis, scores.ndim)
  where = checks.mask(where, scores.shape)
  static = tuple(sorted(options.items()))
  return _apply(kernel, scores, where, axis, raw, static, *operands)


@functools.partial(checks.compiled, static_argnums=(0, 3, 4, 5))
def _apply(kernel, scores, where, axis, raw, options, *operands):
  shape = scores.shape
  if isinstance(shape[axis], int) and not shape[axis]:
    return scores  # of no slots, there are no weights
  if where is None:
    where = jnp.ones(shape, bool)
  dtype = checks.compute_dtype(scores)
  where = jnp.broadcast_to(where, shape)
  x = jnp.where(where, scores, 0).astype(dtype)
  x, where = jnp.moveaxis(x, axis, -1), jnp.moveaxis(where, axis, -1)
  if not raw:
    best = jnp.max(x, axis=-1, keepdims=True, where=where, initial=-jnp.inf)
    best = jnp.where(best < jnp.inf, best, jnp.nan)
    x = jnp.where(where, x - jax.lax.stop_gradient(best), 0)
  weights = kernel(x, where, *operands, **dict(options))
  return jnp.moveaxis(weights, -1, axis).astype(scores.dtype)


def alpha_of(alpha: Any) -> float | jax.Array:
  """An alpha as a float or an array; a ValueError if it is a number below 1."""
  if isinstance(alpha, (int, float, np.number)):
    if not 1 <= alpha < float('inf'):
      raise ValueError(
        f'alpha must be at least 1, got {alpha}. 1 is softmax, 2 sparsemax.'
      )
    return float(alpha)
  return checks.floats(alpha, 'alpha')


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
      'Others are functions of this module and of sampling.'
    )
  return OPERATORS[operator]


OPERATORS = {
  'softmax': softmax,
  'sparsemax': sparsemax,
  'entmax15': entmax15,
}
_CLOSED_FORMS = {1: softmax, 1.5: entmax15, 2: sparsemax}
