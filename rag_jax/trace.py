"""Lazy forward pass of a training step, shared by all losses.

Each attribute of a `Trace` is computed on first access, so that a stage runs
only what its losses use. A trace exists only while JAX traces a step.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from rag_jax import docid_search, forward, model, readers, types
from rag_jax import stage as stages
from rag_jax.components import query_encoder, ranker
from rag_jax.index import index as indexes
from rag_jax.ops import masking, renaming, sampling
from rag_jax.readers import citations

# Log-likelihood of the answer given a document without it, relative to the best
# document, in losses that compare documents.
NO_ANSWER_OFFSET = -20.0  # nats
GOLD_LOSSES = ('docid', 'ranking', 'list_mle', 'margin', 'reranking')


class Trace:
  """Intermediate results of a training step, each computed on first access."""

  def __init__(
    self,
    params: model.Params,
    rng: jax.Array,
    batch: types.Batch,
    index: indexes.Index,
    *,
    config: model.ModelConfig,
    stage: stages.Stage,
    shard: tuple[jax.Array | int, int] = (0, 1),
  ):
    """Stores the arguments of `objective.loss`, without computing anything."""
    self.params, self.rng, self.batch, self.index = params, rng, batch, index
    self.config, self.stage, self.shard = config, stage, shard
    self.reader = readers.make(config.reader)
    self.operator = stage.operator or config.ranker.operator

  def key(self, purpose: int) -> jax.Array:
    """PRNG keys [B], one per question, independent of the number of devices."""
    count = self.batch.where.shape[0]
    rng = jax.random.fold_in(self.rng, purpose)
    return jax.vmap(jax.random.fold_in, (None, 0))(
      rng, self.shard[0] * count + jnp.arange(count)
    )

  @functools.cached_property
  def first(self) -> query_encoder.Encoding:
    """Encoding of the questions, for the first search."""
    return query_encoder.apply(
      self.params['query_encoder'], self.config.query_encoder, self.batch.query
    )

  @functools.cached_property
  def found_first(self) -> types.Candidates:
    """Documents from the first search, without a gradient."""
    if self.stage.candidates == 'all':
      return docid_search.every_document(self.index, self.batch.where.shape[0])
    return docid_search.retrieve(
      jax.lax.stop_gradient(self.params),
      self.config,
      self.index,
      jax.lax.stop_gradient(self.first),
      words=self.batch.words,
    )

  @functools.cached_property
  def encoding(self) -> query_encoder.Encoding:
    """Encoding of all searches."""
    if self.config.search.hops == 1:
      return self.first
    return forward.follow(
      self.params,
      self.config,
      self.index,
      self.batch,
      self.first,
      self.found_first,
      select=self.select,
      names=self.names,
      noise=(self.key(7), self.stage.hop_noise),
    )

  @functools.cached_property
  def found(self) -> types.Candidates:
    """Documents from all searches, without a gradient."""
    if self.stage.candidates == 'all' or self.config.search.hops == 1:
      return self.found_first
    return docid_search.retrieve_again(
      jax.lax.stop_gradient(self.params),
      self.config,
      self.index,
      jax.lax.stop_gradient(self.encoding),
      self.found_first,
      words=self.batch.words,
    )

  @functools.cached_property
  def candidates(self) -> types.Candidates:
    """The documents that are ranked."""
    if self.stage.candidates == 'beam+gold':
      return docid_search.with_gold(self.found, self.batch.gold, self.index)
    return self.found

  @functools.cached_property
  def has_gold(self) -> jax.Array:
    """Questions whose gold documents are known, bool[B]."""
    return (self.batch.gold >= 0).any(axis=1) & self.batch.where

  @functools.cached_property
  def is_gold(self) -> jax.Array:
    """Candidates that are gold documents, bool[B, K]."""
    return docid_search.gold_among(self.candidates, self.batch.gold)

  @functools.cached_property
  def contrasted(self) -> jax.Array:
    """Candidates that are gold documents or negatives, bool[B, K]."""
    return docid_search.contrasted(
      self.index,
      self.candidates.documents,
      self.is_gold,
      self.candidates.where,
    )

  @functools.cached_property
  def ranking(self) -> forward.Ranking:
    """Scores and weights of the candidates, with a gradient."""
    learns_gold = any(map(self.stage.weight, GOLD_LOSSES))
    return forward.rank(
      self.params,
      self.config,
      self.index,
      self.batch,
      self.encoding,
      self.candidates,
      select=self.select,
      gold=self.is_gold if learns_gold else None,
    )

  @property
  def select(self) -> ranker.Select:
    """Function (scores, where) -> weights, by the stage's operator."""
    if self.stage.estimator != 'straight_through':
      rng = jax.random.fold_in(self.rng, 3 + self.shard[0])
      return ranker.selector(
        self.config.ranker, operator=self.operator, rng=rng
      )

    def top_k(scores, where):
      k = min(self.read_size, scores.shape[-1])
      hard = sampling.top_k(scores, k=k, where=where)
      soft = sampling.relaxed_top_k(
        scores, k=k, temperature=self.stage.temperature, where=where
      )
      weights = sampling.straight_through(hard, soft)
      return weights / jnp.maximum(hard.sum(-1, keepdims=True), 1)

    return top_k

  @property
  def read_size(self) -> int:
    """Maximum number of documents read per question."""
    return self.stage.read_size or self.config.search.read_size

  @functools.cached_property
  def gold_docid(self) -> jax.Array:
    """Docid scores of the gold documents, with a gradient, float32[B, G]."""
    if self.stage.candidates == 'beam+gold':  # gold documents come first
      return self.ranking.docid[:, : self.batch.gold.shape[1]]
    gold = jnp.maximum(self.batch.gold, 0)
    return docid_search.score_docids(
      self.params, self.config, self.index, self.encoding, gold
    )

  @functools.cached_property
  def reading(self) -> forward.Reading:
    """The documents read, with the output of the reader in `memory`."""
    if not self.stage.searches:
      return self._read_gold()
    first = self.is_gold if self.stage.candidates == 'beam+gold' else None
    noise = None
    if self.stage.candidates == 'sampled':
      shape = self.candidates.where.shape[1:]
      noise = self.stage.temperature * jax.vmap(
        lambda key: jax.random.gumbel(key, shape)
      )(self.key(1))
    size = min(self.read_size, self.candidates.where.shape[1])
    reading = forward.choose(
      self.index, self.ranking, size, first=first, noise=noise
    )
    if self.stage.estimator == 'none' or self.costs_search:
      # No gradient from the loss 'answer' to the search.
      scores, weights = jax.lax.stop_gradient((reading.scores, reading.weights))
      reading = dataclasses.replace(reading, scores=scores, weights=weights)
    if self.stage.without_gold:
      is_gold = jnp.take_along_axis(self.is_gold, reading.places, axis=1)
      weights = citations.without(
        reading.weights, reading.where, is_gold, self.ungrounded
      )
      reading = dataclasses.replace(reading, weights=weights)
    return self._read(reading)

  @functools.cached_property
  def ungrounded(self) -> jax.Array:
    """Questions that are read without their gold documents, bool[B]."""
    if not self.stage.without_gold:
      return jnp.zeros_like(self.batch.where)
    drawn = jax.vmap(jax.random.uniform)(self.key(4)) < self.stage.without_gold
    return drawn & self.has_gold

  @property
  def costs_search(self) -> bool:
    """Whether the estimator trains the search by costs of documents."""
    return self.stage.estimator in stages.COST_ESTIMATORS

  def _read(self, reading: forward.Reading) -> forward.Reading:
    length = self.stage.passage_tokens or reading.passages.shape[-1]
    passages, batch = reading.passages[..., :length], self.batch
    if self.names is not None:
      passages = renaming.rename(self.names, passages)
      query = renaming.rename(self.names, batch.query)
      batch = dataclasses.replace(batch, query=query)
    return forward.read(
      self.params,
      self.config,
      batch,
      dataclasses.replace(reading, passages=passages),
      select=self.select,
    )

  def _read_gold(self) -> forward.Reading:
    """Reads the gold documents, and the hard negative if the batch has one."""
    documents = self.batch.gold
    if self.batch.negative is not None:
      documents = jnp.column_stack([documents, self.batch.negative])
    where = documents >= 0
    rows = jnp.maximum(documents, 0)
    is_gold = where & (jnp.arange(rows.shape[1]) < self.batch.gold.shape[1])
    weights = is_gold / jnp.maximum(is_gold.sum(1, keepdims=True), 1)
    zeros = jnp.zeros(rows.shape)
    reading = self._read(
      forward.Reading(
        documents=rows,
        passages=self.index.passages[rows],
        places=jnp.zeros_like(rows),
        scores=zeros,
        weights=weights,
        docid=zeros,
        where=where,
      )
    )
    # Uniform weights of the gold documents, also if the reader reranks.
    return dataclasses.replace(reading, weights=weights)

  @functools.cached_property
  def read_gold(self) -> jax.Array:
    """Documents read that are gold, bool[B, R]."""
    if self.stage.searches:
      return jnp.take_along_axis(self.is_gold, self.reading.places, axis=1)
    width = self.reading.where.shape[1]
    is_gold = jnp.arange(width) < self.batch.gold.shape[1]
    return self.reading.where & is_gold

  @functools.cached_property
  def read_contrasted(self) -> jax.Array:
    """Documents read that are gold documents or negatives, bool[B, R]."""
    if not self.stage.searches:
      return self.reading.where
    return docid_search.contrasted(
      self.index, self.reading.documents, self.read_gold, self.reading.where
    )

  @functools.cached_property
  def relevance(self) -> jax.Array:
    """The reader's relevance of each passage, float32[B, R], nats."""
    assert self.reader.relevance is not None  # checked by composition
    return self.reader.relevance(self.reading.memory)

  @functools.cached_property
  def names(self) -> jax.Array | None:
    """The tokens that readers see for those of the texts, int32[B, V]."""
    if not self.stage.renamed:
      return None
    assert self.index.rare is not None  # set by curriculum.prepare
    drawn = jax.vmap(jax.random.uniform)(self.key(5)) < self.stage.renamed
    return renaming.draw(self.key(6), self.index.rare, drawn)

  @functools.cached_property
  def answers(self) -> jax.Array:
    """The answers in the reader's tokens, int32[B, M, A].

    Citations of gold documents become those of documents read. The answer to
    a question that is read without its gold documents is empty.
    """
    given = citations.targets(self.reader.cites, self.batch, self.reading)
    if self.names is not None:
      given = renaming.rename(self.names, given)
    return jnp.where(self.ungrounded[:, None, None], types.PAD, given)

  @functools.cached_property
  def token_likelihoods(self) -> jax.Array:
    """Token log-likelihoods of the answer given each document, [B, R, T], nats.

    T is 1 for an extractive reader.
    """
    return self.reader.log_likelihood(
      self.params['reader'], self.reading.memory, self.answers
    )

  @functools.cached_property
  def likelihoods(self) -> jax.Array:
    """Log-likelihood of the answer given each document, float32[B, R], nats."""
    tokens = self.token_likelihoods
    return tokens[..., 0] if self.reader.points else tokens.sum(-1)

  @functools.cached_property
  def token_where(self) -> jax.Array:
    """Real tokens of the answer, including its end token, bool[B, T]."""
    answer = self.batch.read_answers[:, 0] != types.PAD
    length = answer.sum(-1, keepdims=True)
    return jnp.arange(answer.shape[1] + 1) <= length

  @functools.cached_property
  def holds(self) -> jax.Array:
    """Documents read that can give the answer, bool[B, R].

    For an extractive reader, those that contain it; for a generative reader,
    all documents of a question with an answer.
    """
    if self.reader.points:
      return (self.likelihoods > masking.NEG_INF / 2) & self.reading.where
    return self.reading.where & self.has_answer[:, None]

  @functools.cached_property
  def has_answer(self) -> jax.Array:
    """Questions with an answer, bool[B]."""
    answers = self.batch.read_answers
    if not self.reader.points:  # a generative reader trains on the first one
      answers = answers[:, :1]
    return self.batch.where & (answers != types.PAD).any((1, 2))

  @functools.cached_property
  def written(self) -> jax.Array:
    """Questions whose answer a generative reader learns to write, bool[B].

    A reader with citations also learns to write nothing if there is no answer.
    """
    if not self.reader.cites or self.batch.answerable is None:
      return self.has_answer
    return self.has_answer | (self.batch.where & ~self.batch.answerable)

  @functools.cached_property
  def taught(self) -> jax.Array:
    """Questions for distillation: a document read has the answer, bool[B]."""
    return self.holds.any(1) & self.batch.where

  @functools.cached_property
  def posterior(self) -> jax.Array:
    """P(document | question, answer) over the documents read, float32[B, R].

    softmax(log-likelihood of the answer + score) over documents in `holds`,
    without a gradient.
    """
    scores = self.likelihoods + self.reading.scores
    return jax.lax.stop_gradient(
      jax.nn.softmax(jnp.where(self.holds, scores, masking.NEG_INF))
    )

  @functools.cached_property
  def search_scores(self) -> jax.Array:
    """Scores of the documents read, for losses of the search, float32[B, R].

    They equal `reading.scores`. Their gradient reaches the search even if that
    of `reading.scores` is stopped.
    """
    values = self.reading.scores
    if not (self.stage.estimator == 'none' or self.costs_search):
      return values
    scores = jnp.take_along_axis(
      self.ranking.scores, self.reading.places, axis=1
    )
    return scores + jax.lax.stop_gradient(values - scores)

  def teacher_likelihoods(self) -> jax.Array:
    """Log-likelihoods for distillation, float32[B, R], nats, all finite."""
    known = jnp.where(self.holds, self.likelihoods, masking.NEG_INF)
    best = jnp.max(known, axis=1, keepdims=True)
    best = jnp.where(self.holds.any(1)[:, None], best, 0.0)
    return jax.lax.stop_gradient(
      jnp.where(self.holds, self.likelihoods, best + NO_ANSWER_OFFSET)
    )
