"""What the reader teaches the search: distillation losses, one value a row.

Arguments that recur: `scores` float[..., K], the search's scores of the
documents in nats, which are trained; a signal of the reader on the same
documents, into which no gradient flows; `where` bool[..., K], True = real. A
row with nothing real loses 0. Computed in float32 or wider, in the dtype of the
arguments; what is not finite gives what `selection` says.

`reduction` names what is divided: 'sum' is the Kullback-Leibler divergence,
'mean' divides it by the number of documents, as the published code of Atlas
does.
"""

import functools

import jax
import jax.numpy as jnp

from rag_jax.ops import checks, losses, selection

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
    float[...], nats.

  Example:
    >>> z = jnp.log(jnp.array([0.5, 0.5]))
    >>> pdist(z, jnp.log(jnp.array([0.75, 0.25]))).round(4)
    Array(0.1308, dtype=float32)

  Reference:
    Izacard et al., Atlas: Few-shot Learning with Retrieval Augmented Language
    Models, 2022.
  """
  return _taught(
    scores, log_likelihoods, 'log_likelihoods', where, temperature, reduction
  )


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
      but this one, nats. Documents without which there is no answer, at -inf,
      share all that the teacher gives.
    where: bool[..., K].
    temperature: t, positive.
    reduction: one of `REDUCTIONS`.

  Returns:
    float[...], nats.

  Example:
    >>> z = jnp.zeros(2)
    >>> bool(jax.grad(loop)(z, jnp.array([-5.0, -1.0]))[0] < 0)
    True

  Reference:
    Izacard et al., Atlas, 2022.
  """
  return _taught(
    scores,
    left_out_log_likelihoods,
    'left_out_log_likelihoods',
    where,
    temperature,
    reduction,
    left_out=True,
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
    float[...], nats.

  Example:
    >>> adist(jnp.zeros(2), jnp.zeros(2))
    Array(0., dtype=float32)

  Reference:
    Izacard and Grave, Distilling Knowledge from Reader to Retriever for
    Question Answering, 2021.
  """
  return _taught(scores, attention, 'attention', where, temperature, reduction)


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
    float[...], nats.

  Example:
    >>> emdr2(jnp.zeros(2), jnp.log(jnp.array([0.5, 0.25]))).round(4)
    Array(0.9808, dtype=float32)

  Reference:
    Singh et al., End-to-End Training of Multi-Document Reader and Retriever
    for Open-Domain Question Answering, 2021.
  """
  weights = selection.softmax(scores, where=where)
  fixed = jax.lax.stop_gradient(
    checks.floats(log_likelihoods, 'log_likelihoods')
  )
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
    float[...], nats.

  Example:
    >>> l = jnp.log(jnp.array([[0.5, 0.5], [0.25, 1.0]]))
    >>> emdr2_token(jnp.zeros(2), l).round(4)
    Array(1.2685, dtype=float32)

  Reference:
    Singh et al., EMDR2, 2021; Izacard et al., Atlas, 2022.
  """
  weights = selection.softmax(scores, where=where)
  fixed = jax.lax.stop_gradient(
    checks.floats(token_log_likelihoods, 'token_log_likelihoods')
  )
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
    float[...], nats.

  Example:
    >>> replug(jnp.zeros(2), jnp.zeros(2))
    Array(0., dtype=float32)

  Reference:
    Shi et al., REPLUG: Retrieval-Augmented Black-Box Language Models, 2023.
  """
  temperature = checks.temperature(temperature)
  own = checks.temperature(score_temperature, 'score_temperature')
  _check_reduction(reduction)
  arrays = _checked(scores, log_likelihoods, 'log_likelihoods', where)
  return _replug(*arrays, own, temperature, reduction)


@functools.partial(checks.compiled, static_argnums=5)
def _replug(scores, signal, where, own_temperature, temperature, reduction):
  dtype = checks.result_dtype(scores, signal)
  scores, signal, where = checks.spread(scores, signal, where=where)
  scores = scores / jnp.asarray(own_temperature, scores.dtype)
  signal = signal / jnp.asarray(temperature, signal.dtype)
  own = _log_softmax(scores, where)
  teacher = jax.lax.stop_gradient(_log_softmax(signal, where))
  some = where & (own != -jnp.inf)  # or 0 * inf would be NaN
  share = jnp.exp(jnp.where(some, own, 0))
  gap = jnp.where(some, own, 0) - jnp.where(some, teacher, 0)
  value = jnp.where(some, share * gap, 0).sum(-1)
  return _reduce(value, where, reduction).astype(dtype)


def _taught(
  scores, signal, name, where, temperature, reduction, left_out=False
):
  """KL(softmax(signal / t) | softmax(scores)); the teacher is held still."""
  temperature = checks.temperature(temperature)
  _check_reduction(reduction)
  arrays = _checked(scores, signal, name, where)
  return _divergence(*arrays, temperature, reduction, left_out)


@functools.partial(checks.compiled, static_argnums=(4, 5))
def _divergence(scores, signal, where, temperature, reduction, left_out):
  dtype = checks.result_dtype(scores, signal)
  scores, signal, where = checks.spread(scores, signal, where=where)
  if left_out:
    signal = _needed(signal, where)
  signal = signal / jnp.asarray(temperature, signal.dtype)
  teacher = selection.softmax(signal, where=where)
  teacher = jax.lax.stop_gradient(teacher)
  known = jnp.log(jnp.where(teacher == 0, 1, teacher))
  gap = jnp.where(teacher == 0, 0, known - _log_softmax(scores, where))
  return _reduce((teacher * gap).sum(-1), where, reduction).astype(dtype)


def _needed(logs, where):
  """Minus log-likelihoods; of a row with -inf, 0 there and -inf elsewhere."""
  lost = where & (logs == -jnp.inf)
  sure = jnp.where(lost, 0, jnp.where(jnp.isnan(logs), logs, -jnp.inf))
  return jnp.where(lost.any(-1, keepdims=True), sure, -logs)


def _log_softmax(scores, where):
  """Log softmax over the real slots, 0 in the others."""
  clean = jnp.where(where, scores, 0)
  best = jnp.max(clean, axis=-1, keepdims=True, where=where, initial=-jnp.inf)
  best = jax.lax.stop_gradient(jnp.where(best < jnp.inf, best, jnp.nan))
  shifted = jnp.where(where, clean - best, 0)
  total = jnp.where(where, jnp.exp(shifted), 0).sum(-1, keepdims=True)
  log_total = jnp.log(jnp.where(total == 0, 1, total))
  return jnp.where(where, shifted - log_total, 0)


def _checked(scores, signal, name, where):
  """What every loss here takes, as arrays whose shapes go together."""
  scores = checks.floats(scores)
  signal = checks.floats(signal, name)
  where = checks.mask(where)
  checks.together(**{'scores': scores, name: signal, 'where': where})
  return scores, signal, where


def _reduce(value, where, reduction):
  if reduction == 'mean':
    return value / jnp.maximum(where.sum(-1), 1).astype(value.dtype)
  return value


def _check_reduction(reduction):
  if reduction not in REDUCTIONS:
    raise ValueError(
      f'reduction must be one of {", ".join(REDUCTIONS)}, got {reduction!r}. '
      "'sum' is the divergence itself."
    )
