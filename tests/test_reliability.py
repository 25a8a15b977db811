import numpy as np
import pytest

from rag_jax import reliability
from rag_jax.ops import answer_metrics


def brute_force(scores, right):
  """AUROC by all pairs."""
  pairs = scores[right][:, None] - scores[~right]
  return ((pairs > 0) + (pairs == 0) / 2).mean()


@pytest.mark.parametrize('count', [2, 7, 60])
def test_auroc_is_the_share_of_pairs_in_order(count):
  rng = np.random.default_rng(count)
  scores = rng.integers(0, 6, count) / 5  # with ties
  right = rng.random(count) < 0.5
  right[:2] = True, False
  found = answer_metrics.auroc(scores, right)
  assert found == pytest.approx(brute_force(scores, right), abs=1e-6)
  where = rng.random(count) < 0.7
  where[:2] = True
  found = answer_metrics.auroc(scores, right, where=where)
  expected = brute_force(scores[where], right[where])
  assert found == pytest.approx(expected, abs=1e-6)


def test_auroc_needs_both_classes_and_real_scores():
  ones = np.ones(3)
  assert np.isnan(answer_metrics.auroc(ones, ones > 0))
  assert np.isnan(answer_metrics.auroc(ones, ones < 0))
  scores = np.array([1.0, np.nan, 0.0])
  right = np.array([True, True, False])
  assert np.isnan(answer_metrics.auroc(scores, right))
  assert answer_metrics.auroc(scores, right, where=~np.isnan(scores)) == 1


def test_measures_of_answers_by_hand():
  """1030 answers, so that two padded lengths are used."""
  rng = np.random.default_rng(0)
  scores = rng.random(1030)
  right = rng.random(1030) < scores
  found = reliability.of_answers(scores, right)
  assert list(found) == list(reliability.MEASURES)
  surest = right[np.argsort(-scores)]
  value = {name: values[0] for name, values in found.items()}
  assert value['Brier'] == pytest.approx(((scores - right) ** 2).mean())
  assert value['AUROC'] == pytest.approx(brute_force(scores, right))
  for share in reliability.COVERAGES:
    count = int(np.ceil(1030 * share / 100))
    expected = surest[:count].mean()
    assert value[f'EM@{share}%'] == pytest.approx(expected, abs=1e-6)
  risks = 1 - np.cumsum(surest) / np.arange(1, 1031)
  assert value['AURC'] == pytest.approx(risks.mean(), abs=1e-5)
  assert value['ECE'] == pytest.approx(
    float(answer_metrics.expected_calibration_error(scores, right)), abs=1e-6
  )
  rows = reliability.results('dev', 'answers', found, 1030)
  assert [row.metric for row in rows] == list(reliability.MEASURES)
  for row in rows:
    assert row.low < row.value < row.high or row.metric == 'ECE'
    assert row.high - row.low < 0.1


def test_undefined_measures_have_no_row():
  found = reliability.of_answers(np.array([0.5, 0.7]), np.ones(2, bool))
  names = [r.metric for r in reliability.results('dev', 'answers', found, 2)]
  assert 'AUROC' not in names and 'ECE' in names


def test_document_weights_are_compared_with_gold():
  weights = np.array([[0.75, 0.25, 0.0]] * 4)
  is_gold = np.array([[True, False, True]] * 4)
  # 0.75 is always right, 0.25 never; a weight of 0 claims nothing.
  found = reliability.of_documents(weights, is_gold)
  assert found[0] == pytest.approx(0.25)
