"""Whole words as integers, for exact lexical matching beside subword tokens.

The words are those of BM25: lower case, without the commonest English ones,
cut to their English stems. A subword tokenizer keeps the order of a text; here
only which words occur, and how often, is kept.
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
  stem: bool  # whether the words are stems

  @property
  def size(self) -> int:
    """V, one more than the largest number; 0 is padding."""
    return len(self.ids) + 1


def build(texts: Sequence[str], *, stem: bool = True) -> Vocabulary:
  """Numbers the words of a corpus; the order of the texts does not matter.

  Args:
    texts: what `document_texts` made of the documents.
    stem: whether words are cut to English stems.

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
  """Writes texts as word numbers, in order and as often as they occur.

  Args:
    vocabulary: from `build`; words that it lacks are left out.
    texts: n texts.
    max_words: W, a longer text is cut; None takes the longest of the texts.

  Returns:
    int32[n, W], 0 = padding at the end.

  Raises:
    ValueError: if there is no room for a word.

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
  for row, own in zip(words, rows, strict=True):
    row[: len(own)] = own
  return words


def document_texts(
  documents: Sequence[types.Document], *, title_weight: int = 1
) -> list[str]:
  """What is indexed of each document: its title so many times, and its text."""
  return [f'{d.title} ' * title_weight + d.text for d in documents]


def split(texts: Sequence[str], *, stem: bool = True) -> list[list[str]]:
  """The words of each text, without the commonest English ones."""
  return bm25s.tokenize(
    list(texts),
    # A pattern that keeps words of one letter or digit: "vitamin c", "act 3".
    token_pattern=r'(?u)\b\w+\b',
    stopwords='en',
    stemmer=Stemmer.Stemmer('english') if stem else None,
    return_ids=False,
    show_progress=False,
  )
