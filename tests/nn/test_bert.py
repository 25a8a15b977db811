import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax.nn import bert

CONFIG = bert.BertConfig(
  vocab_size=20,
  width=12,
  num_layers=2,
  num_heads=2,
  mlp_dim=20,
  max_positions=9,
)
apply = jax.jit(bert.apply, static_argnums=1)


def model(config=CONFIG):
  """A random model with random norms and biases, and two texts."""
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(lambda: bert.init(jax.random.key(0), config))
  params = jax.tree.map(
    lambda leaf: jnp.asarray(rng.normal(0.2, 0.4, leaf.shape), jnp.float32),
    shapes,
  )
  tokens = rng.integers(1, 20, (2, 7))
  tokens[1, 4:] = 0
  return params, jnp.asarray(tokens)


def by_hand(params, tokens, segments):
  """NumPy reference in float64 for one text, one head and token at a time."""
  p = jax.tree.map(lambda leaf: np.asarray(leaf, float), params)
  erf = np.vectorize(math.erf)

  def norm(x, scale, bias):
    deviation = np.sqrt(x.var(-1, keepdims=True))
    return (x - x.mean(-1, keepdims=True)) / deviation * scale + bias

  x = np.stack(
    [
      p['embedding'][token] + p['positions'][t] + p['segments'][segment]
      for t, (token, segment) in enumerate(zip(tokens, segments, strict=True))
    ]
  )
  x = norm(x, p['norm'], p['norm_bias'])
  width = x.shape[1]
  for layer in range(CONFIG.num_layers):
    block = p[f'block_{layer}']
    query, key, value = np.split(x @ block['qkv'] + block['qkv_bias'], 3, 1)
    out = np.zeros_like(x)
    for head in np.split(np.arange(width), CONFIG.num_heads):
      for t in range(len(x)):
        scores = key[:, head] @ query[t, head] / math.sqrt(len(head))
        weights = np.exp(scores) / np.exp(scores).sum()
        out[t, head] = weights @ value[:, head]
    x = x + out @ block['out'] + block['out_bias']
    x = norm(x, block['norm'], block['norm_bias'])
    up = x @ block['up'] + block['up_bias']
    up = up * (1 + erf(up / math.sqrt(2))) / 2
    x = x + up @ block['down'] + block['down_bias']
    x = norm(x, block['hidden_norm'], block['hidden_norm_bias'])
  return x


def test_states_equal_a_numpy_reference():
  params, tokens = model()
  segments = (np.arange(7) > 2) * np.ones((2, 1), int)
  states = apply(params, CONFIG, tokens, segments=segments)
  for row, length in enumerate((7, 4)):
    expected = by_hand(params, tokens[row, :length], segments[row, :length])
    np.testing.assert_allclose(states[row, :length], expected, atol=2e-5)


def test_padding_has_no_effect():
  params, tokens = model()
  states = apply(params, CONFIG, tokens)
  where = tokens != 0
  other = apply(params, CONFIG, jnp.where(where, tokens, 5), where=where)
  np.testing.assert_allclose(states[where], other[where], atol=1e-6)
  alone = apply(params, CONFIG, tokens[1:, :4])
  np.testing.assert_allclose(states[1, :4], alone[0], atol=2e-6)
  assert np.isfinite(apply(params, CONFIG, jnp.zeros((1, 3), int))).all()


def test_layers_can_run_in_two_parts():
  params, tokens = model()
  where = tokens != 0
  x = bert.embed(params, CONFIG, tokens)
  x = bert.encode(params, CONFIG, x, where, last=1)
  upper = {'block_1': params['block_1']}  # the only parameters needed
  x = bert.encode(upper, CONFIG, x, where, first=1)
  np.testing.assert_allclose(x, apply(params, CONFIG, tokens), atol=2e-6)


def test_prevent_fusion_is_the_identity():
  for dtype in (jnp.float32, jnp.bfloat16, jnp.float16):
    most = float(jnp.finfo(dtype).max)
    x = jnp.array([0.1, -0.0, most, -jnp.inf, jnp.nan, 3e-5], dtype)
    y = jax.jit(bert.prevent_fusion)(x)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y.astype(jnp.float32), x.astype(jnp.float32))
    assert (
      jax.grad(lambda x: bert.prevent_fusion(x).sum())(x).tolist() == [1] * 6
    )


def test_gradients_equal_finite_differences():
  params, tokens = model()
  rng = np.random.default_rng(1)

  @jax.jit
  def loss(params):
    states = bert.apply(params, CONFIG, tokens)
    return (jnp.sin(states) * (tokens != 0)[..., None]).sum()

  gradient = jax.grad(loss)(params)
  block = params['block_0']
  for name in sorted(block):
    direction = jnp.asarray(rng.normal(size=block[name].shape), jnp.float32)
    direction /= jnp.linalg.norm(direction)

    def moved(by, name=name, direction=direction, block=block):
      return params | {'block_0': block | {name: block[name] + by * direction}}

    step = 1e-2
    slope = (loss(moved(step)) - loss(moved(-step))) / (2 * step)
    expected = (gradient['block_0'][name] * direction).sum()
    np.testing.assert_allclose(slope, expected, rtol=0.02, atol=2e-3)


def test_bfloat16_parameters_give_bfloat16_states():
  params, tokens = model()
  half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
  states = apply(half, CONFIG, tokens)
  assert states.dtype == jnp.bfloat16
  where = tokens != 0
  exact = apply(params, CONFIG, tokens)
  np.testing.assert_allclose(
    states.astype(jnp.float32)[where], exact[where], atol=0.1
  )


def test_remat_changes_no_gradient():
  params, tokens = model()

  def gradient(remat):
    config = dataclasses.replace(CONFIG, num_layers=1, remat=remat)

    def loss(params):
      return jnp.square(bert.apply(params, config, tokens)).sum()

    return jax.jit(jax.grad(loss))(params)

  for one, other in zip(
    jax.tree.leaves(gradient(False)),
    jax.tree.leaves(gradient(True)),
    strict=True,
  ):
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_errors_name_the_field_the_value_and_the_remedy():
  with pytest.raises(
    ValueError, match='mlp_dim must be at least 1, got 0. The'
  ):
    bert.BertConfig(mlp_dim=0)
  with pytest.raises(ValueError, match='num_heads .* width 384, got 7. The'):
    bert.BertConfig(num_heads=7)
  params, _ = model()
  with pytest.raises(ValueError, match='max_positions, 9, .* got 10. Trunc'):
    bert.embed(params, CONFIG, jnp.zeros((1, 10), int))
