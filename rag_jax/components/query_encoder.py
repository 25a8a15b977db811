"""The query encoder: maps query tokens to a unit vector and token states.

Bag encoder (default): the vector is the normalised weighted sum of token
embeddings plus a transformer residual. Token weights are initialised to the
inverse document frequency and the residual to zero, so that the untrained
encoder is a compressed lexical search. Documents are embedded by the same
weighted sum in every training step, so document vectors are never stale.

Published encoder (with `weights`): the vector is pooled from the last states,
as the folder of the weights says, by default their mean at unit length.
Documents are encoded once, before training. Their vectors initialise the node
table, whose rows are then trained as parameters.
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
from rag_jax.nn import encoders, pooling, transformer
from rag_jax.ops import token_table

SIMILARITIES = ('cosine', 'dot')

BLOCK = 1024  # documents of a corpus that are embedded or counted at a time
STEP = 16  # tokens of each document in `embed_corpus` at a time


@dataclasses.dataclass(frozen=True, kw_only=True)
class QueryEncoderConfig:
  """The query encoder.

  With `weights`, sizes that are left at their defaults are those of the
  weights; `pretrained.complete` fills them in.
  """

  width: int = 128  # width of vectors and token states
  num_layers: int = 1  # transformer layers over the question
  num_heads: int = 4  # attention heads
  mlp_dim: int = 256  # width inside a feed-forward layer
  weights: str = ''  # pretrained weights of an encoder; '' = none
  frozen_layers: int = 0  # frozen lowest layers of pretrained weights
  # recompute states of pretrained weights in the backward pass, to save memory
  remat: bool = False
  # vector of a text: 'mean', 'cls', 'max', 'last_token', 'weighted_mean' or
  # 'mean_sqrt_length' of the token states; '' = as the weights
  pooling: str = ''
  # similarity of vectors: 'cosine' or 'dot'; '' = as the weights
  similarity: str = ''
  # activations of dense layers after the pooling; () = as the weights
  dense: tuple[str, ...] = ()
  # width of vectors after dense layers; 0 = as the weights, or `width`
  vector_width: int = 0
  architecture: encoders.Architecture = encoders.Architecture()

  def __post_init__(self) -> None:
    """Raises a ValueError on an unknown pooling or similarity."""
    for name, values in (
      ('pooling', pooling.POOLINGS),
      ('similarity', SIMILARITIES),
    ):
      if getattr(self, name) not in ('', *values):
        raise ValueError(
          f'query_encoder.{name} must be one of {", ".join(values)}, got '
          f'{getattr(self, name)!r}. Set --config.query_encoder.{name}, or '
          "leave it '', as in the weights."
        )
    if self.similarity == 'dot' and not self.weights:
      raise ValueError(
        "query_encoder.similarity='dot' needs published weights, got "
        "query_encoder.weights=''. Set "
        '--config.query_encoder.similarity=cosine.'
      )


@flax.struct.dataclass
class Encoding:
  """Encoded queries."""

  vector: jax.Array  # float32[B, D]
  memory: jax.Array  # float32[B, Q, W], token states
  where: jax.Array  # bool[B, Q], False = padding
  # whether vectors have unit length, so that dot products are cosines
  unit: bool = flax.struct.field(pytree_node=False, default=True)
  # Of a second search only, see `second_query`:
  tokens: jax.Array | None = None  # int32[B, Q], if not those of the question
  gates: jax.Array | None = None  # float32[B, Q], of the tokens, in [0, 1]
  needed: jax.Array | None = None  # float32[B], its log-odds, nats
  after: 'Encoding | None' = None  # the second search, in that of the first


class _Network(nn.Module):
  """The transformer residual of the bag encoder."""

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
  """A query encoder as a tuple of functions."""

  init: Callable[..., dict[str, Any]]  # (rng, *, vocab_size, ...) -> params
  apply: Callable[[dict[str, Any], jax.Array], Encoding]
  # (params, tokens) -> float32[..., D], called in every training step; None if
  # documents are encoded once and then are rows of the node table.
  documents: Callable[[dict[str, Any], jax.Array], jax.Array] | None
  published: bool  # whether it is initialised with published weights


def make(config: QueryEncoderConfig) -> Encoder:
  """A published encoder if `config.weights` is set, else the bag encoder."""
  if config.weights:
    return Encoder(
      init=lambda rng, *, pretrained=None, **_: pretrained,
      apply=functools.partial(_apply_published, config),
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
  """Initialises the parameters.

  Args:
    rng: PRNG key.
    config: sizes.
    vocab_size: number of token ids.
    token_weights: float32[vocab_size], positive; initial token weights, usually
      `inverse_document_frequency`. None = 1 for all tokens.
    pretrained: if `config.weights` is set, the published weights: 'bert' of any
      family, and 'dense' if there are dense layers.

  Returns:
    A pytree of plain dicts.
  """
  return make(config).init(
    rng,
    vocab_size=vocab_size,
    token_weights=token_weights,
    pretrained=pretrained,
  )


def searches(encoding: Encoding) -> tuple[Encoding, ...]:
  """The encodings of all searches, each without the next."""
  if encoding.after is None:
    return (encoding,)
  return dataclasses.replace(encoding, after=None), encoding.after


def apply(
  params: dict[str, Any],
  config: QueryEncoderConfig,
  tokens: jax.Array,
  *,
  gates: jax.Array | None = None,
) -> Encoding:
  """Encodes queries.

  Args:
    params: parameters from `init`.
    config: sizes, as given to `init`.
    tokens: int32[B, Q], 0 = padding.
    gates: float32[B, Q], multiplied with the weights and the states of the
      tokens of a bag encoder; None = 1.

  Returns:
    The `Encoding`; the vector of an empty query is zero.

  Example:
    >>> config = QueryEncoderConfig(width=8, num_heads=2)
    >>> params = init(jax.random.key(0), config, vocab_size=10)
    >>> apply(params, config, jnp.array([[4, 7, 0]])).vector.shape
    (1, 8)
  """
  if gates is not None:
    return _apply_bag(config, params, tokens, gates)
  return make(config).apply(params, tokens)


def _apply_published(
  config: QueryEncoderConfig, params: dict[str, Any], tokens: jax.Array
) -> Encoding:
  where = tokens != types.PAD
  memory = encoders.apply(
    params['bert'],
    encoders.body(config),
    tokens,
    frozen_layers=config.frozen_layers,
  )
  unit, kind = is_unit(config), config.pooling or 'mean'
  if unit and not config.dense and kind == 'mean':
    kind = 'sum'  # of the same direction
  vector = pooling.pool(memory, where, kind)
  if config.dense:
    vector = pooling.dense(params['dense'], config.dense, vector)
  return Encoding(
    vector=comparable(config, vector),
    memory=memory,
    where=where,
    unit=unit,
  )


def is_unit(config: QueryEncoderConfig) -> bool:
  """Whether vectors have unit length, so that dot products are cosines."""
  return config.similarity != 'dot'


def comparable(config: QueryEncoderConfig, x: jax.Array) -> jax.Array:
  """Vectors float32[..., D] as they are compared: of unit length, or as is."""
  return normalise(x) if is_unit(config) else x


def vector_width(config: QueryEncoderConfig) -> int:
  """D, the width of vectors; states may have another width."""
  return config.vector_width or config.width


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
  config: QueryEncoderConfig,
  params: dict[str, Any],
  tokens: jax.Array,
  gates: jax.Array | None = None,
) -> Encoding:
  where = tokens != types.PAD
  embedded = params['embedding'][tokens]
  memory, residual = transformer.apply(
    _Network(config), params['network'], embedded, where
  )
  weights = _token_weights(params, tokens)
  if gates is not None:
    weights, memory = weights * gates, memory * gates[..., None]
  pooled = jnp.einsum('bq,bqd->bd', weights, embedded + residual)
  return Encoding(vector=normalise(pooled), memory=memory, where=where)


def embed_documents(params: dict[str, Any], tokens: jax.Array) -> jax.Array:
  """Embeds documents as normalised weighted sums of token embeddings.

  Args:
    params: parameters from `init`.
    tokens: int32[..., P], 0 = padding.

  Returns:
    float32[..., D], unit length, differentiable; zero for an empty document.
  """
  weights = _token_weights(params, tokens)
  embedded = params['embedding'][tokens]
  return normalise(jnp.einsum('...p,...pd->...d', weights, embedded))


def embed_corpus(params: dict[str, Any], tokens: Any) -> jax.Array:
  """`embed_documents` of a whole corpus, `BLOCK` documents at a time.

  Memory does not grow with the corpus, except for the result. A block stops at
  the end of its longest document. Not for gradients.

  Args:
    params: parameters from `init`.
    tokens: int32[N, P], 0 = padding.

  Returns:
    float32[N, D], unit length.
  """
  count, length = tokens.shape
  if count <= BLOCK:
    return embed_documents(params, token_table.block(tokens, 0, count))
  padded = -length % STEP

  def embed(block: jax.Array) -> jax.Array:
    lengths = jnp.max(jnp.where(block != types.PAD, jnp.arange(length) + 1, 0))
    block = jnp.pad(block, ((0, 0), (0, padded)))

    def add(state):
      place, total = state
      part = jax.lax.dynamic_slice(block, (0, place), (BLOCK, STEP))
      weights = _token_weights(params, part)
      embedded = params['embedding'][part]
      return place + STEP, total + jnp.einsum('bp,bpd->bd', weights, embedded)

    zeros = jnp.zeros((BLOCK, params['embedding'].shape[1]))
    return jax.lax.while_loop(lambda s: s[0] < lengths, add, (0, zeros))[1]

  def step(number, vectors):
    start = _block_start(number, BLOCK, count)
    block = token_table.block(tokens, start, BLOCK)
    return jax.lax.dynamic_update_slice(
      vectors, normalise(embed(block)), (start, 0)
    )

  vectors = jnp.zeros((count, params['embedding'].shape[1]))
  return jax.lax.fori_loop(0, -(-count // BLOCK), step, vectors)


def inverse_document_frequency(
  tokens: token_table.Table, *, vocab_size: int
) -> jax.Array:
  """Smoothed inverse document frequency, float32[vocab_size].

  log(1 + (N - n + 0.5) / (n + 0.5)) for a token in n of N documents, as in
  BM25. Rows that are all padding do not count as documents.

  Args:
    tokens: int32[N, P], the documents, 0 = padding.
    vocab_size: number of token ids.
  """
  count = tokens.shape[0]
  size = min(BLOCK, count)
  rows = jnp.arange(size)

  def add(number, state):
    frequency, total = state
    start = _block_start(number, size, count)
    block = token_table.block(tokens, start, size)
    fresh = start + rows >= number * size  # not in the block before
    present = jnp.zeros((size, vocab_size), bool)
    present = present.at[rows[:, None], block].set(fresh[:, None])
    real = fresh & (block != types.PAD).any(axis=1)
    return frequency + present.sum(axis=0), total + real.sum()

  zeros = jnp.zeros(vocab_size, jnp.int32), jnp.zeros((), jnp.int32)
  found, total = jax.lax.fori_loop(0, -(-count // size), add, zeros)
  frequency = found.astype(jnp.float32)
  return jnp.log1p((total - frequency + 0.5) / (frequency + 0.5))


def _block_start(number: jax.Array, size: int, count: int) -> jax.Array:
  """First row of a block; the last block overlaps the one before it."""
  return jnp.minimum(number * size, count - size)


def normalise(x: jax.Array) -> jax.Array:
  """Scales the last axis to unit length; zero vectors stay zero."""
  return x * inverse_norm(x)[..., None]


def inverse_norm(x: jax.Array) -> jax.Array:
  """1 / L2 norm of vectors float[..., D], float32[...]; bounded at zero."""
  x = x.astype(jnp.float32)
  return jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1), 1e-12))


def _token_weights(params: dict[str, Any], tokens: jax.Array) -> jax.Array:
  weights = jnp.exp(params['log_token_weight'])[tokens]
  return jnp.where(tokens != types.PAD, weights, 0.0)
