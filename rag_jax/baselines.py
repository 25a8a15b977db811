"""Baselines: BM25, exact dense search, and a weighted sum of both (hybrid).

All score the whole corpus and have no trained parameters. `tune_bm25` and
`tune_hybrid` choose their constants by a grid search on training questions.
"""

import dataclasses
import itertools
import logging
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from rag_jax import types
from rag_jax.data import words as lexical_words
from rag_jax.ops import checks, lexical

K1S = (0.6, 0.9, 1.2, 1.6, 2.0, 2.5)
BS = (0.3, 0.4, 0.5, 0.6, 0.75, 0.9)
TITLE_WEIGHTS = (1, 2, 3, 5)
HYBRID_WEIGHTS = (0.0, *(2.0 ** (i / 2) for i in range(-20, 7)))

_CHUNK = 64  # queries scored at a time; bounds the memory


@dataclasses.dataclass(frozen=True)
class Bm25Index:
  """A corpus indexed for BM25; from `bm25_index`."""

  retriever: Any  # bm25s.BM25
  count: int  # documents
  stem: bool
  language: str


def bm25_index(
  documents: Sequence[types.Document],
  *,
  k1: float = 1.2,
  b: float = 0.75,
  stem: bool = True,
  language: str = 'english',
  title_weight: int = 1,
) -> Bm25Index:
  """Indexes a corpus for BM25.

  The score of a document is the sum over the words w of the query of
  idf(w) * tf / (tf + k1 * (1 - b + b * length / mean length)).

  Args:
    documents: the corpus; row i of a result is documents[i].
    k1: term-frequency saturation, at least 0; larger = later.
    b: length normalisation, 0 (none) to 1 (full).
    stem: whether to reduce words to their stems.
    language: of the stems and the stop words, one of `words.LANGUAGES`.
    title_weight: times that the title is counted; 0 leaves it out.

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
  wrong = [d for d in documents if not isinstance(d, types.Document)]
  if wrong:
    raise ValueError(
      f'documents must be a list of Document, got {wrong[0]!r}. Pass '
      'rag_jax.corpus.as_documents(texts).'
    )
  if not documents:
    raise ValueError(
      'BM25 needs at least 1 document, got 0. Set --config.data.path to more.'
    )
  if k1 < 0 or not 0 <= b <= 1 or title_weight < 0:
    raise ValueError(
      'BM25 needs k1 >= 0, 0 <= b <= 1 and title_weight >= 0, got '
      f'{k1}, {b} and {title_weight}. Pass other values to bm25_index.'
    )
  import bm25s  # starts XLA, which must wait for other processes

  logging.getLogger('bm25s').setLevel(logging.WARNING)  # default: DEBUG
  texts = lexical_words.document_texts(documents, title_weight=title_weight)
  retriever = bm25s.BM25(k1=k1, b=b)
  words = lexical_words.split(texts, stem=stem, language=language)
  # bm25s rejects a corpus without words: index one empty word instead.
  words = words if any(words) else [[''], *words[1:]]
  retriever.index(words, show_progress=False)
  return Bm25Index(retriever, len(documents), stem, language)


def bm25_search(
  index: Bm25Index, queries: Sequence[str], *, k: int
) -> tuple[np.ndarray, np.ndarray]:
  """The k documents with the highest BM25 score, best first.

  Args:
    index: from `bm25_index`.
    queries: n questions; one without words finds nothing.
    k: documents per query.

  Returns:
    Rows in the corpus, int32[n, k], and scores, float32[n, k]. Only documents
    that share a word with the query are returned; after the last one, rows are
    -1 and scores 0. Ties are in the order of the rows.

  Raises:
    ValueError: if k is below 1.
  """
  queries = checks.strings(queries, 'queries')
  return _search(
    lambda rows: _found(bm25_scores(index, queries[rows])), len(queries), k
  )


def bm25_scores(index: Bm25Index, queries: Sequence[str]) -> np.ndarray:
  """BM25 of every document, float32[n, N]; 0 if it shares no word."""
  scores = np.zeros((len(queries), index.count), np.float32)
  vocabulary = index.retriever.vocab_dict
  split = lexical_words.split(queries, stem=index.stem, language=index.language)
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
  language: str = 'english',
  sample: int = 500,
  seed: int = 0,
) -> dict[str, Any]:
  """Chooses the constants of BM25 by MRR@10 on training questions.

  Tunes the title weight with k1 = 1.2 and b = 0.75, then k1 and b together.

  Args:
    documents: the corpus.
    queries: n training questions, never evaluation questions.
    gold: int[n, G], rows of the gold documents; -1 = none.
    stem: whether to reduce words to their stems.
    language: of the stems and the stop words, one of `words.LANGUAGES`.
    sample: maximum number of questions, drawn at random.
    seed: of the draw.

  Returns:
    k1, b and title_weight for `bm25_index`; ties go to the first in the grid.

  Raises:
    ValueError: if no question has a gold document.

  Example:
    >>> corpus = [types.Document(id=x, text=x) for x in ('cat', 'dog')]
    >>> tune_bm25(corpus, ['a cat'], np.array([[0]]))
    {'k1': 0.6, 'b': 0.3, 'title_weight': 1}
  """
  queries, gold = _sample(queries, gold, sample, seed)
  titles = [document.title for document in documents]
  texts = [document.text for document in documents]
  every = [*titles, *texts]
  vocabulary = lexical_words.build(every, stem=stem, language=language)
  title, text, query = (
    lexical_words.encode(vocabulary, part) for part in (titles, texts, queries)
  )
  score_all = jax.jit(lexical.score_all)

  def count(title_weight):
    words = np.concatenate([title] * title_weight + [text], axis=1)
    return lexical.count(words, vocab_size=vocabulary.size)

  def quality(counts, k1=1.2, b=0.75):
    lexicon = lexical.weigh(counts, k1=k1, b=b)
    return _mrr(lambda rows: _found(score_all(lexicon, query[rows])), gold)

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
  """Exact search: the k documents with the largest inner product, best first.

  Args:
    vectors: float32[N, D], of the documents.
    queries: float32[n, D].
    k: documents per query.

  Returns:
    Rows in the corpus, int32[n, k], and scores, float32[n, k]; -1 and 0 beyond
    the size of the corpus. Ties are in the order of the rows.

  Raises:
    ValueError: if k is below 1.

  Example:
    >>> vectors = np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> dense_search(vectors, np.array([[0.1, 0.9]]), k=2)[0].tolist()
    [[1, 0]]
  """
  _check_vectors(vectors, queries)
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
  """Exact search by inner product + weight * BM25, best first.

  Every document gets both scores, not only the top results of each search.

  Args:
    index: from `bm25_index`.
    queries: n questions.
    vectors: float32[N, D], of the documents.
    query_vectors: float32[n, D].
    weight: of BM25, from `tune_hybrid`.
    k: documents per query.

  Returns:
    As `dense_search`.

  Raises:
    ValueError: if k is below 1.
  """
  queries = checks.strings(queries, 'queries')
  _check_vectors(vectors, query_vectors)

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
    queries: n training questions, never evaluation questions. If the encoder
      was trained on them, the weight of BM25 comes out too small.
    vectors: float32[N, D], of the documents.
    query_vectors: float32[n, D].
    gold: int[n, G], rows of the gold documents; -1 = none.
    sample: maximum number of questions, drawn at random.
    seed: of the draw.

  Returns:
    One of `HYBRID_WEIGHTS`; ties go to the smallest.

  Raises:
    ValueError: if no question has a gold document.
  """
  rows, gold = _sample(range(len(queries)), gold, sample, seed)
  totals = np.zeros(len(HYBRID_WEIGHTS))
  for part in _chunks(len(rows)):
    dense = query_vectors[rows[part]] @ vectors.T
    words = bm25_scores(index, [queries[row] for row in rows[part]])
    totals += [
      _reciprocal_ranks(dense + weight * words, gold[part])
      for weight in HYBRID_WEIGHTS
    ]
  return HYBRID_WEIGHTS[int(totals.argmax())]


def _check_vectors(vectors: np.ndarray, queries: np.ndarray) -> None:
  """Raises a ValueError unless these are vectors [N, D] and [n, D]."""
  ours, theirs = np.shape(vectors), np.shape(queries)
  if not len(ours) == len(theirs) == 2 or ours[1] != theirs[1]:
    raise ValueError(
      f'dense search needs vectors [N, D] and [n, D], got {ours} and {theirs}. '
      'Pass a row a document and a row a query.'
    )


def _search(
  score: Callable[[slice], np.ndarray], count: int, k: int
) -> tuple[np.ndarray, np.ndarray]:
  """The top k documents of `count` queries, scored a chunk at a time."""
  if k < 1:
    raise ValueError(f'k must be at least 1, got {k}. Ask for more documents.')
  rows = np.full((count, k), -1, np.int32)
  scores = np.zeros((count, k), np.float32)
  for part in _chunks(count):
    for row, query_scores in enumerate(score(part), start=part.start):
      best = _best(query_scores, k)
      rows[row, : len(best)] = best
      scores[row, : len(best)] = query_scores[best]
  return rows, scores


def _mrr(score: Callable[[slice], np.ndarray], gold: np.ndarray) -> float:
  """MRR@10 of the ranking by `score`, without sorting."""
  parts = _chunks(len(gold))
  total = sum(_reciprocal_ranks(np.asarray(score(p)), gold[p]) for p in parts)
  return total / len(gold)


def _reciprocal_ranks(scores: np.ndarray, gold: np.ndarray) -> float:
  """Sum over queries of 1 / rank of the first gold document, 0 beyond rank 10.

  Ties count as the expectation over a random order of the tied documents, as in
  `metrics.reciprocal_rank`. With the best rank of a tie instead, constant
  scores would win the grid search.

  Args:
    scores: float[n, N], of every document.
    gold: int[n, G], rows of the gold documents; -1 = none.
  """
  gold_scores = np.take_along_axis(scores, np.maximum(gold, 0), axis=1)
  gold_scores = np.where(gold >= 0, gold_scores, -np.inf)
  best = gold_scores.max(axis=1, keepdims=True)
  before = (scores > best).sum(axis=1)
  tied = (scores == best).sum(axis=1)
  tied_gold = (gold_scores == best).sum(axis=1)
  values, missing = np.zeros(len(gold)), best[:, 0] > -np.inf
  for place in range(10):  # within the tie
    left = np.maximum(tied - place, 0)
    # P(gold at this place | no gold before it)
    hit = np.where(left, np.minimum(tied_gold / np.maximum(left, 1), 1), 0)
    rank = before + place + 1
    values += np.where(rank <= 10, missing * hit / rank, 0)
    missing = missing * (1 - hit)
  return float(values.sum())


def _chunks(count: int) -> list[slice]:
  return [slice(i, min(i + _CHUNK, count)) for i in range(0, count, _CHUNK)]


def _sample(
  queries: Sequence[Any], gold: np.ndarray, sample: int, seed: int
) -> tuple[list[Any], np.ndarray]:
  """A random sample of the questions that have gold documents."""
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
  """BM25 scores, with -inf for documents that share no word with the query."""
  scores = np.asarray(scores)
  return np.where(scores > 0, scores, -np.inf)


def _best(scores: np.ndarray, k: int) -> np.ndarray:
  """Rows of the k highest scores; ties are in the order of the rows."""
  k = min(k, len(scores))
  # Sort all ties with the k-th score too: np.partition orders them at random.
  least = np.partition(scores, -k)[-k]
  rows = np.flatnonzero((scores >= least) & (scores > -np.inf))
  return rows[np.argsort(-scores[rows], kind='stable')][:k]
