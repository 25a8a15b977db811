"""Decoding by a `transformer.Decoder`, one token after another.

`start` projects what all steps read; `step` computes a token from the keys and
values of those before it. The result is that of the decoder on the whole text.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rag_jax.nn import transformer

_EPSILON = 1e-6  # of flax.linen.RMSNorm


class Memory(NamedTuple):
  """What the steps of a text read."""

  keys: list[jax.Array]  # of each layer, float32[B, S, H, D]
  values: list[jax.Array]
  where: jax.Array  # bool[B, S]
  bias: jax.Array  # float32[B, 1, S]


class Cache(NamedTuple):
  """Keys and values of the tokens so far; leaves start with [B, 1]."""

  keys: list[jax.Array]  # of each layer, float32[B, 1, A, H, D]
  values: list[jax.Array]
  length: jax.Array  # int32[B, 1]


def start(
  params: dict[str, Any],
  memory: jax.Array,
  where: jax.Array,
  bias: jax.Array,
  *,
  max_length: int,
) -> tuple[Memory, Cache]:
  """Projects the memory, and makes an empty cache.

  Args:
    params: parameters of a `transformer.Decoder`.
    memory: float32[B, S, W], what the decoder attends to.
    where: bool[B, S], True = may be attended to.
    bias: float32[B, 1, S], added to the logits of cross-attention.
    max_length: A, maximum number of tokens.
  """
  blocks = _blocks(params)
  kernels = [block['cross_attention'] for block in blocks]
  read = Memory(
    keys=[_project(memory, own['key']) for own in kernels],
    values=[_project(memory, own['value']) for own in kernels],
    where=where,
    bias=bias,
  )
  shape = (memory.shape[0], 1, max_length)
  empty = [
    jnp.zeros((*shape, *block['attention']['key']['kernel'].shape[1:]))
    for block in blocks
  ]
  length = jnp.zeros(shape[:2], jnp.int32)
  return read, Cache(keys=empty, values=empty, length=length)


def step(
  params: dict[str, Any],
  memory: Memory,
  cache: Cache,
  x: jax.Array,
  *,
  where: jax.Array | None = None,
) -> tuple[jax.Array, Cache]:
  """Decodes one token.

  Args:
    params: parameters of a `transformer.Decoder`.
    memory: from `start`.
    cache: of the tokens before it.
    x: float32[B, 1, W], the embedded token.
    where: bool[B, 1, S], what it may attend to; None = that of `start`.

  Returns:
    float32[B, 1, W], and the cache with the token.
  """
  place = cache.length[0, 0]  # texts grow together
  if where is None:
    where = memory.where[:, None]
  known = jnp.arange(cache.keys[0].shape[2])[None, None] <= place
  keys, values = [], []
  for layer, block in enumerate(_blocks(params)):
    own, cross = block['attention'], block['cross_attention']
    normed = _norm(x, block['attention_norm'])
    query, key, value = (
      _project(normed, own[name]) for name in ('query', 'key', 'value')
    )
    query, key = (transformer.rotate(y, place[None]) for y in (query, key))
    keys.append(cache.keys[layer].at[:, :, place].set(key))
    values.append(cache.values[layer].at[:, :, place].set(value))
    mixed = transformer.attend(query, keys[-1][:, 0], values[-1][:, 0], known)
    x = x + _out(mixed, own)
    query = _project(_norm(x, block['cross_norm']), cross['query'])
    mixed = transformer.attend(
      query,
      memory.keys[layer],
      memory.values[layer],
      where,
      memory.bias,
    )
    x = x + _out(mixed, cross)
    normed = _norm(x, block['hidden_norm'])
    forward = block['feed_forward']
    hidden = jax.nn.relu(normed @ forward['up']['kernel'])
    x = x + hidden @ forward['down']['kernel']
  cache = Cache(keys=keys, values=values, length=cache.length + 1)
  return _norm(x, params['norm']), cache


def _blocks(params):
  return [params[f'block_{i}'] for i in range(len(params) - 1)]


def _norm(x, params):
  size = jax.lax.rsqrt((x**2).mean(-1, keepdims=True) + _EPSILON)
  return x * size * params['scale']


def _project(x, params):
  return jnp.einsum('btw,whd->bthd', x, params['kernel'])


def _out(x, params):
  return jnp.einsum('bthd,hdw->btw', x, params['out']['kernel'])
