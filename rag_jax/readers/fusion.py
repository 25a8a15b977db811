"""Fusion-in-decoder: functions shared by the readers 'fid' and 't5'.

Each passage is encoded together with the question; the decoder attends to all
passages at once. The log weight of a passage is added to the cross-attention
scores of its tokens, so that the gradient of the answer loss reaches the
ranker.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rag_jax import types
from rag_jax.readers import base, citations

# (params, memory, weights) -> answer int32[B, A], log-probability float32[B]
Write = Callable[[base.Params, Any, jax.Array], tuple[jax.Array, jax.Array]]
# (params, memory, weights, rng [B], how) -> answer int32[B, A], with its end
Sample = Callable[..., jax.Array]
# (params, memory, weights, answer int32[B, A]) -> log-probabilities
# float32[B, A], or cross-attention float32[B, A, S], where S = K * tokens of an
# encoded passage
Force = Callable[[base.Params, Any, jax.Array, jax.Array], jax.Array]


def functions(
  force: Force,
  attend: Force,
  write: Write,
  sample: Sample,
  *,
  end: int,
  cites: bool = False,
) -> dict[str, Any]:
  """Builds the functions of a reader from those of its model.

  For the likelihood given a single passage, the K passages of a question become
  K questions with one passage of weight 1.

  Args:
    force: scores the tokens of a given answer (teacher forcing).
    attend: cross-attention while scoring, averaged over heads and layers.
    write: generates an answer.
    sample: draws an answer at random.
    end: the token that ends an answer.
    cites: whether negative tokens of an answer cite passages.

  Returns:
    Function by its name in `base.Reader`.
  """

  def joint_log_likelihood(params, memory, weights, answers):
    target = base.with_end(answers[:, 0], end)
    return force(params, memory, weights, target)

  def log_likelihood(params, memory, answers):
    single, (batch, count), ones = _split_passages(memory)
    target = base.with_end(answers[:, 0], end)
    target = jnp.repeat(target, count, axis=0)
    if cites:
      target = citations.alone(target, count)
    scores = force(params, single, ones, target)
    return scores.reshape(batch, count, -1)

  def attention(params, memory, weights, answers):
    params, memory, weights = jax.lax.stop_gradient((params, memory, weights))
    target = base.with_end(answers[:, 0], end)
    shares = attend(params, memory, weights, target)
    real = (target != types.PAD)[..., None]
    shares = (shares * real).sum(1) / real.sum(1)  # the end token is real
    total = shares.reshape(*weights.shape, -1).sum(-1)
    return jnp.where(weights > 0, total, 0.0)

  def answer(params, memory, weights, where):
    del where
    params, memory, weights = jax.lax.stop_gradient((params, memory, weights))
    tokens, score = write(params, memory, weights)
    return base.written(weights.argmax(1), tokens, score)

  def answer_each(params, memory):
    params, memory = jax.lax.stop_gradient((params, memory))
    single, shape, ones = _split_passages(memory)
    tokens, _ = write(params, single, ones)
    return tokens.reshape(*shape, -1)

  def sample_each(params, memory, rng, how):
    params, memory = jax.lax.stop_gradient((params, memory))
    single, shape, ones = _split_passages(memory)
    tokens = sample(params, single, ones, rng.reshape(-1), how)
    return base.ended(tokens, end).reshape(*shape, -1)

  return {
    'log_likelihood': log_likelihood,
    'joint_log_likelihood': joint_log_likelihood,
    'attention': attention,
    'answer': answer,
    'answer_each': answer_each,
    'sample_each': sample_each,
  }


def log_probabilities(logits: jax.Array, answer: jax.Array) -> jax.Array:
  """Log-probabilities of the tokens of a given answer.

  Args:
    logits: float32[B, A, V], next-token logits at each position.
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


def _split_passages(memory):
  """Memory of B K questions with one passage each; (B, K); weights of 1."""
  shape = jax.tree.leaves(memory)[0].shape[:2]
  single = jax.tree.map(lambda x: x.reshape(-1, 1, *x.shape[2:]), memory)
  return single, shape, jnp.ones((shape[0] * shape[1], 1))
