"""BM25 on the device: exact word matching that search can use and train.

A lexicon keeps, for each word, the documents that have it and what the word
adds to their score (its impact), sorted by document: compressed sparse rows.
Scoring all documents walks the postings of the query's words; scoring given
documents looks each of them up there. Pairs of neighbouring words may count as
words too, which tells a phrase from its words alone.
"""

import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rag_jax import types
from rag_jax.ops import checks, masking, postings

# Postings are read in windows of neighbours, so many at a time. Of 32 to 512
# and 16 to 256, these were among the fastest on a CPU.
WINDOW = postings.WINDOW
WINDOWS = 128
# Users know them by these names.
Counts = postings.Counts
count = postings.count


@types.struct
class Lexicon:
  """An inverted index of N documents and V words, with P postings.

  `WINDOW` postings are added so that no window runs over the end.
  """

  first: jax.Array  # int32[V + 1], first posting of each word; word 0 has none
  documents: jax.Array  # int32[P + WINDOW], sorted for each word
  impacts: jax.Array  # float32[P + WINDOW], BM25 of one word in one document
  num_documents: int = types.static()
  longest: int = types.static()  # most postings of a word
  # V where pairs are words from V on, and 0 where there are none.
  first_pair: int = types.static(default=0)


def build(
  words: np.ndarray | Iterator[np.ndarray],
  *,
  vocab_size: int,
  k1: float = 1.2,
  b: float = 0.75,
  pair_weight: float = 0.0,
  placed: bool = True,
) -> Lexicon:
  """Makes a lexicon of the words of documents.

  Of word w in document d, which occurs tf times there and in df documents,
  impact(w, d) = idf(w) * tf / (tf + k1 * (1 - b + b * length(d) / mean)),
  idf(w) = log(1 + (N - df + 1/2) / (df + 1/2)), mean that of the lengths.

  Args:
    words: int[N, W], the words of each document as often as they occur; their
      order counts for pairs only; 0 = padding. Or an iterator of such arrays,
      each with its own W, so that a long document does not widen all others.
    vocab_size: V, one more than the largest word.
    k1: how soon more of the same word stops counting; at least 0.
    b: how much long documents are held back, 0 to 1.
    pair_weight: factor on the impacts of pairs of neighbouring words, which
      are counted as words are, in a bucket each; 0 leaves pairs out.
    placed: whether the arrays are put on the default device; if not, they are
      those of the host.

  Returns:
    The lexicon. With pairs, `with_pairs` completes a
    query.

  Raises:
    ValueError: if there is no document, a word is out of range, or a constant
      is.

  Example:
    >>> lexicon = build(np.array([[1, 1, 2], [2, 3, 0]]), vocab_size=4)
    >>> lexicon.first.tolist(), lexicon.documents[:4].tolist()
    ([0, 0, 1, 3, 4], [0, 0, 1, 1])

  Reference:
    Robertson and Zaragoza, The Probabilistic Relevance Framework: BM25 and
    Beyond, 2009; Lù, BM25S, 2024. Pairs: Metzler and Croft, A Markov Random
    Field Model for Term Dependencies, 2005.
  """
  if not 0 <= pair_weight < math.inf:
    raise ValueError(
      f'pair_weight must be at least 0, got {pair_weight}. 0 leaves pairs out.'
    )
  blocks = words if isinstance(words, Iterator) else iter([words])
  counts = postings.join(
    [
      postings.count_with_pairs(
        own, vocab_size=vocab_size, pair_weight=pair_weight
      )
      for own in blocks
    ]
  )
  return weigh(
    counts,
    k1=k1,
    b=b,
    first_pair=vocab_size if pair_weight else 0,
    pair_weight=pair_weight,
    placed=placed,
  )


def with_pairs(lexicon: Lexicon, query: jax.Array) -> jax.Array:
  """Adds the pairs of neighbouring words, if the lexicon has any.

  Args:
    lexicon: from `build`.
    query: int32[B, Q], words in their order; 0 = padding at the end.

  Returns:
    int32[B, 2 Q - 1], or the query as it is; for `score_all` and `score`.

  Example:
    >>> documents = np.array([[1, 2, 3], [2, 1, 3]])
    >>> lexicon = build(documents, vocab_size=4, pair_weight=0.5)
    >>> scores = score_all(lexicon, with_pairs(lexicon, jnp.array([[1, 2]])))
    >>> bool(scores[0, 0] > scores[0, 1])
    True
  """
  if not lexicon.first_pair:
    return query
  return postings.add_pairs(query, lexicon.first_pair)


def weigh(
  counts: Counts,
  *,
  k1: float = 1.2,
  b: float = 0.75,
  first_pair: int = 0,
  pair_weight: float = 1.0,
  placed: bool = True,
) -> Lexicon:
  """Turns counts into a lexicon; see `build`. Pairs follow `first_pair`."""
  if not (0 <= k1 < math.inf and 0 <= b <= 1):
    raise ValueError(
      f'BM25 needs k1 >= 0 and 0 <= b <= 1, got {k1} and {b}. '
      'Pass other values to lexical.build.'
    )
  postings.check_postings(int(counts.first[-1]))
  frequency = np.diff(counts.first)
  num_documents = len(counts.lengths)
  impacts = postings.Weights(counts.lengths, frequency, k1=k1, b=b).impacts(
    counts, 0
  )
  impacts = np.pad(impacts, (0, WINDOW)).astype(np.float32)
  if first_pair:
    impacts[counts.first[first_pair] :] *= np.float32(pair_weight)
  place: Any = jnp.asarray if placed else np.asarray
  return Lexicon(
    first=place(counts.first.astype(np.int32)),
    documents=place(np.pad(counts.documents, (0, WINDOW)).astype(np.int32)),
    impacts=place(impacts),
    num_documents=num_documents,
    longest=int(frequency.max()),
    first_pair=first_pair,
  )


def score_all(
  lexicon: Lexicon,
  query: jax.Array,
  *,
  word_weights: jax.Array | None = None,
) -> jax.Array:
  """BM25 of every document: the sum of impacts over the words of a query.

  Takes time by the postings of the queries' words, not by the corpus, and so
  less than `score` of a hundred documents. The loop runs as long as these
  queries need: reverse-mode gradients with respect to `word_weights` or
  impacts go through `score` only.

  Args:
    lexicon: from `build`.
    query: int32[B, Q], words; 0 = padding, a repeated word counts again.
    word_weights: float32[V], what each word's impacts are multiplied by; None
      is all ones.

  Returns:
    float32[B, N], 0 where a document has none of the words.

  Example:
    >>> lexicon = build(np.array([[1, 1, 2], [2, 3, 0]]), vocab_size=4)
    >>> scores = score_all(lexicon, jnp.array([[1, 0], [3, 3]]))
    >>> (scores > 0).tolist()
    [[True, False], [False, True]]
  """
  query = _words(query)
  if word_weights is not None:
    word_weights = checks.floats(word_weights, 'word_weights')
  return _score_all(lexicon, query, word_weights)


@checks.compiled
def _score_all(lexicon, query, word_weights):
  batch_size, length = query.shape
  flat = query.reshape(-1)
  begin, end = lexicon.first[flat], lexicon.first[flat + 1]
  windows = -(-(end - begin) // WINDOW)
  until = jnp.cumsum(windows)  # the windows of all words, one after the other
  weights = _weights(flat, word_weights)

  def slices(x, starts):
    return jax.vmap(
      lambda start: jax.lax.dynamic_slice(x, (start,), (WINDOW,))
    )(starts)

  def add_windows(state):
    done, scores = state
    number = done + jnp.arange(WINDOWS)
    # Which word of the batch a window belongs to; those past the last are
    # read for the last word and dropped.
    slot = jnp.searchsorted(until, number, side='right')
    slot = jnp.minimum(slot, len(flat) - 1)
    place = number - (until[slot] - windows[slot])
    start = begin[slot] + jnp.minimum(place, windows[slot]) * WINDOW
    places = place[:, None] * WINDOW + jnp.arange(WINDOW)[None]
    where = places < (end - begin)[slot][:, None]
    documents = jnp.where(
      where, slices(lexicon.documents, start), lexicon.num_documents
    )
    impacts = slices(lexicon.impacts, start) * weights[slot][:, None]
    rows = jnp.broadcast_to((slot // length)[:, None], documents.shape)
    scores = scores.at[rows, documents].add(impacts, mode='drop')
    return done + WINDOWS, scores

  scores = masking.varies_with(
    jnp.zeros((batch_size, lexicon.num_documents)), windows, weights
  )
  scores = masking.varies_with(scores, lexicon.documents, lexicon.impacts)
  return jax.lax.while_loop(
    lambda state: state[0] < until[-1], add_windows, (0, scores)
  )[1]


def score(
  lexicon: Lexicon,
  query: jax.Array,
  documents: jax.Array,
  *,
  word_weights: jax.Array | None = None,
) -> jax.Array:
  """BM25 of given documents; differentiable in the weights and the impacts.

  Args:
    lexicon: from `build`.
    query: int32[B, Q], words; 0 = padding, a repeated word counts again.
    documents: int32[B, K], rows of the corpus.
    word_weights: float32[V], what each word's impacts are multiplied by; None
      is all ones.

  Returns:
    float32[B, K], what `score_all` gives for them.

  Example:
    >>> lexicon = build(np.array([[1, 1, 2], [2, 3, 0]]), vocab_size=4)
    >>> query = jnp.array([[2, 3]])
    >>> found = score(lexicon, query, jnp.array([[1]]))
    >>> bool(jnp.allclose(found[0, 0], score_all(lexicon, query)[0, 1]))
    True
  """
  query = _words(query)
  if word_weights is not None:
    word_weights = checks.floats(word_weights, 'word_weights')
  impacts = match(lexicon, query, documents)
  return jnp.einsum('bkq,bq->bk', impacts, _weights(query, word_weights))


def match(
  lexicon: Lexicon, query: jax.Array, documents: jax.Array
) -> jax.Array:
  """Impact of each word of a query in each of its documents.

  Args:
    lexicon: from `build`.
    query: int32[B, Q], words; 0 = padding.
    documents: int32[B, K], rows of the corpus.

  Returns:
    float32[B, K, Q], 0 where a document does not have the word.
  """
  documents = checks.integers(documents, 'documents')
  if documents.ndim != 2:
    raise ValueError(
      f'documents must be [B, K], got shape {documents.shape}. '
      'Give some of each query.'
    )
  return _match(lexicon, _words(query), documents)


@checks.compiled
def _match(lexicon, query, documents):
  wanted = documents[:, :, None]
  shape = jnp.broadcast_shapes(wanted.shape, query[:, None].shape)
  begin = jnp.broadcast_to(lexicon.first[query][:, None], shape)
  end = jnp.broadcast_to(lexicon.first[query + 1][:, None], shape)

  def halve(_, bounds):
    low, high = bounds
    middle = (low + high) // 2
    before = lexicon.documents[middle] < wanted
    return (
      jnp.where(before & (low < high), middle + 1, low),
      jnp.where(before, high, middle),
    )

  wanted = jnp.broadcast_to(wanted, shape)
  begin, end = (
    masking.varies_with(x, lexicon.documents, wanted) for x in (begin, end)
  )
  steps = math.ceil(math.log2(lexicon.longest + 1))
  low, _ = jax.lax.fori_loop(0, steps, halve, (begin, end))
  found = (low < end) & (lexicon.documents[low] == wanted)
  return jnp.where(found, lexicon.impacts[low], 0)


def _words(query) -> jax.Array:
  """Words of queries [B, Q], or a ValueError."""
  query = checks.integers(query, 'query')
  if query.ndim != 2:
    raise ValueError(
      f'query must be words [B, Q], got shape {query.shape}. '
      'Give a row a query.'
    )
  return query


def _weights(words: jax.Array, word_weights: jax.Array | None) -> jax.Array:
  """The weight of each word of a query."""
  if word_weights is None:
    return jnp.ones(words.shape)
  return word_weights[words]
