import dataclasses

import numpy as np
import pytest
from scipy import special

from rag_jax import calibration, confidence, types

COUNT = len(confidence.FEATURES)


@pytest.fixture(scope='module')
def data():
  """Features and right answers with known log-odds."""
  rng = np.random.default_rng(0)
  features = rng.normal(size=(3000, COUNT)) * 3 + 1
  features[:, 2] = 7.0  # constant
  odds = 0.5 + features[:, 0] - 0.5 * features[:, 1]
  return features, rng.random(3000) < special.expit(odds), odds


@pytest.fixture(scope='module')
def fitted(data):
  features, right, odds = data
  scores = np.random.default_rng(1).normal(size=(3000, 4))
  return calibration.fit(
    confidence.FEATURES,
    features,
    right,
    chance=special.expit(2 * odds),
    scores=scores,
    is_gold=np.arange(4) == scores.argmax(1)[:, None],
    split='held out',
    known=frozenset({'größe', 'cat'}),
  )


def test_the_regression_is_at_its_minimum_and_finds_the_log_odds(data):
  features, right, odds = data
  model = calibration.fit_logistic(features, right)
  z = (features - model.center) / model.scale
  residual = model(features) - right
  gradient = z.T @ residual + calibration.L2 * model.weights
  np.testing.assert_allclose(gradient, 0, atol=0.2)  # of 3000 summands
  assert residual.sum() == pytest.approx(0, abs=0.2)
  assert model.weights[2] == 0
  found = special.logit(model(features))
  assert np.abs(found - odds).mean() < 0.25


def test_a_word_of_any_document_of_the_answer_is_not_new():
  gold, lead = (
    types.Document(id=name, text=f'{name} is a metal.')
    for name in ('Gold', 'Lead')
  )
  found = confidence.complete(
    np.zeros((3, COUNT - 1)),
    ['Which is heavier, Gold or Lead?'] * 3,
    [(gold, lead), (lead,), ()],
    known={'which', 'heavier'},
    language='english',
  )
  assert found[:, -1].tolist() == [0, 1, 2]


def test_values_outside_the_data_are_cut(data):
  features, right, _ = data
  model = calibration.fit_logistic(features, right)
  inside, outside = features[:1].copy(), features[:1].copy()
  inside[0, 0], outside[0, 0] = features[:, 0].max(), 1e6
  assert model(inside) == model(outside)
  outside[0, 2] = -1e6  # a constant feature never counts
  assert model(inside) == model(outside)


def test_a_question_of_another_length_has_score_0(data):
  features, right, _ = data
  model = calibration.fit_logistic(features, right)
  place = confidence.FEATURES.index('length')
  rows = features[:3].copy()
  rows[1, place] = features[:, place].min() - 1
  rows[2, place] = features[:, place].max() + 1
  scores = model(rows)
  assert scores[0] > 0 and scores[1] == scores[2] == 0
  assert model(rows[1]) == 0 and model(rows[0]) == scores[0]


def test_scores_of_the_fitting_half_are_of_models_without_the_question(data):
  features, right, _ = data
  features, right = features[:100], right[:100]
  scores = calibration.cross_fit(features, right)
  order = np.random.default_rng(calibration.SEED + 1).permutation(100)
  fold = order[1 :: calibration.FOLDS]
  others = np.setdiff1d(np.arange(100), fold)
  model = calibration.fit_logistic(features[others], right[others])
  np.testing.assert_allclose(scores[fold], model(features[fold]), atol=1e-4)


def test_the_testing_half_is_not_fitted(data, fitted):
  features, right, _ = data
  first, second = calibration.halves(3000)
  assert not set(first) & set(second) and len(first) == len(second) == 1500
  model = calibration.fit_logistic(features[first], right[first])
  np.testing.assert_allclose(model.weights, fitted.logistic.weights)
  np.testing.assert_allclose(fitted.testing[0], model(features[second]))
  np.testing.assert_array_equal(fitted.testing[1], right[second])
  np.testing.assert_array_equal(fitted.ordering[1], right[first])


def test_temperatures_minimise_the_cross_entropy(data, fitted):
  """Log-odds that are twice too large need T = 2; certain scores a small T."""
  assert fitted.answer_temperature == pytest.approx(2, rel=0.15)
  chance = calibration.scaled(np.array([0.9, 0.5]), 2.0)
  np.testing.assert_allclose(chance, [0.75, 0.5])
  assert fitted.document_temperature < 0.1  # the largest score is always gold
  scores = np.array([[1.0, 0.0]] * 4)
  is_gold = np.array([[True, False]] * 3 + [[False, True]])
  found = calibration.document_temperature(scores, is_gold)
  assert special.expit(1 / found) == pytest.approx(0.75, abs=1e-3)
  nothing = calibration.document_temperature(scores, np.zeros((4, 2), bool))
  assert nothing == 1.0


def test_answers_are_withheld_below_the_threshold_or_without_certificate(
  data, fitted
):
  features, right, _ = data
  config = calibration.CalibrationConfig(threshold=0.5)
  scores = fitted.logistic(features[:200])
  trusts = [calibration.trust(fitted, score, config) for score in scores]
  assert [t.score for t in trusts] == scores.tolist()
  assert [t.withheld for t in trusts] == (scores < 0.5).tolist()
  accepted = calibration.certificate(fitted, config).accepted
  assert 0.5 < accepted.threshold < 1
  assert [t.certified for t in trusts] == (
    scores >= accepted.threshold
  ).tolist()
  strict = dataclasses.replace(config, certified=True)
  for trust, score in zip(trusts, scores, strict=True):
    assert calibration.trust(fitted, score, strict).withheld == (
      not trust.certified
    )
  assert not calibration.trust(fitted, None, strict).withheld
  assert not calibration.trust(None, 0.1, strict).withheld
  lax = dataclasses.replace(config, alpha=0.3)
  assert (
    calibration.certificate(fitted, lax).accepted.threshold < accepted.threshold
  )


def test_a_saved_calibrator_is_the_same(fitted, data, tmp_path):
  calibration.save(fitted, tmp_path)
  loaded = calibration.load(tmp_path / calibration.NAME)
  assert loaded.to_json() == fitted.to_json()
  assert loaded.known == {'größe', 'cat'}
  np.testing.assert_array_equal(
    loaded.logistic(data[0]), fitted.logistic(data[0])
  )
  config = calibration.CalibrationConfig()
  assert calibration.certificate(loaded, config) == calibration.certificate(
    fitted, config
  )
  (tmp_path / calibration.NAME).write_text('{"features": ["answer"]}')
  with pytest.raises(ValueError, match='damaged.*another version.*Delete it'):
    calibration.load(tmp_path / calibration.NAME)


def test_too_few_or_equal_answers_give_no_calibrator(data):
  features, right, _ = data

  def fit(rows, right):
    return calibration.fit(
      confidence.FEATURES,
      features[rows],
      right[rows],
      chance=np.full(len(rows), 0.5),
      scores=np.zeros((len(rows), 2)),
      is_gold=np.zeros((len(rows), 2), bool),
      split='held out',
    )

  few, some = np.arange(calibration.LEAST - 1), np.arange(200)
  assert fit(few, right) is None
  assert fit(some, np.ones(200, bool)) is None
  assert fit(some, np.zeros(200, bool)) is None
  assert fit(some, right) is not None


@pytest.mark.parametrize(
  'field', [{'threshold': 1.5}, {'alpha': 0.0}, {'delta': 1.0}]
)
def test_bad_values_name_field_and_remedy(field):
  [name] = field
  with pytest.raises(ValueError, match=rf'calibration\.{name} must.*Set --con'):
    calibration.CalibrationConfig(**field)
