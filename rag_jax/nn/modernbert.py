"""ModernBERT as pure functions on nested dicts.

It differs from BERT in rotary positions, norms before the layers, a gated
feed-forward layer, no biases, and attention of most layers to a window around
each token. `modernbert_weights` converts the weights of Hugging Face.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from rag_jax import types
from rag_jax.nn import bert
from rag_jax.ops import masking


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModernBertConfig:
  """Configuration of a ModernBERT; the default is ModernBERT-base.

  Reference:
    Warner et al., Smarter, Better, Faster, Longer: A Modern Bidirectional
    Encoder, 2024.
  """

  vocab_size: int = 50368
  width: int = 768  # hidden size
  num_layers: int = 22
  num_heads: int = 12
  mlp_dim: int = 1152  # hidden size of the feed-forward layer
  max_positions: int = 8192  # tokens
  epsilon: float = 1e-5  # of the layer norms
  activation: str = 'gelu'  # of the gate, one of `bert.ACTIVATIONS`
  window: int = 128  # tokens that a local layer attends to
  global_every: int = 3  # every n-th layer attends to all tokens
  rope_base: float = 160_000.0  # base of the rotary positions, global layers
  local_rope_base: float = 10_000.0  # the same, local layers
  remat: bool = False  # as in `bert.BertConfig`


def apply(
  params: dict[str, Any],
  config: ModernBertConfig,
  tokens: jax.Array,
  *,
  where: jax.Array | None = None,
  positions: jax.Array | None = None,
  frozen_layers: int = 0,
) -> jax.Array:
  """Hidden states of the last layer, normalised.

  Args:
    params: from `modernbert_weights.from_state_dict`.
    config: the model configuration.
    tokens: int32[B, T], token IDs.
    where: bool[B, T], True = real; by default tokens != 0, the padding.
    positions: int32[B, T], position IDs; default 0, 1, ...
    frozen_layers: number of lowest layers without gradient, as in `bert.apply`.

  Returns:
    float[B, T, W], in the dtype of the parameters.

  Raises:
    ValueError: if a text has more tokens than `max_positions`.
  """
  length = tokens.shape[-1]
  if length > config.max_positions:
    raise ValueError(
      f'tokens must be at most max_positions, {config.max_positions}, per '
      f'text, got {length}. Truncate the texts when they are tokenised.'
    )
  if where is None:
    where = tokens != types.PAD
  if positions is None:
    positions = jnp.arange(length)
  positions = jnp.broadcast_to(positions, tokens.shape)
  everywhere = jnp.where(where, 0.0, masking.NEG_INF)[:, None, None]
  distance = jnp.abs(positions[:, None] - positions[:, :, None])
  near = (distance <= config.window // 2)[:, None]
  nearby = jnp.where(near, everywhere, masking.NEG_INF)  # [B, 1, T, T]
  bases = config.rope_base, config.local_rope_base
  rotations = [_rotation(positions, config, base) for base in bases]
  x = _norm(params['embedding'][tokens], params['norm'], config.epsilon)
  layer = jax.checkpoint(_layer, static_argnums=4) if config.remat else _layer
  for i in range(config.num_layers):
    if i == frozen_layers and i:
      x = jax.lax.stop_gradient(x)
    local = i % config.global_every > 0
    bias = nearby if local else everywhere
    x = layer(params[f'block_{i}'], x, bias, rotations[local], config)
  if frozen_layers >= config.num_layers:
    x = jax.lax.stop_gradient(x)
  return _norm(x, params['final_norm'], config.epsilon)


def _layer(block, x, bias, rotation, config):
  """Attention and feed-forward, pre-norm; [B, T, W] to [B, T, W]."""
  shape = x.shape
  x = x.reshape(-1, config.width)  # see bert._layer
  inputs = x  # the first layer gets the normalised embeddings
  if 'norm' in block:
    inputs = _norm(x, block['norm'], config.epsilon)
  parts = (inputs @ block['qkv']).reshape(*shape[:-1], 3 * config.num_heads, -1)
  parts = jnp.split(jnp.swapaxes(parts, -2, -3), 3, axis=-3)
  query, key = (_rotate(part, *rotation) for part in parts[:2])
  out = bert.attend(query, key, parts[2], bias).reshape(-1, config.width)
  x = x + out @ block['out']
  hidden = _norm(x, block['hidden_norm'], config.epsilon) @ block['up']
  up, gate = jnp.split(hidden, 2, axis=-1)
  up = bert.prevent_fusion(bert.ACTIVATIONS[config.activation](up) * gate)
  return (x + up @ block['down']).reshape(shape)


def _rotation(positions, config, base):
  """Cosines and sines of the rotary positions, float32[B, 1, T, S]."""
  size = config.width // config.num_heads
  frequency = base ** (-jnp.arange(0, size, 2, dtype=jnp.float32) / size)
  angle = positions[:, None, :, None] * frequency
  angle = jnp.concatenate([angle, angle], axis=-1)
  return jnp.cos(angle), jnp.sin(angle)


def _rotate(x, cosine, sine):
  """Rotates pairs of values of each head by the angles of its positions."""
  first, second = jnp.split(x, 2, axis=-1)
  turned = jnp.concatenate([-second, first], axis=-1)
  return (x * cosine + turned * sine).astype(x.dtype)


def _norm(x, scale, epsilon):
  """LayerNorm over the last axis, without a bias."""
  x = x - x.mean(-1, keepdims=True)
  square = jnp.square(x).mean(-1, keepdims=True)
  return x * jax.lax.rsqrt(square + epsilon) * scale
