import collections

import numpy as np
import pytest

from rag_jax.index import uniqueness


@pytest.mark.parametrize('values', [1, 3, 40_000])
@pytest.mark.parametrize('length', [1, 2, 4])
def test_next_free_agrees_with_a_dictionary(values, length):
  rng = np.random.default_rng(length)
  base = rng.integers(0, values, (300, length - 1))
  codes = uniqueness.append_uniqueness(base)
  where = rng.random(300) < 0.6
  new = rng.integers(0, values, (80, length - 1))
  new[:40] = base[:40]
  taken = collections.defaultdict(set)
  for row in codes[where]:
    taken[tuple(row[:-1])].add(int(row[-1]))
  expected = []
  for row in new:
    bucket = taken[tuple(row)]
    number = next(i for i in range(1000) if i not in bucket)
    bucket.add(number)
    expected.append(number)
  got = uniqueness.next_free(codes, new, where)
  assert got.dtype == np.int32
  np.testing.assert_array_equal(got, expected)


def test_no_new_documents_and_an_empty_index():
  no_documents = np.zeros((0, 2), np.int32)
  codes = np.zeros((0, 3), np.int32)
  deleted = np.zeros(0, bool)
  assert uniqueness.next_free(codes, no_documents, deleted).shape == (0,)
  equal = np.zeros((2, 2), np.int32)
  assert uniqueness.next_free(codes, equal, deleted).tolist() == [0, 1]


def test_codes_of_another_length_are_refused():
  with pytest.raises(ValueError, match=r'base_codes .* \[M, 2\]'):
    uniqueness.next_free(
      np.zeros((4, 3), int), np.zeros((1, 3), int), np.ones(4, bool)
    )
