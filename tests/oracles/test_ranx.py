"""Cases after ranx's own tests, for measures that both have."""

import numpy as np
import pytest

from rag_jax.ops import metrics

ranx = pytest.importorskip(
  'ranx', reason="ranx is not installed: pip install '.[oracles]'"
)

MEASURES = {
  'hit_rate@5': lambda ranked: metrics.hits(*ranked, k=5),
  'precision@5': lambda ranked: metrics.precision(*ranked, k=5),
  'recall@2': lambda ranked: metrics.recall(*ranked, k=2),
  'map': lambda ranked: metrics.average_precision(*ranked),
  'map@5': lambda ranked: metrics.average_precision(*ranked, k=5),
  'mrr@5': lambda ranked: metrics.reciprocal_rank(*ranked, k=5),
  'r-precision': lambda ranked: metrics.r_precision(*ranked),
  'ndcg@10': lambda ranked: metrics.ndcg(*ranked, k=10),
  'ndcg': lambda ranked: metrics.ndcg(*ranked),
  'ndcg_burges@10': lambda ranked: metrics.ndcg(*exponential(ranked), k=10),
}
SEVEN = [4, 5, 6, 2, 1, 7, 3]
GRADED = {2: 5, 4: 4, 5: 3, 10: 2}
# Gold documents with their grades, and documents as they were ranked.
CASES = {
  'hits': ({1: 1, 4: 1, 5: 1, 6: 1}, [1, 2, 3, 4, 5, 7]),
  'hits, others': ({1: 1, 4: 1, 6: 1}, [1, 2, 4, 3, 5, 7]),
  'no hit': ({9: 1, 6: 1, 8: 1}, [1, 2, 3, 4, 5, 7]),
  'three': ({1: 1, 2: 1, 3: 1}, SEVEN),
  'four': ({4: 1, 5: 1, 6: 1, 7: 1}, SEVEN),
  'none of two': ({8: 1, 9: 1}, SEVEN),
  'second': ({3: 1}, [2, 3, 1, 4, 5]),
  'first': ({1: 1}, [1, 2, 3, 4, 5]),
  'missed': ({3: 1}, [2, 1, 4, 5]),
  'short': ({1: 1, 2: 1}, [1, 3]),
  'two of three': ({1: 1, 2: 1, 3: 1}, [2, 4, 3, 1, 5, 6, 7]),
  'graded': (GRADED, [1, 2, 3, 4, 5]),
  'graded, others': (GRADED, [10, 5, 2, 4, 3]),
  'graded, missed': (GRADED, [1, 3, 6, 7, 8]),
}


def exponential(ranked):
  scores, gains, ideal = ranked
  return scores, 2**gains - 1, 2**ideal - 1


def arguments(case):
  gold, documents = CASES[case]
  qrels = {'q': {f'd{key}': grade for key, grade in gold.items()}}
  run = {'q': {f'd{key}': -float(i) for i, key in enumerate(documents)}}
  return ranx.Qrels(qrels), ranx.Run(run)


@pytest.mark.parametrize('case', CASES)
@pytest.mark.parametrize('name', MEASURES)
def test_cases(name, case):
  gold, documents = CASES[case]
  ranked = metrics.from_ranking(
    np.array(documents),
    np.array(list(gold)),
    grades=np.array(list(gold.values()), float),
  )
  expected = ranx.evaluate(*arguments(case), name, make_comparable=True)
  assert float(MEASURES[name](ranked)) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
  'case', [name for name in CASES if name.startswith('graded')]
)
@pytest.mark.parametrize('name', ['dcg', 'dcg_burges'])
def test_discounted_gain(name, case):
  gold, documents = CASES[case]
  grades = np.array(list(gold.values()), float)
  ranked = metrics.from_ranking(
    np.array(documents), np.array(list(gold)), grades=grades
  )
  if name == 'dcg_burges':
    ranked = exponential(ranked)
  rows = np.array([[[document, 1] for document in documents]])
  theirs = getattr(ranx.metrics, name)
  expected = theirs(np.array([list(gold.items())]), rows, 10)[0]
  assert float(metrics.dcg(*ranked, k=10)) == pytest.approx(expected, abs=1e-4)


def test_random_runs():
  rng = np.random.default_rng(0)
  qrels, run, values = {}, {}, {name: [] for name in MEASURES}
  for query in map(str, range(20)):
    judged, documents = (rng.choice(40, n, replace=False) for n in (8, 20))
    grades = rng.integers(1, 4, 8)
    scores = np.sort(rng.random(20))[::-1]
    ids = [f'd{document}' for document in documents]
    qrels[query] = {
      f'd{key}': int(grade) for key, grade in zip(judged, grades, strict=True)
    }
    run[query] = dict(zip(ids, scores.tolist(), strict=True))
    ranked = metrics.from_ranking(documents, judged, grades=grades)
    for name, measure in MEASURES.items():
      values[name].append(float(measure(ranked)))
  expected = ranx.evaluate(ranx.Qrels(qrels), ranx.Run(run), list(MEASURES))
  for name, value in values.items():
    assert np.mean(value) == pytest.approx(expected[name], abs=1e-5), name


@pytest.mark.parametrize(
  'documents, expected', [([1, 1, 3], 1 / 3), ([3, 3, 1], 1.0)]
)
def test_documents_that_come_twice(documents, expected):
  found = metrics.from_ranking(np.array(documents), np.array([3]))
  assert float(metrics.reciprocal_rank(*found)) == pytest.approx(expected)
  rows = np.array([[[document, 1] for document in documents]])
  theirs = ranx.metrics.reciprocal_rank(np.array([[[3, 1]]]), rows, 5)
  assert float(theirs[0]) == pytest.approx(expected)
