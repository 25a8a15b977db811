"""Cases of pytrec_eval's own tests, and random runs: values of trec_eval."""

import numpy as np
import pytest

from rag_jax.ops import metrics

pytrec_eval = pytest.importorskip(
  'pytrec_eval', reason="pytrec_eval is not installed: pip install '.[oracles]'"
)

MEASURES = {
  'ndcg': lambda ranked: metrics.ndcg(*ranked),
  'ndcg_cut_5': lambda ranked: metrics.ndcg(*ranked, k=5),
  'map': lambda ranked: metrics.average_precision(*ranked),
  'map_cut_5': lambda ranked: metrics.average_precision(*ranked, k=5),
  'P_5': lambda ranked: metrics.precision(*ranked, k=5),
  'recall_5': lambda ranked: metrics.recall(*ranked, k=5),
  'recip_rank': lambda ranked: metrics.reciprocal_rank(*ranked),
  'Rprec': lambda ranked: metrics.r_precision(*ranked),
  'success_1': lambda ranked: metrics.hits(*ranked, k=1),
  'success_5': lambda ranked: metrics.hits(*ranked, k=5),
}
NAMES = {'map_cut', 'ndcg_cut', 'P', 'recall', 'success'}
NAMES |= {'ndcg', 'map', 'recip_rank', 'Rprec'}


def expected(qrels, run):
  """trec_eval's values of one query, by the name of the measure."""

  def names(grades):
    return {f'd{document:03}': grade for document, grade in grades.items()}

  evaluator = pytrec_eval.RelevanceEvaluator({'q': names(qrels)}, NAMES)
  return evaluator.evaluate({'q': names(run)})['q']


def ranking(qrels, run):
  """The same for `metrics`; documents of equal score by their ids, falling."""
  order = sorted(run, key=lambda d: (run[d], d), reverse=True)
  pad = [-1] * (1 - len(order))  # an empty run
  return metrics.from_ranking(
    np.array(order + pad),
    np.array(list(qrels)),
    grades=np.array(list(qrels.values()), float),
  )


FIRST = {1: 0, 2: 1, 3: 0}
CASES = {
  'third': (FIRST, {1: 1.0, 2: 0.0, 3: 1.5}),
  'first': (FIRST, {1: 1.0, 2: 2.0, 3: 1.5}),
  'second': (FIRST, {1: 4.0, 2: 2.0, 3: 1.5}),
  'missed': ({2: 1, 3: 1}, {5: 2.0, 2: 1.0}),
  'one of three': ({5: 1, 6: 1, 7: 1}, {5: 2.0, 8: 1.0}),
  'nothing returned': ({2: 1, 3: 1}, {}),
  'nothing relevant': ({1: 0}, {1: 1.0}),
  'grades below zero': ({1: -1, 2: 2, 3: 1}, {1: 3.0, 2: 2.0, 4: 1.0}),
}


@pytest.mark.parametrize('case', CASES)
@pytest.mark.parametrize('name', MEASURES)
def test_cases(name, case):
  found = MEASURES[name](ranking(*CASES[case]))
  value = expected(*CASES[case]).get(name, 0.0)
  assert float(found) == pytest.approx(value, abs=1e-5)


def random_case(seed, *, ties):
  rng = np.random.default_rng(seed)
  judged = rng.choice(60, 15, replace=False)
  returned = rng.choice(60, 30, replace=False)
  scores = rng.integers(0, 6, 30) if ties else rng.normal(size=30)
  qrels = dict(zip(judged.tolist(), rng.integers(-1, 4, 15).tolist(), strict=1))
  return qrels, dict(zip(returned.tolist(), scores.tolist(), strict=True))


@pytest.mark.parametrize('ties', [False, True])
@pytest.mark.parametrize('seed', range(6))
def test_random_runs(seed, ties):
  case = random_case(seed, ties=ties)
  values = expected(*case)
  for name, measure in MEASURES.items():
    found = float(measure(ranking(*case)))
    assert found == pytest.approx(values[name], abs=1e-5), name


@pytest.mark.parametrize('seed', range(6))
def test_its_order_of_ties_is_between_the_best_and_the_worst(seed):
  qrels, run = random_case(seed, ties=True)
  ranked = metrics.from_ranking(
    np.array(list(run)),
    np.array(list(qrels)),
    scores=np.array(list(run.values())),
    grades=np.array(list(qrels.values()), float),
  )
  values = expected(qrels, run)
  low, own, high = (
    float(metrics.ndcg(*ranked, k=5, ties=ties))
    for ties in ('pessimistic', 'expected', 'optimistic')
  )
  assert low <= own <= high
  assert low - 1e-6 <= values['ndcg_cut_5'] <= high + 1e-6
