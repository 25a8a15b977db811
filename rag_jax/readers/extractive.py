"""The randomly initialised extractive reader.

It encodes question and passage jointly and predicts a span: log P(span) =
log P(start) + log P(end). The probability of an answer is the sum over all its
occurrences in the passage. The relevance of a passage sums evidence over the
tokens of the question, each with its state and with whether it occurs in the
passage, and adds a learned multiple of log P(best span).
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rag_jax import types
from rag_jax.nn import transformer
from rag_jax.readers import base, question_passage, spans


def make(config: base.ReaderConfig) -> base.Reader:
  """Makes the reader; see `readers.make`."""
  base.check(config, published=False)
  transformer.check_heads('reader', config.width, config)

  def init(
    rng: jax.Array, *, vocab_size: int, pretrained: Any = None
  ) -> base.Params:
    del pretrained
    query = jnp.ones((1, 1), jnp.int32)
    network = _Network(config, vocab_size)
    return network.init(rng, query, query[None], method='point')['params']

  def read(
    params: base.Params, query: jax.Array, passages: jax.Array
  ) -> spans.Memory:
    network = _Network(config, question_passage.vocab_size(params))
    logits, evidence = transformer.apply(
      network, params, query, passages, method='point'
    )
    scores = spans.log_probabilities(
      logits, passages, shared=config.shared_softmax
    )
    best = spans.best_spans(
      jax.lax.stop_gradient(scores), max_tokens=config.max_answer_tokens
    )
    return spans.Memory(
      spans=scores,
      passages=passages,
      relevance=evidence + params['span_weight'] * best.score,
    )

  return base.Reader(
    init=init,
    read=read,
    points=True,
    marginals=('sequence',),
    relevance=lambda memory: memory.relevance,
    **spans.functions(config),
  )


class _Network(question_passage.Encoder):
  """The encoder with scores of span starts and ends, and of relevance."""

  def setup(self):
    super().setup()
    self.pointer = nn.Dense(2, use_bias=False)
    self.evidence = nn.Dense(self.config.width)
    self.occurs = nn.Embed(2, self.config.width)
    self.weigh = nn.Dense(1, kernel_init=nn.initializers.zeros)
    self.span_weight = self.param('span_weight', nn.initializers.zeros, ())

  def point(self, query, passages):
    """Span logits float32[B, K, P, 2], and evidence float32[B, K], nats."""
    states, _ = self.encode(query, passages)
    length = passages.shape[-1]
    logits = self.pointer(states[:, :, -length:])
    occurs = (query[:, None, :, None] == passages[:, :, None]).any(-1)
    hidden = self.evidence(states[:, :, :-length])
    hidden = nn.gelu(hidden + self.occurs(occurs.astype(jnp.int32)))
    each = self.weigh(hidden)[..., 0]  # [B, K, Q]
    return logits, jnp.where(query[:, None] != types.PAD, each, 0.0).sum(-1)
