"""The round trip: a question is kept if a search finds its document back."""

from collections.abc import Sequence

import numpy as np

from rag_jax import baselines

_CHUNK = 64  # questions scored at a time; bounds the memory


def found_back(
  index: baselines.Bm25Index,
  questions: Sequence[str],
  rows: Sequence[int],
  *,
  k: int,
) -> np.ndarray:
  """Whether each question has its document among the first k of BM25.

  Args:
    index: from `baselines.bm25_index`.
    questions: n questions.
    rows: row of the document that each question is about.
    k: how many documents are looked at, at least 1.

  Returns:
    bool[n], as `baselines.bm25_search` would rank: ties are in the order of the
    rows, and a question that shares no word with its document finds nothing.

  Reference:
    Alberti et al., Synthetic QA Corpora Generation with Roundtrip Consistency,
    2019; Dai et al., Promptagator, 2023, for retrieval as the trip back.

  Example:
    >>> from rag_jax import types
    >>> corpus = [types.Document(id=x, text=x) for x in ('a cat', 'a dog')]
    >>> index = baselines.bm25_index(corpus)
    >>> found_back(index, ['what is a dog?', 'who?'], [1, 1], k=1).tolist()
    [True, False]
  """
  if k < 1:
    raise ValueError(
      f'k must be at least 1, got {k}. Set --config.generator.round_trip.'
    )
  found = np.zeros(len(questions), bool)
  for start in range(0, len(questions), _CHUNK):
    part = slice(start, start + _CHUNK)
    own = np.asarray(rows[part], np.int64)[:, None]
    scores = baselines.bm25_scores(index, questions[part])
    score = np.take_along_axis(scores, own, axis=1)
    earlier = np.arange(scores.shape[1]) < own
    before = (scores > score) | ((scores == score) & earlier)
    found[part] = (before.sum(axis=1) < k) & (score[:, 0] > 0)
  return found
