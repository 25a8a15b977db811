"""Writing text with a T5: the steps that `generate` takes.

A search of docids has few steps, each compiled for itself, with a cache that
grows (`t5.step`). A text has many: one step is compiled, with a cache of full
length.

  logits, shared, cache = start(params, config, memory, where, 50)
  step_fn = functools.partial(step, params, config, shared)
  found = generate.greedy(step_fn, logits, cache, end_token=1, max_length=50)
"""

from typing import Any

import jax
import jax.numpy as jnp

from rag_jax.nn import t5, t5_layers
from rag_jax.ops import masking


def start(
  params: dict[str, Any],
  config: t5.T5Config,
  memory: jax.Array,
  where: jax.Array,
  max_length: int,
  *,
  start_token: int = 0,
  bias: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, Any], dict[str, jax.Array]]:
  """Reads the start token.

  Args:
    params: what `t5.init` returned.
    config: the sizes.
    memory: float32[B, Q, W], what `t5.encode` returned.
    where: bool[B, Q], True = real.
    max_length: tokens that may be written, L.
    start_token: what the decoder reads first.
    bias: float32[B, Q], see `t5.start`.

  Returns:
    logits: float32[B, V] of the first token.
    shared: what all beams of a row share, see `t5.start`.
    cache: float32[B, 1, L, 2 H D] a block, and how many steps are `taken`,
      int32[B, 1].
  """
  shared, cache = t5.start(params, config, memory, where, max_length, bias=bias)
  room = [(0, 0), (0, 0), (0, max_length), (0, 0)]
  cache = {name: jnp.pad(block, room) for name, block in cache.items()}
  tokens = jnp.full((memory.shape[0], 1), start_token)
  cache['taken'] = jnp.zeros_like(tokens)
  logits, cache = step(params, config, shared, cache, tokens)
  return logits[:, 0], shared, cache


def step(
  params: dict[str, Any],
  config: t5.T5Config,
  shared: dict[str, Any],
  cache: dict[str, jax.Array],
  tokens: jax.Array,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Reads one token a beam and scores the next.

  Args:
    params: what `t5.init` returned.
    config: the sizes.
    shared: what `start` returned.
    cache: what `start` or the last `step` returned, reordered with the beams;
      another step must fit in.
    tokens: int32[B, K].

  Returns:
    Logits float32[B, K, V] and the cache with this step.
  """
  part = params['decoder']
  place = cache['taken'][0, 0]
  distance = place - jnp.arange(cache['block_0'].shape[2])
  bias = shared['bias'][jnp.maximum(distance, 0)]  # [L, H]
  bias = jnp.where(distance[:, None] < 0, masking.NEG_INF, bias)
  x = params['embedding'][tokens]
  new = {'taken': cache['taken'] + 1}
  for i in range(config.num_decoder_layers):
    name = f'block_{i}'
    out, new[name] = t5_layers.beam_attention(
      part[name], config, x, cache[name], bias, place
    )
    x = x + out
    x = x + t5_layers.cross_attention(part[name], config, x, shared, name)
    x = x + t5_layers.feed_forward(part[name], config, x)
  return t5_layers.logits(params, config, x, slice(None)), new
