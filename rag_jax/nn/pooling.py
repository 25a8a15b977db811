"""One vector per text from the states of its tokens."""

from typing import Any

import jax
import jax.numpy as jnp

from rag_jax.nn import bert
from rag_jax.ops import masking

POOLINGS = (
  'mean',
  'cls',
  'max',
  'last_token',
  'weighted_mean',
  'mean_sqrt_length',
)


def pool(states: jax.Array, where: jax.Array, kind: str) -> jax.Array:
  r"""One vector per text.

  With states $h_1, ..., h_n$ of the n real tokens: 'mean' is
  $\sum_t h_t / n$, 'mean_sqrt_length' $\sum_t h_t / \sqrt n$, 'weighted_mean'
  $\sum_t t h_t / \sum_t t$, 'max' the largest value of each coordinate, 'cls'
  $h_1$ and 'last_token' $h_n$.

  Args:
    states: float[B, T, W].
    where: bool[B, T], True = real; a row without real tokens gives zeros.
    kind: one of `POOLINGS`; or 'sum', whose direction is that of the mean.

  Returns:
    float[B, W].

  Example:
    >>> states = jnp.array([[[3.0, 0.0], [0.0, 3.0], [9.0, 9.0]]])
    >>> where = jnp.array([[True, True, False]])
    >>> [pool(states, where, kind)[0].tolist() for kind in POOLINGS[:4]]
    [[1.5, 1.5], [3.0, 0.0], [3.0, 3.0], [0.0, 3.0]]

  Reference:
    Reimers and Gurevych, Sentence-BERT, 2019; Muennighoff, SGPT, 2022
    (weighted mean).
  """
  real = where[..., None]
  count = jnp.maximum(where.sum(-1, keepdims=True), 1)
  place = jnp.cumsum(where, axis=-1)  # 1, 2, ...
  if kind == 'max':
    top = jnp.where(real, states, masking.NEG_INF).max(-2)
    return jnp.where(where.any(-1, keepdims=True), top, 0.0)
  if kind in ('cls', 'last_token'):
    last = 1 if kind == 'cls' else count
    chosen = where & (place == last)
    return jnp.where(chosen[..., None], states, 0.0).sum(-2)
  weights = real * (place[..., None] if kind == 'weighted_mean' else 1)
  total = jnp.where(real, states * weights, 0.0).sum(-2)
  if kind == 'sum':
    return total
  if kind == 'mean':
    return total / count
  if kind == 'mean_sqrt_length':
    return total / jnp.sqrt(count)
  return total / jnp.maximum(weights.sum(-2), 1)


def dense(
  layers: dict[str, Any], activations: tuple[str, ...], x: jax.Array
) -> jax.Array:
  """Applies dense layers to vectors float[B, W], each with its activation.

  Args:
    layers: 'layer_0', ... -> 'kernel' [inputs, outputs], optionally 'bias'.
    activations: a name in `bert.ACTIVATIONS` for each layer; 'none' = linear.
    x: float[B, W].

  Returns:
    float[B, outputs of the last layer].

  Example:
    >>> layer = {'kernel': jnp.eye(2), 'bias': jnp.array([1.0, -9.0])}
    >>> dense({'layer_0': layer}, ('relu',), jnp.array([[1.0, 2.0]])).tolist()
    [[2.0, 0.0]]
  """
  for number, name in enumerate(activations):
    layer = layers[f'layer_{number}']
    x = x @ layer['kernel'] + layer.get('bias', 0.0)
    x = x if name == 'none' else bert.ACTIVATIONS[name](x)
  return x
