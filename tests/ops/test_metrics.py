"""Measures against all orders that ties allow, and against other packages."""

import collections
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax import baselines
from rag_jax.ops import answer_metrics, metrics

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


def dcg(gains, k=None):
  return sum(g / math.log2(i + 2) for i, g in enumerate(gains[:k]))


def by_hand(name, gains, ideal, k):
  """A measure of one list of gains, best first."""
  ranks = [i for i, gain in enumerate(gains[:k]) if gain > 0]
  count = sum(gain > 0 for gain in ideal)
  if name == 'hits':
    return float(bool(ranks))
  if name == 'reciprocal_rank':
    return 1 / (ranks[0] + 1) if ranks else 0.0
  if name == 'precision':
    return len(ranks) / k
  if name == 'recall':
    return len(ranks) / max(count, 1)
  if name == 'average_precision':
    found = [(i + 1) / (rank + 1) for i, rank in enumerate(ranks)]
    return sum(found) / max(count, 1)
  if name == 'dcg':
    return dcg(gains, k)
  if name == 'ndcg':
    best = dcg(sorted(ideal, reverse=True), k)
    return dcg(gains, k) / best if best else 0.0
  return sum(g > 0 for g in gains[:count]) / max(count, 1)


NAMES = (
  'hits',
  'reciprocal_rank',
  'precision',
  'recall',
  'average_precision',
  'dcg',
  'ndcg',
  'r_precision',
)


def measure(name, *args, k=3, **options):
  """A measure by name; R-precision has no k."""
  if name != 'r_precision':
    options['k'] = k
  return getattr(metrics, name)(*args, **options)


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('seed', range(6))
def test_ties_against_every_order(name, seed):
  rng = np.random.default_rng(seed)
  count = 6
  scores = rng.integers(0, 3, count).astype(float)
  gains = rng.integers(-1, 3, count).astype(float)
  where = rng.random(count) < 0.85
  real = np.flatnonzero(where)
  k = int(rng.integers(1, count + 3))
  ideal = np.maximum(gains, 0) * where
  given = None
  if seed % 2:  # relevant documents that were not retrieved
    given = np.append(ideal, [2.0, 1.0, -1.0, 0.0])
    ideal = np.maximum(given, 0)
  values = [
    by_hand(name, [max(gains[real[i]], 0) for i in order], ideal, k)
    for order in orders(scores[real])
  ]
  for ties, expected in (
    ('expected', np.mean(values)),
    ('optimistic', max(values)),
    ('pessimistic', min(values)),
  ):
    found = jax.jit(
      lambda s, g, w, ties=ties: measure(
        name, s, g, given, k=k, where=w, ties=ties
      )
    )(jnp.asarray(scores), jnp.asarray(gains), jnp.asarray(where))
    assert float(found) == pytest.approx(expected, abs=1e-5), ties


def test_relevant_documents_that_were_not_retrieved_count():
  # Two of three gold documents are missing: trec_eval's ndcg is 0.469.
  ranked = metrics.from_ranking(jnp.array([5, 8]), jnp.array([5, 6, 7]))
  best = 1 + 1 / math.log2(3) + 0.5
  assert float(metrics.ndcg(*ranked)) == pytest.approx(1 / best)
  assert float(metrics.ndcg(*ranked, k=1)) == 1
  for third in (metrics.r_precision, metrics.recall, metrics.average_precision):
    assert float(third(*ranked)) == pytest.approx(1 / 3)
  two = metrics.r_precision(*ranked[:2], num_relevant=jnp.int32(2))
  assert float(two) == 0.5


def test_a_document_that_comes_twice_counts_once():
  ranked = metrics.from_ranking(jnp.array([4, 7, 7, 9]), jnp.array([9, 7, 7]))
  assert ranked.relevance.tolist() == [False, True, False, True]
  assert ranked.ideal.sum() == 2
  assert float(metrics.recall(*ranked)) == 1
  assert float(metrics.precision(*ranked, k=3)) == pytest.approx(1 / 3)
  assert float(metrics.average_precision(*ranked)) == pytest.approx(
    (1 / 2 + 2 / 4) / 2
  )


def test_rankings_against_a_dictionary():
  rng = np.random.default_rng(0)
  documents = rng.integers(-1, 12, (50, 9))
  gold = rng.integers(-1, 12, (50, 4))
  grades = rng.integers(-1, 4, (50, 4)).astype(float)
  ranked = metrics.from_ranking(documents, gold, grades=grades)
  for row in range(50):
    wanted: dict[int, float] = {}
    for document, grade in zip(gold[row], grades[row], strict=True):
      if document >= 0:
        wanted[document] = max(wanted.get(document, 0), grade)
    ideal = sorted(ranked.ideal[row].tolist())
    assert ideal[4 - len(wanted) :] == sorted(wanted.values())
    for document, gain in zip(
      documents[row], ranked.relevance[row].tolist(), strict=True
    ):
      assert gain == wanted.pop(document, 0)


def test_scores_of_a_ranking_make_it_fair_to_ties():
  documents, gold = jnp.array([4, 7, -1]), jnp.array([7])
  by_order = metrics.from_ranking(documents, gold)
  tied = metrics.from_ranking(documents, gold, scores=jnp.array([2, 2, 5]))
  assert float(metrics.reciprocal_rank(*by_order)) == 0.5
  assert float(metrics.reciprocal_rank(*tied)) == 0.75


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('ties', metrics.TIES)
def test_a_score_of_nan_or_minus_infinity_finds_nothing(name, ties):
  relevance = jnp.array([1.0, 0.0, 1.0])
  for value in (jnp.nan, -jnp.inf):
    nothing = measure(name, jnp.full(3, value), relevance, ties=ties)
    assert float(nothing) == 0
  found = measure(
    name, jnp.array([jnp.nan, jnp.inf, -3e38]), relevance, ties=ties
  )
  same = measure(
    name, jnp.array([2.0, 1.0]), relevance[1:], jnp.ones(2), ties=ties
  )
  assert float(found) == float(same)


@pytest.mark.parametrize('name', NAMES)
def test_measures_in_batches_dtypes_and_strict_promotion(name):
  scores = jnp.array([[3, 1, 1, 0], [0, 0, 0, 2]])
  gains = jnp.array([[0, 1, 0, 2], [1, 0, 0, 0]])
  expected = measure(name, scores, gains)
  assert expected.dtype == jnp.float32
  with jax.numpy_dtype_promotion('strict'):
    for dtype in (jnp.float32, jnp.bfloat16, jnp.int32, jnp.uint8):
      found = measure(name, scores.astype(dtype), gains.astype(jnp.float32))
      np.testing.assert_array_equal(found, expected)
    rows = jax.vmap(lambda s, g: measure(name, s, g))(scores, gains)
  np.testing.assert_allclose(rows, expected, rtol=1e-6)


def test_scores_are_compared_in_their_own_dtype():
  relevance = jnp.array([False, True])
  with jax.enable_x64(True):
    close = jnp.array([1.0, 1.0 + 1e-12], jnp.float64)
    assert float(metrics.hits(close, relevance, k=1)) == 1
    large = jnp.array([2**60, 2**60 + 1], jnp.int64)
    assert float(metrics.hits(large, relevance, k=1)) == 1


@pytest.mark.parametrize('name', ['dcg', 'ndcg'])
def test_gradients_in_the_gains_against_differences(name):
  scores = jnp.array([2.0, 1.0, 1.0, 0.0])
  gains = jnp.array([0.5, 1.0, 2.0, 0.25])
  where = jnp.array([True, True, True, False])

  def value(gains):
    return measure(name, scores, gains, where=where)

  slope = jax.grad(value)(gains)
  for i, step in enumerate(np.eye(4) * 1e-2):
    rise = (value(gains + step) - value(gains - step)) / 2e-2
    assert float(slope[i]) == pytest.approx(float(rise), abs=2e-4)
  assert (jax.grad(lambda s: measure(name, s, gains))(scores) == 0).all()
  assert not jnp.isnan(jax.grad(value)(jnp.zeros(4))).any()


@pytest.mark.parametrize('name', NAMES)
def test_memory_does_not_grow_with_the_square_of_a_list(name):
  size = 30_000
  scores = jax.ShapeDtypeStruct((size,), jnp.float32)
  function = jax.jit(lambda s, g: measure(name, s, g))
  analysis = function.lower(scores, scores).compile().memory_analysis()
  assert analysis.temp_size_in_bytes < 100 * size  # size squared is 3.6 GB


def test_memory_of_risks_and_of_long_answers():
  size = 30_000
  array = jax.ShapeDtypeStruct((size,), jnp.float32)
  tokens = jax.ShapeDtypeStruct((size,), jnp.int32)
  answers = jax.ShapeDtypeStruct((1, size), jnp.int32)
  for function, arguments in (
    (answer_metrics.risk_coverage, (array, array)),
    (answer_metrics.token_f1, (tokens, answers)),
    (metrics.from_ranking, (tokens, tokens)),
  ):
    analysis = jax.jit(function).lower(*arguments).compile().memory_analysis()
    assert analysis.temp_size_in_bytes < 200 * size, function


def test_a_large_group_of_ties_against_exact_sums():
  size, relevant = 50_000, 3
  gains = jnp.arange(size) % 20_000 == 1
  assert gains.sum() == relevant
  left = np.arange(size, 0, -1)
  hit = np.minimum(relevant / left, 1)
  before = np.append(1, np.cumprod(1 - hit)[:-1])
  expected = (before * hit / np.arange(1, size + 1)).sum()
  found = metrics.reciprocal_rank(jnp.zeros(size), gains)
  assert float(found) == pytest.approx(expected, rel=1e-4)


def test_nothing_relevant_is_zero_and_not_nan():
  scores, none = jnp.ones((2, 4)), jnp.zeros((2, 4), bool)
  for name in NAMES:
    assert measure(name, scores, none).tolist() == [0, 0], name
    empty = measure(name, scores[:, :0], none[:, :0])
    assert empty.tolist() == [0, 0], name


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
      ir_measures.P @ 50,
      ir_measures.R @ 10,
      ir_measures.AP,
      ir_measures.AP @ 5,
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
    ('P@50', metrics.precision(*ours, k=50)),
    ('R@10', metrics.recall(*ours, k=10)),
    ('AP', metrics.average_precision(*ours)),
    ('AP@5', metrics.average_precision(*ours, k=5)),
  ):
    assert float(value.mean()) == pytest.approx(theirs[name], abs=1e-4), name


def test_calibration_error_by_hand():
  confidence = jnp.array([0.95, 0.9, 0.15, 0.1, 0.5])
  correct = jnp.array([True, False, False, False, True])
  where = jnp.array([True, True, True, True, False])
  found = answer_metrics.expected_calibration_error(
    confidence, correct, bins=2, where=where
  )
  # (|1.85 - 1| + |0.25 - 0|) / 4
  assert float(found) == pytest.approx((0.85 + 0.25) / 4, abs=1e-6)


def test_tokens_against_multisets():
  rng = np.random.default_rng(0)
  predictions = rng.integers(0, 5, (30, 1, 6))
  answers = rng.integers(0, 5, (30, 2, 3, 4))  # broadcast over 2 of each
  found = answer_metrics.token_f1(predictions, answers)
  assert found.shape == (30, 2)

  def overlap(ours, theirs):
    ours, theirs = (
      collections.Counter(x[x > 0].tolist()) for x in (ours, theirs)
    )
    size = ours.total() + theirs.total()
    return 2 * (ours & theirs).total() / size if theirs else 0.0

  for row, column in np.ndindex(30, 2):
    best = max(overlap(predictions[row, 0], a) for a in answers[row, column])
    assert float(found[row, column]) == pytest.approx(best)
  assert answer_metrics.token_f1(np.ones(2, int), np.ones((0, 2), int)) == 0


def test_perfectly_calibrated_predictions_have_no_error():
  rng = np.random.default_rng(0)
  confidence = rng.random(100_000)
  correct = rng.random(100_000) < confidence
  found = answer_metrics.expected_calibration_error(
    jnp.asarray(confidence), jnp.asarray(correct)
  )
  assert float(found) < 0.01


def test_risk_coverage_by_hand():
  confidence = jnp.array([0.1, 0.9, 0.5, 0.5])
  correct = jnp.array([False, True, True, False])
  risks, area = answer_metrics.risk_coverage(confidence, correct)
  expected = [0, 0.5 / 2, 1 / 3, 2 / 4]
  np.testing.assert_allclose(risks, expected, atol=1e-6)
  assert float(area) == pytest.approx(np.mean(expected))


def test_risk_coverage_against_every_order():
  rng = np.random.default_rng(1)
  confidence = rng.integers(0, 3, 6).astype(float)
  correct = rng.random(6) < 0.5
  values = [
    np.cumsum(1.0 - correct[order]) / np.arange(1, 7)
    for order in orders(confidence)
  ]
  risks, area = answer_metrics.risk_coverage(confidence, correct)
  np.testing.assert_allclose(risks, np.mean(values, axis=0), atol=1e-6)
  assert float(area) == pytest.approx(np.mean(values), abs=1e-6)


def test_calibration_of_nan_or_nothing_is_not_perfect():
  right, half = jnp.array([True, True]), jnp.array([jnp.nan, 1.0])
  error = answer_metrics.expected_calibration_error(half, right)
  assert jnp.isnan(error)
  real = jnp.array([False, True])
  assert answer_metrics.expected_calibration_error(half, right, where=real) == 0
  none = answer_metrics.expected_calibration_error(half, right, where=~right)
  assert jnp.isnan(none)
  risks, area = answer_metrics.risk_coverage(half, right)
  assert risks[0] == 0 and jnp.isnan(risks[1]) and jnp.isnan(area)


ROW, BATCH = np.ones(3), np.ones((2, 3))


@pytest.mark.parametrize(
  ('message', 'function'),
  [
    ('k must be at least 1, got 0', lambda: metrics.hits(ROW, ROW, k=0)),
    ('k must be at least 1, got 0', lambda: metrics.ndcg(ROW, ROW, k=0)),
    ('k must be .*Python int.*got 1.5', lambda: metrics.dcg(ROW, ROW, k=1.5)),
    (
      'k must be .*static_argnames',
      lambda: jax.jit(lambda k: metrics.hits(ROW, ROW, k=k))(1),
    ),
    (r'relevance .*\(2, 3\), got \(3,\)', lambda: metrics.ndcg(BATCH, ROW)),
    (
      r'where .*\(2, 3\), got \(3,\)',
      lambda: metrics.recall(BATCH, BATCH, where=ROW > 0),
    ),
    (r'ideal .*got \(3,\)', lambda: metrics.ndcg(BATCH, BATCH, ROW)),
    (
      r'num_relevant must be int\[2\]',
      lambda: metrics.r_precision(BATCH, BATCH, num_relevant=3),
    ),
    ('scores must have at least one axis', lambda: metrics.ndcg(1.0, 1.0)),
    (
      'documents must be an array of numbers',
      lambda: metrics.from_ranking(['d1', 'd2'], ['d1']),
    ),
    ('gold must be integers', lambda: metrics.from_ranking([1, 2], [1.5])),
    (
      r'gold must be int.*got \(1, 1\)',
      lambda: metrics.from_ranking([1, 2], [[1]]),
    ),
    (
      'grades must have the shape of gold',
      lambda: metrics.from_ranking([1, 2], [1], grades=ROW),
    ),
    (
      'scores must have the shape of documents',
      lambda: metrics.from_ranking([1, 2], [1], scores=ROW),
    ),
    (
      'where must have the shape of values',
      lambda: metrics.total(ROW, BATCH > 0),
    ),
    (
      'correct must have the shape of confidence',
      lambda: answer_metrics.risk_coverage(ROW, ROW[:2]),
    ),
    (
      r'confidence must be float\[n\]',
      lambda: answer_metrics.expected_calibration_error(BATCH, BATCH),
    ),
    (
      'bins must be at least 1, got 0',
      lambda: answer_metrics.expected_calibration_error(ROW, ROW, bins=0),
    ),
    (
      "answers must be int.*M, A'",
      lambda: answer_metrics.token_f1([1, 2], [1, 2]),
    ),
    (
      'answers must be int',
      lambda: answer_metrics.token_exact_match(
        [[1], [2]], [[[1]], [[2]], [[3]]]
      ),
    ),
  ],
)
def test_mistakes_are_one_error_that_names_the_argument(message, function):
  with pytest.raises(ValueError, match=message) as error:
    function()
  assert '--config' not in str(error.value)


def test_unknown_ties_list_what_there_is():
  with pytest.raises(ValueError, match="expected, optimistic.*got 'lucky'"):
    metrics.hits(jnp.ones(3), jnp.ones(3), k=1, ties='lucky')


def test_baselines_are_tuned_by_a_measure_that_is_fair_to_ties():
  rng = np.random.default_rng(0)
  scores = rng.integers(0, 4, (40, 30)).astype(np.float32)
  scores[scores == 0] = -np.inf  # no result
  gold = np.stack([rng.choice(30, 3, replace=False) for _ in scores])
  gold[rng.random(gold.shape) < 0.3] = -1
  relevance = np.zeros(scores.shape, bool)
  for row, documents in enumerate(gold):
    relevance[row, documents[documents >= 0]] = True
  expected = metrics.reciprocal_rank(scores, relevance, k=10).sum()
  found = baselines._reciprocal_ranks(scores, gold)
  assert found == pytest.approx(float(expected), abs=1e-4)
  equal = baselines._reciprocal_ranks(np.zeros((1, 1000)), np.array([[7]]))
  assert equal < 0.01  # not the perfect ranking
