"""The extractive reader on a pretrained encoder of any family (cross-encoder).

The encoder encodes question and passage as a text pair; a linear head predicts
the start and end of the answer span. The relevance of a passage is a linear
function of the mean question state, plus `span_relevance` times the score of
its best span. With `reranks`, the relevance is added to the scores of the
ranker. With `null_document`, an empty null document of relevance 0 (REALM)
competes with the passages.

Published heads are used: that of a model for question answering points at the
answer, and that of a cross-encoder gives the relevance.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from rag_jax import console, types
from rag_jax.nn import encoders, heads, published, transformer
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
      'pointer': 0.02 * jax.random.normal(rng, (config.width, 2)),
      'relevance': jnp.zeros(config.width),
      **(pretrained or {}),
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
  folder = published.folder(config.weights)
  sizes, architecture = encoders.read_config(folder)
  base.check_sizes('reader', config, sizes)
  params, state = encoders.load(folder, sizes, architecture)
  family, kind = architecture.family, encoders.kind(folder)
  relevance, problem = heads.relevance(state, family, kind)
  if problem:
    console.note(
      f'the relevance head of reader.weights {config.weights!r} is not used: '
      f'{problem}.'
    )
  pointer = heads.pointer(state, family, kind)
  return base.Published({'bert': params} | pointer | relevance)


def _point(params, config, query, passages):
  """Span logits float32[B, K, P, 2] and relevance float32[B, K]."""
  batch, count, length = passages.shape
  tokens, first = _pairs(config, query, passages)
  where = tokens != types.PAD
  is_passage = jnp.arange(tokens.shape[-1]) >= first
  states = encoders.apply(
    params['bert'],
    encoders.body(config),
    tokens,
    segments=jnp.broadcast_to(is_passage.astype(jnp.int32), tokens.shape),
    where=where,
    # Padding between question and passage takes up no position.
    positions=jnp.maximum(jnp.cumsum(where, axis=1) - 1, 0),
    frozen_layers=config.frozen_layers,
  )
  family = config.architecture.family
  pointed = states[:, first : first + length]
  if 'pointer_head' in params:
    pointed = heads.transform(params['pointer_head'], family, pointed)
  logits = (pointed @ params['pointer']).reshape(batch, count, length, 2)
  if isinstance(params['relevance'], dict):
    state = states[:, 0]
    if config.relevance_state == 'mean':
      state = _mean(states, where)
    relevance = heads.score(params['relevance'], family, state)
  else:
    asked = jnp.arange(tokens.shape[-1]) < query.shape[-1]
    relevance = _mean(states, where & asked) @ params['relevance']
  relevance = relevance.reshape(batch, count)
  if config.span_relevance:
    real = jnp.where(
      (passages != types.PAD)[..., None], logits, masking.NEG_INF
    )
    best = spans.best_spans(real, max_tokens=config.max_answer_tokens).score
    relevance += config.span_relevance * best
  return logits, relevance


def _pairs(config, query, passages):
  """Text pairs int32[B K, T], and the place of the first passage token."""
  batch, count, _ = passages.shape

  def repeated(tokens):
    tokens = jnp.asarray(tokens, query.dtype)
    return jnp.broadcast_to(tokens, (batch, count, tokens.shape[-1]))

  before = [repeated(query[:, None])]
  before += [repeated(config.between)] if config.between else []
  after = [repeated(config.after)] if config.after else []
  tokens = jnp.concatenate([*before, passages, *after], axis=-1)
  first = sum(part.shape[-1] for part in before)
  return tokens.reshape(batch * count, -1), first


def _mean(states, where):
  """The mean state of the tokens in a mask, float32[B, W]."""
  where = where[..., None]
  return (states * where).sum(1) / jnp.maximum(where.sum(1), 1)
