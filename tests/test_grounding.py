import numpy as np
import pytest

from rag_jax import grounding, types

CAT = types.Document(id='cat', title='Cats', text='The Cat, sleeps.')
DOG = types.Document(id='dog', text='Dogs bark at night.')


def ground(answer, without, cited=CAT, *, written=False):
  return grounding.ground(answer, without, cited, [CAT, DOG], written=written)


def test_an_answer_is_looked_up_in_the_cited_document_and_in_all_read():
  found = ground('a cat', 'dogs')
  assert found.holds and found.supported and found.changes
  assert found.words is None and found.without == 'dogs'
  found = ground('bark', 'Bark!')
  assert not found.holds and found.supported and not found.changes
  assert ground('cats', '').holds  # in the title
  for answer in ('horse', 'cat bark', 'at', ''):
    found = ground(answer, '', DOG)
    assert found.supported == found.holds == (answer == 'at')
  assert not ground('cat', '', None).holds
  assert not ground('ca', '').supported  # a part of a word


def test_the_share_of_words_that_were_read():
  assert ground('cat bark horse', '', written=True).words == pytest.approx(
    2 / 3
  )
  assert ground('', '', written=True).words == 0


def test_values_per_question():
  spans = [ground('cat', 'dogs'), None, ground('horse', 'horse')]
  found = grounding.values(spans)
  assert list(found) == ['holds', 'changes', 'unsupported']
  np.testing.assert_array_equal(found['holds'], [1, np.nan, 0])
  np.testing.assert_array_equal(found['changes'], [1, np.nan, 0])
  np.testing.assert_array_equal(found['unsupported'], [0, np.nan, 1])
  written = [ground('cat horse', '', written=True), None]
  np.testing.assert_array_equal(
    grounding.values(written)['words'], [0.5, np.nan]
  )
