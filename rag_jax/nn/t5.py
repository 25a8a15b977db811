"""T5 encoder-decoder as pure functions on nested dicts.

For generative retrieval: `encode` encodes a query, `start` computes the state
that its beams share, `step` returns the logits of each beam's next code, and
`search_step` is the step function for `ops.beam.search`.

Weights applied to the same input are concatenated into one matrix, so that a
layer needs few matrix products. `t5_weights` converts those of Hugging Face.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rag_jax.nn import t5_layers
from rag_jax.ops import masking
from rag_jax.ops import trie as tries

Rows = slice | np.ndarray | jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class T5Config:
  """Configuration of a T5; the default is T5-small of version 1.0.

  Version 1.1 has `gated=True` and `tied=False`.

  Reference:
    Raffel et al., Exploring the Limits of Transfer Learning with a Unified
    Text-to-Text Transformer, 2020. Shazeer, GLU Variants Improve Transformer,
    2020, for the gated feed-forward layer.
  """

  vocab_size: int = 32128
  width: int = 512  # hidden size
  num_layers: int = 6  # of the encoder
  num_decoder_layers: int = 6
  num_heads: int = 8
  head_size: int = 64  # dimensions per head
  mlp_dim: int = 2048  # hidden size of the feed-forward layer
  gated: bool = False  # feed-forward layer: False = ReLU, True = gated GELU
  tied: bool = True  # True = the output matrix is the embedding matrix
  num_buckets: int = 32  # of relative positions
  max_distance: int = 128  # tokens; larger distances share the last bucket
  epsilon: float = 1e-6  # of the RMS norms
  remat: bool = False  # of the encoder, see BertConfig

  def __post_init__(self):
    """Raises a ValueError if a size is invalid."""
    for field in dataclasses.fields(self):
      least = 4 if field.name == 'num_buckets' else 1
      if field.type is int and getattr(self, field.name) < least:
        raise ValueError(
          f'T5Config.{field.name} must be at least {least}, got '
          f'{getattr(self, field.name)}. The default is T5-small.'
        )
    if self.max_distance <= self.num_buckets // 2:
      raise ValueError(
        f'T5Config.max_distance must be above half of num_buckets, '
        f'{self.num_buckets // 2}, got {self.max_distance}. The default is 128.'
      )


def init(rng: jax.Array, config: T5Config) -> dict[str, Any]:
  """Initialises as T5: matrix products preserve the variance.

  Args:
    rng: PRNG key.
    config: the model configuration.

  Returns:
    Parameters, a nested dict of float32 arrays.

  Example:
    >>> config = T5Config(num_layers=1, num_decoder_layers=1, vocab_size=8)
    >>> params = init(jax.random.key(0), config)
    >>> params['embedding'].shape, params['encoder']['block_0']['qkv'].shape
    ((8, 512), (512, 1536))
  """
  width, inner = config.width, config.num_heads * config.head_size
  keys = iter(
    jax.random.split(
      rng, 4 + 8 * (config.num_layers + 2 * config.num_decoder_layers)
    )
  )

  def normal(rows, columns, scale):
    return scale * jax.random.normal(next(keys), (rows, columns))

  def query():
    return normal(width, inner, (width * config.head_size) ** -0.5)

  def key_value():
    return normal(width, 2 * inner, width**-0.5)

  def block(has_cross_attention):
    part = {
      'norm': jnp.ones(width),
      'qkv': jnp.concatenate([query(), key_value()], axis=1),
      'out': normal(inner, width, inner**-0.5),
      'hidden_norm': jnp.ones(width),
      'up': normal(width, config.mlp_dim * (1 + config.gated), width**-0.5),
      'down': normal(config.mlp_dim, width, config.mlp_dim**-0.5),
    }
    if has_cross_attention:
      part |= {
        'cross_norm': jnp.ones(width),
        'cross_query': query(),
        'cross_key_value': key_value(),
        'cross_out': normal(inner, width, inner**-0.5),
      }
    return part

  def stack(layers, has_cross_attention):
    blocks = {f'block_{i}': block(has_cross_attention) for i in range(layers)}
    return blocks | {
      'bias': normal(config.num_buckets, config.num_heads, width**-0.5),
      'norm': jnp.ones(width),
    }

  params = {
    'embedding': normal(config.vocab_size, width, 1.0),
    'encoder': stack(config.num_layers, False),
    'decoder': stack(config.num_decoder_layers, True),
  }
  if not config.tied:
    params['output'] = normal(config.vocab_size, width, width**-0.5)
  return params


def sizes(params: dict[str, Any], *, num_heads: int) -> T5Config:
  """The configuration of a T5 from the shapes of its parameters.

  Args:
    params: parameters from `init`, with the default `epsilon`, `max_distance`.
    num_heads: number of heads, which the shapes do not determine.

  Example:
    >>> config = T5Config(num_layers=1, num_decoder_layers=2, gated=True)
    >>> params = jax.eval_shape(lambda: init(jax.random.key(0), config))
    >>> sizes(params, num_heads=8) == config
    True
  """
  encoder, decoder = params['encoder'], params['decoder']
  block = encoder['block_0']

  def layers(part):
    return sum(name.startswith('block_') for name in part)

  return T5Config(
    vocab_size=params['embedding'].shape[0],
    width=params['embedding'].shape[1],
    num_layers=layers(encoder),
    num_decoder_layers=layers(decoder),
    num_heads=num_heads,
    head_size=block['out'].shape[0] // num_heads,
    mlp_dim=block['down'].shape[0],
    gated=block['up'].shape[1] != block['down'].shape[0],
    tied='output' not in params,
    num_buckets=encoder['bias'].shape[0],
  )


def encode(
  params: dict[str, Any], config: T5Config, tokens: jax.Array, where: jax.Array
) -> jax.Array:
  """Encodes queries.

  Args:
    params: parameters from `init`.
    config: the model configuration.
    tokens: int32[B, Q], token IDs.
    where: bool[B, Q], True = real.

  Returns:
    Hidden states float32[B, Q, W].
  """
  encoder = params['encoder']
  positions = jnp.arange(tokens.shape[1])
  bias = t5_layers.position_bias(
    encoder, config, positions - positions[:, None], bidirectional=True
  )
  bias = bias + t5_layers.mask(where)  # [B, H, Q, Q]
  x = params['embedding'][tokens]
  layer = jax.checkpoint(_layer, static_argnums=1) if config.remat else _layer
  for i in range(config.num_layers):
    x = layer(encoder[f'block_{i}'], config, x, bias)
  return t5_layers.norm(x, encoder['norm'], config)


def _layer(block, config, x, bias):
  """Encoder layer; [B, Q, W] to [B, Q, W]."""
  x = x + t5_layers.self_attention(block, config, x, bias)
  return x + t5_layers.feed_forward(block, config, x)


def decode(
  params: dict[str, Any],
  config: T5Config,
  memory: jax.Array,
  where: jax.Array,
  tokens: jax.Array,
  *,
  rows: Rows = slice(None),
  bias: jax.Array | None = None,
) -> jax.Array:
  """Next-token logits at each position of given sequences, for training.

  Args:
    params: parameters from `init`.
    config: the model configuration.
    memory: float32[B, Q, W], from `encode`.
    where: bool[B, Q], True = real.
    tokens: int32[B, T], decoder input, the start token first.
    rows: rows of the output matrix, V of them; default all.
    bias: float32[B, Q], added to the logits of attention to `memory`, nats.

  Returns:
    float32[B, T, V].
  """
  x, _ = _decode(params, config, memory, where, tokens, bias)
  return t5_layers.logits(params, config, x, rows)


def attention(
  params: dict[str, Any],
  config: T5Config,
  memory: jax.Array,
  where: jax.Array,
  tokens: jax.Array,
  *,
  bias: jax.Array | None = None,
) -> jax.Array:
  """Cross-attention weights of `decode`, float32[B, T, Q], summing to 1.

  The mean over all heads and layers. Arguments as for `decode`.
  """
  _, weights = _decode(params, config, memory, where, tokens, bias)
  return sum(x.mean(1) for x in weights) / len(weights)


def _decode(params, config, memory, where, tokens, bias):
  """Hidden states [B, T, W], and cross-attention [B, H, T, Q] per layer."""
  length = tokens.shape[1]
  shared, _ = start(params, config, memory, where, length, bias=bias)
  decoder = params['decoder']
  positions = jnp.arange(length)
  distance = positions[:, None] - positions
  relative = shared['bias'][jnp.maximum(distance, 0)]  # [T, T, H]
  relative = jnp.where(distance[..., None] < 0, masking.NEG_INF, relative)
  relative = relative.transpose(2, 0, 1)
  x, weights = params['embedding'][tokens], []
  for i in range(config.num_decoder_layers):
    block, name = decoder[f'block_{i}'], f'block_{i}'
    x = x + t5_layers.self_attention(block, config, x, relative)
    weights.append(t5_layers.cross_weights(block, config, x, shared, name))
    x = x + t5_layers.cross_values(block, weights[-1], shared, name)
    x = x + t5_layers.feed_forward(block, config, x)
  return x, weights


def start(
  params: dict[str, Any],
  config: T5Config,
  memory: jax.Array,
  where: jax.Array,
  max_length: int,
  *,
  bias: jax.Array | None = None,
) -> tuple[dict[str, Any], dict[str, jax.Array]]:
  """Prepares decoding: the state that beams share, and an empty cache.

  Args:
    params: parameters from `init`.
    config: the model configuration.
    memory: float32[B, Q, W], from `encode`.
    where: bool[B, Q], True = real.
    max_length: L, maximum number of steps.
    bias: float32[B, Q], added to the logits of attention to `memory`, nats.

  Returns:
    shared: the mask plus this bias, the position biases of distances 0 to
      L - 1, and per block the keys float32[B, H, D, Q] and values
      float32[B, H, Q, D] of the query. It has no beam axis, so a search does
      not reorder it.
    cache: float32[B, 1, 0, 2 H D] per block, keys and values of the steps
      taken, for `step`.

  Raises:
    ValueError: if `max_length` is below 1.
  """
  if max_length < 1:
    raise ValueError(
      f'max_length must be at least 1, got {max_length}. Give the number of '
      'codes in a docid.'
    )
  decoder = params['decoder']
  distance = -jnp.arange(max_length)
  relative = t5_layers.position_bias(
    decoder, config, distance[:, None], bidirectional=False
  )
  mask = t5_layers.mask(where)
  if bias is not None:
    mask = mask + bias[:, None, None]
  shared = {'mask': mask, 'bias': relative[:, :, 0].T}  # [L, H]
  cache = {}
  inner = config.num_heads * config.head_size
  for i in range(config.num_decoder_layers):
    name = f'block_{i}'
    key_value = memory @ decoder[name]['cross_key_value']
    key = t5_layers.heads(key_value[..., :inner], config)
    value = t5_layers.heads(key_value[..., inner:], config)
    shared[name] = {
      'key': key.transpose(0, 2, 3, 1),
      'value': value.transpose(0, 2, 1, 3),
    }
    cache[name] = jnp.zeros((memory.shape[0], 1, 0, 2 * inner), memory.dtype)
  return shared, cache


def step(
  params: dict[str, Any],
  config: T5Config,
  shared: dict[str, Any],
  cache: dict[str, jax.Array],
  tokens: jax.Array,
  position: int,
  *,
  rows: Rows = slice(None),
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """One decoding step: reads a token per beam, returns the next logits.

  Args:
    params: parameters from `init`.
    config: the model configuration.
    shared: from `start`.
    cache: from `start` or the last `step`, its [B, K, ...] reordered with the
      beams. K is 1 in the first step, since all beams start at the root.
    tokens: int32[B, K], token IDs; in the first step the start token, 0.
    position: number of steps taken before.
    rows: rows of the output matrix, V of them; default all.

  Returns:
    Logits float32[B, K, V], and the cache with this step.

  Raises:
    ValueError: if `position` is not the number of steps in the cache, or not
      below the `max_length` of `start`.
  """
  length = shared['bias'].shape[0]
  taken = cache['block_0'].shape[2]
  if not taken == position < length:
    raise ValueError(
      f'position must be {taken}, the steps in the cache, and below '
      f'max_length, {length}, got {position}. Count steps from 0, and give '
      '`start` the maximum number of steps as max_length.'
    )
  decoder = params['decoder']
  bias = shared['bias'][position::-1]  # [T, H], the oldest step first
  x = params['embedding'][tokens]
  new = {}
  for i in range(config.num_decoder_layers):
    name = f'block_{i}'
    out, new[name] = t5_layers.beam_attention(
      decoder[name], config, x, cache[name], bias
    )
    x = x + out
    x = x + t5_layers.cross_attention(decoder[name], config, x, shared, name)
    x = x + t5_layers.feed_forward(decoder[name], config, x)
  return t5_layers.logits(params, config, x, rows), new


def search_step(
  config: T5Config, rows: np.ndarray, *, start_token: int = 0
) -> Callable[[Any, Any, tries.Frontier], tuple[jax.Array, Any]]:
  """A `step_fn` for `ops.beam.search` with `logits=True`.

  Its `params` are (params, shared), with `shared` from `start`.

  Args:
    config: the model configuration.
    rows: int[L, V], the token ID of code v at level l. Columns beyond the
      number of codes only enter the softmax of the scoring 'vocabulary'.
    start_token: decoder input at the root.
  """

  def step_fn(params, cache, frontier):
    model, shared = params
    level = frontier.level
    tokens = jnp.full_like(frontier.codes, start_token)
    if level:
      tokens = jnp.asarray(rows[level - 1])[frontier.codes]
    return step(model, config, shared, cache, tokens, level, rows=rows[level])

  return step_fn
