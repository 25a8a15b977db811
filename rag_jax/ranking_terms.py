"""Losses of search and ranking with gold documents or pseudo-queries."""

import jax
import jax.numpy as jnp

from rag_jax import docid_search, types
from rag_jax import trace as traces
from rag_jax.components import query_encoder, ranker
from rag_jax.index import pseudo_queries
from rag_jax.ops import losses, masking, metrics
from rag_jax.readers import spans

Sum = tuple[jax.Array, jax.Array]  # (sum, count)
Trace = traces.Trace


def docid(trace: Trace) -> Sum:
  """-log P(gold docid | question)."""
  scores = trace.gold_docid
  if trace.config.search.scoring == 'absolute':
    scores = docid_search.level_log_likelihood(
      trace.params,
      trace.config,
      trace.index,
      trace.encoding,
      jnp.maximum(trace.batch.gold, 0),
    )
  nll = losses.docid_nll(scores, where=trace.batch.gold >= 0)
  return metrics.total(nll, trace.has_gold)


def ranking(trace: Trace) -> Sum:
  """Fenchel-Young loss of the ranker's scores against the gold documents."""
  return _fenchel_young(
    trace, trace.ranking.scores, trace.is_gold, trace.contrasted
  )


def reranking(trace: Trace) -> Sum:
  """Fenchel-Young loss of scores + reader's relevance, of documents read."""
  return _fenchel_young(
    trace, trace.reading.scores, trace.read_gold, trace.read_contrasted
  )


def _fenchel_young(
  trace: Trace, scores: jax.Array, is_gold: jax.Array, where: jax.Array
) -> Sum:
  targets = is_gold / jnp.maximum(is_gold.sum(1, keepdims=True), 1)
  nll = losses.fenchel_young(
    scores,
    targets,
    operator=trace.operator,
    where=where,
    **ranker.options(trace.config.ranker, trace.operator),
  )
  return metrics.total(nll, trace.has_gold & is_gold.any(1))


def list_mle(trace: Trace) -> Sum:
  """-log P(gold documents are ranked before the negatives), Plackett-Luce.

  Several gold documents are ranked in their given order. The likelihood of the
  order of the negatives is subtracted, so that their order does not count.
  """
  gains, scores = trace.is_gold.astype(jnp.float32), trace.ranking.scores
  negatives = trace.contrasted & ~trace.is_gold
  nll = losses.list_mle(scores, gains, where=trace.contrasted)
  nll -= losses.list_mle(scores, gains, where=negatives)
  return metrics.total(nll, trace.has_gold & trace.is_gold.any(1))


def margin(trace: Trace) -> Sum:
  """Hinge loss between log P(docid) of gold documents and negatives (LTRGR)."""
  negatives = trace.contrasted & ~trace.is_gold
  gold = trace.batch.gold >= 0
  each = losses.margin_ranking(
    trace.gold_docid,
    jnp.broadcast_to(
      trace.ranking.docid[:, None], (*gold.shape, negatives.shape[1])
    ),
    margin=trace.stage.margin,
    where=negatives[:, None],
  )
  value = jnp.where(gold, each, 0.0).sum(1) / jnp.maximum(gold.sum(1), 1)
  return metrics.total(value, trace.has_gold)


def prefix_margin(trace: Trace) -> Sum:
  """Margins of docid prefixes, distilled from the ranker (RIPOR).

  For the best gold document and the best negative by the ranker, the difference
  of prefix scores is regressed on `stage.margin` times the difference of the
  ranker's scores, where the ranker's score of a prefix is that of its best
  candidate.
  """
  candidates, where = trace.candidates, trace.contrasted
  scores = jax.lax.stop_gradient(trace.ranking.scores)
  gold = jnp.where(trace.is_gold & where, scores, -jnp.inf).argmax(1)
  negative = jnp.where(~trace.is_gold & where, scores, -jnp.inf).argmax(1)
  pair = jnp.stack([gold, negative], axis=1)  # [B, 2]
  documents = jnp.take_along_axis(candidates.documents, pair, axis=1)
  edges = docid_search.edge_scores(
    trace.params, trace.config, trace.index, trace.encoding, documents
  )
  codes = trace.index.codes[documents]  # [B, 2, L]
  candidate_codes = trace.index.codes[candidates.documents]  # [B, K, L]
  same = codes[:, :, None] == candidate_codes[:, None]
  shared = jnp.cumprod(same, axis=-1) > 0  # [B, 2, K, L]
  best = jnp.where(
    shared & where[:, None, :, None], scores[:, None, :, None], -jnp.inf
  ).max(2)
  best = jnp.where(jnp.isfinite(best), best, 0.0)  # [B, 2, L]
  gap = trace.stage.margin * (best[:, 0] - best[:, 1])
  value = losses.prefix_margin(edges[:, 0], edges[:, 1], gap)
  known = (trace.is_gold & where).any(1) & (~trace.is_gold & where).any(1)
  return metrics.total(value, trace.has_gold & known)


def relevance(trace: Trace) -> Sum:
  """Cross-entropy of the reader's relevance with the gold documents.

  It excludes the search scores. Added to scores that already fit the training
  questions, the relevance would get little gradient.
  """
  return relevance_loss(
    trace.relevance,
    trace.read_gold,
    trace.read_contrasted,
    trace.has_gold,
    null=trace.config.reader.null_document,
  )


def relevance_loss(
  relevance: jax.Array,
  is_gold: jax.Array,
  where: jax.Array,
  has_gold: jax.Array,
  *,
  null: bool = False,
) -> Sum:
  """-log of the total probability of the gold passages in softmax(relevance).

  Args:
    relevance: float32[B, R], nats.
    is_gold: bool[B, R], gold passages.
    where: bool[B, R], gold passages and their negatives.
    has_gold: bool[B], questions that count if a gold passage was read.
    null: whether to add the null document, with relevance 0, as a negative.

  Returns:
    (sum, count) over the questions with a gold passage.
  """
  scores = jnp.where(where, relevance, masking.NEG_INF)
  gold = jnp.where(is_gold & where, scores, masking.NEG_INF)
  everything = jax.nn.logsumexp(scores, axis=1)
  if null:
    everything = jnp.logaddexp(everything, 0.0)
  nll = everything - jax.nn.logsumexp(gold, axis=1)
  known = has_gold & (is_gold & where).any(1)
  return metrics.total(jnp.where(known, nll, 0.0), known)


def null_document(trace: Trace) -> Sum:
  """Cross-entropy of the null document over passages without the answer."""
  return null_loss(
    trace.relevance,
    trace.holds,
    trace.read_gold,
    trace.read_contrasted,
    trace.batch,
  )


def null_loss(
  relevance: jax.Array,
  answers: jax.Array,
  is_gold: jax.Array,
  where: jax.Array,
  batch: types.Batch,
) -> Sum:
  """-log P(null document) against the passages that do not answer.

  Gold documents and other passages with an answer are removed first. A question
  counts if the data marks it unanswerable, or if it has an answer and a gold
  document was read; then the remaining passages should lose to the null
  document.

  Args:
    relevance: float32[B, R], of the passages read, nats.
    answers: bool[B, R], passages that contain an answer.
    is_gold: bool[B, R], gold documents.
    where: bool[B, R], gold passages and their negatives.
    batch: the questions.

  Returns:
    (sum, count) over the questions that count.
  """
  rest = where & ~is_gold & ~answers
  known = is_gold.any(1) & (batch.answers != types.PAD).any((1, 2))
  if batch.answerable is not None:
    known |= ~batch.answerable
  known &= batch.where & rest.any(1)
  odds = spans.null_log_odds(relevance, rest)
  return metrics.total(jax.nn.softplus(-odds), known)


def indexing(trace: Trace) -> Sum:
  """-log P(docid | crop of the document, or generated question about it).

  Pseudo-queries are split over devices.
  """
  config = trace.config
  count = config.pseudo_queries.batch_size // trace.shard[1]
  positions = trace.shard[0] * count + jnp.arange(count)
  query, rows = pseudo_queries.draw(
    trace.rng,
    config.pseudo_queries,
    trace.index.tokens,
    positions,
    around=trace.index.around_query,
    log_token_weight=jax.lax.stop_gradient(
      trace.params['ranker']['log_token_weight']
    ),
    generated=trace.index.generated,
  )
  encoding = query_encoder.apply(
    trace.params['query_encoder'], config.query_encoder, query
  )
  score = docid_search.score_docids
  if config.search.scoring == 'absolute':
    score = docid_search.level_log_likelihood
  scores = score(trace.params, config, trace.index, encoding, rows[:, None])
  return metrics.total(-scores[:, 0], trace.index.alive[rows])
