"""RAG-sequence and RAG-token marginals of a decoder-only language model.

There is one prompt per passage. `read` fills its KV cache once.
`answer_log_likelihood` gives log P(y_t | q, d_k, y_<t). With the ranker's
weights w_k, the marginals over passages are (see `ops.losses`):

  sequence: log sum_k w_k prod_t P(y_t | q, d_k, y_<t)
  token:    sum_t log sum_k w_k P(y_t | q, d_k, y_<t)

`write_sequence` and `write_token` generate answers by either marginal. The
closed-book case is one prompt of weight 1 without a passage. Scores are
differentiable in parameters and weights; the choice of tokens is not.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rag_jax.nn import generate, llama
from rag_jax.ops import beam, losses, masking

MARGINALS = ('sequence', 'token')


class Memory(NamedTuple):
  """Prompts after `read`, flattened to R = B K rows."""

  logits: jax.Array  # float32[B, K, V], logits of the first answer token
  prompt: dict[str, Any]  # R rows, from `llama.prefill`
  cache: dict[str, jax.Array]  # R rows, KV cache of the answer


def read(
  params: dict[str, Any],
  config: llama.LlamaConfig,
  tokens: jax.Array,
  where: jax.Array,
  *,
  max_length: int,
) -> Memory:
  """Runs the model over the prompts of all passages.

  Args:
    params: parameters of `llama`.
    config: sizes of the model.
    tokens: int32[B, K, S], prompts from `prompts.encode`.
    where: bool[B, K, S], True = real.
    max_length: L, maximum number of answer tokens (size of the KV cache).

  Returns:
    The memory that the other functions take.
  """
  batch, count, length = tokens.shape
  logits, prompt, cache = llama.prefill(
    params,
    config,
    tokens.reshape(-1, length),
    where.reshape(-1, length),
    max_length,
  )
  return Memory(logits.reshape(batch, count, -1), prompt, cache)


def answer_log_likelihood(
  params: dict[str, Any],
  config: llama.LlamaConfig,
  memory: Memory,
  answers: jax.Array,
  where: jax.Array,
) -> jax.Array:
  """Log-probability of each token of C answers given each passage.

  Args:
    params: parameters of `llama`.
    config: sizes of the model.
    memory: from `read`.
    answers: int32[B, C, A], from `prompts.encode_answers`.
    where: bool[B, C, A], True = real.

  Returns:
    float32[B, K, C, A] in nats, 0 on padding.
  """
  batch, count, _ = memory.logits.shape
  rows = jnp.repeat(answers, count, axis=0)  # [R, C, A]

  def gather(logits, tokens):
    chosen = jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]
    return chosen - jax.nn.logsumexp(logits, axis=-1)

  first = memory.logits.reshape(batch * count, 1, 1, -1)
  first = jnp.broadcast_to(first, (*rows.shape[:2], 1, first.shape[-1]))
  rest = llama.follow(params, config, memory.prompt, rows[..., :-1])
  scores = jnp.concatenate(
    [gather(first, rows[..., :1]), gather(rest, rows[..., 1:])], axis=-1
  )
  scores = scores.reshape(batch, count, *answers.shape[1:])
  return jnp.where(where[:, None], scores, 0.0)


def marginal(
  weights: jax.Array,
  log_likelihoods: jax.Array,
  where: jax.Array,
  *,
  kind: str = 'sequence',
) -> jax.Array:
  """Log-probability of answers, marginalised over passages.

  Args:
    weights: float32[B, K], weights from the ranker.
    log_likelihoods: float32[B, K, C, A], from `answer_log_likelihood`.
    where: bool[B, C, A], True = real.
    kind: one of `MARGINALS`, see the module docstring.

  Returns:
    float32[B, C] in nats; its negative is the loss.

  Raises:
    ValueError: if the kind is unknown.

  Example:
    >>> scores = jnp.log(jnp.array([[0.8, 0.1], [0.2, 0.9]]))[None, :, None]
    >>> where, weights = jnp.ones((1, 1, 2), bool), jnp.array([[0.5, 0.5]])
    >>> for kind in MARGINALS:
    ...   total = marginal(weights, scores, where, kind=kind)
    ...   print(round(float(jnp.exp(total[0, 0])), 3))
    0.13
    0.25

  Reference:
    Lewis et al., Retrieval-Augmented Generation for Knowledge-Intensive NLP
    Tasks, 2020.
  """
  if kind not in MARGINALS:
    raise ValueError(
      f'kind must be one of {", ".join(MARGINALS)}, got {kind!r}. Pass '
      "'sequence' for RAG-sequence or 'token' for RAG-token."
    )
  weights = weights[:, None]
  scores = jnp.swapaxes(log_likelihoods, 1, 2)  # [B, C, K, A]
  if kind == 'token':
    return -losses.token_marginal(weights, scores, token_where=where)
  scores = jnp.where(where[:, :, None], scores, 0.0).sum(-1)
  weights = jnp.broadcast_to(weights, scores.shape)
  return -losses.sequence_marginal(weights, scores)


def write_token(
  params: dict[str, Any],
  config: llama.LlamaConfig,
  memory: Memory,
  weights: jax.Array,
  *,
  end_token: int,
  max_length: int,
  beam_size: int = 1,
  constraint: generate.Constraint | None = None,
) -> generate.Written:
  """Generates answers by the token marginal (RAG-token).

  The next token has probability sum_k w_k P(y | q, d_k, y_<t).

  Args:
    params: parameters of `llama`.
    config: sizes of the model.
    memory: from `read`, with at least this `max_length`.
    weights: float32[B, K], summing to 1; a passage of weight 0 is ignored.
    end_token: the token that ends an answer.
    max_length: maximum number of answer tokens.
    beam_size: n, answers per question; 1 = greedy decoding.
    constraint: such as `generate.runs` over the passages; None = all tokens.

  Returns:
    n answers per question with their token marginals in nats.
  """
  batch, count, _ = memory.logits.shape
  bias, support = losses.log_weights(weights)

  def mix(logits):  # [B, K, ..., V] to [B, ..., V]
    shape = (batch, count) + (1,) * (logits.ndim - 2)
    log_probs = jax.nn.log_softmax(logits, axis=-1) + bias.reshape(shape)
    log_probs = jnp.where(support.reshape(shape), log_probs, masking.NEG_INF)
    return jax.nn.logsumexp(log_probs, axis=1)

  def split(x):  # [R, n, ...] to [B, n, K, ...]: beams on the second axis
    return jnp.swapaxes(x.reshape(batch, count, *x.shape[1:]), 1, 2)

  def join(x):
    return jnp.swapaxes(x, 1, 2).reshape(-1, x.shape[1], *x.shape[3:])

  def step_fn(cache, tokens):
    cache = jax.tree.map(join, cache)
    rows = jnp.repeat(tokens, count, axis=0)
    logits, cache = llama.step(params, config, memory.prompt, cache, rows)
    logits = mix(logits.reshape(batch, count, *logits.shape[1:]))
    return logits, jax.tree.map(split, cache)

  return _write(
    step_fn,
    mix(memory.logits),
    jax.tree.map(split, memory.cache),
    beam_size=beam_size,
    end_token=end_token,
    max_length=max_length,
    constraint=constraint,
  )


def write_sequence(
  params: dict[str, Any],
  config: llama.LlamaConfig,
  memory: Memory,
  weights: jax.Array,
  *,
  end_token: int,
  max_length: int,
  beam_size: int = 1,
  constraint: generate.Constraint | None = None,
) -> generate.Written:
  """Generates answers by the sequence marginal (RAG-sequence).

  Generates n answers given each passage alone and ranks all K n answers by
  their sequence marginal over all passages.

  Args:
    params: parameters of `llama`.
    config: sizes of the model.
    memory: from `read`, with at least this `max_length`.
    weights: float32[B, K], summing to 1.
    end_token: the token that ends an answer.
    max_length: maximum number of answer tokens.
    beam_size: n, answers per passage; 1 = greedy decoding.
    constraint: with R = B K rows, such as `generate.runs` over single passages;
      None = all tokens.

  Returns:
    K n answers per question with their sequence marginals in nats, best first;
    -1e9 for answers of a passage of weight 0.
  """
  batch = len(memory.logits)
  found = write_each(
    params,
    config,
    memory,
    end_token=end_token,
    max_length=max_length,
    beam_size=beam_size,
    constraint=constraint,
  )
  alive = (found.scores > masking.NEG_INF / 2).reshape(batch, -1)
  alive &= jnp.repeat(weights > 0, beam_size, axis=1)
  tokens = found.tokens.reshape(batch, -1, max_length)
  where = found.where.reshape(batch, -1, max_length)
  scores = answer_log_likelihood(params, config, memory, tokens, where)
  totals = jnp.where(alive, marginal(weights, scores, where), masking.NEG_INF)
  totals, order = jax.lax.top_k(totals, totals.shape[1])
  tokens, where = beam.reorder((tokens, where), order)
  return generate.Written(tokens, where, totals)


def write_each(
  params: dict[str, Any],
  config: llama.LlamaConfig,
  memory: Memory,
  *,
  end_token: int,
  max_length: int,
  beam_size: int = 1,
  constraint: generate.Constraint | None = None,
  write: Callable[..., generate.Written] | None = None,
) -> generate.Written:
  """Generates n answers given each passage alone: R = B K rows.

  Arguments are as for `write_sequence`. `write` is a function of `generate`
  other than greedy decoding and beam search.
  """
  return (write or functools.partial(_write, beam_size=beam_size))(
    functools.partial(llama.step, params, config, memory.prompt),
    memory.logits.reshape(-1, memory.logits.shape[-1]),
    memory.cache,
    end_token=end_token,
    max_length=max_length,
    constraint=constraint,
  )


def _write(step_fn, logits, cache, *, beam_size, **options):
  """Greedy decoding if `beam_size` is 1, else beam search."""
  if beam_size == 1:
    return generate.greedy(step_fn, logits, cache, **options)
  return generate.beam(step_fn, logits, cache, beam_size=beam_size, **options)
