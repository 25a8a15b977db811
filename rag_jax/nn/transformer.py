"""Transformer blocks in Flax: pre-norm, rotary positions, cached decoding."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rag_jax.ops import masking


def apply(
  module: nn.Module, params: dict[str, Any], *args: Any, **options: Any
) -> Any:
  """Applies a Flax module with its parameters, a nested dict."""
  return module.apply({'params': params}, *args, **options)


def check_heads(part: str, width: int, config: Any) -> None:
  """Raises a ValueError if the sizes of a transformer are invalid.

  Args:
    part: name of the component in the experiment, for the message.
    width: hidden size.
    config: has `num_layers`, `num_heads` and `mlp_dim`.
  """
  for name, least in (('num_layers', 0), ('num_heads', 1), ('mlp_dim', 1)):
    if getattr(config, name) < least:
      raise ValueError(
        f'{part}.{name} must be at least {least}, got '
        f'{getattr(config, name)}. Set --config.{part}.{name}.'
      )
  if width < 1 or width % (2 * config.num_heads):
    raise ValueError(
      f'{part}.num_heads must split width {width} into heads of even size, got '
      f'{config.num_heads}. Set --config.{part}.num_heads.'
    )


def rotate(x: jax.Array, positions: jax.Array) -> jax.Array:
  """Rotary position embedding.

  Args:
    x: float[..., T, H, D] with even D.
    positions: int32[T].

  Returns:
    x, with each pair of dimensions rotated by an angle in proportion to the
    position.

  Reference:
    Su et al., RoFormer: Enhanced Transformer with Rotary Position Embedding,
    2021.
  """
  half = x.shape[-1] // 2
  frequency = 10_000.0 ** (-jnp.arange(half) / half)
  angle = positions[:, None, None] * frequency  # [T, 1, D / 2]
  first, second = x[..., :half], x[..., half:]
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  return jnp.concatenate(
    [first * cos - second * sin, first * sin + second * cos], axis=-1
  )


def attend(
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  where: jax.Array,
  bias: jax.Array | None = None,
) -> jax.Array:
  """Multi-head attention; a fully masked row gives zeros.

  Args:
    query: float[B, T, H, D].
    key: float[B, S, H, D].
    value: float[B, S, H, D].
    where: bool[B, T or 1, S], True = may be attended to.
    bias: float[B, T or 1, S], added to the logits of every head, or None.

  Returns:
    float[B, T, H, D].
  """
  return _mix(attention_weights(query, key, where, bias), value)


def attention_weights(
  query: jax.Array,
  key: jax.Array,
  where: jax.Array,
  bias: jax.Array | None = None,
) -> jax.Array:
  """The attention weights of `attend`, float32[B, H, T, S].

  They sum to 1 over S; a fully masked row is 0.

  Args:
    query: float[B, T, H, D].
    key: float[B, S, H, D].
    where: bool[B, T or 1, S], True = may be attended to.
    bias: float[B, T or 1, S], added to the logits of every head, or None.
  """
  # Heads before tokens: one batched product each, the fastest on a CPU.
  query, key = jnp.swapaxes(query, 1, 2), jnp.swapaxes(key, 1, 2)
  scores = query @ jnp.swapaxes(key, -1, -2) / query.shape[-1] ** 0.5
  if bias is not None:
    scores = scores + bias[:, None]
  where = where[:, None]
  scores = jnp.where(where, scores, masking.NEG_INF)
  weights = jax.nn.softmax(scores.astype(jnp.float32), axis=-1)
  return jnp.where(where.any(-1, keepdims=True), weights, 0.0)


def _mix(weights, value):
  """Weighted sum of [B, S, H, D] by [B, H, T, S]; returns [B, T, H, D]."""
  value = jnp.swapaxes(value, 1, 2)
  return jnp.swapaxes(weights.astype(value.dtype) @ value, 1, 2)


class Attention(nn.Module):
  """Multi-head attention with projections.

  The attention weights are sown as 'weights' in the collection 'intermediates'
  of Flax, which has no cost unless that collection is mutable.
  """

  num_heads: int

  @nn.compact
  def __call__(
    self, x, memory, where, *, rotary=False, positions=None, bias=None
  ):
    """Attention from x [B, T, W] to memory [B, S, W]; returns [B, T, W].

    `positions` int32[T] are those of the rotary embedding of self-attention;
    None = 0, 1, ...
    """
    width = x.shape[-1]
    shape = (self.num_heads, width // self.num_heads)
    query = nn.DenseGeneral(shape, use_bias=False, name='query')(x)
    key = nn.DenseGeneral(shape, use_bias=False, name='key')(memory)
    value = nn.DenseGeneral(shape, use_bias=False, name='value')(memory)
    if rotary:
      if positions is None:
        positions = jnp.arange(x.shape[1])
      query, key = rotate(query, positions), rotate(key, positions)
    weights = attention_weights(query, key, where, bias)
    self.sow('intermediates', 'weights', weights)
    out = _mix(weights, value)
    return nn.DenseGeneral(width, axis=(-2, -1), use_bias=False, name='out')(
      out
    )


class FeedForward(nn.Module):
  """Two dense layers with a ReLU between them."""

  mlp_dim: int

  @nn.compact
  def __call__(self, x):
    """Maps [..., W] to [..., W]."""
    hidden = nn.relu(nn.Dense(self.mlp_dim, use_bias=False, name='up')(x))
    return nn.Dense(x.shape[-1], use_bias=False, name='down')(hidden)


class Window(nn.Module):
  """Residual dense layer over each token and its neighbours.

  It provides local word order, which attention alone learns slowly.
  """

  size: int  # tokens, odd

  @nn.compact
  def __call__(self, x):
    """Maps x [..., T, W] to [..., T, W]."""
    side = self.size // 2
    padded = jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(side, side), (0, 0)])
    neighbours = [
      padded[..., i : i + x.shape[-2], :] for i in range(2 * side + 1)
    ]
    mix = nn.Dense(x.shape[-1], use_bias=False, name='mix')
    return x + mix(jnp.concatenate(neighbours, axis=-1))


class EncoderBlock(nn.Module):
  """Pre-norm self-attention and feed-forward, both residual."""

  num_heads: int
  mlp_dim: int

  @nn.compact
  def __call__(self, x, where, positions=None):
    """Maps x [B, T, W] under where bool[B, T] to [B, T, W]."""
    normed = nn.RMSNorm(name='attention_norm')(x)
    x = x + Attention(self.num_heads, name='attention')(
      normed, normed, where[:, None], rotary=True, positions=positions
    )
    normed = nn.RMSNorm(name='hidden_norm')(x)
    return x + FeedForward(self.mlp_dim, name='feed_forward')(normed)


class Encoder(nn.Module):
  """A stack of encoder blocks with a final norm."""

  num_layers: int
  num_heads: int
  mlp_dim: int

  @nn.compact
  def __call__(self, x, where, positions=None):
    """Maps x [B, T, W] under where bool[B, T] to [B, T, W].

    `positions` int32[T] are those of the tokens; None = 0, 1, ...
    """
    for layer in range(self.num_layers):
      x = EncoderBlock(self.num_heads, self.mlp_dim, name=f'block_{layer}')(
        x, where, positions
      )
    return nn.RMSNorm(name='norm')(x)


class DecoderBlock(nn.Module):
  """Causal self-attention, cross-attention and feed-forward."""

  num_heads: int
  mlp_dim: int

  @nn.compact
  def __call__(self, x, memory, where, *, bias=None):
    """Maps x [B, T, W] over memory [B, S, W], where bool[B, S] or [B, T, S]."""
    if where.ndim == 2:
      where = where[:, None]
    causal = jnp.tril(jnp.ones((1, x.shape[1], x.shape[1]), bool))
    normed = nn.RMSNorm(name='attention_norm')(x)
    x = x + Attention(self.num_heads, name='attention')(
      normed, normed, causal, rotary=True
    )
    normed = nn.RMSNorm(name='cross_norm')(x)
    x = x + Attention(self.num_heads, name='cross_attention')(
      normed, memory, where, bias=bias
    )
    normed = nn.RMSNorm(name='hidden_norm')(x)
    return x + FeedForward(self.mlp_dim, name='feed_forward')(normed)


class Decoder(nn.Module):
  """A stack of decoder blocks with a final norm."""

  num_layers: int
  num_heads: int
  mlp_dim: int

  @nn.compact
  def __call__(self, x, memory, where, *, bias=None):
    """Maps x [B, T, W] over memory [B, S, W], where bool[B, S] or [B, T, S]."""
    for layer in range(self.num_layers):
      x = DecoderBlock(self.num_heads, self.mlp_dim, name=f'block_{layer}')(
        x, memory, where, bias=bias
      )
    return nn.RMSNorm(name='norm')(x)


class PrefixBlock(nn.Module):
  """One step of a decoder over docid prefixes, for all beams.

  The inputs of earlier steps are arguments and results, so that beam search can
  reorder them; the query tokens are shared by its beams.
  """

  num_heads: int
  mlp_dim: int

  @nn.compact
  def __call__(self, x, prefix, memory, where):
    """Maps x [B, K, W] to [B, K, W].

    Args:
      x: the last token of each beam.
      prefix: normalised inputs of earlier steps, [B, K, T, W]; T may be 0.
      memory: query tokens, [B, Q, W].
      where: bool[B, Q], True = real.

    Returns:
      The output, and `prefix` with the new input appended, [B, K, T + 1, W].
    """
    batch, beams, width = x.shape
    normed = nn.RMSNorm(name='attention_norm')(x)
    prefix = jnp.concatenate([prefix, normed[:, :, None]], axis=2)
    steps = prefix.reshape(batch * beams, -1, width)
    attended = Attention(self.num_heads, name='attention')(
      steps[:, -1:], steps, jnp.ones((1, 1, steps.shape[1]), bool)
    )
    x = x + attended.reshape(batch, beams, width)
    normed = nn.RMSNorm(name='cross_norm')(x)
    x = x + Attention(self.num_heads, name='cross_attention')(
      normed, memory, where[:, None]
    )
    normed = nn.RMSNorm(name='hidden_norm')(x)
    return x + FeedForward(self.mlp_dim, name='feed_forward')(normed), prefix
