"""Llama and its relatives as pure functions on nested dicts.

The options of `LlamaConfig` also give Mistral (attention within a window),
Qwen 2 (biases), Qwen 3 (norms of queries and keys) and Gemma 3 (norms after
each layer, windows in most layers); `llama_config` reads them.

`apply` returns the logits of every next token in one pass. For generation,
`prefill` reads a prompt once, and `step` adds a token to each of the beams that
share the prompt. `follow` returns the logits of given continuations of a
prompt. Padding may be on either side: positions count only real tokens.

Weights applied to the same input are concatenated into one matrix, so that a
layer needs few matrix products. `llama_weights` converts those of Hugging Face.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from rag_jax.nn import llama_layers


@dataclasses.dataclass(frozen=True, kw_only=True)
class LlamaConfig:
  """Configuration of a Llama; the default is SmolLM2-135M.

  Reference:
    Touvron et al., Llama 2: Open Foundation and Fine-Tuned Chat Models, 2023.
    Ainslie et al., GQA: Training Generalized Multi-Query Transformer Models
    from Multi-Head Checkpoints, 2023. Allal et al., SmolLM2: When Smol Goes
    Big, 2025. Jiang et al., Mistral 7B, 2023. Qwen Team, Qwen2.5 Technical
    Report, 2024; Qwen3 Technical Report, 2025. Gemma Team, Gemma 3 Technical
    Report, 2025.
  """

  vocab_size: int = 49152
  width: int = 576  # hidden size
  num_layers: int = 30
  num_heads: int = 9
  num_key_value_heads: int = 3  # each is shared by a group of query heads
  head_size: int = 64  # dimensions per head
  mlp_dim: int = 1536  # hidden size of the feed-forward layer
  rope_base: float = 1e5  # base of the rotary frequencies
  tied: bool = True  # True = the output matrix is the embedding matrix
  epsilon: float = 1e-5  # of the RMS norms
  activation: str = 'silu'  # of the feed-forward gate: 'silu' or 'gelu_tanh'
  qkv_bias: bool = False  # biases of queries, keys and values
  qk_norm: bool = False  # RMS norms of the queries and keys of each head
  post_norms: bool = False  # RMS norms after attention and feed-forward
  embedding_scale: float = 1.0  # factor of the embeddings
  query_scale: float = 0.0  # factor of attention scores; 0 = head_size ** -0.5
  # Rotary scaling: divisor of each of the head_size / 2 frequencies; () = none.
  rope_divisors: tuple[float, ...] = ()
  # Tokens that each layer attends to, itself included; 0 = all. () = all zeros.
  windows: tuple[int, ...] = ()
  # Base of the rotary frequencies of layers with a window, which then have no
  # divisors; 0 = as in the other layers.
  local_rope_base: float = 0.0

  def __post_init__(self):
    """Raises a ValueError if a size is invalid."""
    for field in dataclasses.fields(self):
      if field.type is int and getattr(self, field.name) < 1:
        raise ValueError(
          f'LlamaConfig.{field.name} must be at least 1, got '
          f'{getattr(self, field.name)}. The default is SmolLM2-135M.'
        )
    if self.num_heads % self.num_key_value_heads:
      raise ValueError(
        f'LlamaConfig.num_heads must be a multiple of num_key_value_heads, '
        f'{self.num_key_value_heads}, got {self.num_heads}. Equal numbers '
        'give standard multi-head attention.'
      )
    if self.head_size % 2:
      raise ValueError(
        f'LlamaConfig.head_size must be even, got {self.head_size}. Rotary '
        'positions rotate pairs of dimensions; set an even size.'
      )
    if self.activation not in llama_layers.ACTIVATIONS:
      raise ValueError(
        f'LlamaConfig.activation must be one of '
        f'{", ".join(llama_layers.ACTIVATIONS)}, got {self.activation!r}. The '
        "default is 'silu'."
      )
    for name, wanted in (
      ('rope_divisors', self.head_size // 2),
      ('windows', self.num_layers),
    ):
      if (count := len(getattr(self, name))) not in (0, wanted):
        raise ValueError(
          f'LlamaConfig.{name} must hold {wanted} numbers or none, got '
          f'{count}. Give () for none.'
        )


def init(rng: jax.Array, config: LlamaConfig) -> dict[str, Any]:
  """Initialises weights so that matrix products preserve the variance.

  Args:
    rng: PRNG key.
    config: the model configuration.

  Returns:
    Parameters, a nested dict of float32 arrays.

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

  size = config.head_size
  extras = {}
  if config.qkv_bias:
    extras['qkv_bias'] = jnp.zeros(inner + both)
  if config.qk_norm:
    extras |= {'query_norm': jnp.ones(size), 'key_norm': jnp.ones(size)}
  if config.post_norms:
    extras |= {'out_norm': jnp.ones(width), 'down_norm': jnp.ones(width)}

  def block():
    return extras | {
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


# Fields of `LlamaConfig` that the parameters do not determine.
OPTIONS = (
  'num_heads',
  'rope_base',
  'epsilon',
  'activation',
  'embedding_scale',
  'query_scale',
  'rope_divisors',
  'windows',
  'local_rope_base',
)


def sizes(params: dict[str, Any], **options: Any) -> LlamaConfig:
  """The configuration of a Llama from the shapes of its parameters.

  Args:
    params: parameters from `init`.
    **options: the fields in `OPTIONS`, which the shapes do not determine; those
      left out keep their defaults.

  Example:
    >>> config = LlamaConfig(num_layers=2, tied=False, epsilon=1e-6)
    >>> params = jax.eval_shape(lambda: init(jax.random.key(0), config))
    >>> sizes(params, num_heads=9, rope_base=1e5, epsilon=1e-6) == config
    True
  """
  block = params['block_0']
  inner = block['out'].shape[0]
  head_size = inner // options['num_heads']
  return LlamaConfig(
    **options,
    vocab_size=params['embedding'].shape[0],
    width=params['embedding'].shape[1],
    num_layers=sum(name.startswith('block_') for name in params),
    num_key_value_heads=(block['qkv'].shape[1] - inner) // (2 * head_size),
    head_size=head_size,
    mlp_dim=block['down'].shape[0],
    tied='output' not in params,
    qkv_bias='qkv_bias' in block,
    qk_norm='query_norm' in block,
    post_norms='out_norm' in block,
  )


def apply(
  params: dict[str, Any],
  config: LlamaConfig,
  tokens: jax.Array,
  where: jax.Array,
  *,
  places: jax.Array | None = None,
) -> jax.Array:
  """Next-token logits at each position of a text.

  Args:
    params: parameters from `init`.
    config: the model configuration.
    tokens: int32[B, T], token IDs.
    where: bool[B, T], True = real.
    places: int32[B, P], columns of `tokens` at which to compute logits, to
      save memory; None computes all.

  Returns:
    float32[B, T, V], or float32[B, P, V] with `places`.

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
    params: parameters from `init`.
    config: the model configuration.
    tokens: int32[B, S], token IDs, padded on either side.
    where: bool[B, S], True = real.
    max_length: L, maximum number of steps.

  Returns:
    logits: float32[B, V] after the last real token.
    prompt: state that all beams share: keys and values float32[B, 2, N, S, D]
      per block, `where`, and the length int32[B]. It has no beam axis, so a
      search does not reorder it.
    cache: keys and values of up to L steps, float32[B, 1, 2, N, L, D] per
      block, and `taken`, the number of steps taken, int32[B, 1].

  Raises:
    ValueError: if `max_length` is below 1.
  """
  if max_length < 1:
    raise ValueError(
      f'max_length must be at least 1, got {max_length}. Give the maximum '
      'number of generated tokens.'
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
  """One decoding step: reads a token per beam, returns the next logits.

  Args:
    params: parameters from `init`.
    config: the model configuration.
    prompt: from `prefill`.
    cache: from `prefill` or the last `step`, its [B, K, ...] reordered with the
      beams. All beams have taken the same number of steps, below L.
    tokens: int32[B, K], token IDs.

  Returns:
    Logits float32[B, K, V], and the cache with this step.
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
  """Next-token logits at each position of given continuations of a prompt.

  Args:
    params: parameters from `init`.
    config: the model configuration.
    prompt: from `prefill`.
    tokens: int32[B, K, T], K continuations of each prompt, padded right.

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
  """Hidden states float32[B, T, W] of texts, and their keys and values."""
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
