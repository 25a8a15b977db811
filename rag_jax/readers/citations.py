"""Citations in the tokens of answers: -n cites document n, from 1.

In the answers of a batch it is a gold document of the question; `place` turns
it into a passage read. Passages are written in no fixed order, so that their
numbers have no meaning to a reader but by what the passages say.

A text has the citations of a sentence after it. A reader writes them before it
(`before_sentences`), and writes the sentence from the passages cited alone
(`Sources`), so that no value is copied from another one. `after_sentences`
turns this into a text.

Reference:
  Gao et al., Enabling Large Language Models to Generate Text with Citations
  (ALCE), 2023, where a model writes a sentence and then its citations.
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


def before_sentences(answers: jax.Array) -> jax.Array:
  """Moves the citations of each sentence before it.

  Args:
    answers: int32[B, A], placed; a sentence ends after its last citation.

  Example:
    >>> before_sentences(jnp.array([[5, 6, -1, 7, -2, -3, 2, 0]])).tolist()
    [[-1, 5, 6, -2, -3, 7, 2, 0]]
  """
  cites = answers < 0
  ends = cites & ~jnp.pad(cites[:, 1:], ((0, 0), (0, 1)))
  sentence = jnp.cumsum(ends, axis=1) - ends
  return _sorted(answers, 2 * sentence + ~cites)


def after_sentences(answers: jax.Array, end: int) -> jax.Array:
  """The inverse of `before_sentences`, for texts that a reader writes.

  Args:
    answers: int32[B, A].
    end: the token that ends a text. The last sentence of a text without it was
      cut, and is left out.

  Example:
    >>> written = jnp.array([[-1, 5, -2, -3, 7, 2], [-1, 5, -2, 6, 7, 8]])
    >>> after_sentences(written, 2).tolist()
    [[5, -1, 7, -2, -3, 2], [5, -1, 0, 0, 0, 0]]
  """
  sentence = _begun(answers)
  ends = answers == end
  cut = ~ends.any(1, keepdims=True) & (sentence == sentence[:, -1:])
  answers = jnp.where(cut, types.PAD, answers)
  return _sorted(answers, 2 * (sentence + ends) + (answers < 0))


def _begun(tokens: jax.Array) -> jax.Array:
  """Sentences begun up to each token, if citations are before sentences."""
  cites = tokens < 0
  starts = cites & ~jnp.pad(cites[:, :-1], ((0, 0), (1, 0)))
  return jnp.cumsum(starts, axis=1)


def _sorted(answers: jax.Array, order: jax.Array) -> jax.Array:
  """Tokens in a stable order, and padding last."""
  order = jnp.where(answers == types.PAD, 2 * answers.shape[1] + 2, order)
  return jnp.take_along_axis(answers, jnp.argsort(order, axis=1), axis=1)


class Sources(NamedTuple):
  """What a text is written from, after each of its tokens."""

  cited: jax.Array  # bool[B, A, K], passages that its sentence has cited
  is_open: jax.Array  # bool[B, A], the last token is of a sentence

  def passages(self) -> jax.Array:
    """The passages that the next token may be from; all before a citation."""
    return self.cited | ~self.cited.any(-1, keepdims=True)


def sources(prefix: jax.Array, count: int) -> Sources:
  """The sources after each token.

  Args:
    prefix: int32[B, A], with citations before sentences.
    count: K.

  Example:
    >>> found = sources(jnp.array([[1, -2, 5, -1, -2]]), 2)
    >>> found.passages()[0].astype(int).tolist()
    [[1, 1], [0, 1], [0, 1], [1, 0], [1, 1]]
  """
  own = prefix[..., None] == -1 - jnp.arange(count)  # [B, A, K]
  sentence = _begun(prefix)
  same = sentence[:, :, None] == sentence[:, None]
  same &= jnp.tri(prefix.shape[1], dtype=bool)
  cited = jnp.einsum('bij,bjk->bik', same.astype(int), own.astype(int)) > 0
  return Sources(cited, prefix >= 0)


def advance(before: Sources, token: jax.Array) -> Sources:
  """The sources of the text with one more token, int32[B, 1]."""
  cites = (token < 0)[..., None]
  own = token[..., None] == -1 - jnp.arange(before.cited.shape[-1])
  kept = before.cited & ~before.is_open[..., None]  # of the same sentence
  return Sources(jnp.where(cites, own | kept, before.cited), token >= 0)


class _State(NamedTuple):
  sentences: jax.Array  # int32[B, 1], those that are begun
  sources: Sources


def constraint(
  batch: int,
  vocab_size: int,
  count: int,
  *,
  end_token: int,
  max_sentences: int = 0,
) -> generate.Constraint:
  """Constrains generation to sentences, each after its citations.

  A text begins with a citation, or ends. A citation is followed by one of
  another passage or by a token, a token by anything; with the last sentence no
  other one begins.

  Args:
    batch: B.
    vocab_size: V; class V + k cites passage k.
    count: K.
    end_token: ends a text.
    max_sentences: maximum number of sentences; 0 = no limit.

  Example:
    >>> rule = constraint(1, 5, 2, end_token=2, max_sentences=1)
    >>> rule.mask(rule.state)[0, 0].nonzero()[0].tolist()
    [2, 5, 6]
    >>> cited = rule.advance(rule.state, jnp.array([[6]]))
    >>> rule.mask(cited)[0, 0].nonzero()[0].tolist()  # no end without a token
    [0, 1, 3, 4, 5]
    >>> written = rule.advance(cited, jnp.array([[4]]))
    >>> rule.mask(written)[0, 0].nonzero()[0].tolist()
    [0, 1, 2, 3, 4]
  """
  number = jnp.arange(vocab_size + count)
  cites, ends = number >= vocab_size, number == end_token

  def mask(state):
    is_open = state.sources.is_open[..., None]
    more = jnp.array(True)
    if max_sentences:
      more = (state.sentences < max_sentences)[..., None]
    others = jnp.pad(~state.sources.cited, ((0, 0), (0, 0), (vocab_size, 0)))
    cited = jnp.where(is_open, more, others)
    begun = state.sentences[..., None] > 0
    words = jnp.where(ends, is_open, begun)
    return jnp.where(cites, cited, words)

  def advance_all(state, chosen):
    cited = chosen >= vocab_size
    first = cited & state.sources.is_open
    return _State(
      sentences=state.sentences + first,
      sources=advance(state.sources, tokens(chosen, vocab_size)),
    )

  start = _State(
    sentences=jnp.zeros((batch, 1), jnp.int32),
    sources=nothing_cited(batch, count),
  )
  return generate.Constraint(start, mask, advance_all)


def nothing_cited(batch: int, count: int) -> Sources:
  """The sources of an empty text, which a citation may follow."""
  return Sources(
    cited=jnp.zeros((batch, 1, count), bool), is_open=jnp.ones((batch, 1), bool)
  )
