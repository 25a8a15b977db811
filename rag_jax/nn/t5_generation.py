"""Text generation with a T5: the step function for `generate`.

A docid search has few steps; each is compiled separately, with a growing cache
(`t5.step`). A text has many steps, so one step with a cache of full length is
compiled.

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
  """Prepares decoding and reads the start token.

  Args:
    params: parameters from `t5.init`.
    config: the model configuration.
    memory: float32[B, Q, W], from `t5.encode`.
    where: bool[B, Q], True = real.
    max_length: L, maximum number of tokens.
    start_token: first input of the decoder.
    bias: float32[B, Q], see `t5.start`.

  Returns:
    logits: float32[B, V] of the first token.
    shared: state that all beams share, see `t5.start`.
    cache: float32[B, 1, L, 2 H D] per block, and `taken`, the number of steps
      taken, int32[B, 1].
  """
  shared, cache = t5.start(params, config, memory, where, max_length, bias=bias)
  padding = [(0, 0), (0, 0), (0, max_length), (0, 0)]
  cache = {name: jnp.pad(block, padding) for name, block in cache.items()}
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
  """One decoding step: reads a token per beam, returns the next logits.

  Args:
    params: parameters from `t5.init`.
    config: the model configuration.
    shared: from `start`.
    cache: from `start` or the last `step`, reordered with the beams, with fewer
      than L steps taken.
    tokens: int32[B, K], token IDs.

  Returns:
    Logits float32[B, K, V], and the cache with this step.
  """
  decoder = params['decoder']
  place = cache['taken'][0, 0]
  distance = place - jnp.arange(cache['block_0'].shape[2])
  bias = shared['bias'][jnp.maximum(distance, 0)]  # [L, H]
  bias = jnp.where(distance[:, None] < 0, masking.NEG_INF, bias)
  x = params['embedding'][tokens]
  new = {'taken': cache['taken'] + 1}
  for i in range(config.num_decoder_layers):
    name = f'block_{i}'
    out, new[name] = t5_layers.beam_attention(
      decoder[name], config, x, cache[name], bias, place
    )
    x = x + out
    x = x + t5_layers.cross_attention(decoder[name], config, x, shared, name)
    x = x + t5_layers.feed_forward(decoder[name], config, x)
  return t5_layers.logits(params, config, x, slice(None)), new
