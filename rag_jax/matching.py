"""Matches of questions with documents: by vector and by words.

`signals` are those of the ranker, `lookahead` those of the beam search.
"""

import jax
import jax.numpy as jnp

from rag_jax import model, types
from rag_jax.components import query_encoder, ranker, shared_rows
from rag_jax.index import further
from rag_jax.index import index as indexes
from rag_jax.ops import edge_scores, lexical, masking, split_lexicon
from rag_jax.ops import trie as tries

Params = model.Params


def lookahead(
  params: Params,
  config: model.ModelConfig,
  index: indexes.Index,
  words: jax.Array | None,
) -> edge_scores.Lookahead | None:
  """Lookahead scores: weighted best BM25 below each node, [B, num_nodes]."""
  if not config.search.lexical_weight:
    return None
  lexicon, words = _words(index, words)
  ahead: edge_scores.Lookahead
  if isinstance(lexicon, split_lexicon.Lexicon):
    ahead = split_lexicon.max_below(lexicon, words)
  else:
    matches = lexical.score_all(lexicon, words)
    matches = further.repeat(matches, index.further)  # every docid's, its own
    ahead = tries.max_below(index.trie, matches)
  ahead = config.search.lexical_weight * ahead
  if config.search.learned_lexical_weight:
    ahead *= ranker.lexical_growth(params['ranker'], config.ranker)
  return ahead


def signals(
  params: Params,
  config: model.ModelConfig,
  index: indexes.Index,
  batch: types.Batch,
  encoding: query_encoder.Encoding,
  documents: jax.Array,
) -> dict[str, jax.Array]:
  """The ranker's signals beside the docid's, float32[B, K] each."""
  vectors = _vectors(params, config, index, documents)
  return {
    'vector': jnp.einsum('bd,bkd->bk', encoding.vector, vectors),
    'lexical': _matches(params, config, index, batch, encoding, documents),
  }


def _vectors(
  params: Params,
  config: model.ModelConfig,
  index: indexes.Index,
  documents: jax.Array,
) -> jax.Array:
  """Vectors float32[B, K, D] of documents."""
  if query_encoder.make(config.query_encoder).published:
    vectors = document_vectors(params['id_decoder'], config, index, documents)
    return query_encoder.comparable(config.query_encoder, vectors)
  return query_encoder.embed_documents(
    params['query_encoder'], index.tokens[documents]
  )


def document_vectors(
  decoder: Params,
  config: model.ModelConfig,
  index: indexes.Index,
  documents: jax.Array,
) -> jax.Array:
  """Vectors float32[B, K, D] of documents as the node table has them."""
  if index.slots is None:
    return decoder['table'][documents].astype(jnp.float32)
  return shared_rows.document_vectors(
    decoder,
    index.trie,
    index.slots,
    index.codes[documents],
    unit=query_encoder.is_unit(config.query_encoder),
  )


def _matches(
  params: Params,
  config: model.ModelConfig,
  index: indexes.Index,
  batch: types.Batch,
  encoding: query_encoder.Encoding,
  documents: jax.Array,
) -> jax.Array:
  """Lexical scores float32[B, K] of documents."""
  if index.lexicon is not None:
    lexicon, words = _words(index, batch.words)
    if isinstance(lexicon, split_lexicon.Lexicon):
      return split_lexicon.score(lexicon, words, documents)
    return lexical.score(lexicon, words, documents)
  return ranker.lexical(
    params['ranker'],
    config.ranker,
    batch.query if encoding.tokens is None else encoding.tokens,
    index.tokens[documents],
    mean_length=index.mean_length,
    gates=encoding.gates,
  )


def rarest(
  params: Params,
  index: indexes.Index,
  batch: types.Batch,
  documents: jax.Array,
) -> jax.Array:
  """Log weight of the heaviest token that a document shares with the question.

  Weights are those of the ranker, which start as inverse document frequencies.
  float32[B, K]; -inf without a shared token.
  """
  tokens = index.tokens[documents]
  shared = (batch.query[:, None, :, None] == tokens[:, :, None]).any(-1)
  shared &= (batch.query != types.PAD)[:, None]
  weights = params['ranker']['log_token_weight'][batch.query]
  return jnp.where(shared, weights[:, None], -jnp.inf).max(-1)


def later_gold(
  params: Params,
  index: indexes.Index,
  batch: types.Batch,
  candidates: types.Candidates,
  gold: jax.Array,
) -> jax.Array:
  """Gold documents bool[B, K], but the one with the rarest question word."""
  weights = rarest(params, index, batch, candidates.documents)
  weights = jnp.maximum(weights, masking.NEG_INF)  # without a shared word
  first = jnp.where(gold, weights, -jnp.inf).argmax(1)[:, None]
  return gold & (jnp.arange(gold.shape[1]) != first)


def _words(
  index: indexes.Index, words: jax.Array | None
) -> tuple[lexical.Lexicon | split_lexicon.Lexicon, jax.Array]:
  """The lexicon and the words of the queries; a ValueError without them."""
  if index.lexicon is None or words is None:
    raise ValueError(
      'search.lexical_weight needs the words of questions and documents, got '
      'none. Set --config.data.lexicon=True.'
    )
  return index.lexicon, lexical.with_pairs(index.lexicon, words)
