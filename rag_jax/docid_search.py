"""Search by docids, and docid scores of given documents.

All take the encoding of a question. If that has a second search (`after`), the
probability of a docid is the mean of those of the two searches.

The probability of a document is the sum of those of its docids, of which it has
several with `docid.further`.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rag_jax import matching, model, types
from rag_jax.components import id_decoder, query_encoder
from rag_jax.index import further
from rag_jax.index import index as indexes
from rag_jax.ops import beam, beam_ends, masking, split_rows
from rag_jax.ops import trie as tries

Params = model.Params
HALF = -0.6931472  # log 1/2, nats: each of two searches counts half


def retrieve(
  params: Params,
  config: model.ModelConfig,
  index: indexes.Index,
  encoding: query_encoder.Encoding,
  *,
  words: jax.Array | None = None,
  allowed: jax.Array | None = None,
) -> types.Candidates:
  """Retrieves documents for encoded queries; see `ops.beam.search`.

  `search.lexical_weight` adds lookahead scores to the beam search: for each
  node, the highest BM25 score of the documents below it.
  `search.learned_lexical_weight` scales their weight by the ratio of lexical to
  vector weight that the ranker has learned.

  Where a document has up to F further docids, the beam has (F + 1) times
  `search.beam_size` prefixes, so that it holds as many documents. The score of
  a document is the log of the sum over those of its docids that were found.
  """
  size = config.search.beam_size
  if allowed is not None:
    allowed = further.repeat(allowed, index.further)
  found = beam.search(
    *_decoder(params, config, encoding),
    index.trie,
    **_decoding(config, index),
    batch_size=len(encoding.vector),
    beam_size=size * index.docids_each,
    allowed=allowed,
    lookahead=matching.lookahead(params, config, index, words),
  )
  if index.further is None:
    return found
  documents = found.documents % len(index.alive)
  return beam_ends.merge(dataclasses.replace(found, documents=documents), size)


def score_docids(
  params: Params,
  config: model.ModelConfig,
  index: indexes.Index,
  encoding: query_encoder.Encoding,
  documents: jax.Array,
) -> jax.Array:
  """Docid scores of given documents by teacher forcing, float32[B, K], nats.

  Of a document with several docids, the log of their summed probabilities.
  """
  if encoding.after is not None:
    first, second = (
      score_docids(params, config, index, own, documents)
      for own in query_encoder.searches(encoding)
    )
    return either(first, second)
  if index.further is None:
    codes = index.codes[documents]
    return _score_codes(params, config, index, encoding, codes)
  return _summed(_score_each(params, config, index, encoding, documents)[1])


def best_docids(
  params: Params,
  config: model.ModelConfig,
  index: indexes.Index,
  encoding: query_encoder.Encoding,
  documents: jax.Array,
) -> jax.Array:
  """The most probable docid of each given document, int[B, K, L]."""
  if index.further is None:
    return index.codes[documents]
  codes, scores = _score_each(params, config, index, encoding, documents)
  best = scores.argmax(-1)[..., None, None]
  return jnp.take_along_axis(codes, best, axis=2)[:, :, 0]


def score_all(
  params: Params,
  config: model.ModelConfig,
  index: indexes.Index,
  encoding: query_encoder.Encoding,
  *,
  words: jax.Array | None = None,
  allowed: jax.Array | None = None,
) -> jax.Array:
  """Docid scores of every document, float32[B, N], nats, as `retrieve`'s."""
  batch_size = len(encoding.vector)
  if allowed is not None:
    allowed = further.repeat(allowed, index.further)
  scores = beam.score_all(
    *_decoder(params, config, encoding),
    index.trie,
    further.leaf_codes(split_rows.every_row(index.codes), index.further),
    **_decoding(config, index),
    batch_size=batch_size,
    lookahead=matching.lookahead(params, config, index, words),
    allowed=allowed,
  )
  if index.further is None:
    return scores
  each = scores.reshape(batch_size, index.docids_each, -1)
  where = jnp.pad(index.further.where, ((1, 0), (0, 0)), constant_values=True)
  each = jnp.where(where, each, masking.NEG_INF)
  return _summed(jnp.moveaxis(each, 1, -1))


def _score_each(
  params: Params,
  config: model.ModelConfig,
  index: indexes.Index,
  encoding: query_encoder.Encoding,
  documents: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """All docids of documents, int[B, K, F + 1, L], and their scores."""
  assert index.further is not None  # of callers
  more, where = (
    jnp.moveaxis(x[:, documents], 0, 2)
    for x in (index.further.codes, index.further.where)
  )
  codes = jnp.concatenate([index.codes[documents][:, :, None], more], axis=2)
  where = jnp.pad(where, ((0, 0), (0, 0), (1, 0)), constant_values=True)
  flat = codes.reshape(len(codes), -1, codes.shape[-1])
  scores = _score_codes(params, config, index, encoding, flat)
  scores = scores.reshape(where.shape)
  return codes, jnp.where(where, scores, masking.NEG_INF)


def _score_codes(
  params: Params,
  config: model.ModelConfig,
  index: indexes.Index,
  encoding: query_encoder.Encoding,
  codes: jax.Array,
) -> jax.Array:
  """Scores of docids int[B, K, L] by teacher forcing, float32[B, K]."""
  return beam.score(
    *_decoder(params, config, encoding),
    index.trie,
    codes,
    **_decoding(config, index),
  )


def _decoder(
  params: Params, config: model.ModelConfig, encoding: query_encoder.Encoding
) -> tuple[Any, Any]:
  """State and initial cache of the ID decoder, for functions of `beam`."""
  batch_size, width = encoding.vector.shape
  cache = id_decoder.initial_cache(config.id_decoder, batch_size, width)
  return (params['id_decoder'], encoding), cache


def _decoding(
  config: model.ModelConfig, index: indexes.Index
) -> dict[str, Any]:
  """The step of the ID decoder and its scoring, for functions of `beam`."""
  return {'step_fn': step_fn(config, index), 'scoring': config.search.scoring}


def step_fn(
  config: model.ModelConfig, index: indexes.Index
) -> Callable[..., Any]:
  """The step of the ID decoder, for functions of `beam`."""
  return functools.partial(
    id_decoder.apply, config=config.id_decoder, slots=index.slots
  )


def _summed(scores: jax.Array) -> jax.Array:
  """Log of summed probabilities float32[..., E] in nats."""
  return jax.nn.logsumexp(scores, axis=-1)


def edge_scores(
  params: Params,
  config: model.ModelConfig,
  index: indexes.Index,
  encoding: query_encoder.Encoding,
  documents: jax.Array,
) -> jax.Array:
  """ID decoder logits of each code of given documents, float32[B, K, L], nats.

  They are not normalised. They are 0 after the end of a docid.
  """
  batch_size, width = encoding.vector.shape
  codes = index.codes[documents]
  cache = id_decoder.initial_cache(config.id_decoder, batch_size, width)
  cache = beam.reorder(cache, jnp.zeros(codes.shape[:2], jnp.int32))
  ended = jnp.zeros(codes.shape[:2], bool)
  scores = []
  for frontier in tries.walk(index.trie, codes):
    edges, cache = id_decoder.apply(
      (params['id_decoder'], encoding),
      cache,
      frontier,
      config=config.id_decoder,
      slots=index.slots,
    )
    scores.append(jnp.where(ended, 0.0, edges[..., 0]))
    ended = frontier.children[..., 0] < index.trie.num_documents
  missing = codes.shape[-1] - len(scores)
  stacked = jnp.stack(scores, axis=-1)
  return jnp.pad(stacked, ((0, 0), (0, 0), (0, missing)))


def level_log_likelihood(
  params: Params,
  config: model.ModelConfig,
  index: indexes.Index,
  encoding: query_encoder.Encoding,
  documents: jax.Array,
) -> jax.Array:
  """Training objective of 'absolute' scoring, float32[B, K]: `id_decoder`."""
  return id_decoder.level_log_likelihood(
    (params['id_decoder'], encoding),
    index.trie,
    index.codes[documents],
    config=config.id_decoder,
    where=index.gold_nodes,
    slots=index.slots,
  )


def every_document(index: indexes.Index, batch_size: int) -> types.Candidates:
  """All documents as candidates of each query, for a small corpus."""
  count = index.alive.shape[0]

  def rows(x):
    return jnp.broadcast_to(x, (batch_size, *x.shape))

  return types.Candidates(
    documents=rows(jnp.arange(count)),
    codes=rows(split_rows.every_row(index.codes).astype(jnp.int32)),
    scores=jnp.zeros((batch_size, count)),
    where=rows(index.alive),
  )


def either(first: jax.Array, second: jax.Array) -> jax.Array:
  """Log of the mean of two probabilities, from their logs in nats."""
  return jnp.logaddexp(first, second) + HALF


def retrieve_again(
  params: Params,
  config: model.ModelConfig,
  index: indexes.Index,
  encoding: query_encoder.Encoding,
  found: types.Candidates,
  *,
  words: jax.Array | None = None,
  allowed: jax.Array | None = None,
) -> types.Candidates:
  """Adds what the second search finds to the documents of the first one.

  Args:
    params: parameters of all components.
    config: the model.
    index: the corpus.
    encoding: of the questions; without a second search nothing is added.
    found: K documents of the first search.
    words: as for `retrieve`.
    allowed: as for `retrieve`.

  Returns:
    2 K documents, best first. A score is the log of the mean of the
    probabilities by which the searches found the document.
  """
  if encoding.after is None:
    return found
  more = retrieve(
    params, config, index, encoding.after, words=words, allowed=allowed
  )
  return union(found, more)


def union(
  first: types.Candidates, second: types.Candidates
) -> types.Candidates:
  """The documents of two searches, best first, each once.

  Args:
    first: K documents.
    second: K' documents.

  Returns:
    K + K' documents; copies are not real. Scores are log(exp(score) / 2 +
    exp(other score) / 2), where a search that did not find it adds 0.

  Example:
    >>> import numpy as np
    >>> def found(documents, probabilities):
    ...   return types.Candidates(
    ...     documents=jnp.array([documents]), codes=jnp.zeros((1, 2, 1)),
    ...     scores=jnp.log(jnp.array([probabilities])),
    ...     where=jnp.ones((1, 2), bool))
    >>> both = union(found([7, 4], [0.5, 0.1]), found([4, 2], [0.7, 0.2]))
    >>> both.documents[0, :3].tolist(), both.where.tolist()
    ([4, 7, 2], [[True, True, True, False]])
    >>> [f"{p:.2f}" for p in jnp.exp(both.scores[0, :3])]
    ['0.40', '0.25', '0.10']
  """
  same = first.documents[:, :, None] == second.documents[:, None]
  same &= first.where[:, :, None] & second.where[:, None]  # [B, K, K']
  others = jnp.where(same, second.scores[:, None], masking.NEG_INF).max(2)
  where = jnp.concatenate([first.where, second.where & ~same.any(1)], axis=1)
  scores = jnp.concatenate(
    [jnp.logaddexp(first.scores, others), second.scores], axis=1
  )
  scores = jnp.where(where, scores + HALF, masking.NEG_INF)
  scores, order = jax.lax.top_k(scores, scores.shape[1])

  def take(x, y):
    return beam.reorder(jnp.concatenate([x, y], axis=1), order)

  return types.Candidates(
    documents=take(first.documents, second.documents),
    codes=take(first.codes, second.codes),
    scores=scores,
    where=jnp.take_along_axis(where, order, axis=1),
  )


def gold_among(candidates: types.Candidates, gold: jax.Array) -> jax.Array:
  """Candidates that are among the gold documents int32[B, G]; bool[B, K]."""
  same = candidates.documents[:, :, None] == gold[:, None]  # [B, K, G]
  return same.any(-1) & candidates.where


def with_gold(
  candidates: types.Candidates, gold: jax.Array, index: indexes.Index
) -> types.Candidates:
  """Adds gold documents in front, and masks their copies from the beam."""
  is_gold = gold_among(candidates, gold)
  rows = jnp.maximum(gold, 0)
  return types.Candidates(
    documents=jnp.concatenate([rows, candidates.documents], axis=1),
    codes=jnp.concatenate(
      [index.codes[rows].astype(jnp.int32), candidates.codes], axis=1
    ),
    scores=jnp.concatenate([jnp.zeros(rows.shape), candidates.scores], axis=1),
    where=jnp.concatenate([gold >= 0, candidates.where & ~is_gold], axis=1),
  )


def contrasted(
  index: indexes.Index,
  documents: jax.Array,
  is_gold: jax.Array,
  where: jax.Array,
) -> jax.Array:
  """Mask of the documents in ranking losses: gold documents and negatives.

  Documents that are never gold in training are excluded from the negatives;
  otherwise every step would lower their scores, whatever their text.

  Args:
    index: the corpus; without `gold_nodes`, no document is excluded.
    documents: int32[B, K], rows of documents.
    is_gold: bool[B, K], gold documents.
    where: bool[B, K], real documents.

  Returns:
    bool[B, K].
  """
  if index.gold_nodes is None:
    return where
  return where & (index.gold_nodes[documents] | is_gold)
