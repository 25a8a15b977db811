"""Losses with the reader: answer, expected cost, and distillation.

A teacher is a distillation loss from the reader to the scores of the documents
that it read. It stops the gradient into the reader's likelihoods. With
`reader.reranks` the scores include the reader's relevance, which it does train.
To add a teacher, add a function of a trace and a line to `TEACHERS`.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from rag_jax import trace as traces
from rag_jax.components import ranker
from rag_jax.ops import (
  answer_metrics,
  distillation,
  estimators,
  losses,
  metrics,
)

Sum = tuple[jax.Array, jax.Array]  # (sum, count)
Trace = traces.Trace


def answer(trace: Trace) -> Sum:
  """-log P(answer | question), the marginal over the documents read."""
  reading, reader = trace.reading, trace.reader
  kind = trace.stage.marginal or reader.marginals[0]
  if kind == 'fusion':
    assert reader.joint_log_likelihood is not None
    scores = reader.joint_log_likelihood(
      trace.params['reader'],
      reading.memory,
      reading.weights,
      trace.answers,
    )
    return metrics.total(-scores.sum(-1), trace.written)
  if kind == 'token':
    nll = losses.token_marginal(
      reading.weights,
      trace.token_likelihoods,
      where=trace.holds,
      token_where=trace.token_where,
    )
  else:
    nll = losses.sequence_marginal(
      reading.weights, trace.likelihoods, where=trace.holds
    )
  readable = trace.holds & (reading.weights > 0)
  return metrics.total(nll, readable.any(1) & trace.batch.where)


def expected_cost(trace: Trace) -> Sum:
  """Expected cost of reading one document, by the stage's estimator."""
  stage, scores = trace.stage, trace.search_scores
  where = trace.reading.where
  costs = jax.lax.stop_gradient(_costs(trace))
  estimate = ESTIMATORS[stage.estimator]

  def one(rng, scores, costs, where):
    return estimate(rng, scores, costs, where, stage)

  value = jax.vmap(one)(trace.key(2), scores, costs, where)
  return metrics.total(value, trace.has_answer & where.any(1))


def _costs(trace: Trace) -> jax.Array:
  """Cost of the answer from each document alone, float32[B, R]."""
  if trace.stage.cost == 'nll':
    return -trace.teacher_likelihoods()
  written = trace.reader.answer_each(
    trace.params['reader'], trace.reading.memory
  )
  measure = {
    'em': answer_metrics.token_exact_match,
    'f1': answer_metrics.token_f1,
  }
  utility = measure[trace.stage.cost](written, trace.answers[:, None])
  return 1.0 - utility


def taught(teacher: Callable[[Trace], jax.Array], trace: Trace) -> Sum:
  """A teacher's loss of the scores of the documents read."""
  return metrics.total(teacher(trace), trace.taught)


def _posterior(trace: Trace) -> jax.Array:
  return losses.fenchel_young(
    trace.search_scores,
    trace.posterior,
    operator=trace.operator,
    where=trace.reading.where,
    **ranker.options(trace.config.ranker, trace.operator),
  )


def docid_posterior(trace: Trace) -> Sum:
  """Cross-entropy of the docids under the reader's posterior."""
  nll = -(trace.posterior * trace.reading.docid).sum(1)
  return metrics.total(nll, trace.taught)


def _by_likelihood(function: Callable[..., jax.Array], trace: Trace):
  """PDist or REPLUG: a KL divergence at the stage's temperature."""
  return function(
    trace.search_scores,
    trace.teacher_likelihoods(),
    where=trace.reading.where,
    temperature=trace.stage.temperature,
  )


def _loop(trace: Trace) -> jax.Array:
  return distillation.loop(
    trace.search_scores,
    left_out(trace),
    where=trace.reading.where,
    temperature=trace.stage.temperature,
  )


def left_out(trace: Trace) -> jax.Array:
  """Log-likelihood of the answer given all documents but one, [B, R]."""
  where = trace.reading.where
  size = where.shape[1]
  others = where[:, None] & ~jnp.eye(size, dtype=bool)  # [B, R, R]
  weights = others / jnp.maximum(others.sum(-1, keepdims=True), 1)
  if trace.reader.joint_log_likelihood is None:
    each = trace.teacher_likelihoods()
    each = jnp.broadcast_to(each[:, None], others.shape)
    return -losses.sequence_marginal(weights, each, where=others)

  def one(weights):
    scores = trace.reader.joint_log_likelihood(
      trace.params['reader'],
      trace.reading.memory,
      weights,
      trace.answers,
    )
    return scores.sum(-1)

  scores = jax.lax.map(one, jnp.moveaxis(weights, 1, 0))  # [R, B]
  return jax.lax.stop_gradient(scores.T)


def _adist(trace: Trace) -> jax.Array:
  assert trace.reader.attention is not None  # checked by composition
  attention = trace.reader.attention(
    trace.params['reader'],
    trace.reading.memory,
    trace.reading.where / jnp.maximum(trace.reading.where.sum(1)[:, None], 1),
    trace.answers,
  )
  return distillation.adist(
    trace.search_scores,
    jnp.log(jnp.maximum(attention, 1e-9)),
    where=trace.reading.where,
    temperature=trace.stage.temperature,
  )


def _emdr2(trace: Trace) -> jax.Array:
  return distillation.emdr2(
    trace.search_scores,
    trace.teacher_likelihoods(),
    where=trace.reading.where,
  )


def _emdr2_token(trace: Trace) -> jax.Array:
  return distillation.emdr2_token(
    trace.search_scores,
    trace.token_likelihoods,
    where=trace.reading.where,
    token_where=trace.token_where,
  )


TEACHERS: dict[str, Callable[[Trace], jax.Array]] = {
  'posterior': _posterior,
  'pdist': functools.partial(_by_likelihood, distillation.pdist),
  'loop': _loop,
  'adist': _adist,
  'emdr2': _emdr2,
  'emdr2_token': _emdr2_token,
  'replug': functools.partial(_by_likelihood, distillation.replug),
}
ESTIMATORS: dict[str, Callable[..., jax.Array]] = {
  'enumerate': lambda rng, z, c, w, s: estimators.enumerate_all(z, c, where=w),
  'top_k': lambda rng, z, c, w, s: estimators.rescore(
    z, c, k=s.samples, where=w
  ),
  'gumbel_softmax': lambda rng, z, c, w, s: estimators.straight_through(
    rng, z, c, temperature=s.temperature, where=w
  ),
  'leave_one_out': lambda rng, z, c, w, s: estimators.leave_one_out(
    rng, z, c, num_samples=s.samples, where=w
  ),
  'leave_one_out_set': lambda rng, z, c, w, s: estimators.leave_one_out_set(
    rng, z, c, k=s.samples, where=w
  ),
  'expected_utility': lambda rng, z, c, w, s: estimators.expected_utility(
    rng, z, 1 - c, k=s.samples, temperature=s.temperature, where=w
  ),
}
