import numpy as np
import pytest

from rag_jax import baselines, types
from rag_jax.generation import round_trip

TEXTS = ('a red cat', 'a red dog', 'a red cat', 'green owl red cat')
DOCUMENTS = [types.Document(id=str(i), text=t) for i, t in enumerate(TEXTS)]
QUESTIONS = ('red cat?', 'dog', 'owl', 'unheard', 'red', 'cat')


@pytest.mark.parametrize('k', [1, 2, 3])
def test_found_back_as_a_search_finds(k):
  index = baselines.bm25_index(DOCUMENTS)
  pairs = [(text, row) for text in QUESTIONS for row in range(len(TEXTS))]
  questions, rows = zip(*pairs, strict=True)
  found = round_trip.found_back(index, questions, rows, k=k)
  ranked, _ = baselines.bm25_search(index, questions, k=k)
  expected = (ranked == np.asarray(rows)[:, None]).any(axis=1)
  np.testing.assert_array_equal(found, expected)
  assert expected.any() and not expected.all()


def test_k_below_one_raises():
  index = baselines.bm25_index(DOCUMENTS)
  with pytest.raises(ValueError, match='got 0. Set --config.generator'):
    round_trip.found_back(index, ['cat'], [0], k=0)
