"""Losses of selection and retrieval, one value a row and no reduction.

Arguments that recur: `scores` and `weights` are float[..., K], in nats and on
the simplex; `where` is bool[..., K], True = real. A row where everything is
masked loses 0 and has no gradient. Everything is computed in float32.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rag_jax.ops import masking, selection


def fenchel_young(
  scores: jax.Array,
  targets: jax.Array,
  *,
  operator: str = 'sparsemax',
  where: jax.Array | None = None,
  **options: Any,
) -> jax.Array:
  """The loss whose gradient is operator(scores) - targets.

  <p - q, z> + Omega(q) - Omega(p), with p = operator(z) and Omega the
  operator's regulariser. It is 0 only where p = q, and gives a gradient to
  targets outside the support, where a likelihood gives none.

  Args:
    scores: float[..., K].
    targets: float[..., K], where the weights should be; no gradient flows
      into them.
    operator: a name in `selection.OPERATORS`, 'entmax' or 'capped_simplex'.
    where: bool[..., K].
    **options: of the operator: `alpha`, a number above 1, for 'entmax'; `k`
      for 'capped_simplex', whose targets sum to k.

  Returns:
    float32[...].

  Raises:
    ValueError: if there is no operator of that name.

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
  if operator not in _FAMILIES:
    raise ValueError(
      f'operator must be one of {", ".join(_FAMILIES)}, got {operator!r}. '
      'A Fenchel-Young loss needs an operator with a regulariser.'
    )
  select, omega = _FAMILIES[operator]
  weights = select(scores, where=where, **options)
  # By Danskin's theorem the gradient through p vanishes at the optimum.
  weights = jax.lax.stop_gradient(weights)
  alpha = {name: options[name] for name in ('alpha',) if name in options}
  loss = ((weights - targets) * shifted).sum(-1)
  loss = loss + omega(targets, **alpha) - omega(weights, **alpha)
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
  likelihoods = jnp.where(support, log_likelihoods, masking.NEG_INF).astype(
    jnp.float32
  )
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


def log_weights(
  weights: jax.Array, *, where: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
  """Log w on the support, for the attention of a fusion-in-decoder reader.

  Added to the scores of the tokens of a document, it makes attention
  proportional to the document's weight, and the answer's loss reaches the
  ranker. A document without weight must be masked: that is what is returned
  beside it.

  Args:
    weights: float[..., K].
    where: bool[..., K].

  Returns:
    float[..., K] biases, 0 off the support, and bool[..., K], the support.

  Example:
    >>> bias, support = log_weights(jnp.array([1.0, 0.0]))
    >>> bias.tolist(), support.tolist()
    ([0.0, 0.0], [True, False])
  """
  support = weights > 0
  if where is not None:
    support &= where
  return jnp.where(support, jnp.log(jnp.where(support, weights, 1)), 0), support


def docid_nll(
  log_probabilities: jax.Array, *, where: jax.Array | None = None
) -> jax.Array:
  """-log P(docid | query), the mean over the gold documents of a query.

  Args:
    log_probabilities: float[..., G], nats, from `beam.score`.
    where: bool[..., G], the gold documents that exist.

  Returns:
    float32[...], nats; 0 for a query without a gold document.

  Example:
    >>> docid_nll(jnp.array([-2.0, -9.0]), where=jnp.array([True, False]))
    Array(2., dtype=float32)

  Reference:
    Tay et al., Transformer Memory as a Differentiable Search Index, 2022.
  """
  if where is None:
    where = jnp.ones(log_probabilities.shape, bool)
  total = jnp.where(where, log_probabilities, 0).astype(jnp.float32).sum(-1)
  return -total / jnp.maximum(where.sum(-1), 1)


def list_mle(
  scores: jax.Array, gains: jax.Array, *, where: jax.Array | None = None
) -> jax.Array:
  """-log P(the order of the gains), under Plackett-Luce with these scores.

  Args:
    scores: float[..., K], nats.
    gains: float[..., K]; documents are to come in falling order of gain, those
      of equal gain in the order in which they are given.
    where: bool[..., K].

  Returns:
    float32[...], nats.

  Example:
    >>> loss = list_mle(jnp.zeros(3), jnp.array([3.0, 2.0, 1.0]))
    >>> jnp.exp(loss).round().astype(int)  # 3! orders
    Array(6, dtype=int32)

  Reference:
    Xia et al., Listwise Approach to Learning to Rank, 2008.
  """
  if where is None:
    where = jnp.ones(scores.shape, bool)
  order = jnp.argsort(jnp.where(where, -gains, jnp.inf), axis=-1, stable=True)
  where = jnp.take_along_axis(where, order, axis=-1)
  scores = jnp.take_along_axis(scores, order, axis=-1)
  scores = jnp.where(where, scores, masking.NEG_INF).astype(jnp.float32)
  left = jax.lax.cumlogsumexp(scores, axis=scores.ndim - 1, reverse=True)
  return jnp.where(where, left - scores, 0).sum(-1)


def margin_ranking(
  positive: jax.Array,
  negative: jax.Array,
  *,
  margin: float = 1.0,
  where: jax.Array | None = None,
) -> jax.Array:
  """sum_k max(0, margin - s(positive) + s(negative_k)) over whole docids.

  Args:
    positive: float[...], the score of a gold docid, nats.
    negative: float[..., K], scores of other docids of the beam, nats.
    margin: nats.
    where: bool[..., K], the negatives that are real.

  Returns:
    float32[...].

  Example:
    >>> margin_ranking(jnp.float32(2.0), jnp.array([1.5, 0.0]))
    Array(0.5, dtype=float32)

  Reference:
    Li et al., Learning to Rank in Generative Retrieval (LTRGR), 2023.
  """
  if where is None:
    where = jnp.ones(negative.shape, bool)
  negative = jnp.where(where, negative, masking.NEG_INF).astype(jnp.float32)
  return jnp.maximum(margin - positive[..., None] + negative, 0).sum(-1)


def prefix_margin(
  positive: jax.Array,
  negative: jax.Array,
  teacher_margin: jax.Array,
  *,
  where: jax.Array | None = None,
) -> jax.Array:
  """sum_i (s_i(positive) - s_i(negative) - T_i)^2 over prefixes of docids.

  s_i is the sum of the scores of the first i codes, so that a gold document is
  already ahead at the prefixes where a beam would lose it.

  Args:
    positive: float[..., L], scores of the codes of the gold docid, nats.
    negative: float[..., L], of another docid.
    teacher_margin: float[..., L], what a teacher's scores differ by at each
      prefix; the teacher's score of a prefix is the best of its documents.
    where: bool[..., L], the prefixes that count; None counts all.

  Returns:
    float32[...], nats squared.

  Example:
    >>> zero = jnp.zeros(2)
    >>> prefix_margin(jnp.array([1.0, 1.0]), zero, jnp.array([1.0, 3.0]))
    Array(1., dtype=float32)

  Reference:
    Zeng et al., Scalable and Effective Generative Information Retrieval
    (RIPOR), 2023.
  """
  gap = jnp.cumsum((positive - negative).astype(jnp.float32), axis=-1)
  square = (gap - jax.lax.stop_gradient(teacher_margin)) ** 2
  return square.sum(-1) if where is None else (square * where).sum(-1)


def _half_square(p: jax.Array) -> jax.Array:
  return (p * p).sum(-1) / 2


def _negentropy(p: jax.Array) -> jax.Array:
  return (p * jnp.log(jnp.where(p > 0, p, 1.0))).sum(-1)


def _tsallis15(p: jax.Array) -> jax.Array:
  return ((p**1.5).sum(-1) - p.sum(-1)) / 0.75


def _tsallis(p: jax.Array, *, alpha: float) -> jax.Array:
  return ((p**alpha).sum(-1) - p.sum(-1)) / (alpha * (alpha - 1))


_FAMILIES: dict[str, tuple[Callable, Callable]] = {
  'softmax': (selection.softmax, _negentropy),
  'sparsemax': (selection.sparsemax, _half_square),
  'entmax15': (selection.entmax15, _tsallis15),
  'entmax': (selection.entmax, _tsallis),
  'capped_simplex': (selection.capped_simplex, _half_square),
}
