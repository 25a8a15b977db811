"""Losses of selection and retrieval, one value a row and no reduction.

Arguments that recur: `scores` and `weights` are float[..., K], in nats and on
the simplex; `where` is bool[..., K], True = real. A row where everything is
masked loses 0 and has no gradient. Everything is computed in float32.
"""

import jax
import jax.numpy as jnp

from rag_jax.ops import selection

OFF = -1e9  # log-likelihood that stands for an impossible answer


def fenchel_young(
  scores: jax.Array,
  targets: jax.Array,
  *,
  operator: str = 'sparsemax',
  where: jax.Array | None = None,
) -> jax.Array:
  """The loss whose gradient is operator(scores) - targets.

  <p - q, z> + Omega(q) - Omega(p), with p = operator(z) and Omega the
  operator's regulariser. It is 0 only where p = q, and gives a gradient to
  targets outside the support, where a likelihood gives none.

  Args:
    scores: float[..., K].
    targets: float[..., K], on the simplex; no gradient flows into them.
    operator: a name in `selection.OPERATORS`.
    where: bool[..., K].

  Returns:
    float32[...].

  Example:
    >>> z, q = jnp.array([1.0, 0.5]), jnp.array([1.0, 0.0])
    >>> jax.grad(fenchel_young)(z, q)
    Array([-0.25,  0.25], dtype=float32)

  Reference:
    Blondel et al., Learning with Fenchel-Young Losses, 2020.
  """
  if where is None:
    where = jnp.ones(scores.shape, bool)
  scores = jnp.where(where, scores, 0).astype(jnp.float32)
  best = jnp.max(
    scores, axis=-1, keepdims=True, where=where, initial=selection.LOW
  )
  shifted = jnp.where(where, scores - jax.lax.stop_gradient(best), 0)
  targets = jax.lax.stop_gradient(jnp.where(where, targets, 0))
  weights = selection.select(scores, operator=operator, where=where)
  # By Danskin's theorem the gradient through p vanishes at the optimum.
  weights = jax.lax.stop_gradient(weights)
  omega = _REGULARISERS[operator]
  loss = ((weights - targets) * shifted).sum(-1)
  loss = loss + omega(targets) - omega(weights)
  real = where.any(-1) & (targets.sum(-1) > 0)
  return jnp.where(real, loss, 0.0)


def sequence_marginal(
  weights: jax.Array,
  log_likelihoods: jax.Array,
  *,
  where: jax.Array | None = None,
) -> jax.Array:
  """-log sum_k w_k exp(l_k), in a form that never takes log 0.

  Args:
    weights: float[..., K], from a selection operator.
    log_likelihoods: float[..., K], of the answer given each document, nats.
    where: bool[..., K]; False also where a document lacks the answer.

  Returns:
    float32[...], nats; 0 where no real document has weight.

  Example:
    >>> w, l = jnp.array([0.5, 0.5, 0.0]), jnp.log(jnp.array([0.5, 0.25, 0.1]))
    >>> jnp.exp(-sequence_marginal(w, l)).round(4)
    Array(0.375, dtype=float32)

  Reference:
    Lewis et al., Retrieval-Augmented Generation for Knowledge-Intensive NLP
    Tasks, 2020.
  """
  if where is None:
    where = jnp.ones(weights.shape, bool)
  support = where & (weights > 0)
  likelihoods = jnp.where(support, log_likelihoods, OFF).astype(jnp.float32)
  best = jax.lax.stop_gradient(likelihoods.max(-1, keepdims=True))
  share = jnp.where(support, weights, 0) * jnp.exp(likelihoods - best)
  total = share.sum(-1)
  real = support.any(-1) & (total > 0)
  marginal = best[..., 0] + jnp.log(jnp.where(real, total, 1.0))
  return jnp.where(real, -marginal, 0.0)


def token_marginal(
  weights: jax.Array,
  token_log_likelihoods: jax.Array,
  *,
  where: jax.Array | None = None,
  token_where: jax.Array | None = None,
) -> jax.Array:
  """-sum_t log sum_k w_k exp(l_kt): each token may come from another document.

  Args:
    weights: float[..., K].
    token_log_likelihoods: float[..., K, A], nats.
    where: bool[..., K].
    token_where: bool[..., A], the tokens of the answer.

  Returns:
    float32[...], nats.
  """
  by_token = jnp.swapaxes(token_log_likelihoods, -1, -2)  # [..., A, K]
  if where is not None:
    where = jnp.broadcast_to(where[..., None, :], by_token.shape)
  weights = jnp.broadcast_to(weights[..., None, :], by_token.shape)
  nll = sequence_marginal(weights, by_token, where=where)
  if token_where is not None:
    nll = jnp.where(token_where, nll, 0.0)
  return nll.sum(-1)


def _half_square(p: jax.Array) -> jax.Array:
  return (p * p).sum(-1) / 2


def _negentropy(p: jax.Array) -> jax.Array:
  return (p * jnp.log(jnp.where(p > 0, p, 1.0))).sum(-1)


def _tsallis15(p: jax.Array) -> jax.Array:
  return ((p**1.5).sum(-1) - p.sum(-1)) / 0.75


_REGULARISERS = {
  'softmax': _negentropy,
  'sparsemax': _half_square,
  'entmax15': _tsallis15,
}
