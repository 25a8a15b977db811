"""Tests for rag_jax.baselines."""

import math
import pathlib

import numpy as np
import pytest

from rag_jax import baselines, types
from rag_jax.data import formats

REAL = pathlib.Path(__file__).parents[1] / '..' / 'shared' / 'data' / 'nq_qed'


def _corpus(*texts, title=''):
  return [
    types.Document(id=str(i), text=text, title=title)
    for i, text in enumerate(texts)
  ]


def _search(texts, queries, k, **options):
  index = baselines.bm25_index(_corpus(*texts), **options)
  return baselines.bm25_search(index, queries, k=k)


def test_bm25_score_against_the_formula():
  # Two documents of 2 and 4 words, mean length 3; "cat" is in one of them.
  rows, scores = _search(['cat dog', 'dog bird fish frog'], ['cat'], 1)
  idf = math.log(1 + (2 - 1 + 0.5) / (1 + 0.5))
  norm = 1.2 * (1 - 0.75 + 0.75 * 2 / 3)
  assert rows.tolist() == [[0]]
  np.testing.assert_allclose(scores, [[idf * 1 / (1 + norm)]], rtol=1e-5)


def test_documents_are_sorted_and_missing_rows_are_minus_one():
  texts = ['bird', 'cat dog', 'fish', 'cat cat dog']
  rows, scores = _search(texts, ['cat', 'bird fish cat', 'frog'], 5)
  assert rows.shape == scores.shape == (3, 5)
  assert rows.dtype == np.int32
  assert scores.dtype == np.float32
  assert rows[0].tolist() == [3, 1, -1, -1, -1]
  assert rows[1].tolist() == [0, 2, 3, 1, -1]
  assert rows[2].tolist() == [-1] * 5
  assert (np.diff(scores, axis=1) <= 0).all()
  assert (scores[rows == -1] == 0).all()


@pytest.mark.parametrize(
  'query', ['', '  ', '?!', 'the of and', 'unseen', '猫']
)
def test_a_query_without_known_words_finds_nothing(query):
  rows, scores = _search(['cat', 'dog'], [query, 'dog'], 2)
  assert rows.tolist() == [[-1, -1], [1, -1]]
  assert scores[0].tolist() == [0, 0]


def test_no_queries():
  rows, scores = _search(['cat'], [], 3)
  assert rows.shape == scores.shape == (0, 3)


def test_ties_are_in_the_order_of_the_rows():
  texts = ['dog', *['cat'] * 50, 'cat cat cat cat dog']
  for k in (1, 3, 51, 52):
    rows, _ = _search(texts, ['cat'], k)
    wanted = [51, *range(1, 51)][:k]
    assert rows[0, : len(wanted)].tolist() == wanted


def test_stemming():
  texts = ['dogs were barking', 'cat']
  assert _search(texts, ['a dog barks'], 1)[0].tolist() == [[0]]
  assert _search(texts, ['a dog barks'], 1, stem=False)[0].tolist() == [[-1]]


def test_title_weight():
  documents = _corpus('cat', title='Leone')
  for weight, found in ((0, -1), (1, 0), (3, 0)):
    index = baselines.bm25_index(documents, title_weight=weight)
    assert baselines.bm25_search(index, ['leone'], k=1)[0].tolist() == [[found]]


def test_single_letter_words_are_indexed():
  texts = ['vitamin c', 'vitamin d']
  assert _search(texts, ['vitamin d'], 1)[0].tolist() == [[1]]


@pytest.mark.parametrize('text', ['the', '...', '猫 犬', 'Привет'])
def test_corpora_without_known_words(text):
  rows, _ = _search([text, text], [text], 2)
  assert rows.tolist() in ([[0, 1]], [[-1, -1]])


def test_search_prints_nothing(capfd):
  _search(['cat', 'dog'], ['cat'], 2)
  captured = capfd.readouterr()
  assert captured.out == captured.err == ''


def test_invalid_values_raise_errors():
  with pytest.raises(ValueError, match='at least 1 document, got 0'):
    baselines.bm25_index([])
  with pytest.raises(ValueError, match='k1 >= 0.*got -1'):
    baselines.bm25_index(_corpus('cat'), k1=-1)
  with pytest.raises(ValueError, match='k must be at least 1, got 0'):
    _search(['cat'], ['cat'], 0)


def _pages(seed, count=40):
  """Documents with random texts, and questions about their titles."""
  rng = np.random.default_rng(seed)
  names = np.array([f'{a}{b}{c}' for a in 'bcdf' for b in 'aeo' for c in 'lnr'])
  documents, queries = [], []
  for i in range(count):
    words = rng.choice(names, 3, replace=False)
    text = ' '.join(rng.choice(names, 30))
    documents.append(
      types.Document(id=str(i), title=' '.join(words), text=text)
    )
    queries.append(' '.join(words[:2]))
  return documents, queries, np.arange(count)[:, None]


def _mrr(rows, gold):
  """MRR@10 by a loop over questions."""
  values = []
  for found, own in zip(rows[:, :10].tolist(), gold.tolist(), strict=True):
    ranks = [found.index(row) + 1 for row in own if row in found]
    values.append(1 / min(ranks) if ranks else 0)
  return np.mean(values)


def test_scores_of_all_documents_equal_those_of_search():
  documents, queries, _ = _pages(0)
  index = baselines.bm25_index(documents)
  scores = baselines.bm25_scores(index, [*queries, 'unseen'])
  rows, best = baselines.bm25_search(index, queries, k=5)
  found = np.where(rows < 0, 0, np.take_along_axis(scores[:-1], rows, 1))
  np.testing.assert_array_equal(found, best)
  assert (scores[-1] == 0).all()


def test_tuned_constants_maximise_mrr_on_the_grid(monkeypatch):
  monkeypatch.setattr(baselines, 'K1S', (0.6, 2.0))
  monkeypatch.setattr(baselines, 'BS', (0.3, 0.9))
  monkeypatch.setattr(baselines, 'TITLE_WEIGHTS', (1, 5))
  documents, queries, gold = _pages(1)
  gold = np.pad(gold, ((0, 0), (0, 1)), constant_values=-1)
  tuned = baselines.tune_bm25(documents, queries, gold)

  def quality(**options):
    index = baselines.bm25_index(documents, **options)
    return _mrr(baselines.bm25_search(index, queries, k=10)[0], gold)

  assert tuned['title_weight'] == 5
  grid = [
    quality(k1=k1, b=b, title_weight=5) for k1 in (0.6, 2.0) for b in (0.3, 0.9)
  ]
  np.testing.assert_allclose(quality(**tuned), max(grid))
  assert tuned == baselines.tune_bm25(documents, queries, gold)


def test_title_weight_is_one_without_titles(monkeypatch):
  monkeypatch.setattr(baselines, 'K1S', (1.2,))
  monkeypatch.setattr(baselines, 'BS', (0.75,))
  tuned = baselines.tune_bm25(_corpus('cat', 'dog'), ['dog'], np.array([[1]]))
  assert tuned == {'k1': 1.2, 'b': 0.75, 'title_weight': 1}


def test_dense_search_is_exact():
  rng = np.random.default_rng(0)
  vectors, queries = rng.normal(size=(50, 4)), rng.normal(size=(70, 4))
  rows, scores = baselines.dense_search(vectors, queries, k=7)
  wanted = np.argsort(-(queries @ vectors.T), axis=1)[:, :7]
  np.testing.assert_array_equal(rows, wanted)
  products = np.einsum('nd,nkd->nk', queries, vectors[wanted])
  np.testing.assert_allclose(scores, products, rtol=1e-5)
  rows, scores = baselines.dense_search(vectors[:2], queries[:1], k=3)
  assert rows[0, 2] == -1
  assert scores[0, 2] == 0


def test_the_tuned_hybrid_beats_dense_and_bm25():
  documents, queries, gold = _pages(2)
  rng = np.random.default_rng(0)
  vectors = rng.normal(size=(len(documents), 8))
  query_vectors = vectors + rng.normal(size=vectors.shape) * 1.5
  index = baselines.bm25_index(documents)
  weight = baselines.tune_hybrid(index, queries, vectors, query_vectors, gold)
  rows, scores = baselines.hybrid_search(
    index, queries, vectors, query_vectors, weight=weight, k=10
  )
  both = query_vectors @ vectors.T + weight * baselines.bm25_scores(
    index, queries
  )
  np.testing.assert_array_equal(rows, np.argsort(-both, axis=1)[:, :10])
  np.testing.assert_allclose(scores, -np.sort(-both, axis=1)[:, :10], 1e-5)
  dense, _ = baselines.dense_search(vectors, query_vectors, k=10)
  lexical, _ = baselines.bm25_search(index, queries, k=10)
  best = max(_mrr(dense, gold), _mrr(lexical, gold))
  assert _mrr(rows, gold) > best
  every = [
    _mrr(
      baselines.hybrid_search(
        index, queries, vectors, query_vectors, weight=other, k=10
      )[0],
      gold,
    )
    for other in baselines.HYBRID_WEIGHTS
  ]
  np.testing.assert_allclose(_mrr(rows, gold), max(every))


def test_tuning_needs_gold_documents():
  with pytest.raises(ValueError, match='at least 1 question with a gold'):
    baselines.tune_bm25(_corpus('cat'), ['cat'], np.array([[-1]]))


@pytest.mark.skipif(not REAL.is_dir(), reason='no real data in nq_qed')
def test_real_questions():
  dataset = formats.load(REAL)
  rows = {document.id: i for i, document in enumerate(dataset.documents)}
  questions = dataset.splits['dev']
  gold = np.asarray([rows[q.document_ids[0]] for q in questions])[:, None]
  index = baselines.bm25_index(dataset.documents)
  found, _ = baselines.bm25_search(index, [q.text for q in questions], k=100)
  hits = [(found[:, :k] == gold).any(1).mean() for k in (1, 10, 100)]
  np.testing.assert_allclose(hits, [0.693, 0.922, 0.977], atol=0.005)
