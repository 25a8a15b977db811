"""From a batch of questions to its losses: what training minimises.

Beam search runs under stop_gradient. The documents that it finds are scored
again by teacher forcing, ranked and read, and the answer's loss goes back
through all of it.
"""

import dataclasses

import jax
import jax.numpy as jnp

from rag_jax import rag, types
from rag_jax.components import query_encoder, reader
from rag_jax.index import index as indexes
from rag_jax.index import pseudo_queries
from rag_jax.ops import beam, losses, metrics

Sums = dict[str, tuple[jax.Array, jax.Array]]  # name -> (sum, count)
# Terms that share the weight of another.
WEIGHTS = dict.fromkeys(('relevance', 'reranking', 'null_document'), 'ranking')


def loss(
  params: rag.Params,
  rng: jax.Array,
  batch: types.Batch,
  index: indexes.Index,
  *,
  config: rag.RagConfig,
  shard: tuple[jax.Array | int, int] = (0, 1),
) -> tuple[Sums, Sums]:
  """All losses of a batch of questions.

  Args:
    params: what `init` made.
    rng: PRNG key of the step, the same on every device.
    batch: the questions.
    index: the corpus.
    config: what to compute.
    shard: (number of this device, number of devices) where each device runs
      this on its own rows; (0, 1) where one program sees the whole batch.

  Returns:
    Losses and metrics, each name -> (sum, count); the objective is the sum of
    the losses' quotients, weighed by `config.loss`.
  """
  if config.search.gold_only:
    alone = _read_gold(params, config, batch, index)
    return alone, dict(alone)
  weights = config.loss
  encoding = query_encoder.apply(
    params['query_encoder'], config.query_encoder, batch.query
  )
  candidates = rag.retrieve(
    jax.lax.stop_gradient(params),
    config,
    index,
    jax.lax.stop_gradient(encoding),
    words=batch.words,
  )
  found = candidates
  has_gold = (batch.gold >= 0).any(axis=1) & batch.where
  if config.search.join_gold:
    candidates = _join_gold(candidates, batch.gold, index)
  ranking = rag.rank(params, config, index, batch, encoding, candidates)
  is_gold = gold_among(candidates, batch.gold)
  terms: Sums = {}
  if weights.reads:
    reading = rag.choose(
      index,
      ranking,
      config.search.train_read_size or config.search.read_size,
      first=is_gold if config.search.join_gold else None,
    )
    reading = _read(params, config, batch, _cut(reading, config))
    terms = _answer_losses(params, config, batch, reading)
    if weights.ranking and config.ranker.reads:
      read_gold = jnp.take_along_axis(is_gold, reading.places, axis=1)
      where = compared(index, reading.documents, read_gold, reading.where)
      reading = dataclasses.replace(reading, where=where)
      terms['reranking'] = _ranking_loss(
        config, reading.scores, read_gold, where, has_gold
      )
      null = config.reader.null_document
      terms['relevance'] = _relevance_loss(reading, read_gold, has_gold, null)
      if null:
        terms['null_document'] = null_loss(reading, read_gold, batch)
  if weights.docid:
    gold = jnp.maximum(batch.gold, 0)
    if config.search.scoring == 'absolute':
      scores = rag.level_log_likelihood(params, config, index, encoding, gold)
    elif config.search.join_gold:  # they come first, and have their scores
      scores = ranking.docid[:, : batch.gold.shape[1]]
    else:
      scores = rag.score_docids(params, config, index, encoding, gold)
    nll = losses.docid_nll(scores, where=batch.gold >= 0)
    terms['docid'] = metrics.total(nll, has_gold)
  if weights.ranking:
    where = compared(index, candidates.documents, is_gold, candidates.where)
    terms['ranking'] = _ranking_loss(
      config, ranking.scores, is_gold, where, has_gold
    )
  if weights.self_index and config.pseudo_queries.batch_size:
    terms['self_index'] = _self_index(
      params, rng, config, index, batch.query.shape[1], shard
    )
  measured = _metrics(found, ranking, batch, has_gold)
  if config.search.scoring in ('log_softmax', 'vocabulary'):  # probabilities
    mass = jnp.exp(beam.beam_mass(found))
    measured['beam_mass'] = metrics.total(mass, batch.where)
  return terms, measured | {name: terms[name] for name in terms}


def _read_gold(
  params: rag.Params,
  config: rag.RagConfig,
  batch: types.Batch,
  index: indexes.Index,
) -> Sums:
  """The answer's loss on the gold documents; nothing is searched.

  If the batch names a negative, the reader learns to tell gold from it too.
  """
  documents = batch.gold
  if batch.negative is not None:
    documents = jnp.column_stack([documents, batch.negative])
  where = documents >= 0
  rows = jnp.maximum(documents, 0)
  is_gold = where & (jnp.arange(rows.shape[1]) < batch.gold.shape[1])
  weights = is_gold / jnp.maximum(is_gold.sum(1, keepdims=True), 1)
  zeros = jnp.zeros(rows.shape)
  reading = rag.Reading(
    documents=rows,
    passages=index.tokens[rows],
    places=jnp.zeros_like(rows),
    scores=zeros,
    weights=weights,
    docid=zeros,
    where=where,
  )
  reading = _read(params, config, batch, _cut(reading, config))
  # Gold documents are read alike, however relevant they look.
  reading = dataclasses.replace(reading, weights=weights)
  terms = _answer_losses(params, config, batch, reading)
  if batch.negative is not None:
    known = is_gold.any(1) & batch.where
    null = config.reader.null_document
    terms['relevance'] = _relevance_loss(reading, is_gold, known, null)
  return terms


def _cut(reading: rag.Reading, config: rag.RagConfig) -> rag.Reading:
  length = config.search.train_passage_tokens or reading.passages.shape[-1]
  passages = reading.passages[..., :length]
  return dataclasses.replace(reading, passages=passages)


def _ranking_loss(
  config: rag.RagConfig,
  scores: jax.Array,
  is_gold: jax.Array,
  where: jax.Array,
  has_gold: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Fenchel-Young loss of scores [B, K] on the gold documents among them."""
  targets = is_gold / jnp.maximum(is_gold.sum(1, keepdims=True), 1)
  nll = losses.fenchel_young(
    scores, targets, operator=config.ranker.operator, where=where
  )
  return metrics.total(nll, has_gold & is_gold.any(1))


def _relevance_loss(
  reading: rag.Reading,
  is_gold: jax.Array,
  has_gold: jax.Array,
  null: bool = False,
) -> tuple[jax.Array, jax.Array]:
  """Cross-entropy of what the reader alone makes of the passages it reads.

  Beside scores that search has learned on these very questions, it would have
  little left to learn.
  """
  assert reading.pointers is not None  # the reader is extractive
  scores = jnp.where(
    reading.where, reading.pointers.relevance, reader.IMPOSSIBLE
  )
  gold = jnp.where(is_gold & reading.where, scores, reader.IMPOSSIBLE)
  total = jax.nn.logsumexp(scores, axis=1)
  if null:
    total = jnp.logaddexp(total, 0.0)
  nll = total - jax.nn.logsumexp(gold, axis=1)
  known = has_gold & (is_gold & reading.where).any(1)
  return metrics.total(jnp.where(known, nll, 0.0), known)


def null_loss(
  reading: rag.Reading, is_gold: jax.Array, batch: types.Batch
) -> tuple[jax.Array, jax.Array]:
  """Cross-entropy of the null document where nothing that is read answers.

  That is so for a question that has no answer, and for one with answers once
  the gold documents and all that hold one of them by chance are taken away.

  Args:
    reading: what the extractive reader has read.
    is_gold: bool[B, R], gold documents among it.
    batch: the questions.

  Returns:
    (sum, count) over the questions of which this can be said.
  """
  assert reading.pointers is not None  # the reader is extractive
  answers = reader.find_answers(reading.passages, batch.answers).any((2, 3))
  rest = reading.where & ~is_gold & ~answers
  known = is_gold.any(1) & (batch.answers != types.PAD).any((1, 2))
  if batch.answerable is not None:
    known |= ~batch.answerable
  known &= batch.where & rest.any(1)
  odds = reader.null_log_odds(reading.pointers.relevance, rest)
  return metrics.total(jax.nn.softplus(-odds), known)


def _read(
  params: rag.Params,
  config: rag.RagConfig,
  batch: types.Batch,
  reading: rag.Reading,
) -> rag.Reading:
  """What an extractive reader points at; fusion reads while it writes."""
  if not config.loss.reader_trains_search:
    # What was ranked reaches the reader, but nothing goes back.
    scores, weights = jax.lax.stop_gradient((reading.scores, reading.weights))
    reading = dataclasses.replace(reading, scores=scores, weights=weights)
  if config.reader.kind == 'extractive':
    reading = rag.read(params, config, batch.query, reading)
  return reading


def _answer_losses(
  params: rag.Params,
  config: rag.RagConfig,
  batch: types.Batch,
  reading: rag.Reading,
) -> Sums:
  """The answer's loss, and what its posterior teaches the search."""
  cut = not config.loss.reader_trains_search
  joint = reading.weights
  if config.reader.kind == 'fusion':
    end = reader.end_token(config.reader)
    target = _with_end(batch.answers[:, 0], end)
    scores = reader.write_log_likelihood(
      params['reader'],
      config.reader,
      batch.query,
      reading.passages,
      joint,
      target,
    )
    has_answer = batch.where & (batch.answers[:, 0] != types.PAD).any(-1)
    return {'answer': metrics.total(-scores.sum(-1), has_answer)}
  assert reading.pointers is not None  # the reader is extractive
  likelihoods = reader.answer_log_likelihood(
    reading.pointers.spans, reading.passages, batch.answers
  )
  holds = (likelihoods > reader.IMPOSSIBLE / 2) & reading.where
  readable = holds & (reading.weights > 0)
  terms = {
    'answer': metrics.total(
      losses.sequence_marginal(joint, likelihoods, where=holds),
      readable.any(1) & batch.where,
    )
  }
  posterior = jax.lax.stop_gradient(
    jax.nn.softmax(
      jnp.where(holds, likelihoods + reading.scores, reader.IMPOSSIBLE)
    )
  )
  counts = holds.any(1) & batch.where
  if config.loss.distillation and not cut:
    nll = losses.fenchel_young(
      reading.scores,
      posterior,
      operator=config.ranker.operator,
      where=reading.where,
    )
    terms['distillation'] = metrics.total(nll, counts)
  if config.loss.docid_distillation and not cut:
    nll = -(posterior * reading.docid).sum(1)
    terms['docid_distillation'] = metrics.total(nll, counts)
  return terms


def _self_index(
  params: rag.Params,
  rng: jax.Array,
  config: rag.RagConfig,
  index: indexes.Index,
  max_tokens: int,
  shard: tuple[jax.Array | int, int],
) -> tuple[jax.Array, jax.Array]:
  """Docid loss of crops; a device takes its share of the batch."""
  count = config.pseudo_queries.batch_size // shard[1]
  positions = shard[0] * count + jnp.arange(count)
  query, rows = pseudo_queries.draw(
    rng,
    config.pseudo_queries,
    index.tokens,
    positions,
    max_tokens=max_tokens,
    frame=index.frame,
    log_token_weight=jax.lax.stop_gradient(
      params['ranker']['log_token_weight']
    ),
  )
  encoding = query_encoder.apply(
    params['query_encoder'], config.query_encoder, query
  )
  score = rag.score_docids
  if config.search.scoring == 'absolute':
    score = rag.level_log_likelihood
  scores = score(params, config, index, encoding, rows[:, None])
  return metrics.total(-scores[:, 0], index.alive[rows])


def _join_gold(
  candidates: types.Candidates, gold: jax.Array, index: indexes.Index
) -> types.Candidates:
  """Puts gold documents first; those that the beam found too move there."""
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


def gold_among(candidates: types.Candidates, gold: jax.Array) -> jax.Array:
  """Which candidates are gold documents int32[B, G]; bool[B, K]."""
  same = candidates.documents[:, :, None] == gold[:, None]  # [B, K, G]
  return same.any(-1) & candidates.where


def compared(
  index: indexes.Index,
  documents: jax.Array,
  is_gold: jax.Array,
  where: jax.Array,
) -> jax.Array:
  """The documents that a gold one is compared with, itself among them.

  One that no training question asks for would be wrong every time, and so come
  to be found less, whatever it says: it is left out.

  Args:
    index: the corpus; if it does not know what is asked, all are compared.
    documents: int32[B, K], rows of it, below N.
    is_gold: bool[B, K], which are gold.
    where: bool[B, K], which are there.

  Returns:
    bool[B, K].
  """
  if index.asked is None:
    return where
  return where & (index.asked[documents] | is_gold)


def _metrics(
  found: types.Candidates,
  ranking: rag.Ranking,
  batch: types.Batch,
  has_gold: jax.Array,
) -> Sums:
  is_gold = gold_among(ranking.candidates, batch.gold)
  weight = (ranking.weights * is_gold).sum(1)
  hits = gold_among(found, batch.gold)
  return {
    'beam_hits': metrics.total(hits.any(1), has_gold),
    'docid_hits@1': metrics.total(hits[:, 0], has_gold),
    'support': metrics.total((ranking.weights > 0).sum(1), batch.where),
    'gold_weight': metrics.total(weight, has_gold),
    'gold_off_support': metrics.total(weight == 0, has_gold),
  }


def _with_end(tokens: jax.Array, end: int) -> jax.Array:
  """Appends the end token to int32[B, A] answers; [B, A + 1]."""
  tokens = jnp.pad(tokens, ((0, 0), (0, 1)))
  length = (tokens != types.PAD).sum(-1, keepdims=True)
  return jnp.where(jnp.arange(tokens.shape[1]) == length, end, tokens)
