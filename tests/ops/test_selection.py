"""One contract for every operator, and each against a second way."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import optimize

from rag_jax import ops
from rag_jax.ops import selection

KEY = jax.random.key(7)


@dataclasses.dataclass
class Case:
  """An operator, what its weights sum to, and whether it has a gradient."""

  apply: Callable
  k: int = 1
  smooth: bool = True
  random: bool = False

  def __call__(self, scores, **options):
    k = {'k': min(self.k, scores.shape[options.get('axis', -1)])}
    return self.apply(scores, **(k if self.k > 1 else {}), **options)


CASES = {
  'softmax': Case(ops.softmax),
  'sparsemax': Case(ops.sparsemax),
  'entmax15': Case(ops.entmax15),
  'entmax(1.2)': Case(functools.partial(ops.entmax, alpha=1.2)),
  'entmax(3)': Case(functools.partial(ops.entmax, alpha=3.0)),
  'entmax(array)': Case(
    lambda z, **o: ops.entmax(z, alpha=jnp.float32(1.7), **o)
  ),
  'capped_simplex': Case(ops.capped_simplex, k=3),
  'relaxed_top_k': Case(ops.relaxed_top_k, k=3),
  'top_k': Case(ops.top_k, k=3, smooth=False),
  'gumbel_top_k': Case(
    functools.partial(ops.gumbel_top_k, KEY), k=3, smooth=False, random=True
  ),
  'perturbed_top_k': Case(
    functools.partial(ops.perturbed_top_k, KEY, num_samples=4),
    k=3,
    smooth=False,
    random=True,
  ),
}


@pytest.fixture(params=CASES)
def case(request):
  return CASES[request.param]


def draw(*shape, seed=0, scale=2.0):
  values = np.random.default_rng(seed).normal(size=shape) * scale
  return jnp.asarray(values, jnp.float32)


class TestContract:
  def test_weights_are_positive_and_sum_up(self, case):
    weights = case(draw(5, 7))
    assert (weights >= 0).all()
    if case.apply is not ops.relaxed_top_k:  # may take a slot twice over
      assert (weights <= 1 + 1e-5).all()
    np.testing.assert_allclose(weights.sum(-1), case.k, atol=1e-5)

  @pytest.mark.parametrize('junk', [0.0, 1e30, np.inf, -np.inf, np.nan])
  def test_masked_slots_get_nothing_whatever_they_hold(self, case, junk):
    where = jnp.array([True, True, False, True, False, True])
    clean = draw(3, 6)
    dirty = jnp.where(where, clean, junk)
    weights, pull = jax.vjp(lambda z: case(z, where=where), dirty)
    (gradient,) = pull(draw(3, 6, seed=1))
    assert (weights[:, ~np.asarray(where)] == 0).all()
    assert (gradient[:, ~np.asarray(where)] == 0).all()
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(
      weights, case(jnp.where(where, clean, 0), where=where)
    )
    if not case.random:
      kept = case(clean[:, np.asarray(where)])
      np.testing.assert_allclose(weights[:, np.asarray(where)], kept, atol=1e-5)

  def test_nothing_real_gives_nothing(self, case):
    where = jnp.zeros((2, 4), bool)
    weights, pull = jax.vjp(lambda z: case(z, where=where), draw(2, 4))
    assert (weights == 0).all()
    assert (pull(jnp.ones((2, 4)))[0] == 0).all()

  def test_one_masked_row_leaves_the_other_alone(self, case):
    where = jnp.array([[True] * 6, [False] * 6])
    weights = case(draw(2, 6), where=where)
    np.testing.assert_allclose(weights.sum(-1), [case.k, 0], atol=1e-5)

  def test_one_real_slot_takes_all(self, case):
    weights = case(draw(3, 4), where=jnp.arange(4) == 2)
    np.testing.assert_allclose(weights[:, 2], 1, atol=1e-6)
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)

  def test_a_single_score(self, case):
    weights, pull = jax.vjp(case, draw(3, 1))
    np.testing.assert_allclose(weights, 1, atol=1e-6)
    np.testing.assert_allclose(pull(jnp.ones((3, 1)))[0], 0, atol=1e-5)

  def test_adding_a_constant_changes_nothing(self, case):
    z = jnp.round(draw(4, 6) * 4) / 4  # exact at 1e6
    for offset in (1e6, -1e6):
      np.testing.assert_allclose(case(z + offset), case(z), atol=1e-5)

  def test_many_scores_and_ties(self, case):
    weights = case(jnp.zeros(8192))
    np.testing.assert_allclose(weights.sum(), case.k, rtol=1e-5)
    weights = case(draw(8192))
    np.testing.assert_allclose(weights.sum(), case.k, atol=1e-5)
    if case.smooth:
      weights = case(jnp.array([3.0, 3.0, 3.0, 3.0, -9.0]))
      np.testing.assert_allclose(weights[:4], case.k / 4, atol=1e-5)

  @pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16, jnp.float32])
  def test_the_dtype_is_kept(self, case, dtype):
    z = draw(2, 5).astype(dtype)
    weights = case(z)
    assert weights.dtype == dtype
    exact = case(z.astype(jnp.float32))
    if not case.random:  # the noise depends on nothing but the shape, though
      np.testing.assert_allclose(weights, exact, atol=0.01)
    gradient = jax.grad(lambda z: (case(z) * draw(5)).sum().astype(jnp.float32))
    assert gradient(z).dtype == dtype

  @pytest.mark.parametrize('axis', [0, 1, -1])
  def test_any_axis_and_jit(self, case, axis):
    z = draw(4, 5, 6)
    weights = case(z, axis=axis)
    assert weights.shape == z.shape
    moved = case(jnp.moveaxis(z, axis, -1))
    np.testing.assert_allclose(
      weights, jnp.moveaxis(moved, -1, axis), atol=1e-6
    )
    jitted = jax.jit(lambda z: case(z, axis=axis))(z)
    np.testing.assert_allclose(weights, jitted, atol=1e-6)

  def test_vmap_is_a_batch(self, case):
    z = draw(4, 5, 6)
    mapped = jax.vmap(case)(z)
    np.testing.assert_allclose(mapped.sum(-1), case.k, atol=1e-5)
    if not case.random:
      np.testing.assert_allclose(mapped, case(z), atol=1e-6)

  def test_gradients_are_finite_and_modes_agree(self, case):
    z, tangent, cotangent = draw(3, 6), draw(3, 6, seed=1), draw(3, 6, seed=2)
    _, forward = jax.jvp(case, (z,), (tangent,))
    _, pull = jax.vjp(case, z)
    assert np.isfinite(forward).all()
    np.testing.assert_allclose(
      (forward * cotangent).sum(),
      (pull(cotangent)[0] * tangent).sum(),
      atol=1e-3,
    )

  def test_gradient_matches_finite_differences(self, case):
    if not case.smooth:
      pytest.skip('piecewise constant, or a random estimate')
    with jax.enable_x64(True):
      z = jnp.asarray(np.random.default_rng(2).normal(size=9))
      direction = jnp.asarray(np.random.default_rng(3).normal(size=9))
      _, tangent = jax.jvp(case, (z,), (direction,))
      step = 1e-5
      difference = case(z + step * direction) - case(z - step * direction)
      np.testing.assert_allclose(tangent, difference / (2 * step), atol=1e-4)


def solve(z, *, total, cap):
  """The closest point with weights in [0, cap] and this sum, by SLSQP."""
  solved = optimize.minimize(
    lambda p: ((p - z) ** 2).sum(),
    np.full(len(z), total / len(z)),
    jac=lambda p: 2 * (p - z),
    bounds=[(0, cap)] * len(z),
    constraints={'type': 'eq', 'fun': lambda p: p.sum() - total},
    method='SLSQP',
    options={'ftol': 1e-15, 'maxiter': 500},
  )
  return solved.x


@pytest.mark.parametrize('seed', range(5))
class TestOracles:
  def test_sparsemax_is_the_projection_onto_the_simplex(self, seed):
    with jax.enable_x64(True):
      z = np.random.default_rng(seed).normal(size=200) * 2
      ours = ops.sparsemax(jnp.asarray(z))
      theirs = optax.projections.projection_simplex(jnp.asarray(z))
      np.testing.assert_allclose(ours, theirs, atol=1e-12)
      small = ops.sparsemax(jnp.asarray(z[:6]))
      np.testing.assert_allclose(small, solve(z[:6], total=1, cap=1), atol=1e-6)

  def test_budget_is_the_projection_onto_the_capped_simplex(self, seed):
    with jax.enable_x64(True):
      z = np.random.default_rng(seed).normal(size=6)
      ours = ops.capped_simplex(jnp.asarray(z), k=3)
      np.testing.assert_allclose(ours, solve(z, total=3, cap=1), atol=1e-6)

  @pytest.mark.parametrize('alpha', [1.0, 1.2, 1.5, 2.0, 3.0])
  def test_entmax_solves_its_optimality_condition(self, seed, alpha):
    with jax.enable_x64(True):
      z = np.random.default_rng(seed).normal(size=20)
      p = np.asarray(ops.entmax(jnp.asarray(z), alpha=alpha))
      inside = p > 0
      if alpha == 1:
        level = z - np.log(p)
      else:
        level = (alpha - 1) * z - p ** (alpha - 1)
      tau = level[inside].mean()
      np.testing.assert_allclose(level[inside], tau, atol=1e-6)
      if alpha > 1:
        assert ((alpha - 1) * z[~inside] <= tau + 1e-6).all()

  @pytest.mark.parametrize('alpha', [1.2, 1.5, 1.9, 2.5])
  def test_gradient_in_alpha_against_finite_differences(self, seed, alpha):
    with jax.enable_x64(True):
      z = jnp.asarray(np.random.default_rng(seed).normal(size=8))
      weights = jnp.asarray(np.random.default_rng(9).normal(size=8))

      def value(alpha):
        return (ops.entmax(z, alpha=alpha) * weights).sum()

      slope = jax.grad(value)(jnp.asarray(alpha))
      step = 1e-6
      high, low = (
        value(jnp.asarray(alpha + step)),
        value(jnp.asarray(alpha - step)),
      )
      assert float(slope) == pytest.approx(
        float((high - low) / (2 * step)), abs=1e-4
      )

  @pytest.mark.parametrize('alpha', [1.3, 1.5, 2.0])
  def test_entmax_against_the_pytorch_package(self, seed, alpha):
    torch = pytest.importorskip('torch', reason='PyTorch is not installed')
    entmax = pytest.importorskip('entmax', reason='entmax is not installed')
    theirs_of = {1.5: entmax.entmax15, 2.0: entmax.sparsemax}.get(
      alpha, functools.partial(entmax.entmax_bisect, alpha=alpha, n_iter=60)
    )
    with jax.enable_x64(True):
      z = np.random.default_rng(seed).normal(size=(3, 30))
      cotangent = np.random.default_rng(9).normal(size=(3, 30))
      ours, pull = jax.vjp(
        functools.partial(ops.entmax, alpha=alpha), jnp.asarray(z)
      )
      leaf = torch.tensor(z, requires_grad=True)
      theirs = theirs_of(leaf, dim=-1)
      theirs.backward(torch.tensor(cotangent))
      np.testing.assert_allclose(ours, theirs.detach().numpy(), atol=1e-7)
      np.testing.assert_allclose(
        pull(jnp.asarray(cotangent))[0], leaf.grad.numpy(), atol=1e-6
      )


def test_alpha_of_each_row_by_itself():
  z, alpha = draw(3, 7), jnp.array([[1.2], [1.5], [2.0]])
  together = ops.entmax(z, alpha=alpha)
  for row in range(3):
    alone = ops.entmax(z[row], alpha=float(alpha[row, 0]))
    np.testing.assert_allclose(together[row], alone, atol=1e-5)


@pytest.mark.parametrize(
  'call, words',
  [
    (lambda: ops.sparsemax(jnp.arange(3)), 'floating point, got int32'),
    (
      lambda: ops.sparsemax(jnp.ones(3), where=jnp.ones(2, bool)),
      r'broadcast to scores \(3,\)',
    ),
    (lambda: ops.entmax(jnp.ones(3), alpha=0.5), 'at least 1, got 0.5'),
    (lambda: ops.capped_simplex(jnp.ones(3), k=4), r'1 and .* \(3\), got 4'),
    (lambda: ops.top_k(jnp.ones(3), k=0), r'1 and .* \(3\), got 0'),
    (
      lambda: ops.relaxed_top_k(jnp.ones(3), k=1, temperature=0.0),
      'temperature must be positive, got 0.0',
    ),
    (
      lambda: ops.gumbel_top_k(KEY, jnp.ones(3), k=1, temperature=-1),
      'temperature must be positive, got -1',
    ),
    (
      lambda: ops.perturbed_top_k(KEY, jnp.ones(3), k=1, num_samples=0),
      'num_samples must be at least 1, got 0',
    ),
    (
      lambda: selection.select(jnp.ones(3), operator='hardmax'),
      'softmax, sparsemax.*got .hardmax.',
    ),
  ],
)
def test_bad_input_is_one_clear_error(call, words):
  with pytest.raises(ValueError, match=words) as error:
    call()
  assert '\n' not in str(error.value)
