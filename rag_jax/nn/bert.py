"""BERT and the encoders with its layers, as pure functions on nested dicts.

`apply` returns the hidden states of the tokens. It is `encode` of `embed`.

RoBERTa, XLM-R, ELECTRA, MPNet and DistilBERT have the layers of BERT; what
differs shows in the parameters. DistilBERT and MPNet have no `segments`, and
MPNet adds `relative`, a bias of the attention by relative position. The first
rows of RoBERTa's and MPNet's position table, which no token uses, are left out
(see `bert_weights`).

Weights applied to the same input are concatenated into one matrix, so that a
layer needs few matrix products. `bert_weights` converts those of Hugging Face.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rag_jax import types
from rag_jax.ops import masking

BUCKETS, MAX_DISTANCE = 32, 128  # of MPNet's relative positions


@dataclasses.dataclass(frozen=True, kw_only=True)
class BertConfig:
  """Configuration of a BERT; the default is all-MiniLM-L6-v2.

  Reference:
    Devlin et al., BERT: Pre-training of Deep Bidirectional Transformers for
    Language Understanding, 2019. Wang et al., MiniLM: Deep Self-Attention
    Distillation for Task-Agnostic Compression, 2020.
  """

  vocab_size: int = 30522
  width: int = 384  # hidden size
  num_layers: int = 6
  num_heads: int = 12
  mlp_dim: int = 1536  # hidden size of the feed-forward layer
  max_positions: int = 512  # tokens
  num_segments: int = 2
  epsilon: float = 1e-12  # of the layer norms
  activation: str = 'gelu'  # of the feed-forward layers, one of `ACTIVATIONS`
  relative: bool = False  # whether attention has a bias by relative position
  # Recomputes each layer in the backward pass to save memory. It has no effect
  # on a CPU, where XLA merges the two computations.
  remat: bool = False

  def __post_init__(self):
    """Raises a ValueError if a size is invalid."""
    for field in dataclasses.fields(self):
      least = 0 if field.name == 'num_segments' else 1
      if field.type is int and getattr(self, field.name) < least:
        raise ValueError(
          f'BertConfig.{field.name} must be at least {least}, got '
          f'{getattr(self, field.name)}. The default is all-MiniLM-L6-v2.'
        )
    if self.activation not in ACTIVATIONS:
      raise ValueError(
        f'BertConfig.activation must be one of {", ".join(ACTIVATIONS)}, got '
        f'{self.activation!r}. The default is all-MiniLM-L6-v2.'
      )
    if self.width % self.num_heads:
      raise ValueError(
        f'BertConfig.num_heads must divide width {self.width}, '
        f'got {self.num_heads}. The default is all-MiniLM-L6-v2.'
      )


def init(rng: jax.Array, config: BertConfig) -> dict[str, Any]:
  """Initialises as BERT: weights normal with deviation 0.02, biases 0.

  Args:
    rng: PRNG key.
    config: the model configuration.

  Returns:
    Parameters, a nested dict of float32 arrays.

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

  optional = {}
  if config.num_segments:
    optional['segments'] = normal(config.num_segments, width)
  if config.relative:
    optional['relative'] = jnp.zeros((BUCKETS, config.num_heads))
  return {
    'embedding': normal(config.vocab_size, width),
    'positions': normal(config.max_positions, width),
    **optional,
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
  """Hidden states of the last layer: `encode` of `embed`.

  Args:
    params: parameters from `init`.
    config: the model configuration.
    tokens: int32[B, T], token IDs.
    segments: int32[B, T], segment of each token of a text pair; default 0.
    where: bool[B, T], True = real; by default tokens != 0, the padding.
    positions: int32[B, T], position IDs; default 0, 1, ...
    frozen_layers: number of lowest layers without gradient. If positive, the
      embeddings get no gradient either, and it is not computed.

  Returns:
    float[B, T, W], in the dtype of the parameters.

  Raises:
    ValueError: if a text has more tokens than `max_positions`.

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
    last = {'last': frozen_layers}
    x = encode(params, config, x, where, positions, **last)
    x = jax.lax.stop_gradient(x)
  return encode(params, config, x, where, positions, first=frozen_layers)


def embed(
  params: dict[str, Any],
  config: BertConfig,
  tokens: jax.Array,
  segments: jax.Array | None = None,
  positions: jax.Array | None = None,
) -> jax.Array:
  """Layer norm of the sum of token, position and segment embeddings.

  Args:
    params: parameters from `init`.
    config: the model configuration.
    tokens: int32[B, T], token IDs.
    segments: int32[B, T]; default 0. An encoder without or with a single
      segment does not use them.
    positions: int32[B, T]; default 0, 1, ...

  Returns:
    float[B, T, W], input of the first layer.

  Raises:
    ValueError: if a text has more tokens than `max_positions`.
  """
  length, most = tokens.shape[-1], len(params['positions'])
  if length > most:
    raise ValueError(
      f'tokens must be at most max_positions, {most}, per text, got {length}. '
      'Truncate the texts when they are tokenised.'
    )
  place = slice(length) if positions is None else positions
  x = params['embedding'][tokens] + params['positions'][place]
  if (table := params.get('segments')) is not None:
    single = segments is None or len(table) == 1
    x = x + table[0 if single else segments]
  return _norm(x, params['norm'], params['norm_bias'], config.epsilon)


def encode(
  params: dict[str, Any],
  config: BertConfig,
  x: jax.Array,
  where: jax.Array,
  positions: jax.Array | None = None,
  *,
  first: int = 0,
  last: int | None = None,
) -> jax.Array:
  """Runs the layers `first` to `last` - 1.

  Args:
    params: parameters from `init`; only the layers that run are needed.
    config: the model configuration.
    x: float[B, T, W], from `embed` or from layer `first` - 1.
    where: bool[B, T], True = real.
    positions: int32[B, T], for a bias by relative position; default 0, 1, ...
    first: index of the first layer to run.
    last: index after the last layer to run; None runs all.

  Returns:
    float[B, T, W].
  """
  bias = jnp.where(where, 0.0, masking.NEG_INF)[
    ..., None, None, :
  ]  # [B, 1, 1, T]
  if (table := params.get('relative')) is not None:
    place = jnp.arange(x.shape[-2]) if positions is None else positions
    distance = place[..., None, :] - place[..., :, None]
    # [..., T, T, H] to [..., H, T, T]
    bias = bias + jnp.moveaxis(table[_bucket(distance)], -1, -3)
  layer = jax.checkpoint(_layer, static_argnums=3) if config.remat else _layer
  for i in range(config.num_layers)[first:last]:
    x = layer(params[f'block_{i}'], x, bias, config)
  return x


def _bucket(distance: jax.Array) -> jax.Array:
  """The bucket of a relative position, as in T5; int32 of the same shape."""
  half = BUCKETS // 2
  exact = half // 2
  size = jnp.abs(distance)
  # In float32 and truncated, as the published implementation does.
  far = jnp.log(jnp.maximum(size, 1).astype(jnp.float32) / exact)
  far = far / np.float32(math.log(MAX_DISTANCE / exact)) * (half - exact)
  far = jnp.minimum(exact + far.astype(jnp.int32), half - 1)
  return jnp.where(distance > 0, half, 0) + jnp.where(size < exact, size, far)


def _layer(block, x, bias, config):
  """Attention and feed-forward, post-norm; [B, T, W] to [B, T, W]."""
  shape = x.shape
  # Flatten to two axes and keep GELU separate from the next product. Otherwise
  # XLA fuses norms, GELU and products on a CPU, which took 1.4 times as long
  # (32 texts of 128 or 192 tokens, AMD cores with AVX-512).
  x = x.reshape(-1, config.width)
  qkv = x @ block['qkv'] + block['qkv_bias']
  parts = qkv.reshape(*shape[:-1], 3 * config.num_heads, -1)
  # Heads before tokens: one batched product each, the fastest on a CPU.
  parts = jnp.split(jnp.swapaxes(parts, -2, -3), 3, axis=-3)
  out = attend(*parts, bias)
  out = out.reshape(-1, config.width)
  x = x + (out @ block['out'] + block['out_bias'])
  x = _norm(x, block['norm'], block['norm_bias'], config.epsilon)
  activate = ACTIVATIONS[config.activation]
  up = prevent_fusion(activate(x @ block['up'] + block['up_bias']))
  x = x + (up @ block['down'] + block['down_bias'])
  x = _norm(x, block['hidden_norm'], block['hidden_norm_bias'], config.epsilon)
  return x.reshape(shape)


def prevent_fusion(x):
  """Identity: rounds x to its own precision, which XLA does not fuse across.

  XLA removes an `optimization_barrier` before fusion.
  """
  kind = jnp.finfo(x.dtype)
  return jax.lax.reduce_precision(x, kind.nexp, kind.nmant)


def attend(
  query: jax.Array, key: jax.Array, value: jax.Array, bias: jax.Array
) -> jax.Array:
  """Softmax attention: [B, H, T, S] each to [B, T, H S], S values per head."""
  scores = (query * query.shape[-1] ** -0.5) @ jnp.swapaxes(key, -1, -2) + bias
  top = jax.lax.stop_gradient(scores.max(-1, keepdims=True))
  weights = jnp.exp(scores - top)
  # Normalise the softmax after the product, where there are fewer elements:
  # 20 % less time than jax.nn.softmax, and 25 % less memory for the gradient.
  out = weights @ value / weights.sum(-1, keepdims=True)
  out = jnp.swapaxes(out, -2, -3)
  return out.reshape(*out.shape[:-2], -1)


def _norm(x, scale, bias, epsilon):
  """LayerNorm over the last axis."""
  x = x - x.mean(-1, keepdims=True)
  square = jnp.square(x).mean(-1, keepdims=True)
  return x * jax.lax.rsqrt(square + epsilon) * scale + bias


def _gelu(x):
  """Exact GELU, x Phi(x); erf takes half the time of erfc in jax.nn."""
  return 0.5 * x * (1 + jax.lax.erf(x * 0.5**0.5))


_tanh_gelu = functools.partial(jax.nn.gelu, approximate=True)
# Published names of activations.
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  'gelu': _gelu,
  'gelu_new': _tanh_gelu,
  'gelu_fast': _tanh_gelu,
  'gelu_pytorch_tanh': _tanh_gelu,
  'relu': jax.nn.relu,
  'silu': jax.nn.silu,
  'tanh': jnp.tanh,
}
