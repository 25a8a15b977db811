"""Run and qrels files keep the rankings of the system for every tool."""

import urllib.parse

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from rag_jax import trec, types

TEXT = st.text(min_size=1, max_size=12)
FLOATS = st.floats(-1e9, 1e9, width=32)


@hypothesis.given(TEXT)
def test_an_escaped_id_is_one_field_and_reversible(name):
  field = trec.escape(name)
  assert field.split() == [field]
  assert urllib.parse.unquote(field) == name


@hypothesis.given(st.lists(TEXT, min_size=2, max_size=2, unique=True))
def test_escaped_ids_stay_distinct(names):
  assert len({trec.escape(name) for name in names}) == 2


@pytest.mark.parametrize('name', ['a b', 'a%20b', 'a\tb', 'a\u00a0b', '100% b'])
def test_white_space_and_escapes_in_ids(name):
  field = trec.escape(name)
  assert ' ' not in field and urllib.parse.unquote(field) == name


@hypothesis.given(st.lists(FLOATS, min_size=1, max_size=20))
def test_scores_are_strictly_decreasing_and_close_to_the_original(values):
  scores = -np.sort(-np.asarray(values, np.float32))
  found = trec.strictly_falling(scores)
  assert found.dtype == np.float32
  written = [float(f'{score:.9g}') for score in found.tolist()]
  assert (np.diff(written) < 0).all()  # as float64
  assert (np.diff(np.asarray(written, np.float32)) < 0).all()
  np.testing.assert_allclose(found, scores, rtol=1e-5, atol=1e-40)
  if (np.diff(scores) < 0).all():
    np.testing.assert_array_equal(found, scores)


def test_ties_keep_their_order_for_ascending_and_descending_ids():
  documents = [types.Document(id=name, text=name) for name in 'bdaec']
  run = trec.Run(
    rows=np.array([[3, 0, 4, 1, 2]]),
    scores=np.array([[2, 1, 1, 1, 0]], np.float32),
    where=np.ones((1, 5), bool),
  )
  question = types.Question(id='q', text='Which?')
  lines = list(trec.run_lines(run, [question], documents, tag='t'))
  rows = [line.split() for line in lines]
  assert [row[2] for row in rows] == list('ebcda')
  assert [row[3] for row in rows] == list('12345')
  for upwards in (False, True):
    by_id = sorted(rows, key=lambda row: row[2], reverse=upwards)
    by_score = sorted(by_id, key=lambda row: -float(row[4]))
    assert by_score == rows


def test_masked_documents_are_not_written():
  documents = [types.Document(id='a', text='a'), None]
  run = trec.Run(
    rows=np.array([[0, 1], [-1, 0]]),
    scores=np.array([[1, -1e9], [-1e9, np.nan]], np.float32),
    where=np.array([[True, False], [False, False]]),
  )
  questions = [types.Question(id=name, text='?') for name in ('q', 'r')]
  lines = list(trec.run_lines(run, questions, documents, tag='t'))
  assert lines == ['q Q0 a 1 1 t\n']


@pytest.mark.parametrize('scores', [[1.0, 2.0], [np.nan, 1.0], [1.0, -np.inf]])
def test_increasing_or_non_finite_scores_raise_an_error(scores):
  with pytest.raises(ValueError, match='must be finite and must not increase'):
    trec.Run(
      rows=np.array([[0, 1]]),
      scores=np.array([scores]),
      where=np.ones((1, 2), bool),
    )
  masked = np.array([[1.0, 5.0, 0.5]])  # masked scores do not matter
  where = np.array([[True, False, True]])
  trec.Run(rows=np.array([[0, 1, 2]]), scores=masked, where=where)


def test_qrels_exclude_documents_outside_the_corpus():
  question = types.Question(
    id='q 1', text='?', document_ids=('a', 'gone'), grades=(3, 1)
  )
  assert list(
    trec.qrels_lines([question], [types.Document(id='a', text='x')])
  ) == ['q%201 0 a 3\n']
