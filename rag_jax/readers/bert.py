"""The extractive reader on a published BERT.

The BERT reads question and passage as its two texts, and a span is pointed at
from its states. How relevant a passage is comes from the mean of the question's
states beside it and from how sure the reader is of its best span there. With
`reranks` this joins the scores of the ranker, which then has read what it
ranks. With `null_document` one more passage competes, whose relevance is 0 and
which says nothing.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from rag_jax import types
from rag_jax.components import query_encoder
from rag_jax.nn import bert, bert_weights, published, transformer, weights
from rag_jax.ops import masking
from rag_jax.readers import base, spans


def make(config: base.ReaderConfig) -> base.Reader:
  """Makes the reader; see `readers.make`."""
  base.check(config, published=True, takes=('frozen_layers',))
  transformer.check_heads('reader', config.width, config)

  def init(
    rng: jax.Array, *, vocab_size: int, pretrained: Any = None
  ) -> base.Params:
    del vocab_size
    return {
      'bert': pretrained,
      'pointer': 0.02 * jax.random.normal(rng, (config.width, 2)),
      'relevance': jnp.zeros(config.width),
    }

  def read(
    params: base.Params, query: jax.Array, passages: jax.Array
  ) -> spans.Memory:
    logits, relevance = _point(params, config, query, passages)
    return spans.Memory(
      spans=spans.log_probabilities(
        logits, passages, shared=config.shared_softmax
      ),
      passages=passages,
      relevance=relevance,
    )

  return base.Reader(
    init=init,
    read=read,
    points=True,
    marginals=('sequence',),
    relevance=lambda memory: memory.relevance,
    load=functools.partial(_load, config),
    **spans.functions(config),
  )


def _load(config):
  """The weights that the configuration names; see `base.Reader`."""
  folder = published.resolve(config.weights, 'model.safetensors').parent
  sizes = weights.bert_config(folder)
  base.check_sizes('reader', config, sizes)
  state = weights.read(folder / 'model.safetensors')
  return base.Published(bert_weights.from_state_dict(state, sizes))


def _point(params, config, query, passages):
  """Logits float32[B, K, P, 2] and relevance float32[B, K]."""
  batch, count, length = passages.shape
  query = jnp.broadcast_to(query[:, None], (batch, count, query.shape[-1]))
  tokens = jnp.concatenate([query, passages], axis=-1)
  tokens = tokens.reshape(batch * count, -1)
  where = tokens != types.PAD
  second = jnp.arange(tokens.shape[-1]) >= query.shape[-1]
  states = bert.apply(
    params['bert'],
    query_encoder.bert_config(config),
    tokens,
    segments=jnp.broadcast_to(second.astype(jnp.int32), tokens.shape),
    # Padding stands between question and passage, but takes up no position.
    positions=jnp.maximum(jnp.cumsum(where, axis=1) - 1, 0),
    frozen_layers=config.frozen_layers,
  )
  logits = states[:, -length:] @ params['pointer']
  logits = logits.reshape(batch, count, length, 2)
  asked = (where & ~second)[..., None]
  mean = (states * asked).sum(1) / jnp.maximum(asked.sum(1), 1)
  relevance = (mean @ params['relevance']).reshape(batch, count)
  if config.span_relevance:
    real = jnp.where(
      (passages != types.PAD)[..., None], logits, masking.NEG_INF
    )
    best = spans.best_spans(real, max_tokens=config.max_answer_tokens).score
    relevance += config.span_relevance * best
  return logits, relevance
