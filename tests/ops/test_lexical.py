"""The lexicon against arithmetic by hand, loops, and bm25s."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax import baselines, types
from rag_jax.data import words as lexical_words
from rag_jax.ops import lexical


def corpus(seed, count=300, vocab_size=50, length=30):
  """Zipfian words of documents, some of them empty."""
  rng = np.random.default_rng(seed)
  chances = 1 / np.arange(1, vocab_size)
  shape = (count, length)
  words = rng.choice(np.arange(1, vocab_size), shape, p=chances / chances.sum())
  return np.where(
    np.arange(length) < rng.integers(0, length, (count, 1)), words, 0
  )


def by_loops(words, queries, k1, b, weights):
  """BM25 as the formula says it."""
  lengths = (words > 0).sum(1)
  scores = np.zeros((len(queries), len(words)))
  for row, query in enumerate(queries):
    for word in query[query > 0]:
      times = (words == word).sum(1)
      frequency = (times > 0).sum()
      idf = math.log(1 + (len(words) - frequency + 0.5) / (frequency + 0.5))
      norm = k1 * (1 - b + b * lengths / lengths.mean())
      scores[row] += weights[word] * idf * times / (times + norm)
  return scores


def test_score_is_the_formula():
  # Two documents of 2 and 4 words, mean length 3; word 1 is in one of them.
  lexicon = lexical.build(np.array([[1, 2, 0, 0], [2, 3, 4, 5]]), vocab_size=6)
  idf = math.log(1 + (2 - 1 + 0.5) / (1 + 0.5))
  norm = 1.2 * (1 - 0.75 + 0.75 * 2 / 3)
  scores = lexical.score_all(lexicon, jnp.array([[1], [0]]))
  np.testing.assert_allclose(scores, [[idf / (1 + norm), 0], [0, 0]], 1e-6)


@pytest.mark.parametrize('pair_weight', [0.0, 0.5])
def test_blocks_of_documents_give_the_same_lexicon(pair_weight):
  words = corpus(4, 40)
  words[:16, 9:] = 0
  blocks = iter([words[:16, :9], words[16:17], words[17:]])
  options = {'vocab_size': 50, 'pair_weight': pair_weight}
  found = lexical.build(blocks, **options)
  jax.tree.map(
    np.testing.assert_array_equal, found, lexical.build(words, **options)
  )
  with pytest.raises(ValueError, match='at least 1 document, got 0'):
    lexical.build(iter([]), vocab_size=50)


@pytest.mark.parametrize('k1, b', [(1.2, 0.75), (0.9, 0.4), (2.0, 0.0)])
@pytest.mark.parametrize('count', [3, 900])
def test_all_scores_equal_those_of_loops(k1, b, count):
  """With 900 documents, words take more than one window, queries a loop."""
  words = corpus(count, count)
  queries = np.random.default_rng(1).integers(0, 50, (9, 12))
  weights = np.random.default_rng(2).uniform(0, 2, 50)
  lexicon = lexical.build(words, vocab_size=50, k1=k1, b=b)
  options = {'word_weights': jnp.asarray(weights, jnp.float32)}
  scores = jax.jit(lexical.score_all)(lexicon, queries, **options)
  wanted = by_loops(words, queries, k1, b, weights)
  np.testing.assert_allclose(scores, wanted, atol=1e-4)
  rows = np.random.default_rng(3).integers(0, count, (9, 20))
  some = jax.jit(lexical.score)(lexicon, queries, rows, **options)
  own = np.take_along_axis(wanted, rows, axis=1)
  np.testing.assert_allclose(some, own, atol=1e-4)
  plain = lexical.score(lexicon, queries, rows)
  np.testing.assert_allclose(
    plain, lexical.match(lexicon, queries, rows).sum(-1), atol=1e-5
  )


def test_scores_are_those_of_bm25s():
  rng = np.random.default_rng(0)
  names = [f'{first}{second}' for first in 'bcdfg' for second in 'aeiou']
  documents = [
    types.Document(
      id=str(i),
      title=rng.choice(names),
      text=' '.join(rng.choice(names, rng.integers(1, 40))),
    )
    for i in range(60)
  ]
  queries = [' '.join(rng.choice([*names, 'unseen'], 4)) for _ in range(20)]
  queries += ['', 'ba ba ba']
  index = baselines.bm25_index(documents, k1=1.6, b=0.6, title_weight=3)
  rows, wanted = baselines.bm25_search(index, queries, k=60)
  texts = lexical_words.document_texts(documents, title_weight=3)
  vocabulary = lexical_words.build(texts)
  lexicon = lexical.build(
    lexical_words.encode(vocabulary, texts),
    vocab_size=vocabulary.size,
    k1=1.6,
    b=0.6,
  )
  scores = np.asarray(
    lexical.score_all(lexicon, lexical_words.encode(vocabulary, queries))
  )
  found = np.where(rows >= 0, np.take_along_axis(scores, rows, 1), 0)
  np.testing.assert_allclose(found, wanted, atol=1e-4)
  assert ((scores > 0).sum(1) == (rows >= 0).sum(1)).all()


def test_gradients_reach_the_weights_and_are_slopes():
  words = corpus(0)
  lexicon = lexical.build(words, vocab_size=50)
  query = jnp.array([[4, 7, 7, 0]])
  rows = jnp.arange(300)[None]

  def total(weights):
    scores = lexical.score(lexicon, query, rows, word_weights=weights)
    return (scores**2).sum()

  weights = jnp.ones(50)
  gradient = jax.grad(total)(weights)
  assert np.flatnonzero(gradient).tolist() == [4, 7]
  for word in (4, 7):
    ends = [total(weights.at[word].add(step)) for step in (-0.1, 0.1)]
    slope = (ends[1] - ends[0]) / 0.2
    np.testing.assert_allclose(gradient[word], slope, rtol=1e-3)


def test_mapped_over_more_axes():
  lexicon = lexical.build(corpus(0), vocab_size=50)
  queries = jnp.asarray(np.random.default_rng(0).integers(0, 50, (3, 2, 5)))
  rows = jnp.arange(12).reshape(3, 2, 2)
  scores = jax.vmap(lexical.score_all, (None, 0))(lexicon, queries)
  some = jax.vmap(lexical.score, (None, 0, 0))(lexicon, queries, rows)
  for i in range(3):
    np.testing.assert_allclose(
      scores[i], lexical.score_all(lexicon, queries[i]), atol=1e-5
    )
    np.testing.assert_allclose(
      some[i], np.take_along_axis(scores[i], rows[i], 1), atol=1e-5
    )


def test_a_corpus_without_words_scores_nothing():
  lexicon = lexical.build(np.zeros((3, 1), int), vocab_size=2)
  query = jnp.array([[1, 0]])
  assert lexical.score_all(lexicon, query).tolist() == [[0, 0, 0]]
  assert lexical.score(lexicon, query, jnp.array([[2]])).tolist() == [[0]]


def test_bad_values():
  with pytest.raises(ValueError, match='at least 1 document, got 0'):
    lexical.build(np.zeros((0, 3), int), vocab_size=4)
  with pytest.raises(ValueError, match='0 to 3, got 0 to 4'):
    lexical.build(np.array([[4, 0]]), vocab_size=4)
  with pytest.raises(ValueError, match='k1 >= 0.*got -1'):
    lexical.build(np.array([[1]]), vocab_size=2, k1=-1)


def test_pairs_of_neighbours_count_beside_words():
  rng = np.random.default_rng(0)
  documents = rng.integers(1, 9, (30, 12))
  documents[np.arange(12) >= rng.integers(1, 13, (30, 1))] = 0
  weight, first = 0.4, 9
  lexicon = lexical.build(documents, vocab_size=first, pair_weight=weight)
  # The same with every pair as a word of its own: no two share a bucket here.
  pairs = documents[:, :-1] * 9 + documents[:, 1:] + first
  pairs[(documents[:, :-1] == 0) | (documents[:, 1:] == 0)] = 0
  both = np.concatenate([documents, pairs], axis=1)
  whole = lexical.build(both, vocab_size=first + 90)
  word_weights = jnp.where(jnp.arange(first + 90) < first, 1.0, weight)
  query = np.array([[3, 1, 4], [5, 6, 0]])
  asked = np.array(
    [[3, 1, 4, 3 * 9 + 1 + 9, 1 * 9 + 4 + 9], [5, 6, 0, 5 * 9 + 6 + 9, 0]]
  )
  wanted = lexical.score_all(
    whole, jnp.asarray(asked), word_weights=word_weights
  )
  completed = lexical.with_pairs(lexicon, jnp.asarray(query))
  found = lexical.score_all(lexicon, completed)
  np.testing.assert_allclose(found, wanted, rtol=1e-5)
  rows = jnp.tile(jnp.arange(30), (2, 1))
  again = lexical.score(lexicon, completed, rows)
  np.testing.assert_allclose(again, wanted, rtol=1e-5)
  with pytest.raises(
    ValueError, match='pair_weight must be at least 0, got -1'
  ):
    lexical.build(documents, vocab_size=first, pair_weight=-1.0)
