"""The query encoder: tokens to one unit vector and a memory to attend to.

A query's vector starts as the weighted bag of its token embeddings, with
weights that start at the inverse document frequency: the untrained encoder is
already a compressed lexical search. A transformer adds a residual whose output
starts at zero, so that training moves on from there. Documents are embedded by
the same bag, which is cheap enough to redo in every step: no stale index.

With published weights (`weights`) the encoder is a BERT instead: a query's
vector is the mean of its last states. Documents are encoded once, before
training; their vectors are where the rows of the node table start, and move as
parameters from there.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from rag_jax import types
from rag_jax.nn import bert, transformer


@dataclasses.dataclass(frozen=True, kw_only=True)
class QueryEncoderConfig:
  """Sizes of the query encoder; those of the weights, where there are some."""

  width: int = 128  # width of vectors and token states
  num_layers: int = 1  # transformer layers over the question
  num_heads: int = 4  # attention heads
  mlp_dim: int = 256  # width inside a feed-forward layer
  weights: str = ''  # published weights of a BERT; '' = none
  frozen_layers: int = 0  # lowest layers of a BERT that are frozen
  # recompute a BERT's states in the backward pass, to save memory
  remat: bool = False


@flax.struct.dataclass
class Encoding:
  """What the query encoder says of a batch of queries."""

  vector: jax.Array  # float32[B, D], unit length
  memory: jax.Array  # float32[B, Q, D], one state a token
  where: jax.Array  # bool[B, Q], True = a token


class _Network(nn.Module):
  """The residual that attention adds to the bag of embeddings."""

  config: QueryEncoderConfig

  @nn.compact
  def __call__(self, embedded, where):
    config = self.config
    memory = transformer.Encoder(
      config.num_layers, config.num_heads, config.mlp_dim, name='encoder'
    )(embedded * config.width**0.5, where)
    residual = nn.Dense(
      config.width,
      use_bias=False,
      kernel_init=nn.initializers.zeros,
      name='residual',
    )(memory)
    return memory, residual


class Encoder(NamedTuple):
  """A query encoder as a value: functions over its own parameters."""

  init: Callable[..., dict[str, Any]]  # (rng, *, vocab_size, ...) -> params
  apply: Callable[[dict[str, Any], jax.Array], Encoding]
  # (params, tokens) -> float32[..., D], in the step; None: documents are
  # encoded once, and are rows of the node table from there on.
  documents: Callable[[dict[str, Any], jax.Array], jax.Array] | None
  published: bool  # whether it starts from published weights


def make(config: QueryEncoderConfig) -> Encoder:
  """The encoder of a configuration: a BERT with `weights`, else a bag."""
  if config.weights:
    return Encoder(
      init=lambda rng, *, pretrained=None, **_: {'bert': pretrained},
      apply=functools.partial(_apply_bert, config),
      documents=None,
      published=True,
    )
  return Encoder(
    init=functools.partial(_init_bag, config),
    apply=functools.partial(_apply_bag, config),
    documents=embed_documents,
    published=False,
  )


def init(
  rng: jax.Array,
  config: QueryEncoderConfig,
  *,
  vocab_size: int,
  token_weights: jax.Array | None = None,
  pretrained: dict[str, Any] | None = None,
) -> dict[str, Any]:
  """Makes parameters.

  Args:
    rng: PRNG key.
    config: sizes.
    vocab_size: number of token ids.
    token_weights: float32[vocab_size], positive; each token's share in a bag,
      usually `inverse_document_frequency`. None weighs all alike.
    pretrained: published weights, where `config.weights` names some.

  Returns:
    A pytree of plain dicts.
  """
  return make(config).init(
    rng,
    vocab_size=vocab_size,
    token_weights=token_weights,
    pretrained=pretrained,
  )


def apply(
  params: dict[str, Any], config: QueryEncoderConfig, tokens: jax.Array
) -> Encoding:
  """Encodes queries.

  Args:
    params: what `init` made.
    config: the same sizes.
    tokens: int32[B, Q], 0 = padding.

  Returns:
    Their `Encoding`; an empty query gets a zero vector.

  Example:
    >>> config = QueryEncoderConfig(width=8, num_heads=2)
    >>> params = init(jax.random.key(0), config, vocab_size=10)
    >>> apply(params, config, jnp.array([[4, 7, 0]])).vector.shape
    (1, 8)
  """
  return make(config).apply(params, tokens)


def _apply_bert(
  config: QueryEncoderConfig, params: dict[str, Any], tokens: jax.Array
) -> Encoding:
  where = tokens != types.PAD
  memory = bert.apply(
    params['bert'],
    bert_config(config),
    tokens,
    frozen_layers=config.frozen_layers,
  )
  return Encoding(
    vector=bert.mean_pool(memory, where), memory=memory, where=where
  )


def _init_bag(
  config: QueryEncoderConfig,
  rng: jax.Array,
  *,
  vocab_size: int,
  token_weights: jax.Array | None = None,
  pretrained: dict[str, Any] | None = None,
) -> dict[str, Any]:
  del pretrained
  embedding_rng, network_rng = jax.random.split(rng)
  scale = config.width**-0.5
  if token_weights is None:
    token_weights = jnp.ones(vocab_size)
  tokens = jnp.zeros((1, 1, config.width)), jnp.ones((1, 1), bool)
  return {
    'embedding': scale
    * jax.random.normal(embedding_rng, (vocab_size, config.width)),
    'log_token_weight': jnp.log(jnp.maximum(token_weights, 1e-3)),
    'network': _Network(config).init(network_rng, *tokens)['params'],
  }


def _apply_bag(
  config: QueryEncoderConfig, params: dict[str, Any], tokens: jax.Array
) -> Encoding:
  where = tokens != types.PAD
  embedded = params['embedding'][tokens]
  memory, residual = transformer.apply(
    _Network(config), params['network'], embedded, where
  )
  weights = _token_weights(params, tokens)
  pooled = jnp.einsum('bq,bqd->bd', weights, embedded + residual)
  return Encoding(vector=normalise(pooled), memory=memory, where=where)


def bert_config(config: Any) -> bert.BertConfig:
  """The sizes of a component with published weights, as BERT has them."""
  return bert.BertConfig(
    width=config.width,
    num_layers=config.num_layers,
    num_heads=config.num_heads,
    mlp_dim=config.mlp_dim,
    remat=config.remat,
  )


def embed_documents(params: dict[str, Any], tokens: jax.Array) -> jax.Array:
  """Embeds documents as weighted bags, differentiable and cheap.

  Args:
    params: what `init` made.
    tokens: int32[..., P], 0 = padding.

  Returns:
    float32[..., D], unit length; zero for an empty document.
  """
  weights = _token_weights(params, tokens)
  embedded = params['embedding'][tokens]
  return normalise(jnp.einsum('...p,...pd->...d', weights, embedded))


def inverse_document_frequency(
  tokens: jax.Array, *, vocab_size: int
) -> jax.Array:
  """Smoothed inverse document frequency, float32[vocab_size].

  log(1 + (N - n + .5) / (n + .5)) for a token in n of N documents, as BM25
  has it. Empty rows are no documents.

  Args:
    tokens: int32[N, P], the documents.
    vocab_size: number of token ids.
  """
  rows = jnp.arange(tokens.shape[0])[:, None]
  present = jnp.zeros((tokens.shape[0], vocab_size), bool)
  present = present.at[rows, tokens].set(True)
  count = present.sum(axis=0)
  count = count.astype(jnp.float32)
  total = (tokens != types.PAD).any(axis=1).sum()
  return jnp.log1p((total - count + 0.5) / (count + 0.5))


def normalise(x: jax.Array) -> jax.Array:
  """Scales the last axis to unit length; zeros stay zeros, gradient too."""
  return x * inverse_norm(x)[..., None]


def inverse_norm(x: jax.Array) -> jax.Array:
  """What `normalise` multiplies the vectors float[..., D] by, float[...]."""
  return jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1), 1e-12))


def _token_weights(params: dict[str, Any], tokens: jax.Array) -> jax.Array:
  weights = jnp.exp(params['log_token_weight'])[tokens]
  return jnp.where(tokens != types.PAD, weights, 0.0)
