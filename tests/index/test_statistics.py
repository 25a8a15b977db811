import numpy as np
import pytest

from rag_jax.index import docids, statistics

SCHEMES = ('hierarchical_kmeans', 'product_quantisation', 'atomic', 'title')


def unit(count, seed=0):
  vectors = np.random.default_rng(seed).normal(size=(count, 8))
  vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
  return vectors.astype(np.float32)


def test_statistics_equal_those_by_hand():
  codes = np.array([[0, 0, 0], [0, 0, 1], [0, 1, 0], [2, 0, 0]])
  found = statistics.describe(codes, num_values=4)
  assert (found.documents, found.collisions) == (4, 0.5)
  first, second, last = found.levels
  assert (first.used, first.dead, first.widest) == (2, 2, 2)
  assert first.entropy == pytest.approx(-0.75 * np.log2(0.75) + 0.25 * 2)
  assert (second.used, second.branching) == (2, 2.0)
  assert (last.used, last.dead) == (2, 0)
  assert found.num_nodes == 4 + 2  # documents, and the nodes (0) and (0, 0)


@pytest.mark.long
def test_a_wide_beam_equals_exact_search():
  vectors, queries = unit(120), unit(7, seed=1)
  config = docids.DocidConfig(branching=4, leaf_size=5)
  codes, _ = docids.fit(vectors, config)
  found = statistics.zero_shot(codes, vectors, queries, beam_size=130)
  order = np.argsort(-queries @ vectors.T, axis=1)
  np.testing.assert_array_equal(found[:, :120], order)
  assert (found[:, 120:] == -1).all()


def test_inner_product_mode_ranks_by_the_quantised_documents():
  vectors, queries = unit(60), unit(5, seed=2)
  config = docids.DocidConfig(scheme='residual_kmeans', codebook_size=6)
  codes, quantiser = docids.fit(vectors, config)
  found = statistics.zero_shot(
    codes,
    vectors,
    queries,
    mode='inner_product',
    centres=quantiser['centres'],
    beam_size=60,
  )
  quantised = sum(
    quantiser['centres'][level][codes[:, level]] for level in range(3)
  )
  scores = np.take_along_axis(queries @ quantised.T, found, axis=1)
  assert (np.diff(scores, axis=1) <= 1e-5).all()


@pytest.mark.long
def test_compare_covers_every_scheme_and_exact_modes_find_all():
  vectors = unit(40)
  configs = [
    docids.DocidConfig(
      scheme=name, branching=4, codebook_size=4, leaf_size=4, steps=2
    )
    for name in SCHEMES
  ]
  gold = np.arange(40)[:, None]
  titles = [f'title {i}' for i in range(40)]
  rows = statistics.compare(
    vectors, vectors, gold, configs, titles=titles, beam_size=50
  )
  assert {row.scheme for row in rows} == set(SCHEMES)
  for row in rows:
    if row.mode == 'absolute':
      assert row.hits[1] == 1.0
  text = statistics.table(rows)
  assert len(text.splitlines()) == 1 + len(rows)


@pytest.mark.long
@pytest.mark.long
def test_a_wide_beam_over_keys_finds_the_result_of_exact_search():
  vectors, rng = unit(30), np.random.default_rng(3)
  tokens = rng.integers(1, 9, (30, 8))
  gold = np.argsort(-unit(9, seed=4) @ vectors.T, axis=1)[:, :1]
  rows = statistics.ngrams(
    tokens, vectors, unit(9, seed=4), gold, num_keys=3, beam_size=60
  )
  assert [row.mode for row in rows] == ['absolute', 'log_softmax']
  assert rows[0].hits[1] == 1.0
  assert rows[0].statistics.documents == 30


def test_inner_product_mode_needs_centres():
  with pytest.raises(ValueError, match='needs centres, got None'):
    statistics.zero_shot(
      np.array([[0], [1]]), unit(2), unit(1), mode='inner_product'
    )
