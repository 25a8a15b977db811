"""BERT, an encoder, as pure functions on plain dicts.

For a pretrained encoder of questions and passages: `apply` gives the states of
tokens, `mean_pool` one vector of a text. `embed` and `encode` are its halves,
for those who freeze the lower layers and keep what they give.

Weights that meet the same input lie side by side in one matrix, so that a
layer is few products. `bert_weights` takes those of Hugging Face.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from rag_jax import types
from rag_jax.ops import masking


@dataclasses.dataclass(frozen=True, kw_only=True)
class BertConfig:
  """Sizes of a BERT; the default is all-MiniLM-L6-v2.

  Reference:
    Devlin et al., BERT: Pre-training of Deep Bidirectional Transformers for
    Language Understanding, 2019. Wang et al., MiniLM: Deep Self-Attention
    Distillation for Task-Agnostic Compression, 2020.
  """

  vocab_size: int = 30522
  width: int = 384  # features of a token
  num_layers: int = 6
  num_heads: int = 12
  mlp_dim: int = 1536  # features between the two feed-forward layers
  max_positions: int = 512  # tokens
  num_segments: int = 2
  epsilon: float = 1e-12  # of the norms
  # Backward works each layer out again: less memory, but for a CPU, where XLA
  # makes one of what is computed twice.
  remat: bool = False

  def __post_init__(self):
    """Raises a ValueError if a size makes no model."""
    for field in dataclasses.fields(self):
      if field.type is int and getattr(self, field.name) < 1:
        raise ValueError(
          f'BertConfig.{field.name} must be at least 1, got '
          f'{getattr(self, field.name)}. The defaults make all-MiniLM-L6-v2.'
        )
    if self.width % self.num_heads:
      raise ValueError(
        f'BertConfig.num_heads must cut width {self.width} into even parts, '
        f'got {self.num_heads}. The defaults make all-MiniLM-L6-v2.'
      )


def init(rng: jax.Array, config: BertConfig) -> dict[str, Any]:
  """Draws weights as BERT does: normal of deviation 0.02, biases zero.

  Args:
    rng: key.
    config: the sizes.

  Returns:
    A nested dict of float32 arrays.

  Example:
    >>> params = init(jax.random.key(0), BertConfig(num_layers=1))
    >>> params['embedding'].shape, params['block_0']['qkv'].shape
    ((30522, 384), (384, 1152))
  """
  width, mlp_dim = config.width, config.mlp_dim
  keys = iter(jax.random.split(rng, 3 + 4 * config.num_layers))

  def normal(rows, columns):
    return 0.02 * jax.random.normal(next(keys), (rows, columns))

  def block():
    return {
      'qkv': normal(width, 3 * width),
      'qkv_bias': jnp.zeros(3 * width),
      'out': normal(width, width),
      'out_bias': jnp.zeros(width),
      'norm': jnp.ones(width),
      'norm_bias': jnp.zeros(width),
      'up': normal(width, mlp_dim),
      'up_bias': jnp.zeros(mlp_dim),
      'down': normal(mlp_dim, width),
      'down_bias': jnp.zeros(width),
      'hidden_norm': jnp.ones(width),
      'hidden_norm_bias': jnp.zeros(width),
    }

  return {
    'embedding': normal(config.vocab_size, width),
    'positions': normal(config.max_positions, width),
    'segments': normal(config.num_segments, width),
    'norm': jnp.ones(width),
    'norm_bias': jnp.zeros(width),
  } | {f'block_{i}': block() for i in range(config.num_layers)}


def apply(
  params: dict[str, Any],
  config: BertConfig,
  tokens: jax.Array,
  *,
  segments: jax.Array | None = None,
  where: jax.Array | None = None,
  positions: jax.Array | None = None,
  frozen_layers: int = 0,
) -> jax.Array:
  """States of tokens: `encode` of `embed`.

  Args:
    params: what `init` returned.
    config: the sizes.
    tokens: int32[B, T], rows of the embedding.
    segments: int32[B, T], which text of a pair each token is of; all 0 by
      default.
    where: bool[B, T], True = real; by default the tokens that are not 0, the
      padding.
    positions: int32[B, T], place of each token in its text; counted from 0 by
      default.
    frozen_layers: layers, from below, that get no gradient. With one or more
      the embeddings get none either, and no time goes into it.

  Returns:
    float[B, T, W], of the type of the parameters.

  Raises:
    ValueError: if there are more tokens than positions.

  Example:
    >>> config = BertConfig(num_layers=1)
    >>> params = init(jax.random.key(0), config)
    >>> tokens = jnp.array([[101, 7592, 102, 0]])
    >>> apply(params, config, tokens).shape
    (1, 4, 384)
  """
  if where is None:
    where = tokens != types.PAD
  x = embed(params, config, tokens, segments, positions)
  if frozen_layers:
    x = encode(params, config, x, where, last=frozen_layers)
    x = jax.lax.stop_gradient(x)
  return encode(params, config, x, where, first=frozen_layers)


def embed(
  params: dict[str, Any],
  config: BertConfig,
  tokens: jax.Array,
  segments: jax.Array | None = None,
  positions: jax.Array | None = None,
) -> jax.Array:
  """Sums the vectors of tokens, positions and segments, and norms.

  Args:
    params: what `init` returned.
    config: the sizes.
    tokens: int32[B, T], rows of the embedding.
    segments: int32[B, T]; all 0 by default.
    positions: int32[B, T]; counted from 0 by default.

  Returns:
    float[B, T, W], what the first layer reads.

  Raises:
    ValueError: if there are more tokens than positions.
  """
  length = tokens.shape[-1]
  if length > config.max_positions:
    raise ValueError(
      f'tokens must be at most max_positions, {config.max_positions}, in a '
      f'row, got {length}. Cut the texts when they are tokenised.'
    )
  own = params['segments'][0 if segments is None else segments]
  place = slice(length) if positions is None else positions
  x = params['embedding'][tokens] + params['positions'][place] + own
  return _norm(x, params['norm'], params['norm_bias'], config)


def encode(
  params: dict[str, Any],
  config: BertConfig,
  x: jax.Array,
  where: jax.Array,
  *,
  first: int = 0,
  last: int | None = None,
) -> jax.Array:
  """Runs the layers from `first` up to, and without, `last`.

  Args:
    params: what `init` returned; of its layers only those run are read.
    config: the sizes.
    x: float[B, T, W], what `embed` or the layers before `first` gave.
    where: bool[B, T], True = real.
    first: layers that x has been through already.
    last: where to stop; all the layers by default.

  Returns:
    float[B, T, W].
  """
  bias = jnp.where(where, 0.0, masking.NEG_INF)[
    ..., None, None, :
  ]  # [B, 1, 1, T]
  layer = jax.checkpoint(_layer, static_argnums=3) if config.remat else _layer
  for i in range(config.num_layers)[first:last]:
    x = layer(params[f'block_{i}'], x, bias, config)
  return x


def mean_pool(states: jax.Array, where: jax.Array) -> jax.Array:
  """The mean of the real tokens, at length 1.

  m = sum_t where_t h_t / |where|, v = m / ||m||: dot products are cosines.

  Args:
    states: float[B, T, W].
    where: bool[B, T], True = real; a row without a real token gives zeros.

  Returns:
    float[B, W].

  Example:
    >>> states = jnp.array([[[3.0, 0.0], [0.0, 3.0], [9.0, 9.0]]])
    >>> mean_pool(states, jnp.array([[True, False, False]])).tolist()
    [[1.0, 0.0]]

  Reference:
    Reimers and Gurevych, Sentence-BERT, 2019.
  """
  # The length undoes the division by the count, so the sum will do.
  total = jnp.where(where[..., None], states, 0.0).sum(-2)
  square = jnp.square(total).sum(-1, keepdims=True)
  return total * jax.lax.rsqrt(jnp.maximum(square, 1e-12))


def _layer(block, x, bias, config):
  """Attention and feed-forward, a norm after each; [B, T, W] to [B, T, W]."""
  shape = x.shape
  # Tokens in rows, and GELU apart from the product after it: else XLA joins
  # norms, GELU and products to one loop on a CPU, which over three axes took
  # 1.4 times as long (32 texts of 128 or 192 tokens, AMD cores with AVX-512).
  x = x.reshape(-1, config.width)
  qkv = x @ block['qkv'] + block['qkv_bias']
  out = _attend(qkv.reshape(*shape[:-1], 3 * config.width), bias, config)
  out = out.reshape(-1, config.width)
  x = x + (out @ block['out'] + block['out_bias'])
  x = _norm(x, block['norm'], block['norm_bias'], config)
  up = _apart(_gelu(x @ block['up'] + block['up_bias']))
  x = x + (up @ block['down'] + block['down_bias'])
  x = _norm(x, block['hidden_norm'], block['hidden_norm_bias'], config)
  return x.reshape(shape)


def _apart(x):
  """Returns x, rounded to the precision that it has: nothing changes.

  XLA joins nothing across that; an `optimization_barrier` it takes out before.
  """
  kind = jnp.finfo(x.dtype)
  return jax.lax.reduce_precision(x, kind.nexp, kind.nmant)


def _attend(qkv, bias, config):
  """Attention of queries, keys and values [B, T, 3 W]; [B, T, W]."""
  size = config.width // config.num_heads
  parts = qkv.reshape(*qkv.shape[:-1], 3 * config.num_heads, size)
  # Heads before tokens: one plain batched product each, the fastest on a CPU.
  query, key, value = jnp.split(jnp.swapaxes(parts, -2, -3), 3, axis=-3)
  scores = (query * size**-0.5) @ jnp.swapaxes(key, -1, -2) + bias
  top = jax.lax.stop_gradient(scores.max(-1, keepdims=True))
  weights = jnp.exp(scores - top)
  # A softmax divided out late, where there is less to divide: a fifth less
  # time than by jax.nn.softmax, and a quarter less memory of a gradient.
  out = weights @ value / weights.sum(-1, keepdims=True)
  return jnp.swapaxes(out, -2, -3).reshape(*qkv.shape[:-1], config.width)


def _norm(x, scale, bias, config):
  """LayerNorm over the last axis."""
  x = x - x.mean(-1, keepdims=True)
  square = jnp.square(x).mean(-1, keepdims=True)
  return x * jax.lax.rsqrt(square + config.epsilon) * scale + bias


def _gelu(x):
  """The exact GELU, x Phi(x); erf takes half the time of jax.nn's erfc."""
  return 0.5 * x * (1 + jax.lax.erf(x * 0.5**0.5))
