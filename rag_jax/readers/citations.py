"""Citations in the tokens of answers: -n cites document n, from 1.

In the answers of a batch it is a gold document of the question; `place` turns
it into a passage read. Passages are written in no fixed order, so that their
numbers have no meaning to a reader but by what the passages say.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rag_jax import types
from rag_jax.nn import generate

_ABSENT = -(2**20)  # cites a document that is not read; it has no score


def place(
  answers: jax.Array, gold: jax.Array, documents: jax.Array, where: jax.Array
) -> jax.Array:
  """Answers that cite passages, from answers that cite gold documents.

  Args:
    answers: int32[B, M, A], -n = gold document n.
    gold: int32[B, G], rows of the gold documents; -1 = none.
    documents: int32[B, R], rows of the documents read.
    where: bool[B, R], True = real.

  Returns:
    int32[B, M, A], -n = document n of those read; a large negative number for
    a gold document that is not read.

  Example:
    >>> answers, gold = jnp.array([[[5, -1, 6, -2]]]), jnp.array([[8, 9]])
    >>> read, where = jnp.array([[7, 9, 8]]), jnp.ones((1, 3), bool)
    >>> place(answers, gold, read, where).tolist()
    [[[5, -3, 6, -2]]]
  """
  same = (gold[..., None] == documents[:, None]) & where[:, None]  # [B, G, R]
  same &= (gold >= 0)[..., None]
  to = jnp.where(same.any(-1), -1 - same.argmax(-1), _ABSENT)  # [B, G]
  rows = jnp.arange(answers.shape[0])[:, None, None]
  number = jnp.clip(-1 - answers, 0, gold.shape[1] - 1)
  given = (answers < 0) & (-answers <= gold.shape[1])
  cited = jnp.where(given, to[rows, number], _ABSENT)
  return jnp.where(answers < 0, cited, answers)


def targets(cites: bool, batch: types.Batch, reading: Any) -> jax.Array:
  """The answers of a batch in the reader's tokens, int32[B, M, A].

  Args:
    cites: whether the reader cites; if so, citations are `place`d.
    batch: the questions.
    reading: has `documents` int32[B, R] and `where` bool[B, R].
  """
  if not cites:
    return batch.read_answers
  return place(batch.read_answers, batch.gold, reading.documents, reading.where)


def without(
  weights: jax.Array, where: jax.Array, is_gold: jax.Array, chosen: jax.Array
) -> jax.Array:
  """Weights of documents read, without the gold ones of some questions.

  Args:
    weights: float32[B, R].
    where: bool[B, R], True = real.
    is_gold: bool[B, R], gold documents.
    chosen: bool[B], the questions; their other documents have equal weights.

  Example:
    >>> weights, real = jnp.array([[0.9, 0.1, 0.0]]), jnp.ones((1, 3), bool)
    >>> without(weights, real, weights > 0.5, jnp.array([True])).tolist()
    [[0.0, 0.5, 0.5]]
  """
  others = where & ~is_gold
  equal = others / jnp.maximum(others.sum(1, keepdims=True), 1)
  return jnp.where(chosen[:, None], equal, weights)


def alone(answers: jax.Array, count: int) -> jax.Array:
  """Answers int32[B * K, A] to K copies of a question with passage k each.

  The citation of passage k becomes that of the only passage.
  """
  own = -1 - jnp.arange(answers.shape[0])[:, None] % count
  cited = jnp.where(answers == own, -1, _ABSENT)
  return jnp.where(answers < 0, cited, answers)


def classes(answers: jax.Array, vocab_size: int, where: jax.Array) -> jax.Array:
  """Index of each token among V tokens and K passages; 0 = no score.

  Args:
    answers: int32[B, A], placed.
    vocab_size: V.
    where: bool[B, K], passages that can be cited.

  Example:
    >>> answers = jnp.array([[5, -1, -2, -9, 0]])
    >>> classes(answers, 10, jnp.array([[False, True]])).tolist()
    [[5, 0, 11, 0, 0]]
  """
  count = where.shape[1]
  place = jnp.clip(-1 - answers, 0, count - 1)
  is_read = jnp.take_along_axis(where, place, axis=1) & (-answers <= count)
  cited = jnp.where(is_read, vocab_size + place, 0)
  return jnp.where(answers < 0, cited, answers)


def tokens(found: jax.Array, vocab_size: int) -> jax.Array:
  """The inverse of `classes`: tokens, and -n for passage n."""
  return jnp.where(found >= vocab_size, vocab_size - 1 - found, found)


class _State(NamedTuple):
  sentences: jax.Array  # int32[B, 1], those that are written
  is_open: jax.Array  # bool[B, 1], within a sentence


def constraint(
  batch: int,
  vocab_size: int,
  count: int,
  *,
  end_token: int,
  max_sentences: int = 0,
) -> generate.Constraint:
  """Constrains generation to sentences, each with a citation.

  A passage may be cited after a token; the text may end, or is not begun, after
  a citation; after the last sentence it must end.

  Args:
    batch: B.
    vocab_size: V; class V + k cites passage k.
    count: K.
    end_token: ends a text.
    max_sentences: maximum number of sentences; 0 = no limit.

  Example:
    >>> rule = constraint(1, 5, 2, end_token=2, max_sentences=1)
    >>> written = rule.advance(rule.state, jnp.array([[4]]))
    >>> rule.mask(written)[0, 0].nonzero()[0].tolist()  # no end without one
    [0, 1, 3, 4, 5, 6]
    >>> cited = rule.advance(written, jnp.array([[6]]))
    >>> rule.mask(cited)[0, 0].nonzero()[0].tolist()
    [2]
  """
  number = jnp.arange(vocab_size + count)
  cites, ends = number >= vocab_size, number == end_token

  def mask(state):
    is_open = state.is_open[..., None]
    allowed = jnp.where(cites, is_open, jnp.where(ends, ~is_open, True))
    if max_sentences:
      full = ~is_open & (state.sentences[..., None] >= max_sentences)
      allowed &= ends | ~full
    return allowed

  def advance(state, chosen):
    cited = chosen >= vocab_size
    return _State(state.sentences + cited, ~cited)

  start = _State(jnp.zeros((batch, 1), jnp.int32), jnp.zeros((batch, 1), bool))
  return generate.Constraint(start, mask, advance)
