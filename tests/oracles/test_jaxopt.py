"""Cases after jaxopt's own tests, for projections and losses that both have."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax import ops
from rag_jax.ops import losses

jaxopt = pytest.importorskip(
  'jaxopt', reason="jaxopt is not installed: pip install '.[oracles]'"
)
projection = jaxopt.projection


@pytest.mark.parametrize('scale', [1.0, 1e9])
@pytest.mark.parametrize('seed', range(10))
def test_projection_on_the_simplex(scale, seed):
  normal = np.random.RandomState(seed).randn(50)
  scores = jnp.asarray(scale * normal, jnp.float32)
  found = ops.sparsemax(scores)
  expected = projection.projection_simplex(scores)
  np.testing.assert_allclose(found, expected, atol=1e-5)
  assert float(found.sum()) == pytest.approx(1)
  assert ((found >= 0) & (found <= 1)).all()


def test_minus_infinity_gets_nothing():
  found = ops.sparsemax(jnp.array([0.0, 0.0, -jnp.inf]))
  np.testing.assert_allclose(found, [0.5, 0.5, 0.0])


@pytest.mark.parametrize('scale', [1.0, 1e9])
@pytest.mark.parametrize('mode', [jax.jacrev, jax.jacfwd])
def test_jacobian_of_a_projection(scale, mode):
  uniform = np.random.RandomState(0).rand(5)
  scores = jnp.asarray(scale * uniform, jnp.float32)
  found = mode(ops.sparsemax)(scores)
  expected = mode(projection.projection_simplex)(scores)
  np.testing.assert_allclose(found, expected, atol=1e-6)


def test_gradient_of_projected_rows():
  rows = jnp.asarray(np.random.RandomState(0).rand(4, 5), jnp.float32)
  theirs = jax.grad(
    lambda x: (jax.vmap(projection.projection_simplex)(x) ** 2).sum()
  )
  ours = jax.grad(lambda x: (ops.sparsemax(x) ** 2).sum())
  np.testing.assert_allclose(ours(rows), theirs(rows), atol=1e-6)


@pytest.mark.parametrize('k', [1, 2, 3])
@pytest.mark.parametrize('seed', range(3))
def test_capped_simplex_is_a_section_of_a_box(k, seed):
  uniform = 3 * np.random.RandomState(seed).rand(5)
  scores = jnp.asarray(uniform, jnp.float32)
  ones = jnp.ones_like(scores)
  box = jnp.zeros_like(scores), ones, ones, float(k)
  expected = projection.projection_box_section(scores, box)
  found = ops.capped_simplex(scores, k=k)
  np.testing.assert_allclose(found, expected, atol=1e-4)
  slope = jax.jacrev(lambda x: ops.capped_simplex(x, k=k))(scores)
  expected = jax.jacrev(projection.projection_box_section)(scores, box)
  np.testing.assert_allclose(slope, expected, atol=1e-4)


LOSSES = {
  'softmax': jaxopt.loss.multiclass_logistic_loss,
  'sparsemax': jaxopt.loss.multiclass_sparsemax_loss,
}


@pytest.mark.parametrize(
  'scores', [[1e5, 0.0, 0.0], [1.2, 0.3, 2.3], [1.3, 2.5, -1.0]]
)
@pytest.mark.parametrize('operator', LOSSES)
def test_losses(operator, scores):
  scores = jnp.array(scores)
  for label in range(3):
    found, slope = jax.value_and_grad(losses.fenchel_young)(
      scores, jax.nn.one_hot(label, 3), operator=operator
    )
    theirs = jax.value_and_grad(LOSSES[operator], argnums=1)
    expected, expected_slope = theirs(label, scores)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(slope, expected_slope, atol=1e-6)
