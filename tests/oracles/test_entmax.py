"""Cases of entmax's own tests, for operators and losses that both have."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax import ops
from rag_jax.ops import losses

REASON = "{} is not installed: pip install '.[oracles]'"
torch = pytest.importorskip('torch', reason=REASON.format('PyTorch'))
entmax = pytest.importorskip('entmax', reason=REASON.format('entmax'))

OPERATORS = {
  'sparsemax': (ops.sparsemax, entmax.sparsemax),
  'entmax15': (ops.entmax15, entmax.entmax15),
  **{
    f'entmax({alpha})': (
      functools.partial(ops.entmax, alpha=alpha),
      functools.partial(entmax.entmax_bisect, alpha=alpha),
    )
    for alpha in (1.2, 1.25, 1.5, 1.75, 2.0, 2.25)
  },
}


def normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def tensor(array, **options):
  return torch.tensor(np.asarray(array), **options)


@pytest.mark.parametrize('coefficient', [1e-5, 0.5, 1e4])
@pytest.mark.parametrize('axis', [0, 1, 2])
@pytest.mark.parametrize('name', OPERATORS)
def test_every_axis_and_scale(name, axis, coefficient):
  ours, theirs = OPERATORS[name]
  scores = coefficient * normal(3, 4, 5)
  expected = theirs(tensor(scores), dim=axis).numpy()
  np.testing.assert_allclose(ours(scores, axis=axis), expected, atol=1e-5)


@pytest.mark.parametrize('name', OPERATORS)
def test_minus_infinity_is_a_mask(name):
  ours, _ = OPERATORS[name]
  scores = normal(2, 6)
  scores[:, 3:] = -np.inf
  found = ours(jnp.asarray(scores))
  np.testing.assert_allclose(found[:, :3], ours(scores[:, :3]), atol=1e-6)
  assert (found[:, 3:] == 0).all()


@pytest.mark.parametrize('name', OPERATORS)
def test_gradients(name):
  ours, theirs = OPERATORS[name]
  scores, weights = normal(4, 6), normal(4, 6, seed=1)
  given = tensor(scores, requires_grad=True)
  (theirs(given, dim=-1) * tensor(weights)).sum().backward()
  found = jax.grad(lambda x: (ours(x) * weights).sum())(jnp.asarray(scores))
  np.testing.assert_allclose(found, given.grad.numpy(), atol=2e-4)


@pytest.mark.parametrize('alpha', [1.2, 1.5, 1.75, 2.25])
def test_gradient_in_alpha(alpha):
  scores, weights = normal(4, 6), normal(4, 6, seed=1)
  given = torch.tensor(alpha, dtype=torch.float64, requires_grad=True)
  found = entmax.entmax_bisect(tensor(scores).double(), given)
  (found * tensor(weights)).sum().backward()
  slope = jax.grad(lambda a: (ops.entmax(scores, alpha=a) * weights).sum())(
    jnp.float32(alpha)
  )
  assert float(slope) == pytest.approx(float(given.grad), abs=1e-3)


@pytest.mark.parametrize('axis', [0, 1, 2, 3])
@pytest.mark.parametrize(
  'low',
  [
    1.05,
    pytest.param(
      0.05,
      marks=pytest.mark.xfail(
        strict=True, reason='alpha of at least 1 by choice'
      ),
    ),
  ],
)
def test_an_alpha_for_each_row(axis, low):
  shape = [3, 4, 2, 5]
  scores = normal(*shape)
  shape[axis] = 1
  alphas = np.random.default_rng(1).uniform(low, 2.55, shape)
  alphas = alphas.astype(np.float32)
  theirs = entmax.entmax_bisect(tensor(scores), tensor(alphas), dim=axis)
  found = ops.entmax(scores, alpha=jnp.asarray(alphas), axis=axis)
  np.testing.assert_allclose(found, theirs.numpy(), atol=1e-4)


RAMP = np.array([0, 0.25, 0.5, 0.75, 1], np.float32)


@pytest.mark.parametrize(
  'factor, k', [(1, 2), (2, 3), *((c, 1) for c in range(1, 6)), (3, 4), (9, 5)]
)
def test_budget(factor, k):
  scores = factor * RAMP
  expected = entmax.budget_bisect(tensor(scores), budget=k, dim=0).numpy()
  found = ops.capped_simplex(scores, k=k)
  np.testing.assert_allclose(found, expected, atol=1e-4)


LOSSES = {
  'sparsemax': (entmax.SparsemaxLoss, {'operator': 'sparsemax'}),
  'entmax15': (entmax.Entmax15Loss, {'operator': 'entmax15'}),
  'entmax(1.3)': (
    functools.partial(entmax.EntmaxBisectLoss, alpha=1.3),
    {'operator': 'entmax', 'alpha': 1.3},
  ),
  'entmax(2.5)': (
    functools.partial(entmax.EntmaxBisectLoss, alpha=2.5),
    {'operator': 'entmax', 'alpha': 2.5},
  ),
}


@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('name', LOSSES)
def test_losses(name, seed):
  loss, options = LOSSES[name]
  scores = normal(4, 10, seed=seed)
  labels = np.random.default_rng(seed).integers(0, 10, 4)
  given = tensor(scores, requires_grad=True)
  expected = loss(reduction='none')(given, tensor(labels))
  expected.sum().backward()

  def ours(scores):
    targets = jax.nn.one_hot(labels, 10)
    return losses.fenchel_young(scores, targets, **options)

  found = ours(jnp.asarray(scores))
  assert (found >= 0).all()
  np.testing.assert_allclose(found, expected.detach().numpy(), atol=1e-4)
  slope = jax.grad(lambda x: ours(x).sum())(jnp.asarray(scores))
  np.testing.assert_allclose(slope, given.grad.numpy(), atol=1e-4)
