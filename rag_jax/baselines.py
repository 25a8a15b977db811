"""What every table compares with: BM25, exact dense search, and their sum.

All score the whole corpus and learn nothing; constants are chosen by a grid on
training questions, as whoever deploys them would.
"""

import dataclasses
import itertools
import logging
from collections.abc import Callable, Sequence
from typing import Any

import bm25s
import jax
import numpy as np

from rag_jax import types
from rag_jax.data import words as lexical_words
from rag_jax.ops import lexical

logging.getLogger('bm25s').setLevel(logging.WARNING)  # it asks for debugging

K1S = (0.6, 0.9, 1.2, 1.6, 2.0, 2.5)
BS = (0.3, 0.4, 0.5, 0.6, 0.75, 0.9)
TITLE_WEIGHTS = (1, 2, 3, 5)
HYBRID_WEIGHTS = (0.0, *(2.0 ** (i / 2) for i in range(-20, 7)))

_CHUNK = 64  # queries that are scored at a time; bounds the memory
_QUIET = {'show_progress': False}


@dataclasses.dataclass(frozen=True)
class Bm25Index:
  """A corpus as BM25 sees it; from `bm25_index`."""

  retriever: bm25s.BM25
  count: int  # documents
  stem: bool


def bm25_index(
  documents: Sequence[types.Document],
  *,
  k1: float = 1.2,
  b: float = 0.75,
  stem: bool = True,
  title_weight: int = 1,
) -> Bm25Index:
  """Indexes a corpus for BM25.

  A document scores, summed over the words w of a query,
  idf(w) * tf / (tf + k1 * (1 - b + b * length / mean length)).

  Args:
    documents: the corpus; row i of a result is documents[i].
    k1: how soon more of the same word stops counting; at least 0.
    b: how much long documents are held back, 0 to 1.
    stem: whether words are cut to English stems.
    title_weight: how often the title is counted; 0 leaves it out.

  Returns:
    An index for `bm25_search`.

  Raises:
    ValueError: for an empty corpus or a constant out of range.

  Example:
    >>> corpus = [
    ...   types.Document(id='a', text='Cats sleep.'),
    ...   types.Document(id='b', text='Dogs bark.'),
    ... ]
    >>> rows, _ = bm25_search(bm25_index(corpus), ['a barking dog'], k=1)
    >>> rows.tolist()
    [[1]]

  Reference:
    Robertson and Zaragoza, The Probabilistic Relevance Framework: BM25 and
    Beyond, 2009; Lù, BM25S, 2024.
  """
  if not documents:
    raise ValueError(
      'BM25 needs at least 1 document, got 0. '
      'Set --config.data.path to data with documents.'
    )
  if k1 < 0 or not 0 <= b <= 1 or title_weight < 0:
    raise ValueError(
      'BM25 needs k1 >= 0, 0 <= b <= 1 and title_weight >= 0, got '
      f'{k1}, {b} and {title_weight}. Pass other values to bm25_index.'
    )
  texts = lexical_words.document_texts(documents, title_weight=title_weight)
  retriever = bm25s.BM25(k1=k1, b=b)
  words = lexical_words.split(texts, stem=stem)
  # A corpus without a single word, which bm25s refuses, is one empty word.
  retriever.index(words if any(words) else [[''], *words[1:]], **_QUIET)
  return Bm25Index(retriever, len(documents), stem)


def bm25_search(
  index: Bm25Index, queries: Sequence[str], *, k: int
) -> tuple[np.ndarray, np.ndarray]:
  """The documents of highest BM25 score, best first.

  Args:
    index: from `bm25_index`.
    queries: n questions; one without words finds nothing.
    k: documents a query.

  Returns:
    Rows in the corpus, int32[n, k], and scores, float32[n, k]. Documents that
    share no word with the query are no results; where results run out, rows
    are -1 and scores 0. Of equal scores the lower row comes first.

  Raises:
    ValueError: if k is below 1.
  """
  return _search(
    lambda rows: _found(bm25_scores(index, queries[rows])), len(queries), k
  )


def bm25_scores(index: Bm25Index, queries: Sequence[str]) -> np.ndarray:
  """BM25 of every document, float32[n, N]; 0 where it shares no word."""
  scores = np.zeros((len(queries), index.count), np.float32)
  vocabulary = index.retriever.vocab_dict
  split = lexical_words.split(queries, stem=index.stem)
  for row, words in zip(scores, split, strict=True):
    known = [word for word in words if word in vocabulary]
    if known:
      row[:] = index.retriever.get_scores(known)
  return scores


def tune_bm25(
  documents: Sequence[types.Document],
  queries: Sequence[str],
  gold: np.ndarray,
  *,
  stem: bool = True,
  sample: int = 500,
  seed: int = 0,
) -> dict[str, Any]:
  """Chooses the constants of BM25 by MRR@10 on training questions.

  First the weight of the title with the usual k1 and b, then these two.

  Args:
    documents: the corpus.
    queries: n training questions; never those of a table.
    gold: int[n, G], rows of the documents that answer each; -1 = none.
    stem: whether words are cut to English stems.
    sample: how many of the questions are asked, drawn at random.
    seed: of the draw.

  Returns:
    k1, b and title_weight for `bm25_index`; of equals the first of the grid.

  Example:
    >>> corpus = [types.Document(id=x, text=x) for x in ('cat', 'dog')]
    >>> tune_bm25(corpus, ['a cat'], np.array([[0]]))
    {'k1': 0.6, 'b': 0.3, 'title_weight': 1}
  """
  queries, gold = _draw(queries, gold, sample, seed)
  titles = [document.title for document in documents]
  texts = [document.text for document in documents]
  vocabulary = lexical_words.build([*titles, *texts], stem=stem)
  title, text, asked = (
    lexical_words.encode(vocabulary, part) for part in (titles, texts, queries)
  )
  score_all = jax.jit(lexical.score_all)

  def count(title_weight):
    words = np.concatenate([title] * title_weight + [text], axis=1)
    return lexical.count(words, vocab_size=vocabulary.size)

  def quality(counts, k1=1.2, b=0.75):
    lexicon = lexical.weigh(counts, k1=k1, b=b)
    return _quality(lambda rows: _found(score_all(lexicon, asked[rows])), gold)

  counted = {
    weight: count(weight) for weight in (TITLE_WEIGHTS if title.any() else (1,))
  }
  title_weight = max(counted, key=lambda weight: quality(counted[weight]))
  k1, b = max(
    itertools.product(K1S, BS),
    key=lambda constants: quality(counted[title_weight], *constants),
  )
  return {'k1': k1, 'b': b, 'title_weight': title_weight}


def dense_search(
  vectors: np.ndarray, queries: np.ndarray, *, k: int
) -> tuple[np.ndarray, np.ndarray]:
  """The documents of largest inner product, exactly, best first.

  Args:
    vectors: float32[N, D], of the documents.
    queries: float32[n, D].
    k: documents a query.

  Returns:
    Rows in the corpus, int32[n, k], and scores, float32[n, k]; -1 and 0 where
    the corpus is smaller. Of equal scores the lower row comes first.

  Raises:
    ValueError: if k is below 1.

  Example:
    >>> vectors = np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> dense_search(vectors, np.array([[0.1, 0.9]]), k=2)[0].tolist()
    [[1, 0]]
  """
  return _search(lambda rows: queries[rows] @ vectors.T, len(queries), k)


def hybrid_search(
  index: Bm25Index,
  queries: Sequence[str],
  vectors: np.ndarray,
  query_vectors: np.ndarray,
  *,
  weight: float,
  k: int,
) -> tuple[np.ndarray, np.ndarray]:
  """The documents of largest inner product + weight * BM25, exactly.

  Every document gets both scores, so that none is missed that neither search
  alone puts among its first.

  Args:
    index: from `bm25_index`.
    queries: n questions.
    vectors: float32[N, D], of the documents.
    query_vectors: float32[n, D].
    weight: of BM25; `tune_hybrid` finds one.
    k: documents a query.

  Returns:
    As `dense_search`.

  Raises:
    ValueError: if k is below 1.
  """

  def scores(rows):
    dense = query_vectors[rows] @ vectors.T
    return dense + weight * bm25_scores(index, queries[rows])

  return _search(scores, len(queries), k)


def tune_hybrid(
  index: Bm25Index,
  queries: Sequence[str],
  vectors: np.ndarray,
  query_vectors: np.ndarray,
  gold: np.ndarray,
  *,
  sample: int = 500,
  seed: int = 0,
) -> float:
  """Chooses the weight of BM25 in `hybrid_search` by MRR@10.

  Args:
    index: from `bm25_index`.
    queries: n questions that the vectors were not trained on, or dense scores
      look better than they are; never those of a table.
    vectors: float32[N, D], of the documents.
    query_vectors: float32[n, D].
    gold: int[n, G], rows of the documents that answer each; -1 = none.
    sample: how many of the questions are asked, drawn at random.
    seed: of the draw.

  Returns:
    One of `HYBRID_WEIGHTS`; of equals the smallest.
  """
  asked, own_gold = _draw(range(len(queries)), gold, sample, seed)
  totals = np.zeros(len(HYBRID_WEIGHTS))
  for part in _chunks(len(asked)):
    texts = [queries[row] for row in asked[part]]
    dense = query_vectors[asked[part]] @ vectors.T
    words = bm25_scores(index, texts)
    totals += [
      _reciprocal_ranks(dense + weight * words, own_gold[part])
      for weight in HYBRID_WEIGHTS
    ]
  return HYBRID_WEIGHTS[int(totals.argmax())]


def _search(
  score: Callable[[slice], np.ndarray], count: int, k: int
) -> tuple[np.ndarray, np.ndarray]:
  """The k best documents of each of `count` queries, a chunk at a time."""
  if k < 1:
    raise ValueError(f'k must be at least 1, got {k}. Ask for more documents.')
  rows = np.full((count, k), -1, np.int32)
  scores = np.zeros((count, k), np.float32)
  for part in _chunks(count):
    for row, own in enumerate(score(part), start=part.start):
      best = _best(own, k)
      rows[row, : len(best)] = best
      scores[row, : len(best)] = own[best]
  return rows, scores


def _quality(score: Callable[[slice], np.ndarray], gold: np.ndarray) -> float:
  """MRR@10 of what `_search` would find, without sorting."""
  parts = _chunks(len(gold))
  total = sum(_reciprocal_ranks(np.asarray(score(p)), gold[p]) for p in parts)
  return total / len(gold)


def _reciprocal_ranks(scores: np.ndarray, gold: np.ndarray) -> float:
  """Sum of 1 / rank of the first of gold [n, G] in [n, N], 0 below ten.

  The mean over the orders of equal scores, as `metrics.reciprocal_rank`, since
  scores that are all equal would win with any other rank.
  """
  own = np.take_along_axis(scores, np.maximum(gold, 0), axis=1)
  own = np.where(gold >= 0, own, -np.inf)
  best = own.max(axis=1, keepdims=True)
  before = (scores > best).sum(axis=1)
  equal = (scores == best).sum(axis=1)
  relevant = (own == best).sum(axis=1)
  values, none = np.zeros(len(gold)), best[:, 0] > -np.inf
  for place in range(10):  # the chance that the first of gold is there
    left = np.maximum(equal - place, 0)
    hit = np.where(left, np.minimum(relevant / np.maximum(left, 1), 1), 0)
    rank = before + place + 1
    values += np.where(rank <= 10, none * hit / rank, 0)
    none = none * (1 - hit)
  return float(values.sum())


def _chunks(count: int) -> list[slice]:
  return [slice(i, min(i + _CHUNK, count)) for i in range(0, count, _CHUNK)]


def _draw(
  queries: Sequence[Any], gold: np.ndarray, sample: int, seed: int
) -> tuple[list[Any], np.ndarray]:
  """A sample of the questions with gold documents."""
  known = np.flatnonzero((gold >= 0).any(axis=1))
  if not len(known):
    raise ValueError(
      'tuning needs at least 1 question with a gold document, got 0. '
      'Pass training questions with document_ids.'
    )
  rng = np.random.default_rng(seed)
  rows = np.sort(rng.permutation(known)[:sample])
  return [queries[row] for row in rows], gold[rows]


def _found(scores: np.ndarray) -> np.ndarray:
  """BM25 scores, -inf where a document shares no word: it is no result."""
  scores = np.asarray(scores)
  return np.where(scores > 0, scores, -np.inf)


def _best(scores: np.ndarray, k: int) -> np.ndarray:
  """Rows of the k highest scores; ties in the order of the rows."""
  k = min(k, len(scores))
  # Everything that ties with the k-th is sorted too, or ties would be random.
  least = np.partition(scores, -k)[-k]
  rows = np.flatnonzero((scores >= least) & (scores > -np.inf))
  return rows[np.argsort(-scores[rows], kind='stable')][:k]
