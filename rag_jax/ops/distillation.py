"""What the reader teaches the search: distillation losses, one value a row.

Arguments that recur: `scores` float[..., K], the search's scores of the
documents in nats, which are trained; a signal of the reader on the same
documents, into which no gradient flows; `where` bool[..., K], True = real. A
row with nothing real loses 0.

`reduction` names what is divided: 'sum' is the Kullback-Leibler divergence,
'mean' divides it by the number of documents, as the published code of Atlas
does.
"""

import jax
import jax.numpy as jnp

from rag_jax.ops import losses, selection

REDUCTIONS = ('sum', 'mean')


def pdist(
  scores: jax.Array,
  log_likelihoods: jax.Array,
  *,
  where: jax.Array | None = None,
  temperature: float = 1.0,
  reduction: str = 'sum',
) -> jax.Array:
  """Perplexity distillation: KL(softmax(l / t) | softmax(z)).

  A document should be as likely as it makes the answer.

  Args:
    scores: float[..., K].
    log_likelihoods: float[..., K], of the answer given each document, nats.
    where: bool[..., K].
    temperature: t, positive; of the reader's distribution.
    reduction: one of `REDUCTIONS`.

  Returns:
    float32[...], nats.

  Example:
    >>> z = jnp.log(jnp.array([0.5, 0.5]))
    >>> pdist(z, jnp.log(jnp.array([0.75, 0.25]))).round(4)
    Array(0.1308, dtype=float32)

  Reference:
    Izacard et al., Atlas: Few-shot Learning with Retrieval Augmented Language
    Models, 2022.
  """
  selection.check_temperature(temperature)
  teacher = selection.softmax(
    log_likelihoods.astype(jnp.float32) / temperature, where=where
  )
  return _divergence(scores, teacher, where, reduction)


def loop(
  scores: jax.Array,
  left_out_log_likelihoods: jax.Array,
  *,
  where: jax.Array | None = None,
  temperature: float = 1.0,
  reduction: str = 'sum',
) -> jax.Array:
  """Leave-one-out perplexity distillation: KL(softmax(-l / t) | softmax(z)).

  A document should be as likely as the answer becomes unlikely without it.

  Args:
    scores: float[..., K].
    left_out_log_likelihoods: float[..., K], of the answer given all documents
      but this one, nats.
    where: bool[..., K].
    temperature: t, positive.
    reduction: one of `REDUCTIONS`.

  Returns:
    float32[...], nats.

  Example:
    >>> z = jnp.zeros(2)
    >>> bool(jax.grad(loop)(z, jnp.array([-5.0, -1.0]))[0] < 0)
    True

  Reference:
    Izacard et al., Atlas, 2022.
  """
  return pdist(
    scores,
    -left_out_log_likelihoods,
    where=where,
    temperature=temperature,
    reduction=reduction,
  )


def adist(
  scores: jax.Array,
  attention: jax.Array,
  *,
  where: jax.Array | None = None,
  temperature: float = 1.0,
  reduction: str = 'sum',
) -> jax.Array:
  """Attention distillation: KL(softmax(a / t) | softmax(z)).

  A document should be as likely as the fusion reader attends to it.

  Args:
    scores: float[..., K].
    attention: float[..., K], cross-attention on each document, averaged over
      heads, layers and tokens; of its logits or weighed by the norms of values.
    where: bool[..., K].
    temperature: t, positive.
    reduction: one of `REDUCTIONS`.

  Returns:
    float32[...], nats.

  Example:
    >>> adist(jnp.zeros(2), jnp.zeros(2))
    Array(0., dtype=float32)

  Reference:
    Izacard and Grave, Distilling Knowledge from Reader to Retriever for
    Question Answering, 2021.
  """
  return pdist(
    scores,
    attention,
    where=where,
    temperature=temperature,
    reduction=reduction,
  )


def emdr2(
  scores: jax.Array,
  log_likelihoods: jax.Array,
  *,
  where: jax.Array | None = None,
) -> jax.Array:
  """-log sum_k softmax(z)_k exp(l_k), the reader held still.

  The form of the paper, over whole answers.

  Args:
    scores: float[..., K].
    log_likelihoods: float[..., K], of the answer given each document, nats.
    where: bool[..., K].

  Returns:
    float32[...], nats.

  Example:
    >>> emdr2(jnp.zeros(2), jnp.log(jnp.array([0.5, 0.25]))).round(4)
    Array(0.9808, dtype=float32)

  Reference:
    Singh et al., End-to-End Training of Multi-Document Reader and Retriever
    for Open-Domain Question Answering, 2021.
  """
  weights = selection.softmax(scores.astype(jnp.float32), where=where)
  fixed = jax.lax.stop_gradient(log_likelihoods)
  return losses.sequence_marginal(weights, fixed, where=where)


def emdr2_token(
  scores: jax.Array,
  token_log_likelihoods: jax.Array,
  *,
  where: jax.Array | None = None,
  token_where: jax.Array | None = None,
) -> jax.Array:
  """-sum_t log sum_k softmax(z)_k exp(l_kt), the reader held still.

  The form that published code takes under the name of EMDR2: each token of
  the answer may come from another document.

  Args:
    scores: float[..., K].
    token_log_likelihoods: float[..., K, A], nats.
    where: bool[..., K].
    token_where: bool[..., A], the tokens of the answer.

  Returns:
    float32[...], nats.

  Example:
    >>> l = jnp.log(jnp.array([[0.5, 0.5], [0.25, 1.0]]))
    >>> emdr2_token(jnp.zeros(2), l).round(4)
    Array(1.2685, dtype=float32)

  Reference:
    Singh et al., EMDR2, 2021; Izacard et al., Atlas, 2022.
  """
  weights = selection.softmax(scores.astype(jnp.float32), where=where)
  fixed = jax.lax.stop_gradient(token_log_likelihoods)
  return losses.token_marginal(
    weights, fixed, where=where, token_where=token_where
  )


def replug(
  scores: jax.Array,
  log_likelihoods: jax.Array,
  *,
  where: jax.Array | None = None,
  temperature: float = 1.0,
  score_temperature: float = 1.0,
  reduction: str = 'sum',
) -> jax.Array:
  """KL(softmax(z / s) | softmax(l / t)): the other way round than `pdist`.

  Args:
    scores: float[..., K].
    log_likelihoods: float[..., K], of the answer given each document, nats.
    where: bool[..., K].
    temperature: t, positive; of the reader's distribution.
    score_temperature: s, positive.
    reduction: one of `REDUCTIONS`.

  Returns:
    float32[...], nats.

  Example:
    >>> replug(jnp.zeros(2), jnp.zeros(2))
    Array(0., dtype=float32)

  Reference:
    Shi et al., REPLUG: Retrieval-Augmented Black-Box Language Models, 2023.
  """
  selection.check_temperature(temperature)
  selection.check_temperature(score_temperature)
  _check_reduction(reduction)
  where = _real(scores, where)
  own = _log_softmax(scores / score_temperature, where)
  teacher = _log_softmax(log_likelihoods / temperature, where)
  gap = own - jax.lax.stop_gradient(teacher)
  value = (jnp.where(where, jnp.exp(own), 0) * gap).sum(-1)
  return _reduce(value, where, reduction)


def _divergence(scores, teacher, where, reduction):
  """KL(teacher | softmax(scores)); the teacher is held still."""
  _check_reduction(reduction)
  where = _real(scores, where)
  teacher = jax.lax.stop_gradient(jnp.where(where, teacher, 0))
  known = jnp.log(jnp.where(teacher > 0, teacher, 1))
  gap = known - _log_softmax(scores, where)
  return _reduce((teacher * gap).sum(-1), where, reduction)


def _log_softmax(scores, where):
  """Log softmax over the real slots, 0 in the others."""
  clean = jnp.where(where, scores, 0).astype(jnp.float32)
  best = jnp.max(
    clean, axis=-1, keepdims=True, where=where, initial=selection.LOW
  )
  shifted = jnp.where(where, clean - jax.lax.stop_gradient(best), 0)
  total = jnp.where(where, jnp.exp(shifted), 0).sum(-1, keepdims=True)
  log_total = jnp.log(jnp.where(total > 0, total, 1))
  return jnp.where(where, shifted - log_total, 0)


def _real(scores, where):
  if where is None:
    return jnp.ones(scores.shape, bool)
  return jnp.broadcast_to(where, scores.shape)


def _reduce(value, where, reduction):
  if reduction == 'mean':
    return value / jnp.maximum(where.sum(-1), 1)
  return value


def _check_reduction(reduction):
  if reduction not in REDUCTIONS:
    raise ValueError(
      f'reduction must be one of {", ".join(REDUCTIONS)}, got {reduction!r}. '
      "'sum' is the divergence itself."
    )
