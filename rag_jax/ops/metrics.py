"""Measures of retrieval, on arrays, and of answers, on text.

Retrieval measures take `documents` int[B, K], best first, `gold` int[B, G]
with -1 where there is none, and `where` bool[B, K], the documents that are
real; they return float32[B].
"""

import collections
import re
import string
from collections.abc import Sequence

import jax
import jax.numpy as jnp


def hits(
  documents: jax.Array,
  gold: jax.Array,
  *,
  k: int,
  where: jax.Array | None = None,
) -> jax.Array:
  """1 where a gold document is among the first k, else 0.

  Example:
    >>> hits(jnp.array([[4, 7, 9]]), jnp.array([[7, -1]]), k=2)
    Array([1.], dtype=float32)
  """
  found = _relevant(documents, gold, where)[:, :k]
  return found.any(axis=1).astype(jnp.float32)


def reciprocal_rank(
  documents: jax.Array,
  gold: jax.Array,
  *,
  k: int | None = None,
  where: jax.Array | None = None,
) -> jax.Array:
  """1 / rank of the first gold document among the first k, or 0.

  Example:
    >>> reciprocal_rank(jnp.array([[4, 7, 9]]), jnp.array([[7]]))
    Array([0.5], dtype=float32)
  """
  found = _relevant(documents, gold, where)[:, :k]
  rank = jnp.argmax(found, axis=1) + 1
  return jnp.where(found.any(axis=1), 1.0 / rank, 0.0).astype(jnp.float32)


def normalise(text: str) -> str:
  """SQuAD's normal form: lower case, no punctuation, no articles."""
  text = ''.join(c for c in text.lower() if c not in _PUNCTUATION)
  return ' '.join(_ARTICLES.sub(' ', text).split())


def exact_match(prediction: str, answers: Sequence[str]) -> float:
  """1.0 if the prediction is one of the answers in normal form.

  Example:
    >>> exact_match('The Beatles.', ['Beatles'])
    1.0

  Reference:
    Rajpurkar et al., SQuAD: 100,000+ Questions for Machine Comprehension of
    Text, 2016.
  """
  own = normalise(prediction)
  return float(any(own == normalise(answer) for answer in answers))


def f1(prediction: str, answers: Sequence[str]) -> float:
  """The best harmonic mean of word precision and recall over the answers.

  Example:
    >>> f1('New York City', ['New York'])
    0.8
  """
  return max((_overlap(prediction, answer) for answer in answers), default=0.0)


def _overlap(prediction: str, answer: str) -> float:
  ours, theirs = normalise(prediction).split(), normalise(answer).split()
  if not ours or not theirs:
    return float(ours == theirs)
  counts = collections.Counter(ours) & collections.Counter(theirs)
  common = sum(counts.values())
  return 2 * common / (len(ours) + len(theirs))


def _relevant(documents, gold, where):
  found = (documents[:, :, None] == gold[:, None]) & (gold >= 0)[:, None]
  found = found.any(axis=-1)
  return found if where is None else found & where


_ARTICLES = re.compile(r'\b(a|an|the)\b')
_PUNCTUATION = frozenset(string.punctuation)
