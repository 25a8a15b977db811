"""Counts of words in documents, and BM25's weights of them, on the host.

`lexical` makes a lexicon of them; a corpus may come in blocks.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

WINDOW = 128  # postings that are read at a time, see `lexical`
PAIR_BUCKETS = 2**20  # that pairs of words are hashed into; 4 MB


class Counts(NamedTuple):
  """Which words occur where and how often, on the host; from `count`."""

  first: np.ndarray  # int64[V + 1], first posting of each word
  documents: np.ndarray  # int64[P], sorted for each word
  times: np.ndarray  # int64[P], how often the word occurs in the document
  lengths: np.ndarray  # int64[N], words of each document


def add_pairs(words: Any, first: int) -> jax.Array:
  """Numbers of pairs behind those of words, [..., W] to [..., 2 W - 1]."""
  words = jnp.asarray(words, jnp.int32)
  before = words[..., :-1].astype(jnp.uint32)
  after = words[..., 1:].astype(jnp.uint32)
  mixed = before * jnp.uint32(0x9E3779B1) + after * jnp.uint32(0x85EBCA77)
  mixed = (mixed ^ (mixed >> 15)) * jnp.uint32(0x2C1B3C6D)
  bucket = ((mixed ^ (mixed >> 12)) % PAIR_BUCKETS).astype(jnp.int32)
  pairs = jnp.where((before > 0) & (after > 0), first + bucket, 0)
  return jnp.concatenate([words, pairs], axis=-1)


def count_with_pairs(
  words: np.ndarray, *, vocab_size: int, pair_weight: float
) -> Counts:
  """`count`, of pairs of neighbouring words too unless `pair_weight` is 0."""
  if not pair_weight:
    return count(words, vocab_size=vocab_size)
  words = np.asarray(add_pairs(words, vocab_size))
  return count(words, vocab_size=vocab_size + PAIR_BUCKETS)


def check_postings(number: int) -> None:
  """Raises a ValueError if there are more postings than 32 bits can number."""
  most = 2**31 - 1 - WINDOW
  if number > most:
    raise ValueError(
      f'a lexicon has at most {most:,} postings, got {number:,}. Divide the '
      'corpus, or search without a lexicon.'
    )


def count(words: np.ndarray, *, vocab_size: int) -> Counts:
  """Counts words: the part of `build` that k1 and b do not change."""
  words = np.asarray(words)
  if words.ndim != 2 or not np.issubdtype(words.dtype, np.integer):
    raise ValueError(
      f'words must be integers [N, W], got {words.dtype} of shape '
      f'{words.shape}. Give the words of each document by number.'
    )
  if not len(words):
    raise ValueError(
      'a lexicon needs at least 1 document, got 0. '
      'Give words of a document or more.'
    )
  if words.size and not 0 <= words.min() <= words.max() < vocab_size:
    raise ValueError(
      f'words must be 0 to {vocab_size - 1}, got {words.min()} to '
      f'{words.max()}. Encode them with the vocabulary of vocab_size.'
    )
  rows, places = np.nonzero(words)
  keys = words[rows, places].astype(np.int64) * len(words) + rows
  keys, times = np.unique(keys, return_counts=True)
  own, documents = np.divmod(keys, len(words))
  frequency = np.bincount(own, minlength=vocab_size)
  first = np.concatenate([[0], np.cumsum(frequency)])
  return Counts(first, documents, times, (words != 0).sum(axis=1))


def join(blocks: Sequence[Counts]) -> Counts:
  """The counts of documents that come in blocks, in order."""
  if len(blocks) == 1:
    return blocks[0]
  if not blocks:
    raise ValueError(
      'a lexicon needs at least 1 document, got 0. '
      'Give words of a document or more.'
    )
  frequency = np.stack([np.diff(own.first) for own in blocks])
  before = np.cumsum([0, *(len(own.lengths) for own in blocks)])
  number = np.arange(frequency.shape[1])
  own = np.concatenate([np.repeat(number, f) for f in frequency])
  order = np.argsort(own, kind='stable')  # by word, then by block
  documents = [c.documents + b for c, b in zip(blocks, before, strict=False)]
  return Counts(
    np.concatenate([[0], np.cumsum(frequency.sum(axis=0))]),
    np.concatenate(documents)[order],
    np.concatenate([c.times for c in blocks])[order],
    np.concatenate([c.lengths for c in blocks]),
  )


class Weights:
  """BM25's weights, from the lengths of all documents and all frequencies."""

  def __init__(
    self, lengths: np.ndarray, frequency: np.ndarray, *, k1: float, b: float
  ):
    """Lengths int[N], and int[V], documents that have each word."""
    self._idf = np.log1p((len(lengths) - frequency + 0.5) / (frequency + 0.5))
    relative = lengths / max(lengths.mean(), 1e-9)
    self._norms = k1 * (1 - b + b * relative)

  def impacts(self, counts: Counts, before: int) -> np.ndarray:
    """Impacts of the postings of some documents, float64.

    Args:
      counts: of documents that follow each other.
      before: the number of the first.
    """
    norm = self._norms[counts.documents + before]
    idf = np.repeat(self._idf, np.diff(counts.first))
    return idf * counts.times / (counts.times + norm)
