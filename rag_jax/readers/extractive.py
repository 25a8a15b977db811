"""The randomly initialised extractive reader.

It encodes question and passage jointly and predicts a span: log P(span) =
log P(start) + log P(end). The probability of an answer is the sum over all its
occurrences in the passage. With `shared_softmax`, spans of all passages
compete, and the logits of passage k have a term that compares the passages,

    sum_h a_h mean_l f(x_kh - x_lh),  x_kh = sum_j softmax_j(g_kjh) v(token kj),
    f(d) = sign(d) log(1 + |d| / `CLOSE`),

where a_h is linear in the sum of the embeddings of the question's tokens, g_kjh
is linear in the state of a token of the passage, so that each head attends to
one number, and v is a number for each token of the vocabulary. At first, v is
`LARGEST` times the order of the tokens that are numbers (`numbers.order`), and
0 for all others. Without it, a question such as "Who was born later, A or B?"
teaches the order of two years at a time. Without f, years that are close hardly
differ. The mean is over the other passages. Question tokens that a passage does
not have are marked, as the passages of a question have different ones.

The relevance of a passage is a sum of three terms: over the tokens of the
question, each with its state and with whether it occurs in the passage; of the
question beside the best span, by their states; and a learned multiple of log
P(best span).

References:
  Clark and Gardner, Simple and Effective Multi-Paragraph Reading Comprehension,
  2018 (a softmax over the spans of all passages).
  Ran et al., NumNet: Machine Reading Comprehension with Numerical Reasoning,
  2019 (a reader that is given the order of numbers).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import tokenizers as hf

from rag_jax import types
from rag_jax.data import numbers
from rag_jax.nn import question_passage, transformer
from rag_jax.ops import masking
from rag_jax.readers import base, spans

HEADS = 4  # ways to compare passages
LARGEST = 8.0  # initial value of the largest number
CLOSE = 0.05  # difference of two numbers that are close; some 3 of 475


def make(config: base.ReaderConfig) -> base.Reader:
  """Makes the reader; see `readers.make`."""
  base.check(config, published=False)
  transformer.check_heads('reader', config.width, config)

  init, point = question_passage.functions(
    lambda size: _Network(config, size, marks_absent=config.shared_softmax),
    'point',
  )

  def read(
    params: base.Params, query: jax.Array, passages: jax.Array
  ) -> spans.Memory:
    scores, relevance = point(params, query, passages)
    return spans.Memory(spans=scores, passages=passages, relevance=relevance)

  return base.Reader(
    init=init,
    read=read,
    points=True,
    marginals=('sequence',),
    relevance=lambda memory: memory.relevance,
    from_tokenizer=_order if config.shared_softmax else None,
    **spans.functions(config),
  )


def _order(tokenizer: hf.Tokenizer) -> base.Params:
  """The initial number of each token."""
  return {'value': LARGEST * jnp.asarray(numbers.order(tokenizer))}


class _Network(question_passage.Encoder):
  """The encoder with scores of span starts and ends, and of relevance."""

  def setup(self):
    super().setup()
    width, zeros = self.config.width, nn.initializers.zeros
    self.pointer = nn.Dense(2, use_bias=False)
    self.evidence = nn.Dense(width)
    self.occurs = nn.Embed(2, width)
    self.weigh = nn.Dense(1, kernel_init=zeros)
    self.compare = nn.Dense(width)
    self.fit = nn.Dense(1, use_bias=False, kernel_init=zeros)
    self.span_weight = self.param('span_weight', zeros, ())
    if self.config.shared_softmax:
      self.value = self.param('value', zeros, (self.vocab_size,))
      self.gate = nn.Dense(HEADS, use_bias=False)
      self.asked = nn.Dense(HEADS, use_bias=False)

  def point(self, query, passages):
    """Log P(start), log P(end) [B, K, P, 2], and relevance [B, K], nats."""
    states, _ = self.encode(query, passages)
    length = query.shape[-1]
    asked, read = states[:, :, :length], states[:, :, length:]
    logits = self.pointer(read)
    if self.config.shared_softmax:
      logits += self._comparing(query, passages, read)[..., None, None]
    scores = spans.log_probabilities(
      logits, passages, shared=self.config.shared_softmax
    )
    best = spans.best_spans(
      jax.lax.stop_gradient(scores), max_tokens=self.config.max_answer_tokens
    )
    relevance = (
      self._occurring(query, passages, asked)
      + self._fitting(query, asked, read, best)
      + self.span_weight * best.score
    )
    return scores, relevance

  def _comparing(self, query, passages, read):
    """Score of a passage against the others, float32[B, K], nats."""
    embedded = self.embedding(query)
    total = jnp.where((query != types.PAD)[..., None], embedded, 0).sum(-2)
    logits = self.gate(read)
    real = (passages != types.PAD)[..., None]
    gates = nn.softmax(jnp.where(real, logits, masking.NEG_INF), axis=2)
    values = self.value[passages]
    stated = jnp.einsum('bkp,bkph->bkh', values, gates)
    apart = stated[:, :, None] - stated[:, None]  # [B, K, K, H]
    apart = jnp.sign(apart) * jnp.log1p(jnp.abs(apart) / CLOSE)
    others = real.any((2, 3))[:, None, :, None]  # has its own, which adds 0
    count = jnp.maximum(others.sum(2) - 1, 1)
    compared = jnp.where(others, apart, 0.0).sum(2) / count
    return jnp.einsum('bh,bkh->bk', self.asked(total), compared)

  def _occurring(self, query, passages, asked):
    """Sum over the question's tokens, float32[B, K]."""
    occurs = (query[:, None, :, None] == passages[:, :, None]).any(-1)
    hidden = self.evidence(asked) + self.occurs(occurs.astype(jnp.int32))
    each = self.weigh(nn.gelu(hidden))[..., 0]  # [B, K, Q]
    return jnp.where(query[:, None] != types.PAD, each, 0.0).sum(-1)

  def _fitting(self, query, asked, read, best):
    """Whether the best span is an answer to the question, float32[B, K]."""
    where = (query != types.PAD)[:, None, :, None]
    mean = (asked * where).sum(2) / jnp.maximum(where.sum(2), 1)
    first, last = (
      jnp.take_along_axis(read, place[..., None, None], axis=2)[:, :, 0]
      for place in (best.start, best.end)
    )
    both = jnp.concatenate([mean, first, last], axis=-1)
    return self.fit(nn.gelu(self.compare(both)))[..., 0]
