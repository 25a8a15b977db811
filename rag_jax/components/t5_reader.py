"""The fusion-in-decoder reader on a published T5: pure functions.

Each passage is encoded with the question, the decoder attends to all of them at
once, and log w of a passage's weight is added to the scores of its tokens, so
that the answer's loss reaches the ranker. With one passage of weight 1 this is
the T5 as it was published.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from rag_jax import types
from rag_jax.nn import generate, t5, t5_generation
from rag_jax.ops import losses

START, END = 0, 1  # token ids of every T5; padding starts a text


def log_likelihood(
  params: dict[str, Any],
  query: jax.Array,
  passages: jax.Array,
  weights: jax.Array,
  answer: jax.Array,
  *,
  num_heads: int,
  remat: bool = False,
) -> jax.Array:
  """Teacher-forces an answer.

  Args:
    params: what `t5.init` returned, or published weights.
    query: int32[B, Q], 0 = padding.
    passages: int32[B, K, P].
    weights: float32[B, K]; a passage of weight 0 is not read.
    answer: int32[B, A], 0 = padding, ending with `END`.
    num_heads: of the T5.
    remat: whether states of passages are computed again for the gradient.

  Returns:
    float32[B, A] log-probabilities in nats, 0 on padding.

  Reference:
    Izacard and Grave, Leveraging Passage Retrieval with Generative Models for
    Open Domain Question Answering, 2021.
  """
  config = t5.sizes(params, num_heads=num_heads)
  config = dataclasses.replace(config, remat=remat)
  memory, where, bias = _encode(params, config, query, passages, weights)
  read = jnp.pad(answer[:, :-1], ((0, 0), (1, 0)), constant_values=START)
  logits = t5.decode(params, config, memory, where, read, bias=bias)
  chosen = jnp.take_along_axis(logits, answer[..., None], axis=-1)[..., 0]
  scores = chosen - jax.nn.logsumexp(logits, axis=-1)
  return jnp.where(answer != types.PAD, scores, 0.0)


def write(
  params: dict[str, Any],
  query: jax.Array,
  passages: jax.Array,
  weights: jax.Array,
  *,
  num_heads: int,
  max_tokens: int,
) -> tuple[jax.Array, jax.Array]:
  """Writes an answer greedily.

  Args:
    params: what `t5.init` returned, or published weights.
    query: int32[B, Q].
    passages: int32[B, K, P].
    weights: float32[B, K].
    num_heads: of the T5.
    max_tokens: A, tokens written at most, the end token included.

  Returns:
    int32[B, A] tokens, 0 from the end token on, and float32[B], the
    log-probability of what was written, nats.
  """
  config = t5.sizes(params, num_heads=num_heads)
  memory, where, bias = _encode(params, config, query, passages, weights)
  logits, shared, cache = t5_generation.start(
    params, config, memory, where, max_tokens, start_token=START, bias=bias
  )
  found = generate.greedy(
    functools.partial(t5_generation.step, params, config, shared),
    logits,
    cache,
    end_token=END,
    max_length=max_tokens,
  )
  tokens = found.tokens[:, 0]
  return jnp.where(tokens == END, types.PAD, tokens), found.scores[:, 0]


def _encode(
  params: dict[str, Any],
  config: t5.T5Config,
  query: jax.Array,
  passages: jax.Array,
  weights: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """All passages side by side: states, what is read, and log w of each token.

  A passage stands right behind the question, and the end token behind it.
  """
  batch, count, _ = passages.shape
  query = jnp.where(query == END, types.PAD, query)[:, None]
  query = jnp.broadcast_to(query, (batch, count, query.shape[-1]))
  end = jnp.full((batch, count, 1), END, query.dtype)
  tokens = jnp.concatenate([query, passages, end], axis=-1)
  tokens = tokens.reshape(batch * count, -1)
  # T5 counts places from token to token: padding goes to the end.
  order = jnp.argsort(tokens == types.PAD, axis=1, stable=True)
  tokens = jnp.take_along_axis(tokens, order, axis=1)
  where = tokens != types.PAD
  memory = t5.encode(params, config, tokens, where)
  bias, support = losses.log_weights(weights)
  where = where.reshape(batch, count, -1) & support[..., None]
  bias = jnp.broadcast_to(bias[..., None], where.shape)
  width = memory.shape[-1]
  return (
    memory.reshape(batch, -1, width),
    where.reshape(batch, -1),
    bias.reshape(batch, -1),
  )
