"""The second query: the question, with words of what the first search found.

Some questions name only one of the documents that they need: "What is the
capital of the state where Abraham Lincoln was born?" The first search finds F
documents with weights w_f, by the ranker. A small network reads the question
with each of them, and gives each token a gate in (0, 1). The query of the
second search has two parts:

  the tokens of the question, with the gate sum_f w_f g_f;
  the `size` tokens of the documents with the largest w_f g_f * token weight,
    with the gate w_f g_f / max w_f g_f, where the maximum is over all tokens of
    the documents.

A token that occurs both in the question and in the document has the gate 0: the
document has been found by it. Otherwise the second search could learn the
answers to its training questions by heart, from the name in the question. The
best token of new documents may have a small g. Divided by the largest one it
counts as much as a word of the question.

The bag encoder encodes this sequence, with token weights multiplied by the
gates. The choice of tokens has no gradient; gates and weights have one, so that
a loss of the second search trains the network and the first search. It does not
train the encoder of the second query: the encoder would learn the second
documents of training questions by heart, and the gates nothing. A stage may
sample the tokens, without replacement and with probabilities in proportion to
(w_f g_f * token weight)^(1 / hop_noise), so that every token is tried. The
network also gives the log-odds that the question needs a second document at
all.

References:
  Xiong et al., Answering Complex Open-Domain Questions with Multi-Hop Dense
  Retrieval, 2021: encodes the question with a document found.
  Qi et al., Answering Complex Open-domain Questions Through Iterative Query
  Generation (GoldEn), 2019: a query of words of the documents found.
  Khattab et al., Baleen: Robust Multi-Hop Reasoning at Scale via Condensed
  Retrieval, 2021: only facts of a document that the next search needs.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rag_jax import types
from rag_jax.components import query_encoder
from rag_jax.nn import question_passage, transformer
from rag_jax.ops import renaming

NAME = 'second'  # of its parameters, within those of the query encoder
START = 2.0  # nats; initial log-odds of the gates of a question
LEAST = 1e-9  # what the gates of documents are divided by, at least


@dataclasses.dataclass(frozen=True)
class _Sizes:
  """Sizes of the network."""

  width: int
  num_layers: int
  num_heads: int
  mlp_dim: int
  window: int = 5


class _Network(question_passage.Encoder):
  """Reads the question with each document found."""

  def setup(self):
    super().setup()
    self.gate = nn.Dense(1)
    self.needs = nn.Dense(1, kernel_init=nn.initializers.zeros)

  def __call__(self, query, passages):
    """Gates [B, F, Q] and [B, F, P], and log-odds of a need [B, F]."""
    states, _ = self.encode(query, passages)
    length = query.shape[-1]
    logits = self.gate(states)[..., 0]
    where = (query != types.PAD)[:, None, :, None]
    asked = states[:, :, :length]
    mean = (asked * where).sum(2) / jnp.maximum(where.sum(2), 1)
    same = query[:, None, :, None] == passages[:, :, None]  # [B, F, Q, P]
    return (
      jnp.where(same.any(3), 0.0, jax.nn.sigmoid(logits[..., :length] + START)),
      jnp.where(same.any(2), 0.0, jax.nn.sigmoid(logits[..., length:])),
      self.needs(mean)[..., 0],
    )


def init(
  rng: jax.Array, config: query_encoder.QueryEncoderConfig, *, vocab_size: int
) -> dict[str, Any]:
  """Initialises the parameters of the network, a pytree of plain dicts.

  Args:
    rng: PRNG key.
    config: sizes of the query encoder, which the network shares.
    vocab_size: number of token ids.
  """
  query = jnp.ones((1, 1), jnp.int32)
  return _network(config, vocab_size).init(rng, query, query[None])['params']


def apply(
  params: dict[str, Any],
  config: query_encoder.QueryEncoderConfig,
  query: jax.Array,
  passages: jax.Array,
  weights: jax.Array,
  *,
  size: int,
  names: jax.Array | None = None,
  noise: tuple[jax.Array, float] | None = None,
) -> query_encoder.Encoding:
  """Encodes the query of the second search.

  Args:
    params: of the query encoder, with those of `init` as 'second'.
    config: sizes of the query encoder.
    query: int32[B, Q], questions, 0 = padding.
    passages: int32[B, F, P], the documents found, 0 = padding.
    weights: float32[B, F], at least 0; only their ratios count.
    size: T, number of tokens that the documents add.
    names: int32[B, V], tokens that the network sees instead of the real ones,
      see `renaming.draw`; None = the real ones.
    noise: PRNG keys [B] and the temperature of the Gumbel noise by which tokens
      are sampled; None and 0 take the best.

  Returns:
    The `Encoding` of [B, Q + T] tokens, with `tokens`, `gates` and `needed`. A
    document of weight 0 adds nothing.

  Example:
    >>> config = query_encoder.QueryEncoderConfig(width=8, num_heads=2)
    >>> keys = jax.random.split(jax.random.key(0))
    >>> params = query_encoder.init(keys[0], config, vocab_size=10)
    >>> params['second'] = init(keys[1], config, vocab_size=10)
    >>> query, passages = jnp.array([[4, 7]]), jnp.array([[[5, 0], [6, 8]]])
    >>> found = apply(
    ...   params, config, query, passages, jnp.array([[1.0, 0.0]]), size=2
    ... )
    >>> found.tokens.tolist(), found.vector.shape
    ([[4, 7, 5, 0]], (1, 8))
  """
  network = _network(config, question_passage.vocab_size(params[NAME]))
  seen = [query, passages]
  if names is not None:
    seen = [renaming.rename(names, tokens) for tokens in seen]
  of_query, of_passages, needs = transformer.apply(network, params[NAME], *seen)
  total = weights.sum(1, keepdims=True)
  shares = weights / jnp.where(total > 0, total, 1.0)
  gates = shares[..., None] * of_passages
  tokens, gates = _best(params, passages, gates, size, noise)
  tokens = jnp.concatenate([query, tokens], axis=1)
  gates = jnp.concatenate(
    [jnp.einsum('bf,bfq->bq', shares, of_query), gates], axis=1
  )
  fixed = jax.lax.stop_gradient(params)
  encoding = query_encoder.apply(fixed, config, tokens, gates=gates)
  return dataclasses.replace(
    encoding, tokens=tokens, gates=gates, needed=(shares * needs).sum(1)
  )


def _network(
  config: query_encoder.QueryEncoderConfig, vocab_size: int
) -> _Network:
  sizes = _Sizes(
    width=config.width,
    num_layers=config.num_layers,
    num_heads=config.num_heads,
    mlp_dim=config.mlp_dim,
  )
  return _Network(sizes, vocab_size)


def _best(
  params: dict[str, Any],
  passages: jax.Array,
  gates: jax.Array,
  size: int,
  noise: tuple[jax.Array, float] | None,
) -> tuple[jax.Array, jax.Array]:
  """The tokens with the largest gate * token weight, [B, T], and their gates.

  Rare tokens come first as long as the gates are untrained.
  """
  passages = passages.reshape(len(passages), -1)
  gates = gates.reshape(passages.shape)
  gates = jnp.where(passages != types.PAD, gates, 0.0)
  gates /= jnp.maximum(gates.max(1, keepdims=True), LEAST)
  weights = jnp.exp(params['log_token_weight'])[passages]
  order = jax.lax.stop_gradient(gates * weights)
  if noise is not None and noise[1]:
    drawn = jax.vmap(lambda key: jax.random.gumbel(key, order.shape[1:]))
    order *= jnp.exp(noise[1] * drawn(noise[0]))  # 0 stays 0
  most, places = jax.lax.top_k(order, min(size, passages.shape[1]))
  chosen = jnp.take_along_axis(passages, places, axis=1)
  real = most > 0
  return (
    jnp.where(real, chosen, types.PAD),
    jnp.where(real, jnp.take_along_axis(gates, places, axis=1), 0.0),
  )
