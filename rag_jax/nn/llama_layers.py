"""The layers of a Llama, on the plain dicts of `llama`.

B texts with K continuations of T tokens each; H heads in N groups, G heads to
the keys and values of a group.
"""

import jax
import jax.numpy as jnp
import numpy as np

from rag_jax.ops import masking


def run(params, config, tokens, positions, mask, *, prompt=None, cache=None):
  """Runs all blocks.

  Tokens [B, K, T] attend to the prompt that they continue, if there is one,
  and under `mask`, which goes with [B, K, N, G, T, L], to their own beam: the
  cache, which they join, or else each other.

  Returns:
    Features [B, K, T, W], and keys and values [B, K, 2, N, L, D] a block.
  """
  x = params['embedding'][tokens]
  turn = rotation(positions, config)
  kept = {}
  for i in range(config.num_layers):
    name = f'block_{i}'
    block = params[name]
    query, both = _project(block, config, x, turn)
    if cache is not None:
      place = cache['taken'][0, 0]
      both = jax.lax.dynamic_update_slice_in_dim(cache[name], both, place, 4)
    kept[name] = both
    shared = None if prompt is None else (prompt[name], prompt['where'])
    x = x + _attend(query, both, mask, shared) @ block['out']
    x = x + _feed_forward(block, config, x)
  return norm(x, params['norm'], config), kept


def norm(x, scale, config):
  """Divides by the root of the mean square; no mean is taken off."""
  square = jnp.square(x).mean(-1, keepdims=True)
  return x * jax.lax.rsqrt(square + config.epsilon) * scale


def rotation(positions, config):
  """Cosines and sines [B, K, 1, T, D / 2] of angles at positions [B, K, T]."""
  exponent = -np.arange(0, config.head_size, 2) / config.head_size
  speed = (config.rope_base**exponent).astype(np.float32)
  angle = positions[:, :, None, :, None] * speed
  return jnp.cos(angle), jnp.sin(angle)


def rotate(x, turn):
  """Turns each pair of features, one from either half, by its angle.

  Reference:
    Su et al., RoFormer: Enhanced Transformer with Rotary Position Embedding,
    2021.
  """
  cos, sin = turn
  first, second = jnp.split(x, 2, axis=-1)
  return jnp.concatenate(
    [first * cos - second * sin, second * cos + first * sin], axis=-1
  )


def logits(params, config, x):
  """Scores the vocabulary; [..., W] to [..., V]."""
  return x @ params['embedding' if config.tied else 'output'].T


def _project(block, config, x, turn):
  """Queries [B, K, N, G, T, D]; keys and values [B, K, 2, N, T, D]."""
  count, size = config.num_key_value_heads, config.head_size
  heads = norm(x, block['norm'], config) @ block['qkv']
  heads = jnp.swapaxes(heads.reshape(*x.shape[:-1], -1, size), 2, 3)
  turned = rotate(heads[:, :, :-count], turn)  # queries and keys
  query = turned[:, :, :-count] * size**-0.5
  query = query.reshape(*x.shape[:2], count, -1, *query.shape[3:])
  key, value = turned[:, :, -count:], heads[:, :, -count:]
  return query, jnp.stack([key, value], axis=2)


def _attend(query, both, mask, shared):
  """Attention to one's own beam and to what all beams of a text share.

  Returns [B, K, T, H D]. Products are of matrices with all else in front: on a
  CPU three times quicker than `einsum` over the axes as they come.
  """
  batch, beams, groups, _, length, size = query.shape
  rows = query.reshape(batch, beams, groups, -1, size)

  def fold(x):  # the beams share the keys: more rows of one product
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
    before = unfold(fold(rows) @ jnp.swapaxes(key, -1, -2))
    before = masked(before, where[:, None, None, None, None])
    weights = jax.nn.softmax(jnp.concatenate([before, scores], -1), axis=-1)
    before, own = jnp.split(weights, [where.shape[1]], axis=-1)
    out = own @ value + unfold(fold(before) @ prompt_value)
  out = out.reshape(batch, beams, -1, length, size)
  return jnp.swapaxes(out, 2, 3).reshape(batch, beams, length, -1)


def _feed_forward(block, config, x):
  """Two products around a SwiGLU; [..., W] to [..., W]."""
  both = norm(x, block['hidden_norm'], config) @ block['up']
  gate, up = jnp.split(both, 2, axis=-1)
  return (jax.nn.silu(gate) * up) @ block['down']
