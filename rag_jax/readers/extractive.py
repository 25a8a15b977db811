"""The randomly initialised extractive reader.

It encodes question and passage jointly and predicts a span: log P(span) =
log P(start) + log P(end). The probability of an answer is the sum over all its
occurrences in the passage.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

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
    logits = transformer.apply(network, params, query, passages, method='point')
    return spans.Memory(
      spans=spans.log_probabilities(
        logits, passages, shared=config.shared_softmax
      ),
      passages=passages,
    )

  return base.Reader(
    init=init,
    read=read,
    points=True,
    marginals=('sequence',),
    **spans.functions(config),
  )


class _Network(question_passage.Encoder):
  """The encoder with a start and an end score per token."""

  def setup(self):
    super().setup()
    self.pointer = nn.Dense(2, use_bias=False)

  def point(self, query, passages):
    """Logits of span start and end, float32[B, K, P, 2]."""
    states, _ = self.encode(query, passages)
    return self.pointer(states[:, :, -passages.shape[-1] :])
