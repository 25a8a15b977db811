"""BM25, the retriever that every table compares with."""

import dataclasses
import logging
from collections.abc import Sequence

import bm25s
import numpy as np

from rag_jax import types
from rag_jax.data import words as lexical_words

logging.getLogger('bm25s').setLevel(logging.WARNING)  # it asks for debugging


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
  if k < 1:
    raise ValueError(f'k must be at least 1, got {k}. Ask for more documents.')
  rows = np.full((len(queries), k), -1, np.int32)
  scores = np.zeros((len(queries), k), np.float32)
  vocabulary = index.retriever.vocab_dict
  for i, words in enumerate(lexical_words.split(queries, stem=index.stem)):
    known = [word for word in words if word in vocabulary]
    if not known:
      continue
    found = index.retriever.get_scores(known)
    best = _best(found, k)
    rows[i, : len(best)] = best
    scores[i, : len(best)] = found[best]
  return rows, scores


_QUIET = {'show_progress': False}


def _best(scores: np.ndarray, k: int) -> np.ndarray:
  """Rows of the k highest positive scores; ties in the order of the rows."""
  k = min(k, len(scores))
  # Everything that ties with the k-th is sorted too, or ties would be random.
  least = np.partition(scores, -k)[-k]
  rows = np.flatnonzero((scores >= least) & (scores > 0))
  return rows[np.argsort(-scores[rows], kind='stable')][:k]
