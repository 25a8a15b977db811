"""Answer spans: functions shared by the extractive readers.

The probability of a span is P(start) P(end). Occurrences of an answer in a
passage are found on the device by matching tokens.
"""

import functools
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from rag_jax import types
from rag_jax.ops import masking
from rag_jax.readers import base


class Memory(NamedTuple):
  """Span log-probabilities and relevance of each passage."""

  spans: jax.Array  # float32[B, K, P, 2], log P(start) and log P(end)
  passages: jax.Array  # int32[B, K, P]
  relevance: jax.Array | None = None  # float32[B, K], nats


@flax.struct.dataclass
class Spans:
  """The best span of each passage."""

  start: jax.Array  # int32[B, K], first token
  end: jax.Array  # int32[B, K], last token
  score: jax.Array  # float32[B, K], log-probability, nats


def functions(
  config: base.ReaderConfig,
) -> dict[str, Any]:
  """`log_likelihood`, `answer` and `answer_each` of an extractive reader."""
  return {
    'log_likelihood': _log_likelihood,
    'answer': functools.partial(_answer, config),
    'answer_each': functools.partial(_answer_each, config),
  }


def log_probabilities(
  logits: jax.Array, passages: jax.Array, *, shared: bool = False
) -> jax.Array:
  """Log-probabilities of span starts and ends.

  Args:
    logits: float[B, K, P, 2].
    passages: int32[B, K, P], 0 = padding.
    shared: one softmax over the tokens of all passages, instead of one per
      passage.

  Returns:
    float32[B, K, P, 2], nats.
  """
  where = (passages != types.PAD)[..., None]
  logits = jnp.where(where, logits.astype(jnp.float32), masking.NEG_INF)
  return jax.nn.log_softmax(logits, axis=(1, 2) if shared else 2)


def find_answers(passages: jax.Array, answers: jax.Array) -> jax.Array:
  """Finds all occurrences of answers in passages.

  Args:
    passages: int32[B, K, P], 0 = padding.
    answers: int32[B, M, A], 0 = padding; an all-padding answer never occurs.

  Returns:
    bool[B, K, M, P], True where an occurrence starts.

  Example:
    >>> passages = jnp.array([[[5, 6, 7, 6, 0]]])
    >>> find_answers(passages, jnp.array([[[6, 0], [6, 7]]]))[0, 0].astype(int)
    Array([[0, 1, 0, 1, 0],
           [0, 1, 0, 0, 0]], dtype=int32)
  """
  length, width = passages.shape[-1], answers.shape[-1]
  padded = jnp.pad(passages, ((0, 0), (0, 0), (0, width - 1)))
  real = answers != types.PAD
  match = jnp.broadcast_to(
    real[:, None, :, :1], (*passages.shape[:2], answers.shape[1], length)
  )
  for offset in range(width):
    window = padded[:, :, None, offset : offset + length]
    token = answers[:, None, :, offset, None]
    match &= (window == token) | ~real[:, None, :, offset, None]
  return match


def answer_log_likelihood(
  spans: jax.Array, passages: jax.Array, answers: jax.Array
) -> jax.Array:
  """Log-probability of the answers in each passage, over all occurrences.

  Args:
    spans: float32[B, K, P, 2], log-probabilities of starts and ends.
    passages: int32[B, K, P].
    answers: int32[B, M, A].

  Returns:
    float32[B, K] in nats; -1e9 where no answer occurs.

  Example:
    >>> spans = jnp.log(jnp.array([[[[0.5, 0.1], [0.5, 0.9]]]]))
    >>> found = answer_log_likelihood(
    ...   spans, jnp.array([[[7, 7]]]), jnp.array([[[7]]])
    ... )
    >>> jnp.exp(found).round(3).tolist()  # 0.5 * 0.1 + 0.5 * 0.9
    [[0.5]]
  """
  starts = find_answers(passages, answers)
  lengths = (answers != types.PAD).sum(-1)  # [B, M]
  length = passages.shape[-1]
  ends = jnp.arange(length) + jnp.maximum(lengths - 1, 0)[..., None]
  ends = jnp.minimum(ends, length - 1)[:, None]  # [B, 1, M, P]
  ends = jnp.broadcast_to(ends, starts.shape)
  end_scores = jnp.take_along_axis(spans[..., None, :, 1], ends, axis=-1)
  both = jnp.where(starts, spans[..., None, :, 0] + end_scores, masking.NEG_INF)
  found = starts.any(axis=(-2, -1))
  total = jax.nn.logsumexp(both, axis=(-2, -1))
  return jnp.where(found, total, masking.NEG_INF)


def best_spans(spans: jax.Array, *, max_tokens: int) -> Spans:
  """The most probable span of each passage.

  Args:
    spans: float32[B, K, P, 2], scores of starts and ends.
    max_tokens: maximum length of a span.

  Returns:
    `Spans` with start <= end < start + max_tokens.

  Example:
    >>> spans = jnp.array([[[[0.0, -2.0], [-1.0, 0.0], [-2.0, -1.0]]]])
    >>> best = best_spans(spans, max_tokens=2)
    >>> best.start.tolist(), best.end.tolist(), best.score.tolist()
    ([[0]], [[1]], [[0.0]])
  """
  start, end = spans[..., 0], spans[..., 1]
  length = start.shape[-1]
  padded = jnp.pad(
    end,
    ((0, 0), (0, 0), (0, max_tokens - 1)),
    constant_values=2 * masking.NEG_INF,
  )
  scores = jnp.stack(
    [start + padded[..., i : i + length] for i in range(max_tokens)], axis=-1
  )  # [B, K, P, max_tokens]
  flat = scores.reshape(*scores.shape[:2], -1)
  best = flat.argmax(axis=-1)
  first = best // max_tokens
  return Spans(
    start=first, end=first + best % max_tokens, score=flat.max(axis=-1)
  )


def null_log_odds(relevance: jax.Array, where: jax.Array) -> jax.Array:
  """Log-odds of the null document against all read passages.

  Args:
    relevance: float32[B, K], nats; the null document has relevance 0.
    where: bool[B, K], True = a real passage.

  Returns:
    float32[B], nats.

  Example:
    >>> relevance = jnp.array([[1.5, 9.0]])
    >>> null_log_odds(relevance, jnp.array([[True, False]])).tolist()
    [-1.5]

  Reference:
    Guu et al., REALM, 2020.
  """
  return -jax.nn.logsumexp(
    jnp.where(where, relevance, masking.NEG_INF), axis=-1
  )


def _log_likelihood(params, memory, answers):
  """See `base.Reader`; T is 1."""
  del params
  found = answer_log_likelihood(memory.spans, memory.passages, answers)
  return found[..., None]


def _answer(config, params, memory, weights, where):
  """The span that maximises P(span) times the weight of its passage."""
  del params
  spans = best_spans(memory.spans, max_tokens=config.max_answer_tokens)
  support = weights > 0
  joint = spans.score + jnp.log(jnp.where(support, weights, 1.0))
  joint = jnp.where(support, joint, masking.NEG_INF)
  best = joint.argmax(axis=1)
  null = jnp.zeros(best.shape)
  if config.null_document:
    null = null_log_odds(memory.relevance, where)

  def pick(x):
    return jnp.take_along_axis(x, best[:, None], axis=1)[:, 0]

  return base.Written(
    place=best,
    start=pick(spans.start),
    end=pick(spans.end),
    tokens=jnp.zeros((best.shape[0], config.max_answer_tokens), jnp.int32),
    log_probability=pick(joint),
    no_answer=null - pick(joint),
    second=_second(config, memory, joint, spans, best),
  )


def _second(config, memory, joint, spans, best):
  """The best score of a span that does not overlap the best one, [B]."""
  tokens = jnp.arange(memory.spans.shape[2])
  inside = (tokens >= spans.start[..., None]) & (tokens <= spans.end[..., None])
  inside &= (jnp.arange(joint.shape[1]) == best[:, None])[..., None]
  rest = jnp.where(inside[..., None], masking.NEG_INF, memory.spans)
  others = best_spans(rest, max_tokens=config.max_answer_tokens)
  return (joint - spans.score + others.score).max(axis=1)


def _answer_each(config, params, memory):
  """The tokens of the best span of each passage."""
  del params
  length = config.max_answer_tokens
  spans = best_spans(memory.spans, max_tokens=length)
  positions = spans.start[..., None] + jnp.arange(length)
  last = memory.passages.shape[-1] - 1
  tokens = jnp.take_along_axis(
    memory.passages, jnp.minimum(positions, last), axis=-1
  )
  return jnp.where(positions <= spans.end[..., None], tokens, types.PAD)
