"""Cases of optax's own tests, for projections and losses that both have."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rag_jax import ops
from rag_jax.ops import losses

simplex = optax.projections.projection_simplex
NORMAL = np.random.RandomState(0).randn(50).astype(np.float32)
VECTORS = {
  'normal': NORMAL,
  'small': NORMAL * 1e-6,
  'large': NORMAL * 1e4,
  'equal': np.zeros(7, np.float32),
  'one': np.array([3.0], np.float32),
  '-inf': np.array([0.0, 0.0, -np.inf], np.float32),
  'short': np.array([0.5, 2.1, -3.5], np.float32),
}


@pytest.mark.parametrize('name', VECTORS)
def test_projection_on_the_simplex(name):
  scores = jnp.asarray(VECTORS[name])
  found = ops.sparsemax(scores)
  np.testing.assert_allclose(found, simplex(scores), atol=1e-5)
  assert float(found.sum()) == pytest.approx(1, abs=1e-5)


def test_projections_of_rows():
  rows = jnp.asarray(np.random.RandomState(0).randn(3, 50), jnp.float32)
  expected = jax.vmap(simplex)(rows)
  np.testing.assert_allclose(ops.sparsemax(rows), expected, atol=1e-6)
  found = jax.vmap(ops.sparsemax)(rows)
  np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize('mode', [jax.jacrev, jax.jacfwd])
def test_jacobian_of_a_projection(mode):
  scores = jnp.asarray(np.random.RandomState(0).rand(5), jnp.float32)
  found = mode(ops.sparsemax)(scores)
  np.testing.assert_allclose(found, mode(simplex)(scores), atol=1e-6)
  support = (ops.sparsemax(scores) > 0).astype(jnp.float32)
  theory = jnp.diag(support) - jnp.outer(support, support) / support.sum()
  np.testing.assert_allclose(found, theory, atol=1e-6)


def test_products_with_the_jacobian():
  rng = np.random.RandomState(0)
  scores, vector = (
    jnp.asarray(x, jnp.float32) for x in (rng.rand(5), rng.randn(5))
  )
  for apply in (
    lambda f: jax.jvp(f, (scores,), (vector,))[1],
    lambda f: jax.vjp(f, scores)[1](vector)[0],
  ):
    np.testing.assert_allclose(apply(ops.sparsemax), apply(simplex), atol=1e-6)


def test_fenchel_young_loss_of_softmax():
  keys = jax.random.split(jax.random.key(0), 2)
  wanted, scores = (jax.random.uniform(key, (8, 5)) for key in keys)
  theirs = optax.losses.make_fenchel_young_loss(jax.scipy.special.logsumexp)

  def ours(scores, targets):
    return losses.fenchel_young(scores, targets, operator='softmax')

  soft = jax.nn.softmax(wanted)
  slopes = (jax.vmap(jax.grad(f))(scores, soft) for f in (ours, theirs))
  np.testing.assert_allclose(*slopes, atol=1e-6)
  hard = jax.nn.one_hot(wanted.argmax(-1), 5)
  expected = jax.vmap(theirs)(scores, hard)
  np.testing.assert_allclose(ours(scores, hard), expected, rtol=1e-5)
  expected = optax.softmax_cross_entropy(scores, hard)
  np.testing.assert_allclose(ours(scores, hard), expected, rtol=1e-5)


RANKED = {
  'one list': ([0.0, 3.0, 1.0, 2.0], [0.0, 0.0, 1.0, 0.0], [True] * 4),
  'batch': (
    [[2.0, 1.0, 3.0], [1.0, 0.5, 1.5]],
    [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]],
    [[True] * 3] * 2,
  ),
  'masked': ([2.0, 3.0, 1.0], [0.0, 0.0, 1.0], [False, True, True]),
  'all masked': ([0.0, 3.0, 1.0, 2.0], [0.0, 0.0, 1.0, 0.0], [False] * 4),
  'no label': ([0.0, 3.0, 1.0, 2.0], [0.0] * 4, [True] * 4),
  'extreme': ([0.0, -2.1e26, 3.4e37, 42.0], [0.0, 1.0, 0.0, 0.0], [True] * 4),
  'four axes': ([[[[2.0, 3.0, 1.0]]]], [[[[0.0, 0.0, 1.0]]]], [[[[True] * 3]]]),
}


@pytest.mark.parametrize('name', RANKED)
def test_ranking_softmax_loss(name):
  scores, labels, where = map(jnp.asarray, RANKED[name])

  def ours(scores):
    return losses.fenchel_young(
      scores, labels, operator='softmax', where=where
    ).sum()

  def theirs(scores):
    return optax.losses.ranking_softmax_loss(
      scores, labels, where=where, reduce_fn=jnp.sum
    )

  np.testing.assert_allclose(ours(scores), theirs(scores), rtol=1e-5)
  slope = jax.grad(ours)(scores)
  assert jnp.isfinite(slope).all()
  np.testing.assert_allclose(slope, jax.grad(theirs)(scores), atol=1e-6)


@pytest.mark.parametrize('logit', [-1e5, -2.0, -1.0, -0.3, 0.0, 0.7, 1.0, 1e5])
@pytest.mark.parametrize('label', [0, 1])
def test_binary_sparsemax_loss(logit, label):
  expected = optax.losses.sparsemax_loss(jnp.float32(logit), jnp.int32(label))
  found = losses.fenchel_young(
    jnp.array([0.0, logit]), jax.nn.one_hot(label, 2), operator='sparsemax'
  )
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
  'scores', [[1e5, 0.0, 0.0], [1.2, 0.3, 2.3], [0.0, 0.0, 0.0], [0.5, 0.2, 0.3]]
)
def test_multiclass_sparsemax_loss(scores):
  scores = jnp.array(scores)

  def theirs(scores, label):  # which takes batches alone
    losses = optax.losses.multiclass_sparsemax_loss(scores[None], label[None])
    return losses.sum()

  for label in range(3):
    target = jax.nn.one_hot(label, 3)
    found, slope = jax.value_and_grad(losses.fenchel_young)(scores, target)
    np.testing.assert_allclose(
      found, theirs(scores, jnp.int32(label)), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(
      slope, jax.grad(theirs)(scores, jnp.int32(label)), atol=1e-6
    )
