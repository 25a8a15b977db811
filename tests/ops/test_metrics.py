"""Measures against all orders that ties allow, and against other packages."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax.ops import metrics, text_metrics

DOCUMENTS = jnp.array([[4, 7, 9], [1, 2, 3], [5, 6, 8]])
GOLD = jnp.array([[9, 7], [8, -1], [5, -1]])
REAL = jnp.array([[True, True, True], [True, True, True], [False] * 3])


def test_ranked_lists():
  ranked = metrics.from_ranking(DOCUMENTS, GOLD)
  assert metrics.hits(*ranked, k=1, where=REAL).tolist() == [0, 0, 0]
  assert metrics.hits(*ranked, k=2, where=REAL).tolist() == [1, 0, 0]
  assert metrics.hits(*ranked, k=9).tolist() == [1, 0, 1]
  rank = metrics.reciprocal_rank(*ranked, where=REAL)
  assert rank.tolist() == [0.5, 0, 0]
  assert metrics.reciprocal_rank(*ranked, k=1).tolist() == [0, 0, 1]


def orders(scores):
  """Every order that sorts these scores."""
  groups = []
  for value in sorted(set(scores), reverse=True):
    groups.append([i for i, s in enumerate(scores) if s == value])
  for parts in itertools.product(*map(itertools.permutations, groups)):
    yield [i for part in parts for i in part]


def dcg(gains, k):
  return sum(g / math.log2(i + 2) for i, g in enumerate(gains[:k]))


def by_hand(name, gains, k):
  """A measure of one list of gains, best first."""
  ranks = [i for i, gain in enumerate(gains[:k]) if gain > 0]
  if name == 'hits':
    return float(bool(ranks))
  if name == 'reciprocal_rank':
    return 1 / (ranks[0] + 1) if ranks else 0.0
  if name == 'ndcg':
    best = dcg(sorted(gains, reverse=True), k)
    return dcg(gains, k) / best if best else 0.0
  relevant = sum(g > 0 for g in gains)
  return sum(g > 0 for g in gains[:relevant]) / max(relevant, 1)


@pytest.mark.parametrize('name', ['hits', 'reciprocal_rank', 'ndcg', 'r'])
@pytest.mark.parametrize('seed', range(8))
def test_ties_against_every_order(name, seed):
  rng = np.random.default_rng(seed)
  count = 6
  scores = rng.integers(0, 3, count).astype(float)
  gains = rng.integers(0, 3, count).astype(float)
  where = rng.random(count) < 0.85
  real = np.flatnonzero(where)
  k = int(rng.integers(1, count))
  values = [
    by_hand(name, [gains[real[i]] for i in order], k)
    for order in orders(scores[real])
  ]
  function = {'r': metrics.r_precision}.get(name) or getattr(metrics, name)
  options = {} if name == 'r' else {'k': k}
  for ties, expected in (
    ('expected', np.mean(values)),
    ('optimistic', max(values)),
    ('pessimistic', min(values)),
  ):
    found = jax.jit(
      lambda s, g, w, ties=ties: function(s, g, where=w, ties=ties, **options)
    )(jnp.asarray(scores), jnp.asarray(gains), jnp.asarray(where))
    assert float(found) == pytest.approx(expected, abs=1e-5), ties


def test_relevant_documents_that_were_not_retrieved_count():
  scores, relevance = jnp.array([2.0, 1.0]), jnp.array([True, False])
  ideal = jnp.ones(3)
  best = 1 + 1 / math.log2(3) + 0.5
  assert float(metrics.ndcg(scores, relevance, ideal=ideal)) == pytest.approx(
    1 / best
  )
  count = jnp.int32(3)
  assert float(
    metrics.r_precision(scores, relevance, num_relevant=count)
  ) == pytest.approx(1 / 3)


def test_nothing_relevant_is_zero_and_not_nan():
  scores, none = jnp.ones((2, 4)), jnp.zeros((2, 4), bool)
  for value in (
    metrics.hits(scores, none, k=2),
    metrics.reciprocal_rank(scores, none),
    metrics.ndcg(scores, none),
    metrics.r_precision(scores, none),
  ):
    assert value.tolist() == [0, 0]


def test_retrieval_against_ir_measures():
  ir_measures = pytest.importorskip(
    'ir_measures', reason='ir-measures is not installed'
  )
  rng = np.random.default_rng(0)
  scores, gains = rng.normal(size=(20, 30)), rng.integers(0, 3, (20, 30))
  gains[rng.random((20, 30)) < 0.7] = 0
  gains[:, 0] = 1
  qrels = [
    ir_measures.Qrel(str(q), str(d), int(gains[q, d]))
    for q, d in np.ndindex(gains.shape)
  ]
  run = [
    ir_measures.ScoredDoc(str(q), str(d), float(scores[q, d]))
    for q, d in np.ndindex(scores.shape)
  ]
  theirs = ir_measures.calc_aggregate(
    [
      ir_measures.nDCG @ 10,
      ir_measures.RR @ 10,
      ir_measures.Success @ 5,
      ir_measures.Rprec,
    ],
    qrels,
    run,
  )
  theirs = {str(name): value for name, value in theirs.items()}
  ours = jnp.asarray(scores), jnp.asarray(gains)
  for name, value in (
    ('nDCG@10', metrics.ndcg(*ours, k=10)),
    ('RR@10', metrics.reciprocal_rank(*ours, k=10)),
    ('Success@5', metrics.hits(*ours, k=5)),
    ('Rprec', metrics.r_precision(*ours)),
  ):
    assert float(value.mean()) == pytest.approx(theirs[name], abs=1e-4), name


def test_calibration_error_by_hand():
  confidence = jnp.array([0.95, 0.9, 0.15, 0.1, 0.5])
  correct = jnp.array([True, False, False, False, True])
  where = jnp.array([True, True, True, True, False])
  found = metrics.expected_calibration_error(
    confidence, correct, bins=2, where=where
  )
  # (|1.85 - 1| + |0.25 - 0|) / 4
  assert float(found) == pytest.approx((0.85 + 0.25) / 4, abs=1e-6)


def test_perfectly_calibrated_predictions_have_no_error():
  rng = np.random.default_rng(0)
  confidence = rng.random(100_000)
  correct = rng.random(100_000) < confidence
  found = metrics.expected_calibration_error(
    jnp.asarray(confidence), jnp.asarray(correct)
  )
  assert float(found) < 0.01


def test_risk_coverage_by_hand():
  confidence = jnp.array([0.1, 0.9, 0.5, 0.5])
  correct = jnp.array([False, True, True, False])
  risks, area = metrics.risk_coverage(confidence, correct)
  expected = [0, 0.5 / 2, 1 / 3, 2 / 4]
  np.testing.assert_allclose(risks, expected, atol=1e-6)
  assert float(area) == pytest.approx(np.mean(expected))


def test_unknown_ties_list_what_there_is():
  with pytest.raises(ValueError, match="expected, optimistic.*got 'lucky'"):
    metrics.hits(jnp.ones(3), jnp.ones(3), k=1, ties='lucky')


@pytest.mark.parametrize(
  ('prediction', 'answers', 'exact', 'f1'),
  [
    ('The Beatles.', ['Beatles'], 1, 1),
    ('an apple', ['pear', 'Apple!'], 1, 1),
    ('New York City', ['New York'], 0, 0.8),
    ('1,234', ['1234'], 1, 1),
    ('Paris', ['Rome'], 0, 0),
    ('', ['Rome'], 0, 0),
    ('the', ['a'], 1, 1),
    ('東京', ['東京'], 1, 1),
    ('cat cat', ['cat'], 0, 2 / 3),
  ],
)
def test_answers(prediction, answers, exact, f1):
  assert text_metrics.exact_match(prediction, answers) == exact
  assert text_metrics.f1(prediction, answers) == pytest.approx(f1)


def test_no_answers():
  assert text_metrics.exact_match('x', []) == text_metrics.f1('x', []) == 0


SUMMARIES = (
  ('the cat sat on the mat', 'a cat was on the mat'),
  ('', 'something'),
  ('one', ''),
  ('Paris is the capital of France.', 'The capital of France is Paris!'),
  ('b a b a b', 'a b a b a'),
)


@pytest.mark.parametrize('prediction, reference', SUMMARIES)
@pytest.mark.parametrize('kind', [1, 2, 'L'])
def test_rouge_against_the_package(prediction, reference, kind):
  rouge_scorer = pytest.importorskip(
    'rouge_score.rouge_scorer', reason='rouge-score is not installed'
  )
  theirs = rouge_scorer.RougeScorer([f'rouge{kind}'], use_stemmer=False)
  theirs = theirs.score(reference, prediction)[f'rouge{kind}']
  ours = text_metrics.rouge(prediction, reference, kind=kind)
  assert ours == pytest.approx(
    {
      'precision': theirs.precision,
      'recall': theirs.recall,
      'f1': theirs.fmeasure,
    }
  )


def test_rouge_l_is_the_longest_common_subsequence():
  rng = np.random.default_rng(0)
  for _ in range(20):
    ours, theirs = (rng.choice(list('abc'), 6).tolist() for _ in range(2))

    def is_in(part, whole):
      rest = iter(whole)
      return all(word in rest for word in part)

    longest = max(
      n
      for n in range(7)
      if any(is_in(part, theirs) for part in itertools.combinations(ours, n))
    )
    found = text_metrics.rouge(' '.join(ours), ' '.join(theirs))
    assert found['recall'] == pytest.approx(longest / 6)


def test_an_unknown_rouge_is_refused():
  with pytest.raises(ValueError, match='1, 2 or .L., got 3'):
    text_metrics.rouge('a', 'b', kind=3)
