import numpy as np
import pytest
from scipy import stats

from rag_jax import certificate

ALPHA, DELTA, RESPLITS = 0.05, 0.05, 2000


def draw(rng, count, chance):
  """Scores from 0 to 1, and right answers with P(right) = chance(score)."""
  scores = rng.random(count)
  return scores, rng.random(count) < chance(scores)


def risk(chance, threshold):
  """The share of wrong answers above a threshold, in the population."""
  return 1 - chance(np.linspace(threshold, 1, 501)).mean()


def flat(scores):
  """Every threshold has slightly more than ALPHA wrong answers."""
  return np.full_like(scores, 1 - ALPHA - 1e-4)


def rising(scores):
  return 0.86 + 0.14 * scores


def best_of_all(ordering, testing):
  """A wrong way: the lowest of 60 thresholds that pass, without correction."""
  scores, right = testing
  thresholds = np.quantile(ordering[0], np.linspace(1, 0, 60), method='lower')
  answered = scores >= thresholds[:, None]
  count, wrong = answered.sum(1), (answered & ~right).sum(1)
  passed = thresholds[stats.binom.cdf(wrong, count, ALPHA) <= DELTA]
  return passed.min() if passed.size else None


def violations(choose, chance):
  """Share of resplits in which more than ALPHA of the answers are wrong."""
  bad = 0
  for seed in range(RESPLITS):
    rng = np.random.default_rng(seed)
    threshold = choose(draw(rng, 300, chance), draw(rng, 300, chance))
    bad += threshold is not None and risk(chance, threshold) > ALPHA
  return bad / RESPLITS


def certified(ordering, testing):
  found = certificate.certify(ordering, testing, alpha=ALPHA, delta=DELTA)
  return found.accepted and found.accepted.threshold


LIMIT = DELTA + 2.6 * np.sqrt(DELTA * (1 - DELTA) / RESPLITS)


@pytest.mark.parametrize('chance', [flat, rising])
def test_the_bound_fails_in_at_most_delta_of_all_draws(chance):
  assert violations(certified, chance) <= LIMIT


def test_a_choice_without_correction_fails_more_often():
  assert violations(best_of_all, flat) > LIMIT


def test_the_sequence_stops_at_the_first_failure():
  # The order: scores 0.9, 0.8, ..., of which the lowest three are wrong.
  scores = np.repeat(np.arange(1, 11) / 10, 60)
  right = scores > 0.35
  found = certificate.certify(
    (scores, right), (scores, right), alpha=0.1, delta=0.05
  )
  assert found.accepted.threshold == pytest.approx(0.4)
  *passed, last = found.tests
  assert all(test.p <= 0.05 for test in passed) and last.p > 0.05
  assert (last.answered, last.wrong) == (480, 60)
  assert last.p == pytest.approx(stats.binom.cdf(60, 480, 0.1))
  assert found.covers(0.4) and not found.covers(0.39)
  values = found.to_dict(split='held out')
  assert values['share_answered'] == pytest.approx(0.7)
  assert (values['answered'], values['wrong'], values['questions']) == (
    420,
    0,
    600,
  )
  assert "'held out'" in values['assumes']
  assert 'at most 10% are wrong' in found.show()


def test_it_starts_where_the_ordering_half_is_surest():
  """Few answers at the top prove nothing; the start is a lower threshold."""
  scores = np.linspace(0, 1, 200)
  right = np.ones(200, bool)
  found = certificate.certify(
    (scores, right), (scores, right), alpha=0.05, delta=0.05
  )
  assert found.tests[0].answered == 200
  assert found.accepted is found.tests[0]


def test_nothing_is_promised_if_too_many_are_wrong_or_too_few_are_known():
  rng = np.random.default_rng(0)
  wrong = draw(rng, 300, lambda s: np.full_like(s, 0.5))
  for pair in (wrong, (np.ones(5), np.ones(5, bool)), (np.ones(0), np.ones(0))):
    found = certificate.certify(pair, pair, alpha=0.05, delta=0.05)
    assert found.accepted is None and not found.covers(1.0)
    assert not found.to_dict()['promises']
    assert 'nothing can be promised at alpha 0.05' in found.show()


@pytest.mark.parametrize('level', [{'alpha': 0.0}, {'delta': 1.0}])
def test_levels_are_between_0_and_1(level):
  pair = np.ones(3), np.ones(3, bool)
  with pytest.raises(ValueError, match='must be between 0 and 1, got .*Set'):
    certificate.certify(pair, pair, **{'alpha': 0.1, 'delta': 0.1} | level)
