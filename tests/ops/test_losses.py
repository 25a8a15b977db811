"""Losses against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax.ops import losses, selection

NAMES = sorted(selection.OPERATORS)


def draw(*shape, seed=0):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.normal(size=shape), jnp.float32)


@pytest.mark.parametrize('name', NAMES)
def test_fenchel_young_gradient_is_prediction_less_target(name):
  z = draw(4, 6)
  target = jax.nn.softmax(draw(4, 6, seed=1))
  gradient = jax.grad(
    lambda x: losses.fenchel_young(x, target, operator=name).sum()
  )(z)
  np.testing.assert_allclose(
    gradient, selection.select(z, operator=name) - target, atol=1e-5
  )


@pytest.mark.parametrize('name', NAMES)
def test_fenchel_young_is_zero_at_the_prediction_and_positive_elsewhere(name):
  z = draw(4, 6)
  own = selection.select(z, operator=name)
  loss = losses.fenchel_young(z, own, operator=name)
  np.testing.assert_allclose(loss, 0, atol=1e-5)
  other = jnp.roll(own, 1, axis=-1)
  assert (losses.fenchel_young(z, other, operator=name) > 1e-3).all()


def test_fenchel_young_of_softmax_is_cross_entropy():
  z, target = draw(3, 5), jax.nn.one_hot(jnp.array([0, 2, 4]), 5)
  wanted = -(target * jax.nn.log_softmax(z)).sum(-1)
  loss = losses.fenchel_young(z, target, operator='softmax')
  np.testing.assert_allclose(loss, wanted, atol=1e-5)


def test_sequence_marginal_is_the_mixture():
  weights, logs = jax.nn.softmax(draw(3, 4)), -jnp.abs(draw(3, 4, seed=1))
  wanted = -jnp.log((weights * jnp.exp(logs)).sum(-1))
  loss = losses.sequence_marginal(weights, logs)
  np.testing.assert_allclose(loss, wanted, rtol=1e-5)


def test_sequence_marginal_never_takes_log_zero():
  weights = jnp.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
  logs = jnp.array([[-2000.0, -1.0], [-1.0, -1e9], [-1.0, -1.0]])
  where = jnp.array([[True, True], [True, False], [True, True]])
  loss, vjp = jax.vjp(
    lambda w, x: losses.sequence_marginal(w, x, where=where), weights, logs
  )
  np.testing.assert_allclose(loss, [2000, 0, 0])
  assert all(np.isfinite(g).all() for g in vjp(jnp.ones(3)))


def test_marginal_through_softmax_pushes_to_the_posterior():
  # d(-log marginal) / dz = prior - posterior
  z, logs = draw(2, 5), -jnp.abs(draw(2, 5, seed=1)) * 3
  gradient = jax.grad(
    lambda x: losses.sequence_marginal(jax.nn.softmax(x), logs).sum()
  )(z)
  posterior = jax.nn.softmax(jax.nn.log_softmax(z) + logs)
  np.testing.assert_allclose(gradient, jax.nn.softmax(z) - posterior, atol=1e-5)


def test_token_marginal_is_a_product_of_mixtures():
  weights = jax.nn.softmax(draw(3, 4))
  logs = -jnp.abs(draw(3, 4, 5, seed=1))
  where = jnp.array([True, True, True, False, False])
  wanted = -jnp.log((weights[..., None] * jnp.exp(logs)).sum(1))[:, :3].sum(-1)
  loss = losses.token_marginal(weights, logs, token_where=where)
  np.testing.assert_allclose(loss, wanted, rtol=1e-5)


def test_token_marginal_of_one_token_is_the_sequence_marginal():
  weights, logs = selection.sparsemax(draw(3, 4)), -jnp.abs(draw(3, 4, seed=1))
  where = jnp.array([True, True, False, True])
  np.testing.assert_allclose(
    losses.token_marginal(weights, logs[..., None], where=where),
    losses.sequence_marginal(weights, logs, where=where),
    rtol=1e-5,
  )
