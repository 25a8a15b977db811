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

from rag_jax.ops import thresholds

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
  return along(thresholds.softmax, scores, where, axis)


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
  return along(thresholds.sparsemax, scores, where, axis)


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
  return along(thresholds.entmax15, scores, where, axis)


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
  return along(
    lambda x, real: thresholds.entmax(x, alpha, real), scores, where, axis
  )


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
  check_k(k, scores.shape[axis])
  return along(
    lambda x, real: thresholds.capped_simplex(x, real, k), scores, where, axis
  )


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
