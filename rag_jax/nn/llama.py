"""A Llama-shaped decoder as pure functions on plain dicts.

`apply` scores every next token of a text in one pass. To generate, `prefill`
reads a prompt once; `step` adds a token to each of the beams that share the
prompt, and `follow` scores whole continuations of it. Padding may stand on
either side: positions count the real tokens only.

Weights that meet the same input lie side by side in one matrix, so that a
layer is few products. `llama_weights` takes those of Hugging Face.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from rag_jax.nn import llama_layers


@dataclasses.dataclass(frozen=True, kw_only=True)
class LlamaConfig:
  """Sizes of a Llama; the default is SmolLM2-135M.

  Reference:
    Touvron et al., Llama 2: Open Foundation and Fine-Tuned Chat Models, 2023.
    Ainslie et al., GQA: Training Generalized Multi-Query Transformer Models
    from Multi-Head Checkpoints, 2023. Allal et al., SmolLM2: When Smol Goes
    Big, 2025.
  """

  vocab_size: int = 49152
  width: int = 576  # features of a token
  num_layers: int = 30
  num_heads: int = 9
  num_key_value_heads: int = 3  # each serves a group of heads
  head_size: int = 64  # features of a head
  mlp_dim: int = 1536  # features between the two feed-forward layers
  rope_base: float = 1e5  # the slowest rotation, in tokens a radian
  tied: bool = True  # True = the output matrix is the embedding
  epsilon: float = 1e-5  # of the norms

  def __post_init__(self):
    """Raises a ValueError if a size makes no model."""
    for field in dataclasses.fields(self):
      if field.type is int and getattr(self, field.name) < 1:
        raise ValueError(
          f'LlamaConfig.{field.name} must be at least 1, got '
          f'{getattr(self, field.name)}. The defaults make SmolLM2-135M.'
        )
    if self.num_heads % self.num_key_value_heads:
      raise ValueError(
        f'LlamaConfig.num_heads must be a multiple of num_key_value_heads, '
        f'{self.num_key_value_heads}, got {self.num_heads}. Equal numbers '
        'make groups of one head.'
      )
    if self.head_size % 2:
      raise ValueError(
        f'LlamaConfig.head_size must be even, got {self.head_size}. Features '
        'are turned in pairs.'
      )


def init(rng: jax.Array, config: LlamaConfig) -> dict[str, Any]:
  """Draws weights so that no product changes the scale of its input.

  Args:
    rng: key.
    config: the sizes.

  Returns:
    A nested dict of float32 arrays.

  Example:
    >>> config = LlamaConfig(num_layers=1, vocab_size=8)
    >>> params = init(jax.random.key(0), config)
    >>> params['embedding'].shape, params['block_0']['qkv'].shape
    ((8, 576), (576, 960))
  """
  width, mlp_dim = config.width, config.mlp_dim
  inner = config.num_heads * config.head_size
  both = 2 * config.num_key_value_heads * config.head_size
  keys = iter(jax.random.split(rng, 2 + 4 * config.num_layers))

  def normal(rows, columns, scale):
    return scale * jax.random.normal(next(keys), (rows, columns))

  def block():
    return {
      'norm': jnp.ones(width),
      'qkv': normal(width, inner + both, width**-0.5),
      'out': normal(inner, width, inner**-0.5),
      'hidden_norm': jnp.ones(width),
      'up': normal(width, 2 * mlp_dim, width**-0.5),
      'down': normal(mlp_dim, width, mlp_dim**-0.5),
    }

  params = {
    'embedding': normal(config.vocab_size, width, width**-0.5),
    'norm': jnp.ones(width),
  } | {f'block_{i}': block() for i in range(config.num_layers)}
  if not config.tied:
    params['output'] = normal(config.vocab_size, width, width**-0.5)
  return params


def sizes(
  params: dict[str, Any], *, num_heads: int, rope_base: float, epsilon: float
) -> LlamaConfig:
  """The sizes of a Llama from its weights, which tell all but three.

  Args:
    params: what `init` returned.
    num_heads: of the model.
    rope_base: of the model.
    epsilon: of its norms.

  Example:
    >>> config = LlamaConfig(num_layers=2, tied=False, epsilon=1e-6)
    >>> params = jax.eval_shape(lambda: init(jax.random.key(0), config))
    >>> sizes(params, num_heads=9, rope_base=1e5, epsilon=1e-6) == config
    True
  """
  block = params['block_0']
  inner = block['out'].shape[0]
  head_size = inner // num_heads
  return LlamaConfig(
    vocab_size=params['embedding'].shape[0],
    width=params['embedding'].shape[1],
    num_layers=sum(name.startswith('block_') for name in params),
    num_heads=num_heads,
    num_key_value_heads=(block['qkv'].shape[1] - inner) // (2 * head_size),
    head_size=head_size,
    mlp_dim=block['down'].shape[0],
    rope_base=rope_base,
    tied='output' not in params,
    epsilon=epsilon,
  )


def apply(
  params: dict[str, Any],
  config: LlamaConfig,
  tokens: jax.Array,
  where: jax.Array,
  *,
  places: jax.Array | None = None,
) -> jax.Array:
  """Scores the next token after each token of a text.

  Args:
    params: what `init` returned.
    config: the sizes.
    tokens: int32[B, T], rows of the embedding.
    where: bool[B, T], True = real.
    places: int32[B, P], which columns of `tokens` to score after, since the
      vocabulary is large; all by default.

  Returns:
    Logits float32[B, T, V], or float32[B, P, V].

  Example:
    >>> config = LlamaConfig(num_layers=1, vocab_size=8)
    >>> params = init(jax.random.key(0), config)
    >>> tokens = jnp.array([[3, 1, 2]])
    >>> apply(params, config, tokens, tokens > 0).shape
    (1, 3, 8)
  """
  x, _ = _read(params, config, tokens, where)
  if places is not None:
    x = jnp.take_along_axis(x, places[..., None], axis=1)
  return llama_layers.logits(params, config, x)


def prefill(
  params: dict[str, Any],
  config: LlamaConfig,
  tokens: jax.Array,
  where: jax.Array,
  max_length: int,
) -> tuple[jax.Array, dict[str, Any], dict[str, jax.Array]]:
  """Reads prompts, for `step` and `follow`.

  Args:
    params: what `init` returned.
    config: the sizes.
    tokens: int32[B, S], padded on either side.
    where: bool[B, S], True = real.
    max_length: steps that may be taken, L.

  Returns:
    logits: float32[B, V] after the last real token.
    prompt: what all beams share: keys and values float32[B, 2, N, S, D] of each
      block, `where`, and the length int32[B]. It has no axis of beams and
      stays out of what a search reorders.
    cache: room for L steps, float32[B, 1, 2, N, L, D] a block, and how many
      are `taken`, int32[B, 1].

  Raises:
    ValueError: if `max_length` is below 1.
  """
  if max_length < 1:
    raise ValueError(
      f'max_length must be at least 1, got {max_length}. Give the most tokens '
      'that will be generated.'
    )
  x, kept = _read(params, config, tokens, where)
  last = tokens.shape[1] - 1 - jnp.argmax(where[:, ::-1], axis=1)
  x = jnp.take_along_axis(x, last[:, None, None], axis=1)[:, 0]
  prompt = {name: both[:, 0] for name, both in kept.items()}
  prompt |= {'where': where, 'length': where.sum(1)}
  batch, count, size = len(tokens), config.num_key_value_heads, config.head_size
  room = jnp.zeros((batch, 1, 2, count, max_length, size), x.dtype)
  cache = dict.fromkeys(kept, room)
  cache |= {'taken': jnp.zeros((batch, 1), jnp.int32)}
  return llama_layers.logits(params, config, x), prompt, cache


def step(
  params: dict[str, Any],
  config: LlamaConfig,
  prompt: dict[str, Any],
  cache: dict[str, jax.Array],
  tokens: jax.Array,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Reads one token a beam and scores the next.

  Args:
    params: what `init` returned.
    config: the sizes.
    prompt: what `prefill` returned.
    cache: what `prefill` or the last `step` returned, its [B, K, ...] reordered
      with the beams. All have taken the same number of steps, and another
      must fit in.
    tokens: int32[B, K].

  Returns:
    Logits float32[B, K, V] and the cache with this step.
  """
  taken = cache['taken']
  mask = jnp.arange(cache['block_0'].shape[4]) <= taken[0, 0]
  positions = prompt['length'][:, None] + taken
  x, kept = llama_layers.run(
    params,
    config,
    tokens[..., None],
    positions[..., None],
    mask,
    prompt=prompt,
    cache=cache,
  )
  kept['taken'] = taken + 1
  return llama_layers.logits(params, config, x[:, :, 0]), kept


def follow(
  params: dict[str, Any],
  config: LlamaConfig,
  prompt: dict[str, Any],
  tokens: jax.Array,
) -> jax.Array:
  """Scores the next token after each token of continuations of a prompt.

  Args:
    params: what `init` returned.
    config: the sizes.
    prompt: what `prefill` returned.
    tokens: int32[B, K, T], K continuations of each prompt, padding last.

  Returns:
    Logits float32[B, K, T, V].
  """
  steps = jnp.arange(tokens.shape[-1])
  positions = prompt['length'][:, None, None] + steps
  mask = steps[:, None] >= steps
  x, _ = llama_layers.run(
    params, config, tokens, positions, mask, prompt=prompt
  )
  return llama_layers.logits(params, config, x)


def _read(params, config, tokens, where):
  """Features float32[B, T, W] of texts, and their keys and values."""
  positions = jnp.maximum(where.cumsum(1) - 1, 0)
  places = jnp.arange(tokens.shape[1])
  mask = (places[:, None] >= places) & where[:, None]  # [B, T, T]
  x, kept = llama_layers.run(
    params,
    config,
    tokens[:, None],
    positions[:, None],
    mask[:, None, None, None],
  )
  return x[:, 0], kept
