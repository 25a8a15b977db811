"""The extractive reader on a pretrained BERT (cross-encoder).

The BERT encodes question and passage as a text pair; a linear head predicts the
start and end of the answer span. The relevance of a passage is a linear
function of the mean question state, plus `span_relevance` times the score of
its best span. With `reranks`, the relevance is added to the scores of the
ranker. With `null_document`, an empty null document of relevance 0 (REALM)
competes with the passages.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from rag_jax import types
from rag_jax.components import query_encoder
from rag_jax.nn import bert, bert_weights, published, transformer, weights
from rag_jax.ops import masking
from rag_jax.readers import base, plain_text, spans


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
    text_inputs=plain_text.INPUTS,
    **spans.functions(config),
  )


def _load(config):
  """Loads `config.weights`; see `base.Reader`."""
  folder = published.resolve(config.weights, 'model.safetensors').parent
  sizes = weights.bert_config(folder)
  base.check_sizes('reader', config, sizes)
  state = weights.read(folder / 'model.safetensors')
  return base.Published(bert_weights.from_state_dict(state, sizes))


def _point(params, config, query, passages):
  """Span logits float32[B, K, P, 2] and relevance float32[B, K]."""
  batch, count, length = passages.shape
  query = jnp.broadcast_to(query[:, None], (batch, count, query.shape[-1]))
  tokens = jnp.concatenate([query, passages], axis=-1)
  tokens = tokens.reshape(batch * count, -1)
  where = tokens != types.PAD
  is_passage = jnp.arange(tokens.shape[-1]) >= query.shape[-1]
  states = bert.apply(
    params['bert'],
    query_encoder.bert_config(config),
    tokens,
    segments=jnp.broadcast_to(is_passage.astype(jnp.int32), tokens.shape),
    # Padding between question and passage takes up no position.
    positions=jnp.maximum(jnp.cumsum(where, axis=1) - 1, 0),
    frozen_layers=config.frozen_layers,
  )
  logits = states[:, -length:] @ params['pointer']
  logits = logits.reshape(batch, count, length, 2)
  question = (where & ~is_passage)[..., None]
  mean = (states * question).sum(1) / jnp.maximum(question.sum(1), 1)
  relevance = (mean @ params['relevance']).reshape(batch, count)
  if config.span_relevance:
    real = jnp.where(
      (passages != types.PAD)[..., None], logits, masking.NEG_INF
    )
    best = spans.best_spans(real, max_tokens=config.max_answer_tokens).score
    relevance += config.span_relevance * best
  return logits, relevance
