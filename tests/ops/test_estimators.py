"""Estimators against enumeration: their mean, value and gradient."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax.ops import estimators

SCORES = jnp.array([1.0, 0.2, -0.4, 0.7, -1.5])
COSTS = jnp.array([0.3, 2.0, -1.0, 0.5, 4.0])
DRAWS = 40_000


def moments(estimate, *, draws=DRAWS):
  """Mean and standard error of value and gradient over many keys."""
  keys = jax.random.split(jax.random.key(0), draws)
  grad = jax.value_and_grad(estimate, argnums=1)
  values, slopes = jax.jit(jax.vmap(grad, in_axes=(0, None)))(keys, SCORES)
  both = np.concatenate([np.asarray(values)[:, None], slopes], axis=1)
  return both.mean(0), both.std(0) / draws**0.5, both.std(0)


def exact():
  value, slope = jax.value_and_grad(estimators.enumerate_all)(SCORES, COSTS)
  return np.concatenate([[float(value)], np.asarray(slope)])


UNBIASED = {
  'leave_one_out': lambda rng, z: estimators.leave_one_out(
    rng, z, COSTS, num_samples=3
  ),
  'leave_one_out_set 2': lambda rng, z: estimators.leave_one_out_set(
    rng, z, COSTS, k=2
  ),
  'leave_one_out_set 3': lambda rng, z: estimators.leave_one_out_set(
    rng, z, COSTS, k=3
  ),
}


@pytest.mark.parametrize('name', UNBIASED)
def test_an_unbiased_estimator_has_the_true_mean(name):
  mean, error, _ = moments(UNBIASED[name])
  assert (np.abs(mean - exact()) < 4.5 * error + 1e-4).all()


def test_distinct_draws_vary_less_than_repeated_ones():
  _, _, repeated = moments(UNBIASED['leave_one_out'], draws=5000)
  _, _, distinct = moments(UNBIASED['leave_one_out_set 3'], draws=5000)
  assert (distinct[1:] ** 2).sum() < 0.7 * (repeated[1:] ** 2).sum()


def test_the_baseline_lowers_the_variance():
  def without(rng, z):
    draw = jax.random.categorical(rng, z, shape=(3,))
    log_p = jax.nn.log_softmax(z)[draw]
    return (costs[draw] * log_p).mean()

  def with_baseline(rng, z):
    return estimators.leave_one_out(rng, z, costs, num_samples=3)

  costs = COSTS + 5.0
  _, _, plain = moments(without, draws=5000)
  _, _, better = moments(with_baseline, draws=5000)
  assert (better[1:] ** 2).sum() < 0.2 * (plain[1:] ** 2).sum()


@pytest.mark.parametrize('k', [1, 2, 3])
def test_set_chances_sum_to_one_over_all_sets(k):
  p = np.asarray(jax.nn.softmax(SCORES))
  total = 0.0
  for chosen in itertools.combinations(range(5), k):
    rest = p.sum() - p[list(chosen)].sum()
    total += float(
      estimators.set_chance(jnp.asarray(p[list(chosen)]), jnp.asarray(rest))
    )
  assert total == pytest.approx(1, abs=1e-5)


def test_rescoring_everything_is_exact_and_less_is_the_beam():
  whole = jax.grad(functools.partial(estimators.rescore, k=5))(SCORES, COSTS)
  np.testing.assert_allclose(whole, exact()[1:], atol=1e-6)
  part = jax.grad(functools.partial(estimators.rescore, k=2))(SCORES, COSTS)
  best = jnp.array([0, 3])
  alone = jax.grad(estimators.enumerate_all)(SCORES[best], COSTS[best])
  np.testing.assert_allclose(part[best], alone, atol=1e-6)
  assert float(jnp.abs(part).sum()) == pytest.approx(
    float(jnp.abs(alone).sum()), abs=1e-6
  )


def test_straight_through_draws_with_the_right_chances_and_is_biased():
  def estimate(rng, z):
    return estimators.straight_through(rng, z, COSTS, temperature=0.5)

  mean, error, _ = moments(estimate)
  assert abs(mean[0] - exact()[0]) < 4.5 * error[0]
  assert np.isfinite(mean).all()


def test_expected_utility_over_everything_is_exact():
  estimate = functools.partial(estimators.expected_utility, k=5)
  value = estimate(jax.random.key(0), SCORES, COSTS)
  assert float(value) == pytest.approx(-exact()[0], abs=1e-6)


@pytest.mark.parametrize(
  'estimate',
  [
    *UNBIASED.values(),
    lambda rng, z: estimators.straight_through(rng, z, COSTS),
    lambda rng, z: estimators.expected_utility(rng, z, COSTS, k=3),
  ],
)
def test_jit_gives_the_same(estimate):
  key = jax.random.key(1)
  np.testing.assert_allclose(
    jax.jit(jax.grad(estimate, argnums=1))(key, SCORES),
    jax.grad(estimate, argnums=1)(key, SCORES),
    atol=1e-5,
  )


class TestMasks:
  WHERE = jnp.array([True, False, True, True, False])

  @pytest.mark.parametrize('name', ['leave_one_out', 'leave_one_out_set'])
  def test_a_masked_document_is_never_drawn(self, name):
    options = {'num_samples': 2} if name == 'leave_one_out' else {'k': 2}
    estimate = functools.partial(getattr(estimators, name), **options)
    dirty = jnp.where(self.WHERE, SCORES, jnp.nan)
    costs = jnp.where(self.WHERE, COSTS, jnp.inf)
    keys = jax.random.split(jax.random.key(0), 200)

    def run(key, z):
      return estimate(key, z, costs, where=self.WHERE)

    slopes = jax.vmap(jax.grad(run, argnums=1), (0, None))(keys, dirty)
    assert np.isfinite(slopes).all()
    assert (np.asarray(slopes)[:, ~np.asarray(self.WHERE)] == 0).all()

  def test_leading_dimensions_are_rows(self):
    key = jax.random.key(0)
    z = jnp.stack([SCORES, SCORES[::-1]])
    costs = jnp.stack([COSTS, COSTS[::-1]])
    for value in (
      estimators.leave_one_out(key, z, costs, num_samples=2),
      estimators.leave_one_out_set(key, z, costs, k=3),
      estimators.straight_through(key, z, costs),
      estimators.expected_utility(key, z, costs, k=2),
      estimators.rescore(z, costs, k=2),
    ):
      assert value.shape == (2,)
      assert np.isfinite(value).all()


@pytest.mark.parametrize(
  'call, words',
  [
    (
      lambda: estimators.leave_one_out(
        jax.random.key(0), SCORES, COSTS, num_samples=1
      ),
      'num_samples must be at least 2, got 1',
    ),
    (
      lambda: estimators.leave_one_out_set(
        jax.random.key(0), SCORES, COSTS, k=5
      ),
      r'less than the number of scores \(5\), got 5',
    ),
  ],
)
def test_bad_input_is_one_clear_error(call, words):
  with pytest.raises(ValueError, match=words):
    call()
