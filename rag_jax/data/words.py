"""Whole-word ids for BM25, independent of the subword tokens.

Words are lowercased and stemmed (English); English stop words are removed.
"""

import dataclasses
from collections.abc import Sequence

import bm25s
import numpy as np
import Stemmer

from rag_jax import types

PAD = types.PAD


@dataclasses.dataclass(frozen=True)
class Vocabulary:
  """The words of a corpus, numbered from 1 in alphabetical order."""

  ids: dict[str, int]
  stem: bool  # whether words are stemmed

  @property
  def size(self) -> int:
    """V, number of ids, including 0 for padding."""
    return len(self.ids) + 1


def build(texts: Sequence[str], *, stem: bool = True) -> Vocabulary:
  """Builds the vocabulary of a corpus; the order of texts does not matter.

  Args:
    texts: the result of `document_texts`.
    stem: whether to stem words (English).

  Returns:
    A vocabulary for `encode`.

  Example:
    >>> build(['The dogs sleep.', 'a sleeping cat']).ids
    {'cat': 1, 'dog': 2, 'sleep': 3}
  """
  found = sorted(set().union(*split(texts, stem=stem)))
  return Vocabulary({word: i + 1 for i, word in enumerate(found)}, stem)


def encode(
  vocabulary: Vocabulary,
  texts: Sequence[str],
  *,
  max_words: int | None = None,
) -> np.ndarray:
  """Converts texts to word ids, in order and with repetitions.

  Args:
    vocabulary: from `build`; unknown words are dropped.
    texts: n texts.
    max_words: W; longer texts are truncated; None = length of the longest text.

  Returns:
    int32[n, W], 0 = padding.

  Raises:
    ValueError: if `max_words` is below 1.

  Example:
    >>> vocabulary = build(['cats and dogs'])
    >>> encode(vocabulary, ['Dog eats dog', 'the cat'], max_words=3).tolist()
    [[2, 2, 0], [1, 0, 0]]
  """
  if max_words is not None and max_words < 1:
    raise ValueError(
      f'max_words must be at least 1, got {max_words}. Pass a larger one to '
      'words.encode.'
    )
  ids = vocabulary.ids
  rows = [
    [ids[word] for word in text if word in ids][:max_words]
    for text in split(texts, stem=vocabulary.stem)
  ]
  width = max_words or max(map(len, rows), default=0)
  words = np.full((len(rows), max(width, 1)), PAD, np.int32)
  for padded, row in zip(words, rows, strict=True):
    padded[: len(row)] = row
  return words


def document_texts(
  documents: Sequence[types.Document], *, title_weight: int = 1
) -> list[str]:
  """Returns the texts that BM25 indexes: title_weight x title, and text."""
  return [f'{d.title} ' * title_weight + d.text for d in documents]


def split(texts: Sequence[str], *, stem: bool = True) -> list[list[str]]:
  """Splits texts into words; removes English stop words."""
  return bm25s.tokenize(
    list(texts),
    # This pattern keeps words of one character: "vitamin c", "act 3".
    token_pattern=r'(?u)\b\w+\b',
    stopwords='en',
    stemmer=Stemmer.Stemmer('english') if stem else None,
    return_ids=False,
    show_progress=False,
  )
