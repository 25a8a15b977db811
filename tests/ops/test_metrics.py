"""Measures on cases that can be counted by hand."""

import jax.numpy as jnp
import pytest

from rag_jax.ops import metrics

DOCUMENTS = jnp.array([[4, 7, 9], [1, 2, 3], [5, 5, 5]])
GOLD = jnp.array([[9, 7], [8, -1], [5, -1]])
REAL = jnp.array([[True, True, True], [True, True, True], [False] * 3])


def test_hits():
  assert metrics.hits(DOCUMENTS, GOLD, k=1, where=REAL).tolist() == [0, 0, 0]
  assert metrics.hits(DOCUMENTS, GOLD, k=2, where=REAL).tolist() == [1, 0, 0]
  assert metrics.hits(DOCUMENTS, GOLD, k=9).tolist() == [1, 0, 1]


def test_reciprocal_rank():
  rank = metrics.reciprocal_rank(DOCUMENTS, GOLD, where=REAL)
  assert rank.tolist() == [0.5, 0, 0]
  assert metrics.reciprocal_rank(DOCUMENTS, GOLD, k=1).tolist() == [0, 0, 1]


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
  assert metrics.exact_match(prediction, answers) == exact
  assert metrics.f1(prediction, answers) == pytest.approx(f1)


def test_no_answers():
  assert metrics.exact_match('x', []) == metrics.f1('x', []) == 0
