"""Random choices against the distributions that they are drawn from."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from rag_jax import ops

SCORES = np.array([1.0, 0.3, -0.5, 0.0])
DRAWS = 20_000


def plackett_luce(scores, order):
  """Chance of drawing these slots in this order, one after the other."""
  weights = np.exp(scores)
  chance, left = 1.0, weights.sum()
  for slot in order:
    chance *= weights[slot] / left
    left -= weights[slot]
  return chance


def test_nucleus_draws_from_the_head_of_the_softmax():
  chances = np.array([0.05, 0.4, 0.1, 0.25, 0.2])
  scores = jnp.broadcast_to(jnp.log(chances), (DRAWS, 5))
  keys = jax.random.split(jax.random.key(0), DRAWS)
  for options, expected in (
    ({}, chances),
    ({'top_k': 2}, [0, 0.4, 0, 0.25, 0]),
    ({'top_k': 9}, chances),
    ({'top_p': 0.6}, [0, 0.4, 0, 0.25, 0]),  # .4 < .6 <= .65
    ({'top_p': 0.66}, [0, 0.4, 0, 0.25, 0.2]),
    ({'top_k': 3, 'top_p': 0.75}, [0, 0.4, 0, 0.25, 0]),  # of .85: .765
    ({'temperature': 0.5}, chances**2),
    ({'temperature': 2.0, 'top_k': 2}, [0, 0.4**0.5, 0, 0.5, 0]),
  ):
    drawn = ops.sampling.nucleus(keys, scores, **options)
    shares = np.bincount(drawn, minlength=5) / DRAWS
    expected = np.asarray(expected) / np.sum(expected)
    np.testing.assert_allclose(shares, expected, atol=0.02, err_msg=options)
    assert (shares[expected == 0] == 0).all()


@pytest.mark.parametrize('field', ['temperature', 'top_k', 'top_p'])
def test_nucleus_refuses_values_out_of_range(field):
  keys = jax.random.split(jax.random.key(0), 1)
  with pytest.raises(ValueError, match='sampling needs'):
    ops.sampling.nucleus(keys, jnp.zeros((1, 3)), **{field: -1})


def test_gumbel_top_k_draws_sets_as_plackett_luce_does():
  keys = jax.random.split(jax.random.key(0), DRAWS)
  draw = jax.vmap(lambda key: ops.gumbel_top_k(key, jnp.asarray(SCORES), k=2))
  drawn = np.asarray(draw(keys)).astype(bool)
  sets = list(itertools.combinations(range(4), 2))
  observed = [
    sum(tuple(np.flatnonzero(row)) == pair for row in drawn) for pair in sets
  ]
  expected = [
    DRAWS
    * sum(
      plackett_luce(SCORES, order) for order in itertools.permutations(pair)
    )
    for pair in sets
  ]
  assert stats.chisquare(observed, expected).pvalue > 0.001


def test_temperature_flattens_the_draw():
  keys = jax.random.split(jax.random.key(0), 2000)

  def share(temperature):
    draw = jax.vmap(
      lambda key: ops.gumbel_top_k(
        key, jnp.asarray(SCORES), k=1, temperature=temperature
      )
    )
    return float(draw(keys)[:, 0].mean())

  assert share(0.05) > 0.99
  assert abs(share(100.0) - 0.25) < 0.04


def test_perturbed_top_1_is_softmax_in_value_and_gradient():
  # With Gumbel noise the expected argmax is softmax(z / temperature).
  z = jnp.asarray(SCORES, jnp.float32)
  value, pull = jax.vjp(
    lambda z: ops.perturbed_top_k(
      jax.random.key(1), z, k=1, temperature=0.5, num_samples=DRAWS
    ),
    z,
  )
  exact, exact_pull = jax.vjp(lambda z: ops.softmax(z / 0.5), z)
  np.testing.assert_allclose(value, exact, atol=0.02)
  cotangent = jnp.array([1.0, -1.0, 0.5, 2.0])
  np.testing.assert_allclose(
    pull(cotangent)[0], exact_pull(cotangent)[0], atol=0.1
  )


def test_relaxed_top_k_becomes_the_top_k():
  z = jnp.asarray(SCORES, jnp.float32)
  soft = ops.relaxed_top_k(z, k=2, temperature=0.02)
  np.testing.assert_allclose(soft, ops.top_k(z, k=2), atol=1e-3)


def test_relaxed_top_k_with_noise_is_a_draw():
  keys = jax.random.split(jax.random.key(0), 4000)
  z = jnp.asarray(SCORES, jnp.float32)
  soft = jax.vmap(
    lambda key: ops.relaxed_top_k(z, k=2, temperature=0.02, rng=key)
  )(keys)
  hard = jax.vmap(lambda key: ops.gumbel_top_k(key, z, k=2))(keys)
  np.testing.assert_allclose(soft.mean(0), hard.mean(0), atol=0.03)


def test_straight_through_chooses_hard_and_learns_soft():
  z = jnp.asarray(SCORES, jnp.float32)
  utility = jnp.array([0.0, 1.0, 2.0, 3.0])

  def value(z):
    weights = ops.straight_through(ops.top_k(z, k=1), ops.softmax(z))
    return (weights * utility).sum()

  assert float(value(z)) == 0.0
  np.testing.assert_allclose(
    jax.grad(value)(z),
    jax.grad(lambda z: (ops.softmax(z) * utility).sum())(z),
    rtol=1e-6,
  )


def test_a_key_gives_the_same_draw_again():
  draws = [
    ops.gumbel_top_k(jax.random.key(3), jnp.zeros(50), k=5) for _ in range(2)
  ]
  np.testing.assert_array_equal(*draws)
