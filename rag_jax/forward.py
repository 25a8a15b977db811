"""The forward pass: retrieve, rank, read and answer, as pure functions.

The whole pass is one jittable program. The beam search returns documents
without a gradient. `rank` scores them again, their docids by teacher forcing,
with a gradient to the query encoder and the ID decoder. The reader reads the
documents with the largest scores.
"""

import dataclasses
import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from rag_jax import confidence, matching, model, readers, types
from rag_jax.components import id_decoder, query_encoder, ranker
from rag_jax.index import index as indexes
from rag_jax.ops import beam
from rag_jax.ops import trie as tries
from rag_jax.readers import base

Params = model.Params


@flax.struct.dataclass
class Ranking:
  """Candidates with their scores and weights."""

  candidates: types.Candidates
  docid: jax.Array  # float32[B, K], log-probability of the docid, nats
  scores: jax.Array  # float32[B, K], nats
  weights: jax.Array  # float32[B, K], sums to 1 over real candidates


@flax.struct.dataclass
class Reading:
  """The documents that the reader reads, largest scores first."""

  documents: jax.Array  # int32[B, R]
  passages: jax.Array  # int32[B, R, P], their tokens
  places: jax.Array  # int32[B, R], their positions among the candidates
  scores: jax.Array  # float32[B, R], nats
  weights: jax.Array  # float32[B, R]
  docid: jax.Array  # float32[B, R], log-probability of the docid, nats
  where: jax.Array  # bool[B, R]
  memory: Any = None  # output of `reader.read`; None before reading


@flax.struct.dataclass
class Answer:
  """Documents, weights and answers of a batch of questions."""

  candidates: types.Candidates  # in the order of the beam search
  documents: types.Array  # int32[B, K], largest weight first; -1 = none
  codes: types.Array  # int32[B, K, L], their docids
  docid: types.Array  # float32[B, K], log-probabilities of these, nats
  scores: types.Array  # float32[B, K], nats
  weights: types.Array  # float32[B, K]
  read: types.Array  # int32[B], the document with the answer
  start: types.Array  # int32[B], first token of the span; -1 if generated
  end: types.Array  # int32[B], last token of the span
  tokens: types.Array  # int32[B, A], the generated answer, or zeros
  log_probability: types.Array  # float32[B], of the answer, nats
  no_answer: types.Array  # float32[B], log-odds of no answer over this, nats
  beam_mass: types.Array  # float32[B], log of the total P(docid) in the beam
  features: types.Array  # float32[B, F], of `confidence.FEATURES`


@flax.struct.dataclass
class Pass:
  """A forward pass up to the answer."""

  ranking: Ranking
  reading: Reading
  written: base.Written


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
  """
  batch_size, width = encoding.vector.shape
  return beam.search(
    (params['id_decoder'], encoding),
    id_decoder.initial_cache(config.id_decoder, batch_size, width),
    index.trie,
    step_fn=functools.partial(id_decoder.apply, config=config.id_decoder),
    batch_size=batch_size,
    beam_size=config.search.beam_size,
    allowed=allowed,
    scoring=config.search.scoring,
    lookahead=matching.lookahead(params, config, index, words),
  )


def score_docids(
  params: Params,
  config: model.ModelConfig,
  index: indexes.Index,
  encoding: query_encoder.Encoding,
  documents: jax.Array,
) -> jax.Array:
  """Docid scores of given documents by teacher forcing, float32[B, K], nats."""
  batch_size, width = encoding.vector.shape
  return beam.score(
    (params['id_decoder'], encoding),
    id_decoder.initial_cache(config.id_decoder, batch_size, width),
    index.trie,
    index.codes[documents],
    step_fn=functools.partial(id_decoder.apply, config=config.id_decoder),
    scoring=config.search.scoring,
  )


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
  )


def rank(
  params: Params,
  config: model.ModelConfig,
  index: indexes.Index,
  batch: types.Batch,
  encoding: query_encoder.Encoding,
  candidates: types.Candidates,
  *,
  select: ranker.Select | None = None,
) -> Ranking:
  """Scores and weighs candidates by docid, vector and lexical signals.

  Args:
    params: parameters of all components.
    config: the model.
    index: the corpus.
    batch: the questions.
    encoding: encoding of the questions.
    candidates: the documents.
    select: (scores, where) -> weights; None = the ranker's operator.
  """
  select = select or ranker.selector(config.ranker)
  docid = score_docids(params, config, index, encoding, candidates.documents)
  docid = jnp.where(candidates.where, docid, 0.0)
  scores = ranker.apply(
    params['ranker'],
    config.ranker,
    docid=docid,
    **matching.signals(
      params, config, index, batch, encoding, candidates.documents
    ),
  )
  weights = select(scores, candidates.where)
  return Ranking(
    candidates=candidates, docid=docid, scores=scores, weights=weights
  )


def choose(
  index: indexes.Index,
  ranking: Ranking,
  size: int,
  *,
  first: jax.Array | None = None,
  noise: jax.Array | None = None,
) -> Reading:
  """Chooses the documents with the highest scores for the reader.

  Args:
    index: the corpus.
    ranking: output of `rank`.
    size: R, number of documents.
    first: bool[B, K], candidates to choose before all others.
    noise: float32[B, K], added to the scores for this choice only. Gumbel noise
      makes it a sample without replacement.
  """
  where = ranking.candidates.where
  order = jax.lax.stop_gradient(jnp.where(where, ranking.scores, -jnp.inf))
  if noise is not None:
    order = order + noise
  if first is not None:
    order = jnp.where(first & where, jnp.inf, order)
  chosen = jax.lax.top_k(order, size)[1]

  def take(x):
    return jnp.take_along_axis(x, chosen, axis=1)

  documents = take(ranking.candidates.documents)
  return Reading(
    documents=documents,
    passages=index.passages[documents],
    places=chosen,
    scores=take(ranking.scores),
    weights=take(ranking.weights),
    docid=take(ranking.docid),
    where=take(where),
  )


def read(
  params: Params,
  config: model.ModelConfig,
  batch: types.Batch,
  reading: Reading,
  *,
  select: ranker.Select | None = None,
) -> Reading:
  """Runs the reader; with `reader.reranks`, it also reranks the documents.

  Reranking adds the reader's relevance, as of a cross-encoder, to the scores of
  the documents read, and computes their weights again.
  """
  reader = readers.make(config.reader)
  memory = reader.read(params['reader'], batch.read_query, reading.passages)
  reading = dataclasses.replace(reading, memory=memory)
  if not config.reader.reranks or reader.relevance is None:
    return reading
  select = select or ranker.selector(config.ranker)
  scores = reading.scores + reader.relevance(memory)
  weights = select(scores, reading.where)
  return dataclasses.replace(reading, scores=scores, weights=weights)


def run(
  params: Params,
  batch: types.Batch,
  index: indexes.Index,
  *,
  config: model.ModelConfig,
  allowed: jax.Array | None = None,
  candidates: types.Candidates | None = None,
) -> Pass:
  """Searches, ranks and reads; the arguments are those of `answer`."""
  encoding = query_encoder.apply(
    params['query_encoder'], config.query_encoder, batch.query
  )
  if candidates is None:
    candidates = retrieve(
      params, config, index, encoding, words=batch.words, allowed=allowed
    )
  ranking = rank(params, config, index, batch, encoding, candidates)
  count = candidates.where.shape[1]
  reading = choose(index, ranking, min(config.search.read_size, count))
  reading = read(params, config, batch, reading)
  if config.reader.reranks:
    ranking = _reorder(ranking, reading)
  written = readers.make(config.reader).answer(
    params['reader'], reading.memory, reading.weights, reading.where
  )
  return Pass(ranking=ranking, reading=reading, written=written)


def answer(
  params: Params,
  batch: types.Batch,
  index: indexes.Index,
  *,
  config: model.ModelConfig,
  allowed: jax.Array | None = None,
  candidates: types.Candidates | None = None,
) -> Answer:
  """Answers questions: search, ranking and reading in one program.

  Args:
    params: parameters of all components.
    batch: the questions; their answers and gold documents are not used.
    index: the corpus.
    config: the model.
    allowed: bool[N] or bool[B, N], documents that may be returned.
    candidates: documents to rank and read, instead of a search.
  """
  found = run(
    params,
    batch,
    index,
    config=config,
    allowed=allowed,
    candidates=candidates,
  )
  return conclude(params, batch, index, found, config=config)


def conclude(
  params: Params,
  batch: types.Batch,
  index: indexes.Index,
  found: Pass,
  *,
  config: model.ModelConfig,
) -> Answer:
  """The documents, largest weight first, and answers of a pass."""
  ranking, reading, written = found.ranking, found.reading, found.written
  candidates = ranking.candidates
  everything = choose(index, ranking, candidates.where.shape[1])
  cited = jnp.take_along_axis(
    reading.documents, written.place[:, None], axis=1
  )[:, 0]
  mass = beam.beam_mass(candidates)
  relevance = readers.make(config.reader).relevance
  return Answer(
    candidates=candidates,
    documents=jnp.where(everything.where, everything.documents, -1),
    codes=beam.reorder(candidates.codes, everything.places),
    docid=everything.docid,
    scores=everything.scores,
    weights=everything.weights,
    read=cited,
    start=written.start,
    end=written.end,
    tokens=written.tokens,
    log_probability=written.log_probability,
    no_answer=written.no_answer,
    beam_mass=mass,
    features=confidence.features(
      query=batch.query,
      cited=index.tokens[cited],
      token_weights=jnp.exp(params['ranker']['log_token_weight']),
      reading=reading,
      written=written,
      scores=ranking.scores,
      where=candidates.where,
      beam=candidates.scores,
      beam_mass=mass,
      relevance=relevance and relevance(reading.memory),
    ),
  )


def _reorder(ranking: Ranking, reading: Reading) -> Ranking:
  """Ranks the documents that were read first, by their new scores."""
  rows = jnp.arange(reading.places.shape[0])[:, None]
  most = jnp.max(ranking.scores, axis=1, keepdims=True)
  least = jnp.min(reading.scores, axis=1, keepdims=True)
  first = jnp.where(reading.where, reading.scores - least + most + 1.0, 0.0)
  weights = jnp.zeros_like(ranking.weights)
  return dataclasses.replace(
    ranking,
    scores=ranking.scores.at[rows, reading.places].set(first),
    weights=weights.at[rows, reading.places].set(reading.weights),
  )
