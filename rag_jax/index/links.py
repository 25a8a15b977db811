"""Links between documents, and queries that follow them.

Two documents are linked if they share a rare token: a name or a year. A second
search can learn from links without any question. A query is made of words of
the first document, words beside the shared token in both, and frequent words of
the second document, and lacks the shared token. Whoever reads the query and the
first document can tell which token leads on:

  first document:  "... Indium ... was discovered in 1863 by Reich ..."
  second document: "West Virginia is a state. It was admitted in 1863 ..."
  query:           "indium discovered in by state admitted"

The loss `linking` searches for the second document with the query and the first
one.

Reference:
  Lee et al., Latent Retrieval for Weakly Supervised Open Domain Question
  Answering, 2019 (ORQA): queries of a search are made of the documents. Asai et
  al., Learning to Retrieve Reasoning Paths over Wikipedia Graph for Question
  Answering, 2020: searches that follow links.
"""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from rag_jax import types
from rag_jax.ops import masking, token_table

MOST = 8  # documents that a rare token is in, at most
NAMES = 3  # words that only the first document has, at most
REACH = 3  # tokens on each side of the shared one, at most
WORDS = 4  # frequent words of the second document
KEPT = 0.8  # share of the tokens beside the shared one that are kept


@flax.struct.dataclass
class Links:
  """Documents by rare token; documents of one row are linked."""

  words: jax.Array  # int32[W], tokens of 2 to `MOST` documents
  documents: jax.Array  # int32[W, MOST], their documents; 0 after the last
  counts: jax.Array  # int32[W], how many there are
  frequent: jax.Array  # bool[V], tokens of more than `MOST` documents


def find(tokens: np.ndarray, vocab_size: int) -> Links:
  """Finds the tokens that link documents, those of 2 to `MOST` documents.

  Args:
    tokens: int32[N, P], documents, 0 = padding.
    vocab_size: V.

  Returns:
    The links; W = 0 if there are none.

  Example:
    >>> tokens = np.array([[5, 6]] * 9 + [[5, 7], [8, 7]])
    >>> links = find(tokens, vocab_size=9)
    >>> links.words.tolist(), links.documents[0, :2].tolist()
    ([7], [9, 10])
    >>> links.counts.tolist(), links.frequent.nonzero()[0].tolist()
    ([2], [5, 6])
  """
  tokens = np.asarray(tokens)
  count = len(tokens)
  rows = np.repeat(np.arange(count), tokens.shape[1])
  flat = tokens.reshape(-1).astype(np.int64)
  each = np.unique((flat * count + rows)[flat != types.PAD])
  words, documents = np.divmod(each, count)  # by word, then by document
  counts = np.bincount(words, minlength=vocab_size)
  starts = np.cumsum(counts) - counts
  own = np.flatnonzero((counts >= 2) & (counts <= MOST))
  places = np.minimum(
    starts[own][:, None] + np.arange(MOST), max(len(documents) - 1, 0)
  )
  real = np.arange(MOST) < counts[own][:, None]
  return Links(
    words=jnp.asarray(own, jnp.int32),
    documents=jnp.asarray(np.where(real, documents[places], 0), jnp.int32),
    counts=jnp.asarray(counts[own], jnp.int32),
    frequent=jnp.asarray(counts > MOST),
  )


def draw(
  rng: jax.Array,
  links: Links,
  tokens: token_table.Table,
  positions: jax.Array,
  *,
  log_token_weight: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Draws links, and a query for each.

  Each rare token is as likely, and each pair of its documents. A query has 1
  to `NAMES` words of the first document that the second lacks; up to `REACH`
  tokens on each side of the shared one in both documents; and `WORDS` frequent
  words of the second. No rare token of it is in the second document. Words are
  drawn as keywords are, see `pseudo_queries.draw`.

  Args:
    rng: PRNG key of the step.
    links: of at least one token.
    tokens: int32[N, P], the documents.
    positions: int32[B], positions of the queries in the global batch.
    log_token_weight: float32[V], log weight of each token as a keyword.

  Returns:
    Queries int32[B, NAMES + WORDS + 4 REACH], 0 = padding, also between tokens;
    the first and the second documents, int32[B] each.

  Example:
    >>> tokens = jnp.array([[5, 6, 0]] * 9 + [[5, 4, 7], [6, 7, 0]])
    >>> links = find(np.asarray(tokens), vocab_size=9)
    >>> rng, weights = jax.random.key(0), jnp.zeros(9)
    >>> query, first, second = draw(
    ...   rng, links, tokens, jnp.arange(4), log_token_weight=weights
    ... )
    >>> query.shape, sorted({*first.tolist(), *second.tolist()})
    ((4, 19), [9, 10])
    >>> bool((query == 7).any())  # the token that they share
    False
  """
  keys = jax.vmap(jax.random.fold_in, (None, 0))(rng, positions)

  def link(key):
    keys = jax.random.split(key, 3)
    row = jax.random.randint(keys[0], (), 0, len(links.words))
    count = links.counts[row]
    first = jax.random.randint(keys[1], (), 0, count)
    second = (first + jax.random.randint(keys[2], (), 1, count)) % count
    return links.words[row], *links.documents[row, jnp.stack([first, second])]

  def query(key, shared, own, other):
    keys = jax.random.split(jax.random.fold_in(key, 1), 5)
    unseen = ~(own[:, None] == other).any(1)
    frequent = [links.frequent[document] for document in (own, other)]
    weights = [log_token_weight[document] for document in (own, other)]
    names = _words(keys[0], own, weights[0], unseen, NAMES)
    count = jax.random.randint(keys[1], (), 1, NAMES + 1)
    return jnp.concatenate(
      [
        jnp.where(jnp.arange(NAMES) < count, names, types.PAD),
        _beside(keys[2], own, shared, unseen | frequent[0]),
        _words(keys[3], other, weights[1], frequent[1], WORDS),
        _beside(keys[4], other, shared, frequent[1]),
      ]
    )

  shared, first, second = jax.vmap(link)(keys)
  queries = jax.vmap(query)(keys, shared, tokens[first], tokens[second])
  return queries, first, second


def _words(rng, document, weights, where, size):
  """Up to `size` distinct tokens of a document, at random by weight."""
  same = document[:, None] == document
  where &= (document != types.PAD) & (
    same.argmax(axis=1) == jnp.arange(len(document))
  )
  scores = weights + jax.random.gumbel(rng, document.shape)
  count = min(size, len(document))
  scores = jnp.where(where, scores, masking.NEG_INF)
  places = jax.lax.top_k(scores, count)[1]
  found = jnp.where(where[places], document[places], types.PAD)
  return jnp.pad(found, (0, size - count))


def _beside(rng, document, token, where):
  """The tokens within a random distance of the first `token`, int[2 REACH]."""
  reach_rng, keep_rng = jax.random.split(rng)
  reach = jax.random.randint(reach_rng, (), 1, REACH + 1)
  offsets = jnp.concatenate([jnp.arange(-REACH, 0), jnp.arange(1, REACH + 1)])
  places = (document == token).argmax() + offsets
  inside = (places >= 0) & (places < len(document))
  places = jnp.clip(places, 0, len(document) - 1)
  found = document[places]
  keep = jax.random.bernoulli(keep_rng, KEPT, found.shape)
  keep &= inside & (jnp.abs(offsets) <= reach) & where[places]
  return jnp.where(keep & (found != token), found, types.PAD)
