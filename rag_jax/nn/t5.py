"""T5, an encoder-decoder, as pure functions on plain dicts.

For generative retrieval with a pretrained model: `encode` a query, `start`
works out once what all beams of the query share, `step` scores the next code
of every beam. With `search_step` these go straight into `ops.beam.search`.

Weights that meet the same input lie side by side in one matrix, so that a
layer is few products. `t5_weights` takes those of Hugging Face.
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
  """Sizes of a T5; the default is T5-small of version 1.0.

  Version 1.1 has `gated=True` and `tied=False`.

  Reference:
    Raffel et al., Exploring the Limits of Transfer Learning with a Unified
    Text-to-Text Transformer, 2020. Shazeer, GLU Variants Improve Transformer,
    2020, for the gate.
  """

  vocab_size: int = 32128
  width: int = 512  # features of a token
  num_layers: int = 6  # of the encoder
  num_decoder_layers: int = 6
  num_heads: int = 8
  head_size: int = 64  # features of a head
  mlp_dim: int = 2048  # features between the two feed-forward layers
  gated: bool = False  # False = ReLU, True = GELU times a linear gate
  tied: bool = True  # True = the output matrix is the embedding
  num_buckets: int = 32  # of relative positions
  max_distance: int = 128  # tokens; all further apart share a bucket
  epsilon: float = 1e-6  # of the norms
  remat: bool = False  # as in BertConfig, for the encoder

  def __post_init__(self):
    """Raises a ValueError if a size makes no model."""
    for field in dataclasses.fields(self):
      least = 4 if field.name == 'num_buckets' else 1
      if field.type is int and getattr(self, field.name) < least:
        raise ValueError(
          f'T5Config.{field.name} must be at least {least}, got '
          f'{getattr(self, field.name)}. The defaults make T5-small.'
        )
    if self.max_distance <= self.num_buckets // 2:
      raise ValueError(
        f'T5Config.max_distance must be above half of num_buckets, '
        f'{self.num_buckets // 2}, got {self.max_distance}. T5 takes 128.'
      )


def init(rng: jax.Array, config: T5Config) -> dict[str, Any]:
  """Draws weights as T5 does: no product changes the scale of its input.

  Args:
    rng: key.
    config: the sizes.

  Returns:
    A nested dict of float32 arrays.

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

  def block(crosses):
    part = {
      'norm': jnp.ones(width),
      'qkv': jnp.concatenate([query(), key_value()], axis=1),
      'out': normal(inner, width, inner**-0.5),
      'hidden_norm': jnp.ones(width),
      'up': normal(width, config.mlp_dim * (1 + config.gated), width**-0.5),
      'down': normal(config.mlp_dim, width, config.mlp_dim**-0.5),
    }
    if crosses:
      part |= {
        'cross_norm': jnp.ones(width),
        'cross_query': query(),
        'cross_key_value': key_value(),
        'cross_out': normal(inner, width, inner**-0.5),
      }
    return part

  def stack(layers, crosses):
    blocks = {f'block_{i}': block(crosses) for i in range(layers)}
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
  """The sizes of a T5 from its weights, which tell all but the heads.

  Args:
    params: what `init` returned; `epsilon` and `max_distance` are those that
      every published T5 has.
    num_heads: of the model.

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
    params: what `init` returned.
    config: the sizes.
    tokens: int32[B, Q], rows of the embedding.
    where: bool[B, Q], True = real.

  Returns:
    float32[B, Q, W].
  """
  part = params['encoder']
  places = jnp.arange(tokens.shape[1])
  bias = t5_layers.position_bias(
    part, config, places - places[:, None], both=True
  )
  bias = bias + t5_layers.mask(where)  # [B, H, Q, Q]
  x = params['embedding'][tokens]
  layer = jax.checkpoint(_layer, static_argnums=1) if config.remat else _layer
  for i in range(config.num_layers):
    x = layer(part[f'block_{i}'], config, x, bias)
  return t5_layers.norm(x, part['norm'], config)


def _layer(block, config, x, bias):
  """A layer of the encoder; [B, Q, W] to [B, Q, W]."""
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
  """Scores every next token of given sequences in one pass; for training.

  Args:
    params: what `init` returned.
    config: the sizes.
    memory: float32[B, Q, W], what `encode` returned.
    where: bool[B, Q], True = real.
    tokens: int32[B, T], what the decoder reads, the start token first.
    rows: which rows of the output matrix to score; all by default.
    bias: float32[B, Q], added to the scores of attention to `memory`, nats.

  Returns:
    Logits float32[B, T, V], those after each of the tokens.
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
  """How `decode` attends to `memory`: float32[B, T, Q], summing to 1.

  The mean over the heads of all layers; arguments as for `decode`.
  """
  _, weights = _decode(params, config, memory, where, tokens, bias)
  return sum(x.mean(1) for x in weights) / len(weights)


def _decode(params, config, memory, where, tokens, bias):
  """States [B, T, W], and of each layer the cross-attention [B, H, T, Q]."""
  length = tokens.shape[1]
  shared, _ = start(params, config, memory, where, length, bias=bias)
  part = params['decoder']
  places = jnp.arange(length)
  distance = places[:, None] - places
  order = shared['bias'][jnp.maximum(distance, 0)]  # [T, T, H]
  order = jnp.where(distance[..., None] < 0, masking.NEG_INF, order)
  order = order.transpose(2, 0, 1)
  x, weights = params['embedding'][tokens], []
  for i in range(config.num_decoder_layers):
    block, name = part[f'block_{i}'], f'block_{i}'
    x = x + t5_layers.self_attention(block, config, x, order)
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
  """Prepares to decode: what the beams share, and their empty cache.

  Args:
    params: what `init` returned.
    config: the sizes.
    memory: float32[B, Q, W], what `encode` returned.
    where: bool[B, Q], True = real.
    max_length: steps that may be taken, L.
    bias: float32[B, Q], added to the scores of attention to `memory`, nats.

  Returns:
    shared: a mask with this bias, the biases of distances 0 to L - 1, and for
      each block the keys float32[B, H, D, Q] and values float32[B, H, Q, D] of
      the query. It has no axis of beams and stays out of what a search
      reorders.
    cache: a float32[B, 1, 0, 2 H D] for each block, keys and values of the
      steps taken, for `step`.

  Raises:
    ValueError: if `max_length` is below 1.
  """
  if max_length < 1:
    raise ValueError(
      f'max_length must be at least 1, got {max_length}. Give the number of '
      'codes in a docid.'
    )
  part = params['decoder']
  distance = -jnp.arange(max_length)
  order = t5_layers.position_bias(part, config, distance[:, None], both=False)
  shared = {'mask': t5_layers.mask(where), 'bias': order[:, :, 0].T}  # [L, H]
  if bias is not None:
    shared['mask'] = shared['mask'] + bias[:, None, None]
  cache = {}
  inner = config.num_heads * config.head_size
  for i in range(config.num_decoder_layers):
    name = f'block_{i}'
    both = memory @ part[name]['cross_key_value']
    shared[name] = {
      'key': t5_layers.heads(both[..., :inner], config).transpose(0, 2, 3, 1),
      'value': t5_layers.heads(both[..., inner:], config).transpose(0, 2, 1, 3),
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
  """Reads one token a beam and scores the next.

  Args:
    params: what `init` returned.
    config: the sizes.
    shared: what `start` returned.
    cache: what `start` or the last `step` returned, its [B, K, ...] reordered
      with the beams. K is 1 at first: the root is not worked out K times.
    tokens: int32[B, K], rows of the embedding; the start token, 0, at first.
    position: steps taken before this one.
    rows: which rows of the output matrix to score; all by default.

  Returns:
    Logits float32[B, K, V] and the cache with this step.

  Raises:
    ValueError: if `position` is not what the cache holds, or `start` has not
      provided for it.
  """
  length = shared['bias'].shape[0]
  taken = cache['block_0'].shape[2]
  if not taken == position < length:
    raise ValueError(
      f'position must be {taken}, the steps in the cache, and below '
      f'max_length, {length}, got {position}. Count steps from 0 and give '
      '`start` the most that will be taken.'
    )
  part = params['decoder']
  bias = shared['bias'][position::-1]  # [T, H], the oldest step first
  x = params['embedding'][tokens]
  new = {}
  for i in range(config.num_decoder_layers):
    name = f'block_{i}'
    out, new[name] = t5_layers.beam_attention(
      part[name], config, x, cache[name], bias
    )
    x = x + out
    x = x + t5_layers.cross_attention(part[name], config, x, shared, name)
    x = x + t5_layers.feed_forward(part[name], config, x)
  return t5_layers.logits(params, config, x, rows), new


def search_step(
  config: T5Config, rows: np.ndarray, *, start_token: int = 0
) -> Callable[[Any, Any, tries.Frontier], tuple[jax.Array, Any]]:
  """The `step_fn` of `ops.beam.search` with `logits=True`.

  Its `params` are (params, shared), the latter from `start`.

  Args:
    config: the sizes.
    rows: int[L, V], the row of the vocabulary that is code v of level l. More
      columns than there are codes only count in the norm of the scoring
      `vocabulary`.
    start_token: what the decoder reads at the root.
  """

  def step_fn(params, cache, frontier):
    model, shared = params
    level = frontier.level
    tokens = jnp.full_like(frontier.codes, start_token)
    if level:
      tokens = jnp.asarray(rows[level - 1])[frontier.codes]
    return step(model, config, shared, cache, tokens, level, rows=rows[level])

  return step_fn
