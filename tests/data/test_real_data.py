"""Loading real datasets, if the checkout has a folder `shared/data`."""

import pathlib

import pytest

from rag_jax.data import formats

REAL = pathlib.Path(__file__).parents[3] / 'shared' / 'data'
real = pytest.mark.skipif(not REAL.is_dir(), reason='no real data here')


@real
def test_real_beir():
  dataset = formats.load(REAL / 'nq_qed')
  assert len(dataset.documents) == 8096
  assert len(dataset.splits['train']) == 7167
  assert len(dataset.splits['dev']) == 703
  assert dataset.notes == (
    '74 of 703 questions in dev have an answer that occurs in none of their '
    'gold documents; in 34 of them no answer does.',
    '20 of 7,167 questions in train have no answer.',
  )


@real
def test_real_squad():
  dataset = formats.load(REAL / 'squad' / 'xquad.en.json.gz')
  assert len(dataset.documents) == 240
  assert sum(map(len, dataset.splits.values())) == 1190
  assert dataset.notes == ()


@real
def test_all_of_squad():
  dataset = formats.load(REAL / 'squad')
  assert len(dataset.documents) == 20_958
  assert len(dataset.splits['train']) == 87_599
