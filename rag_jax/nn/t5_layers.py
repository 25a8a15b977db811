"""The layers of a T5, on the parameter dicts of `t5`."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from rag_jax.ops import masking


def self_attention(block, config, x, bias):
  """Self-attention of x [B, T, W]; returns [B, T, W]."""
  normed = norm(x, block['norm'], config)
  both = heads(normed @ block['qkv'], config)  # [B, T, 3 H, D]
  query, key, value = jnp.split(both.transpose(0, 2, 1, 3), 3, axis=1)
  out = _attend(query, jnp.swapaxes(key, -1, -2), value, bias)
  return out @ block['out']


def cross_attention(block, config, x, shared, name):
  """Cross-attention from x [B, T, W] to the query; T are tokens or beams."""
  weights = cross_weights(block, config, x, shared, name)
  return cross_values(block, weights, shared, name)


def cross_weights(block, config, x, shared, name):
  """The weights of `cross_attention`, float32[B, H, T, Q]."""
  normed = norm(x, block['cross_norm'], config)
  query = heads(normed @ block['cross_query'], config).transpose(0, 2, 1, 3)
  scores = query @ shared[name]['key'] + shared['mask']
  return jax.nn.softmax(scores, axis=-1)


def cross_values(block, weights, shared, name):
  """The output of `cross_attention`, [B, T, W], from its weights."""
  return _mix(weights, shared[name]['value']) @ block['cross_out']


def beam_attention(block, config, x, cache, bias, place=None):
  """Self-attention of the last tokens x [B, K, W] to their own beams.

  Their keys and values are appended to the cache or, with `place`, written to
  this position of a cache of full length.
  """
  normed = norm(x, block['norm'], config)
  both = normed @ block['qkv']
  inner = both.shape[-1] // 3
  new = both[:, :, None, inner:]
  if place is None:
    cache = jnp.concatenate([cache, new], axis=2)
  else:
    cache = jax.lax.dynamic_update_slice_in_dim(cache, new, place, 2)
  query = heads(both[..., :inner], config)
  past = heads(cache, config)  # [B, K, T, 2 H, D]
  key, value = jnp.split(past, 2, axis=3)
  # For a few steps, sums are as fast as matrix products. A growing cache is
  # reordered at its current size, which makes a search 3 to 5 % faster than a
  # cache of full length.
  scores = (query[:, :, None] * key).sum(-1) + bias  # [B, K, T, H]
  weights = jax.nn.softmax(scores, axis=2)
  out = (weights[..., None] * value).sum(2)
  return out.reshape(*x.shape[:2], inner) @ block['out'], cache


def _attend(query, key, value, bias):
  """Unscaled attention of [B, H, T, D] over [B, H, D, S] and [B, H, S, D]."""
  return _mix(jax.nn.softmax(query @ key + bias, axis=-1), value)


def _mix(weights, value):
  """Weighted sum of [B, H, S, D] by [B, H, T, S]; returns [B, T, H D]."""
  out = (weights @ value).transpose(0, 2, 1, 3)
  return out.reshape(*out.shape[:2], -1)


def feed_forward(block, config, x):
  """Feed-forward layer with ReLU or gated GELU; [..., W] to [..., W]."""
  up = norm(x, block['hidden_norm'], config) @ block['up']
  if config.gated:
    gate, up = jnp.split(up, 2, axis=-1)
    return (jax.nn.gelu(gate, approximate=True) * up) @ block['down']
  return jax.nn.relu(up) @ block['down']


def logits(params, config, x, rows):
  """Logits over rows of the vocabulary; [..., W] to [..., V]."""
  x = norm(x, params['decoder']['norm'], config)
  if config.tied:
    return x * config.width**-0.5 @ params['embedding'][rows].T
  return x @ params['output'][rows].T


def norm(x, scale, config):
  """RMS norm over the last axis."""
  square = jnp.square(x).mean(-1, keepdims=True)
  return x * jax.lax.rsqrt(square + config.epsilon) * scale


def heads(x, config):
  """Reshapes [..., H D] to heads [..., H, D]."""
  return x.reshape(*x.shape[:-1], -1, config.head_size)


def mask(where):
  """Additive attention mask of padding, float32[B, 1, 1, Q]."""
  return jnp.where(where, 0.0, masking.NEG_INF)[:, None, None]


def position_bias(part, config, distance, *, bidirectional):
  """Relative position bias float32[H, ...] of distances, key minus query.

  Small distances have a bucket each, larger ones logarithmic buckets. With
  `bidirectional`, each direction has half of the buckets; otherwise all are for
  keys before the query.
  """
  count = config.num_buckets
  bucket = jnp.zeros_like(distance)
  if bidirectional:
    count //= 2
    bucket = jnp.where(distance > 0, count, 0)
  else:
    distance = jnp.minimum(distance, 0)
  distance = jnp.abs(distance)
  exact = count // 2
  # A table of logarithms in the precision of T5: a compiled logarithm may round
  # to a neighbouring bucket.
  ratio = np.arange(config.max_distance + 1, dtype=np.float32) / exact
  growth = np.log(np.maximum(ratio, 1)) / math.log(config.max_distance / exact)
  far = exact + (growth * (count - exact)).astype(np.int32)
  far = jnp.asarray(np.minimum(far, count - 1))
  far = far[jnp.minimum(distance, config.max_distance)]
  bucket = bucket + jnp.where(distance < exact, distance, far)
  return jnp.moveaxis(part['bias'][bucket], -1, 0)
