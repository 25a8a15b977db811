"""Cases of rax's own tests, for measures and losses that both have."""

import functools
import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax.ops import losses, metrics

rax = pytest.importorskip(
  'rax', reason="rax is not installed: pip install '.[oracles]'"
)

INF = jnp.inf
LISTS = {
  'one list': ([0.0, 3.0, 1.0, 2.0], [0.0, 0.0, 1.0, 1.0], None),
  'batch': (
    [[0.0, 3.0, 1.0, 2.0], [1.0, 4.0, 3.0, 2.0]],
    [[0.0, 0.0, 1.0, 1.0], [2.0, 0.0, 0.0, 1.0]],
    None,
  ),
  'graded': (
    [[2.0, 1.0, 3.0], [1.0, 0.5, 1.5]],
    [[1.0, 0.0, 0.0], [0.0, 1.0, 2.0]],
    None,
  ),
  'three relevant': ([0.0, 3.0, 1.0, 2.0], [1.0, 0.0, 1.0, 1.0], None),
  'all masked': ([0.0, 3.0, 1.0, 2.0], [0.0, 0.0, 1.0, 1.0], [False] * 4),
  'none relevant': ([0.0, 3.0, 1.0, 2.0], [0.0] * 4, None),
  '-inf': ([-INF, 5.0, 2.0, -INF, 1.0], [1.0, 0.0, 1.0, 0.0, 0.0], None),
  'padded': (
    [[0.0, 2.0, 0.0], [1.0, 3.0, 4.0], [7.0, 6.0, 0.0], [5.0, 0.0, 0.0]],
    [[0.0, 2.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [2.0, 0.0, 0.0]],
    [
      [True, True, False],
      [True] * 3,
      [True, True, False],
      [True, False, False],
    ],
  ),
}
MEASURES = {
  'mrr': metrics.reciprocal_rank,
  'recall': metrics.recall,
  'precision': metrics.precision,
  'ap': metrics.average_precision,
  'dcg': metrics.dcg,
  'ndcg': metrics.ndcg,
}


def ours(name, scores, labels, *, k=None, where=None, ties='expected'):
  if name in ('dcg', 'ndcg'):
    labels = 2.0**labels - 1  # the gains of rax
  k = k or scores.shape[-1]  # as rax, which divides precision by the length
  return MEASURES[name](scores, labels, k=k, where=where, ties=ties)


def theirs(name, *args, k=None, **options):
  return getattr(rax, f'{name}_metric')(*args, topn=k, **options)


def arrays(case):
  scores, labels, where = LISTS[case]
  where = None if where is None else jnp.asarray(where)
  return jnp.asarray(scores), jnp.asarray(labels), where


OURS = pytest.mark.xfail(
  strict=True, reason='precision is divided by k, as in trec_eval'
)
SHORT = [('-inf', None), ('padded', None), ('padded', 2), ('padded', 3)]


@pytest.mark.parametrize(
  'name, case, k',
  [
    pytest.param(
      name,
      case,
      k,
      marks=[OURS] if name == 'precision' and (case, k) in SHORT else [],
    )
    for name, case, k in itertools.product(MEASURES, LISTS, [None, 1, 2, 3])
  ],
)
def test_measures(name, case, k):
  scores, labels, where = arrays(case)
  expected = theirs(name, scores, labels, k=k, where=where, reduce_fn=None)
  found = ours(name, scores, labels, k=k, where=where)
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('name', MEASURES)
def test_lists_of_masked_documents_do_not_count_in_the_mean(name):
  scores = jnp.array([[0.0, 3.0, 1.0, 2.0], [3.0, 1.0, 4.0, 2.0]])
  labels = jnp.array([[0.0, 0.0, 1.0, 1.0], [2.0, 0.0, 1.0, 0.0]])
  where = jnp.array([[True] * 4, [False] * 4])
  expected = theirs(name, scores, labels, k=2, where=where)
  values = ours(name, scores, labels, k=2, where=where)
  whole, count = metrics.total(values, where.any(-1))
  np.testing.assert_allclose(whole / count, expected, rtol=1e-5)


@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('name', MEASURES)
def test_one_order_of_ties_is_between_the_best_and_the_worst(name, seed):
  rng = np.random.default_rng(seed)
  scores = jnp.asarray(rng.integers(0, 3, 8).astype(float))
  labels = jnp.asarray(rng.integers(0, 3, 8).astype(float))
  value = theirs(name, scores, labels, k=4)
  low, high = (
    ours(name, scores, labels, k=4, ties=ties)
    for ties in ('pessimistic', 'optimistic')
  )
  assert low - 1e-6 <= value <= high + 1e-6


@pytest.mark.parametrize('case', [name for name in LISTS if name != '-inf'])
def test_list_mle(case):
  scores, labels, where = arrays(case)
  expected = rax.listmle_loss(scores, labels, where=where, reduce_fn=None)
  found = losses.list_mle(scores, labels, where=where)
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_list_mle_of_extreme_scores():
  scores = jnp.array([0.0, -2.1e26, 3.4e37, 42.0])
  labels = jnp.array([0.0, 1.0, 1.0, 0.0])
  found = losses.list_mle(scores, labels)
  np.testing.assert_allclose(found, rax.listmle_loss(scores, labels), rtol=1e-5)


# With one relevant document, these losses are others by another name.
ONE = [
  ([0.0, 3.0, 1.0, 2.0], [0.0, 0.0, 1.0, 0.0], [True] * 4),
  ([2.0, 1.0, 3.0], [1.0, 0.0, 0.0], [True, True, True]),
  ([1.0, 0.5, 1.5], [0.0, 0.0, 1.0], [True, False, True]),
  ([0.0, 3.4e37, 42.0], [1.0, 0.0, 0.0], [True] * 3),
]


@pytest.mark.parametrize('scores, labels, where', ONE)
def test_softmax_is_a_fenchel_young_loss(scores, labels, where):
  arguments = jnp.asarray(scores), jnp.asarray(labels)
  where = jnp.asarray(where)
  found = losses.fenchel_young(*arguments, operator='softmax', where=where)
  expected = rax.softmax_loss(*arguments, where=where)
  np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize('scores, labels, where', ONE)
def test_pairwise_hinge_is_a_margin(scores, labels, where):
  scores, labels = jnp.asarray(scores), jnp.asarray(labels)
  where = jnp.asarray(where)
  found = losses.margin_ranking(
    scores[labels.argmax()], scores, where=where & (labels == 0)
  )
  hinge = functools.partial(rax.pairwise_hinge_loss, reduce_fn=jnp.sum)
  expected = hinge(scores, labels, where=where)
  np.testing.assert_allclose(found, expected, rtol=1e-5)
