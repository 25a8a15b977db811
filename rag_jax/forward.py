"""The forward pass: retrieve, rank, read and answer, as pure functions.

The whole pass is one jittable program. The beam search (`docid_search`) returns
documents without a gradient. `rank` scores them again, their docids by teacher
forcing, with a gradient to the query encoder and the ID decoder. The reader
reads the documents with the largest scores.

With `search.hops=2` there is a second search, by the question and by what the
first one found (`follow`). The documents of both are ranked together and read.
"""

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from rag_jax import confidence, docid_search, matching, model, readers, types
from rag_jax.components import query_encoder, ranker, second_query
from rag_jax.index import index as indexes
from rag_jax.ops import beam, masking
from rag_jax.readers import base

Params = model.Params
LEAST = 1e-6  # share that a document of weight 1 keeps in the second search


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


def rank(
  params: Params,
  config: model.ModelConfig,
  index: indexes.Index,
  batch: types.Batch,
  encoding: query_encoder.Encoding,
  candidates: types.Candidates,
  *,
  select: ranker.Select | None = None,
  gold: jax.Array | None = None,
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
    gold: bool[B, K], gold documents, for the gradient of two searches: of
      several ones, only that with the rarest word of the question, such as a
      name, gets a gradient by the first search, which would learn the others by
      heart.

  Returns:
    The `Ranking`. With a second search, the score of a document is
    log(q1 + p q2). q1 = exp(s1 - max s1) compares it with the best one of the
    first search, and q2 the same with s2 + log(1 - w1), where w1 is its weight
    in the first search: the second one is for documents that the first has not
    found. p = sigmoid(needed) is the probability that one is needed. The best
    documents of both searches therefore differ by log p, however sure each
    search is. 1 - w1 has no gradient, and s2 has one to the encoding of the
    second search only, see `second_query`.
  """
  select = select or ranker.selector(config.ranker)
  first, *others = query_encoder.searches(encoding)
  docid, scores = _score(params, config, index, batch, first, candidates)
  for second in others:
    again, more = _score(
      jax.lax.stop_gradient(params), config, index, batch, second, candidates
    )
    scores = _below_best(scores, candidates.where)
    if gold is not None:
      later = matching.later_gold(params, index, batch, candidates, gold)
      docid, scores = (
        jnp.where(later, jax.lax.stop_gradient(x), x) for x in (docid, scores)
      )
    weights = jax.lax.stop_gradient(select(scores, candidates.where))
    more += jnp.log(jnp.maximum(1 - weights, LEAST))
    more = _below_best(more, candidates.where)
    assert second.needed is not None  # of every second search
    more += jax.nn.log_sigmoid(second.needed)[:, None]
    scores = jnp.logaddexp(scores, more)
    docid = jnp.where(candidates.where, docid_search.either(docid, again), 0.0)
  weights = select(scores, candidates.where)
  return Ranking(
    candidates=candidates, docid=docid, scores=scores, weights=weights
  )


def _below_best(scores, where):
  """Scores less that of the best real candidate, so that searches compare."""
  scores = jnp.where(where, scores, masking.NEG_INF)
  return scores - scores.max(1, keepdims=True)


def _score(params, config, index, batch, encoding, candidates):
  """Docid scores and ranker's scores by one search."""
  own, documents = (params, config, index), candidates.documents
  docid = docid_search.score_docids(*own, encoding, documents)
  docid = jnp.where(candidates.where, docid, 0.0)
  signals = matching.signals(*own, batch, encoding, documents)
  scores = ranker.apply(params['ranker'], config.ranker, docid=docid, **signals)
  return docid, scores


def follow(
  params: Params,
  config: model.ModelConfig,
  index: indexes.Index,
  batch: types.Batch,
  encoding: query_encoder.Encoding,
  found: types.Candidates,
  *,
  select: ranker.Select | None = None,
  names: jax.Array | None = None,
  noise: tuple[jax.Array, float] | None = None,
) -> query_encoder.Encoding:
  """Adds the encoding of the second search, by what the first one found.

  Arguments as for `rank` and `second_query.apply`; `found` is of the first
  search. The new encoding has a gradient to the weights of these documents.
  """
  if config.search.hops == 1:
    return encoding
  ranking = rank(params, config, index, batch, encoding, found, select=select)
  count = min(config.search.hop_documents, found.where.shape[1])
  best = choose(index, ranking, count)
  after = second_query.apply(
    params['query_encoder'],
    config.query_encoder,
    batch.query,
    index.tokens[best.documents],
    best.weights,
    size=config.search.hop_tokens,
    names=names,
    noise=noise,
  )
  return dataclasses.replace(encoding, after=after)


def search(
  params: Params,
  config: model.ModelConfig,
  index: indexes.Index,
  batch: types.Batch,
  *,
  allowed: jax.Array | None = None,
  candidates: types.Candidates | None = None,
) -> tuple[query_encoder.Encoding, types.Candidates]:
  """Encodes questions and runs all searches; arguments as for `answer`.

  Returns:
    The encoding of the searches, and the documents found.
  """
  encoding = query_encoder.apply(
    params['query_encoder'], config.query_encoder, batch.query
  )
  options: dict[str, Any] = {'words': batch.words, 'allowed': allowed}
  found = candidates
  if found is None:
    found = docid_search.retrieve(params, config, index, encoding, **options)
  encoding = follow(params, config, index, batch, encoding, found)
  if candidates is None:
    found = docid_search.retrieve_again(
      params, config, index, encoding, found, **options
    )
  return encoding, found


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
  encoding, found = search(
    params, config, index, batch, allowed=allowed, candidates=candidates
  )
  ranking = rank(params, config, index, batch, encoding, found)
  count = found.where.shape[1]
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
  cited = reading.documents[jnp.arange(written.place.size), written.place]
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
