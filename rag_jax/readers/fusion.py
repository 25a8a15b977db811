"""Fusion-in-decoder: what the readers that write from all passages share.

Every passage is encoded with the question, and the decoder attends to all of
them at once; log w of a passage's weight is added to the scores of its tokens,
so that the answer's loss reaches the ranker.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rag_jax import types
from rag_jax.readers import base

# (params, memory, weights) -> int32[B, A], and float32[B], nats
Write = Callable[[base.Params, Any, jax.Array], tuple[jax.Array, jax.Array]]
# (params, memory, weights, answer int32[B, A]) -> float32[B, A], or of the
# cross-attention float32[B, A, S], S = K * tokens of an encoded passage
Force = Callable[[base.Params, Any, jax.Array, jax.Array], jax.Array]


def functions(
  force: Force, attend: Force, write: Write, *, end: int
) -> dict[str, Any]:
  """The functions of a reader, from what its model can do.

  A passage alone is one of weight 1, so that all can be read as more questions
  with one passage each.

  Args:
    force: scores an answer that ends with the end token, token by token.
    attend: likewise the cross-attention, the mean over heads and layers.
    write: writes an answer.
    end: the token that ends an answer.
  """

  def joint_log_likelihood(params, memory, weights, answers):
    target = base.with_end(answers[:, 0], end)
    return force(params, memory, weights, target)

  def log_likelihood(params, memory, answers):
    alone, (batch, count), ones = _apart(memory)
    target = base.with_end(answers[:, 0], end)
    scores = force(params, alone, ones, jnp.repeat(target, count, axis=0))
    return scores.reshape(batch, count, -1)

  def attention(params, memory, weights, answers):
    params, memory, weights = jax.lax.stop_gradient((params, memory, weights))
    target = base.with_end(answers[:, 0], end)
    shares = attend(params, memory, weights, target)
    real = (target != types.PAD)[..., None]
    shares = (shares * real).sum(1) / real.sum(1)  # at least the end is real
    total = shares.reshape(*weights.shape, -1).sum(-1)
    return jnp.where(weights > 0, total, 0.0)

  def answer(params, memory, weights, where):
    del where
    params, memory, weights = jax.lax.stop_gradient((params, memory, weights))
    tokens, score = write(params, memory, weights)
    return base.written(weights.argmax(1), tokens, score)

  def answer_each(params, memory):
    params, memory = jax.lax.stop_gradient((params, memory))
    alone, shape, ones = _apart(memory)
    tokens, _ = write(params, alone, ones)
    return tokens.reshape(*shape, -1)

  return {
    'log_likelihood': log_likelihood,
    'joint_log_likelihood': joint_log_likelihood,
    'attention': attention,
    'answer': answer,
    'answer_each': answer_each,
  }


def log_probabilities(logits: jax.Array, answer: jax.Array) -> jax.Array:
  """What a decoder gives each token of an answer.

  Args:
    logits: float32[B, A, V], of the token at each place.
    answer: int32[B, A], 0 = padding.

  Returns:
    float32[B, A] in nats, 0 on padding.

  Example:
    >>> logits = jnp.log(jnp.array([[[0.1, 0.9], [0.5, 0.5]]]))
    >>> found = log_probabilities(logits, jnp.array([[1, 0]]))
    >>> round(float(jnp.exp(found[0, 0])), 3), float(found[0, 1])
    (0.9, 0.0)
  """
  chosen = jnp.take_along_axis(logits, answer[..., None], axis=-1)[..., 0]
  scores = chosen - jax.nn.logsumexp(logits, axis=-1)
  return jnp.where(answer != types.PAD, scores, 0.0)


def _apart(memory):
  """Each passage as a question of its own: memory, (B, K), and weights of 1."""
  shape = jax.tree.leaves(memory)[0].shape[:2]
  alone = jax.tree.map(lambda x: x.reshape(-1, 1, *x.shape[2:]), memory)
  return alone, shape, jnp.ones((shape[0] * shape[1], 1))
