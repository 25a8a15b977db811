"""The layers of a Llama, on the parameter dicts of `llama`.

Shapes: B texts with K continuations of T tokens each; H query heads in N groups
of G heads that share keys and values.
"""

import jax
import jax.numpy as jnp
import numpy as np

from rag_jax.ops import masking

ACTIVATIONS = {
  'silu': jax.nn.silu,
  'gelu_tanh': jax.nn.gelu,  # its approximation by tanh is JAX's default
}


def run(params, config, tokens, positions, mask, *, prompt=None, cache=None):
  """Runs all blocks.

  Tokens [B, K, T] attend to the prompt, if given, and, under `mask`, to the
  tokens of their own beam: those in the cache, which is extended by the new
  tokens, or without a cache to each other. `mask` broadcasts to
  [B, K, N, G, T, L].

  Returns:
    Hidden states [B, K, T, W], and keys and values [B, K, 2, N, L, D] per
    block.
  """
  x = params['embedding'][tokens]
  if config.embedding_scale != 1:
    x = x * config.embedding_scale
  windows = config.windows or (0,) * config.num_layers
  angles = {
    local: rotation(positions, config, local)
    for local in {window > 0 for window in windows}
  }
  key_positions = positions
  if cache is not None:
    first = positions[..., :1] - cache['taken'][0, 0]
    key_positions = first + jnp.arange(cache['block_0'].shape[4])
  kept = {}
  for i, window in enumerate(windows):
    name = f'block_{i}'
    block = params[name]
    query, both = _project(block, config, x, angles[window > 0])
    if cache is not None:
      place = cache['taken'][0, 0]
      both = jax.lax.dynamic_update_slice_in_dim(cache[name], both, place, 4)
    kept[name] = both
    allowed = mask
    shared = None
    if prompt is not None:
      shared = prompt[name], prompt['where'][:, None, None, None, None]
    if window:
      allowed = mask & _within(window, positions, key_positions)
      if shared is not None:
        own = jnp.maximum(prompt['where'].cumsum(1) - 1, 0)
        near = _within(window, positions, own[:, None])
        shared = shared[0], shared[1] & near
    out = _attend(query, both, allowed, shared) @ block['out']
    x = x + _optional_norm(out, block.get('out_norm'), config)
    out = _feed_forward(block, config, x)
    x = x + _optional_norm(out, block.get('down_norm'), config)
  return norm(x, params['norm'], config), kept


def _within(window, positions, key_positions):
  """Whether keys [B, K, L] lie within the window of queries [B, K, T].

  Returns bool[B, K, 1, 1, T, L]. Positions count real tokens only.
  """
  distance = positions[..., :, None] - key_positions[..., None, :]
  return (distance < window)[:, :, None, None]


def _optional_norm(x, scale, config):
  """RMS norm, if the block has one here."""
  return x if scale is None else norm(x, scale, config)


def norm(x, scale, config):
  """RMS norm over the last axis."""
  square = jnp.square(x).mean(-1, keepdims=True)
  return x * jax.lax.rsqrt(square + config.epsilon) * scale


def rotation(positions, config, local=False):
  """Cosines and sines [B, K, 1, T, D / 2] of angles at positions [B, K, T].

  `local` gives those of layers with a window.
  """
  exponent = -np.arange(0, config.head_size, 2) / config.head_size
  own_base = local and config.local_rope_base
  speed = (own_base or config.rope_base) ** exponent
  if config.rope_divisors and not own_base:
    speed = speed / np.asarray(config.rope_divisors)
  speed = speed.astype(np.float32)
  angle = positions[:, :, None, :, None] * speed
  return jnp.cos(angle), jnp.sin(angle)


def rotate(x, angles):
  """Rotary position embedding: rotates pairs of dimensions (i, i + D / 2).

  Reference:
    Su et al., RoFormer: Enhanced Transformer with Rotary Position Embedding,
    2021.
  """
  cos, sin = angles
  first, second = jnp.split(x, 2, axis=-1)
  return jnp.concatenate(
    [first * cos - second * sin, second * cos + first * sin], axis=-1
  )


def logits(params, config, x):
  """Logits over the vocabulary; [..., W] to [..., V]."""
  return x @ params['embedding' if config.tied else 'output'].T


def _project(block, config, x, angles):
  """Queries [B, K, N, G, T, D]; keys and values [B, K, 2, N, T, D]."""
  count, size = config.num_key_value_heads, config.head_size
  heads = norm(x, block['norm'], config) @ block['qkv']
  if config.qkv_bias:
    heads = heads + block['qkv_bias']
  heads = jnp.swapaxes(heads.reshape(*x.shape[:-1], -1, size), 2, 3)
  pairs = heads[:, :, :-count]  # queries and keys
  if config.qk_norm:
    query, key = pairs[:, :, :-count], pairs[:, :, -count:]
    query = norm(query, block['query_norm'], config)
    key = norm(key, block['key_norm'], config)
    pairs = jnp.concatenate([query, key], axis=2)
  rotated = rotate(pairs, angles)
  query = rotated[:, :, :-count] * (config.query_scale or size**-0.5)
  query = query.reshape(*x.shape[:2], count, -1, *query.shape[3:])
  key, value = rotated[:, :, -count:], heads[:, :, -count:]
  return query, jnp.stack([key, value], axis=2)


def _attend(query, both, mask, shared):
  """Attention to the own beam and to the prompt that all beams share.

  `shared` has the keys and values of the prompt, and a mask that broadcasts to
  [B, K, N, G, T, S].

  Returns [B, K, T, H D]. It uses batched matrix products with the batch axes
  first: on a CPU three times faster than `einsum` over the given axes.
  """
  batch, beams, groups, _, length, size = query.shape
  rows = query.reshape(batch, beams, groups, -1, size)

  def fold(x):  # beams share the keys of the prompt: beams become rows
    return jnp.swapaxes(x, 1, 2).reshape(batch, groups, -1, x.shape[-1])

  def unfold(x):
    x = x.reshape(batch, groups, beams, -1, x.shape[-1])
    return jnp.swapaxes(x, 1, 2)

  def masked(scores, where):
    scores = scores.reshape(*query.shape[:-1], -1)
    return jnp.where(where, scores, masking.NEG_INF).reshape(
      *rows.shape[:-1], -1
    )

  key, value = both[:, :, 0], both[:, :, 1]
  scores = masked(rows @ jnp.swapaxes(key, -1, -2), mask)
  if shared is None:
    out = jax.nn.softmax(scores, axis=-1) @ value
  else:
    prompt, where = shared
    key, prompt_value = prompt[:, 0], prompt[:, 1]
    to_prompt = unfold(fold(rows) @ jnp.swapaxes(key, -1, -2))
    to_prompt = masked(to_prompt, where)
    weights = jax.nn.softmax(jnp.concatenate([to_prompt, scores], -1), axis=-1)
    to_prompt, to_beam = jnp.split(weights, [where.shape[-1]], axis=-1)
    out = to_beam @ value + unfold(fold(to_prompt) @ prompt_value)
  out = out.reshape(batch, beams, -1, length, size)
  return jnp.swapaxes(out, 2, 3).reshape(batch, beams, length, -1)


def _feed_forward(block, config, x):
  """Gated feed-forward layer; [..., W] to [..., W]."""
  both = norm(x, block['hidden_norm'], config) @ block['up']
  gate, up = jnp.split(both, 2, axis=-1)
  return (ACTIVATIONS[config.activation](gate) * up) @ block['down']
