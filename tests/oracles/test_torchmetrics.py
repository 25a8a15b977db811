"""Examples of torchmetrics, and random lists, for measures that both have."""

import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax.ops import answer_metrics, metrics, text_metrics

REASON = "{} is not installed: pip install '.[oracles]'"
torch = pytest.importorskip('torch', reason=REASON.format('PyTorch'))
torchmetrics = pytest.importorskip(
  'torchmetrics', reason=REASON.format('torchmetrics')
)
theirs = torchmetrics.functional

MEASURES = {
  'hit_rate': metrics.hits,
  'precision': metrics.precision,
  'recall': metrics.recall,
  'reciprocal_rank': metrics.reciprocal_rank,
  'average_precision': metrics.average_precision,
  'normalized_dcg': metrics.ndcg,
  'r_precision': metrics.r_precision,
}


def compare(name, scores, target, k):
  function = getattr(theirs.retrieval, f'retrieval_{name}')
  options, own = {'top_k': k}, {'k': k}
  if name == 'r_precision':
    options = own = {}
  expected = function(
    torch.tensor(scores, dtype=torch.float32), torch.tensor(target), **options
  )
  found = MEASURES[name](
    jnp.asarray(scores, jnp.float32), jnp.asarray(target), **own
  )
  assert float(found) == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize('name', MEASURES)
@pytest.mark.parametrize(
  'scores, target, k',
  [
    ([0.2, 0.3, 0.5], [True, False, True], 3),
    ([0.2, 0.3, 0.5], [False, True, False], 3),
    ([0.2, 0.3, 0.5], [False, False, False], 2),
    ([0.2, 0.3, 0.5], [True, False, True], 5),
  ],
)
def test_examples(name, scores, target, k):
  compare(name, scores, target, k)


def random_list(seed):
  rng = np.random.default_rng(seed)
  return rng.random(20), rng.random(20) < 0.3


@pytest.mark.parametrize('seed', range(4))
@pytest.mark.parametrize('name', MEASURES)
def test_random_lists(name, seed):
  k = 20 if name == 'average_precision' else 5
  compare(name, *random_list(seed), k)


@pytest.mark.xfail(
  strict=True, reason='all relevant documents count in the mean (trec_eval)'
)
@pytest.mark.parametrize('seed', [0, 1, 3])
def test_average_precision_of_a_cut_list(seed):
  compare('average_precision', *random_list(seed), 5)


@pytest.mark.parametrize('k', [2, 5, 9])
@pytest.mark.parametrize('seed', range(3))
def test_graded_gains_and_ties(seed, k):
  rng = np.random.default_rng(seed)
  scores, grades = rng.integers(0, 4, 9) / 4.0, rng.integers(0, 4, 9)
  compare('normalized_dcg', scores, grades, k)


SCORED = pytest.mark.xfail(
  strict=True, reason='torchmetrics drops documents with a score of 0 or less'
)


@pytest.mark.parametrize(
  'name',
  [
    'hit_rate',
    'normalized_dcg',
    'r_precision',
    *(
      pytest.param(name, marks=SCORED)
      for name in (
        'precision',
        'recall',
        'reciprocal_rank',
        'average_precision',
      )
    ),
  ],
)
def test_scores_below_zero(name):
  compare(name, [-1.0, -2.0, -3.0], [True, False, True], 3)


@pytest.mark.parametrize('bins', [1, 5, 15])
def test_calibration_error(bins):
  rng = np.random.default_rng(bins)
  confidence = rng.random(200).astype(np.float32)
  correct = rng.random(200) < confidence
  # Over two classes, which both packages count by the more probable one.
  sure = np.maximum(confidence, 1 - confidence)
  right = np.where(confidence > 0.5, correct, ~correct)
  logits = np.stack([1 - confidence, confidence], axis=1)
  expected = theirs.classification.multiclass_calibration_error(
    torch.tensor(logits),
    torch.tensor(correct.astype(int)),
    num_classes=2,
    n_bins=bins,
    norm='l1',
  )
  found = answer_metrics.expected_calibration_error(sure, right, bins=bins)
  assert float(found) == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize(
  'prediction, answers',
  [
    ('1976', ['1976']),
    ('The Beatles!', ['beatles', 'The Stones']),
    ('New York City', ['New York', 'Boston']),
    ('', ['Rome']),
    ('cat cat', ['cat']),
    ('the', ['a']),
  ],
)
def test_squad(prediction, answers):
  found = theirs.text.squad(
    [{'prediction_text': prediction, 'id': 'q'}],
    [
      {
        'answers': {'answer_start': [0] * len(answers), 'text': answers},
        'id': 'q',
      }
    ],
  )
  own = text_metrics.exact_match(prediction, answers)
  assert 100 * own == float(found['exact_match'])
  own = text_metrics.f1(prediction, answers)
  assert 100 * own == pytest.approx(float(found['f1']), abs=1e-4)
