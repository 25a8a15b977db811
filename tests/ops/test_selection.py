"""The contract of the selection operators."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from rag_jax.ops import selection

NAMES = sorted(selection.OPERATORS)


def scores(*shape, seed=0, scale=2.0):
  values = np.random.default_rng(seed).normal(size=shape) * scale
  return jnp.asarray(values, jnp.float32)


@pytest.fixture(params=NAMES)
def operator(request):
  return selection.get(request.param)


def test_weights_are_a_distribution(operator):
  weights = operator(scores(5, 7))
  assert (weights >= 0).all()
  np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)


@pytest.mark.parametrize('junk', [0.0, 1e30, np.inf, -np.inf, np.nan])
def test_masked_slots_get_nothing_whatever_they_hold(operator, junk):
  z = scores(3, 6)
  where = jnp.array([True, True, False, True, False, True])
  dirty = jnp.where(where, z, junk)
  weights, vjp = jax.vjp(lambda x: operator(x, where=where), dirty)
  (gradient,) = vjp(scores(3, 6, seed=1))
  kept = operator(z[:, np.asarray(where)])
  np.testing.assert_allclose(weights[:, np.asarray(where)], kept, atol=1e-6)
  assert (weights[:, 2] == 0).all()
  assert (weights[:, 4] == 0).all()
  assert np.isfinite(gradient).all()
  assert (gradient[:, 2] == 0).all()


def test_nothing_real_gives_nothing(operator):
  where = jnp.zeros((2, 4), bool)
  weights, vjp = jax.vjp(lambda x: operator(x, where=where), scores(2, 4))
  assert (weights == 0).all()
  assert (vjp(jnp.ones((2, 4)))[0] == 0).all()


def test_one_real_slot_takes_all(operator):
  where = jnp.arange(4) == 2
  weights = operator(scores(3, 4), where=where)
  np.testing.assert_allclose(weights[:, 2], 1, atol=1e-6)
  np.testing.assert_allclose(operator(scores(3, 1)), 1, atol=1e-6)


def test_adding_a_constant_changes_nothing(operator):
  z = jnp.round(scores(4, 6) * 4) / 4  # exact at 1e6
  np.testing.assert_allclose(operator(z + 1e6), operator(z), atol=1e-6)


def test_ties_share_evenly(operator):
  np.testing.assert_allclose(operator(jnp.zeros(8192)), 1 / 8192, rtol=1e-3)
  weights = operator(jnp.array([3.0, 3.0, -9.0]))
  np.testing.assert_allclose(weights[0], weights[1])


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16, jnp.float32])
def test_dtype_is_kept(operator, dtype):
  weights = operator(scores(2, 5).astype(dtype))
  assert weights.dtype == dtype
  np.testing.assert_allclose(weights.astype(jnp.float32).sum(-1), 1, atol=0.02)


@pytest.mark.parametrize('axis', [0, 1, -1])
def test_any_axis_and_vmap_and_jit(operator, axis):
  z = scores(4, 5, 6)
  weights = operator(z, axis=axis)
  moved = jnp.moveaxis(jax.vmap(operator)(jnp.moveaxis(z, axis, -1)), -1, axis)
  np.testing.assert_allclose(weights, moved, atol=1e-6)
  jitted = jax.jit(lambda x: operator(x, axis=axis))(z)
  np.testing.assert_allclose(weights, jitted, atol=1e-6)


def test_gradient_matches_finite_differences(operator):
  with jax.enable_x64(True):
    z = jnp.asarray(np.random.default_rng(2).normal(size=9))
    direction = jnp.asarray(np.random.default_rng(3).normal(size=9))
    _, tangent = jax.jvp(operator, (z,), (direction,))
    step = 1e-5
    high, low = operator(z + step * direction), operator(z - step * direction)
    np.testing.assert_allclose(tangent, (high - low) / (2 * step), atol=1e-4)


@pytest.mark.parametrize('seed', range(5))
def test_sparsemax_is_the_projection(seed):
  z = np.random.default_rng(seed).normal(size=6) * 2
  solved = optimize.minimize(
    lambda p: ((p - z) ** 2).sum(),
    np.full(6, 1 / 6),
    jac=lambda p: 2 * (p - z),
    bounds=[(0, 1)] * 6,
    constraints={'type': 'eq', 'fun': lambda p: p.sum() - 1},
    method='SLSQP',
    options={'ftol': 1e-14, 'maxiter': 500},
  )
  np.testing.assert_allclose(
    selection.sparsemax(jnp.asarray(z, jnp.float32)), solved.x, atol=1e-5
  )


def test_bad_input():
  with pytest.raises(ValueError, match='floating point, got int32'):
    selection.sparsemax(jnp.arange(3))
  with pytest.raises(ValueError, match=r'broadcast to scores \(3,\)'):
    selection.sparsemax(jnp.ones(3), where=jnp.ones(2, bool))
  with pytest.raises(ValueError, match='softmax, sparsemax.*got .hardmax.'):
    selection.select(jnp.ones(3), operator='hardmax')
