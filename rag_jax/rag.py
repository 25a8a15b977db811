"""Retrieve, rank, read, and one loss: pure functions over the four components.

From question tokens to the gradient this is one program. Beam search is run
under stop_gradient; its documents are scored again by teacher forcing, which
carries the gradient into the ID decoder and the query encoder.
"""

import dataclasses
import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from rag_jax import types
from rag_jax.components import id_decoder, query_encoder, ranker, reader
from rag_jax.index import index as indexes
from rag_jax.index import pseudo_queries
from rag_jax.nn import transformer
from rag_jax.ops import beam, lexical
from rag_jax.ops import trie as tries

Params = dict[str, Any]
PUBLISHED = ('bert', 't5')  # names of parameters that others have trained


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchConfig:
  """How documents are found."""

  beam_size: int = 16  # K, documents that are decoded and ranked
  read_size: int = 4  # documents with the largest weights that are read
  train_read_size: int = 0  # so many in training; 0: as many as read_size
  scoring: str = 'log_softmax'  # one of ops.beam.SCORINGS
  lexical_weight: float = 0.0  # nats a unit of BM25 adds to nodes in the beam
  lexical_follows: bool = False  # it grows as the ranker's, beside its vectors'
  join_gold: bool = True  # in training, put gold documents among candidates
  gold_only: bool = False  # search for nothing; see train.reader_steps
  train_passage_tokens: int = 0  # of a passage, once all trains; 0: all

  def __post_init__(self) -> None:
    """Raises a ValueError on a value out of range."""
    beam.check_scoring(self.scoring)
    for name in ('beam_size', 'read_size'):
      value = getattr(self, name)
      if value < 1:
        raise ValueError(
          f'search.{name} must be at least 1, got {value}. '
          f'Set --config.search.{name}.'
        )
    if self.train_passage_tokens < 0:
      raise ValueError(
        'search.train_passage_tokens must be at least 0, got '
        f'{self.train_passage_tokens}. '
        'Set --config.search.train_passage_tokens.'
      )
    for name in ('read_size', 'train_read_size'):
      if getattr(self, name) > self.beam_size:
        raise ValueError(
          f'search.{name} must be at most beam_size ({self.beam_size}), got '
          f'{getattr(self, name)}. Set --config.search.{name}.'
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossConfig:
  """Weights of the losses; 0 leaves one out."""

  answer: float = 1.0  # -log sum_k w_k P(answer | q, d_k)
  docid: float = 1.0  # -log P(gold docid | q)
  ranking: float = 1.0  # Fenchel-Young loss of the ranker on gold documents
  self_index: float = 1.0  # -log P(docid | a crop of the document)
  distillation: float = 0.0  # Fenchel-Young loss on the reader's posterior
  docid_distillation: float = 0.0  # docid loss, weighed by that posterior
  reader_trains_search: bool = True  # False cuts the reader's gradient off

  @property
  def reads(self) -> bool:
    """Whether a step has to run the reader."""
    return bool(self.answer or self.distillation or self.docid_distillation)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RagConfig:
  """The four components, the search and the losses."""

  query_encoder: query_encoder.QueryEncoderConfig
  id_decoder: id_decoder.IdDecoderConfig
  ranker: ranker.RankerConfig
  reader: reader.ReaderConfig
  search: SearchConfig
  loss: LossConfig
  pseudo_queries: pseudo_queries.PseudoQueryConfig

  def __post_init__(self) -> None:
    """Raises a ValueError on values that do not go together."""
    width = self.query_encoder.width
    transformer.check_heads('query_encoder', width, self.query_encoder)
    transformer.check_heads('id_decoder', width, self.id_decoder)
    if not (self.reader.weights and self.reader.kind == 'fusion'):
      # The heads of a T5 need not cut its width.
      transformer.check_heads('reader', self.reader.width, self.reader)
    distils = self.loss.distillation or self.loss.docid_distillation
    self._check_pretrained()
    if self.search.lexical_follows:
      self._check_lexical()
    if distils and self.reader.kind == 'fusion':
      raise ValueError(
        'loss.distillation needs the likelihood of each document, got '
        "reader.kind 'fusion'. Set --config.loss.distillation=0 or "
        '--config.reader.kind=extractive.'
      )

  def _check_lexical(self) -> None:
    """Raises a ValueError where ranker and beam do not weigh the same."""
    own = self.ranker
    weights = {
      'search.lexical_weight': self.search.lexical_weight,
      'ranker.lexical_weight': own.lexical_weight,
      'ranker.vector_weight': own.vector_weight,
    }
    if not all(weights.values()) or own.docid_weight:
      given = ', '.join(f'{name}={value}' for name, value in weights.items())
      raise ValueError(
        'search.lexical_follows needs a ranker that weighs words beside '
        'vectors alone, and words in the search, got '
        f'{given}, ranker.docid_weight={own.docid_weight}. Set the first '
        'three above 0 and --config.ranker.docid_weight=0, or '
        '--config.search.lexical_follows=False.'
      )

  def _check_pretrained(self) -> None:
    """Raises a ValueError on what published weights cannot be used for."""
    if self.query_encoder.weights and self.id_decoder.output != 'node_table':
      raise ValueError(
        'query_encoder.weights needs a row a document, so id_decoder.output '
        f"'node_table', got {self.id_decoder.output!r}. "
        'Set --config.id_decoder.output=node_table.'
      )
    points = self.reader.weights and self.reader.kind == 'extractive'
    read = f'kind {self.reader.kind!r} with weights {self.reader.weights!r}'
    if self.reader.null_document and not points:
      raise ValueError(
        'reader.null_document needs an extractive reader with published '
        f'weights, got {read}. Set --config.reader.null_document=False.'
      )
    if self.ranker.reads and not points:
      raise ValueError(
        'ranker.reads needs an extractive reader with published weights, got '
        f'{read}. Set --config.ranker.reads=False, or '
        '--config.reader.kind=extractive and --config.reader.weights.'
      )
    learns = self.ranker.reads and self.loss.ranking and self.loss.reads
    if self.reader.null_document and not learns:
      raise ValueError(
        'reader.null_document learns from how relevant the passages are that '
        f'are read, got ranker.reads={self.ranker.reads}, loss.ranking='
        f'{self.loss.ranking} and loss.answer={self.loss.answer}. Set '
        '--config.ranker.reads=True, --config.loss.ranking=1 and '
        '--config.loss.answer=1, or --config.reader.null_document=False.'
      )


@flax.struct.dataclass
class Ranking:
  """Candidates with what the ranker makes of them."""

  candidates: types.Candidates
  docid: jax.Array  # float32[B, K], log-probability of the docid, nats
  scores: jax.Array  # float32[B, K], nats
  weights: jax.Array  # float32[B, K], sums to 1 over real candidates


@flax.struct.dataclass
class Reading:
  """The documents that are read, those with the largest weights first."""

  documents: jax.Array  # int32[B, R]
  passages: jax.Array  # int32[B, R, P]
  places: jax.Array  # int32[B, R], where they stand among the candidates
  scores: jax.Array  # float32[B, R]
  weights: jax.Array  # float32[B, R]
  docid: jax.Array  # float32[B, R]
  where: jax.Array  # bool[B, R]
  pointers: reader.Pointers | None = None  # once an extractive reader has read


@flax.struct.dataclass
class Answer:
  """What a question gets: documents, weights and where the answer stands."""

  candidates: types.Candidates  # as decoded, best docid first
  documents: types.Array  # int32[B, K], best weight first; -1 = none
  weights: types.Array  # float32[B, K]
  read: types.Array  # int32[B], the document that the answer is from
  start: types.Array  # int32[B], its first token there (extractive)
  end: types.Array  # int32[B], its last token there
  tokens: types.Array  # int32[B, A], the written answer (fusion), or zeros
  log_probability: types.Array  # float32[B], of the answer, nats
  no_answer: types.Array  # float32[B], log-odds of none over this one, nats
  beam_mass: types.Array  # float32[B], log of what the beam holds, nats


@flax.struct.dataclass
class Pretrained:
  """What does not start from nothing."""

  query_encoder: Params | None = None  # published weights
  reader: Params | None = None
  vectors: jax.Array | None = None  # float32[N, D], documents by these weights


def init(
  rng: jax.Array,
  config: RagConfig,
  index: indexes.Index,
  *,
  vocab_size: int,
  pretrained: Pretrained | None = None,
) -> Params:
  """Makes the parameters of all components, for one index."""
  pretrained = pretrained or Pretrained()
  keys = jax.random.split(rng, 3)
  frequency = query_encoder.inverse_document_frequency(
    index.tokens, vocab_size=vocab_size
  )
  encoder = query_encoder.init(
    keys[0],
    config.query_encoder,
    vocab_size=vocab_size,
    token_weights=frequency,
    pretrained=pretrained.query_encoder,
  )
  vectors = pretrained.vectors
  if vectors is None:
    vectors = query_encoder.embed_documents(encoder, index.tokens)
  return {
    'query_encoder': encoder,
    'id_decoder': id_decoder.init(
      keys[1],
      config.id_decoder,
      trie=index.trie,
      codes=index.codes,
      document_vectors=vectors,
    ),
    'ranker': ranker.init(config.ranker, token_weights=frequency),
    'reader': reader.init(
      keys[2],
      config.reader,
      vocab_size=vocab_size,
      pretrained=pretrained.reader,
    ),
  }


def document_vectors(
  rng: jax.Array, config: RagConfig, tokens: jax.Array, *, vocab_size: int
) -> jax.Array:
  """Vectors float32[N, D] that `init` will start from, for naming docids."""
  encoder = _untrained_encoder(rng, config, tokens, vocab_size)
  return query_encoder.embed_documents(encoder, tokens)


def embed(
  rng: jax.Array,
  config: RagConfig,
  tokens: jax.Array,
  query: jax.Array,
  *,
  vocab_size: int,
  pretrained: Pretrained | None = None,
) -> jax.Array:
  """Vectors float32[B, D] of queries, by the encoder `init` will start from."""
  encoder = _untrained_encoder(rng, config, tokens, vocab_size, pretrained)
  return query_encoder.apply(encoder, config.query_encoder, query).vector


def _untrained_encoder(
  rng: jax.Array,
  config: RagConfig,
  tokens: jax.Array,
  vocab_size: int,
  pretrained: Pretrained | None = None,
) -> Params:
  frequency = None
  if not config.query_encoder.weights:  # which know of no bag of tokens
    frequency = query_encoder.inverse_document_frequency(
      tokens, vocab_size=vocab_size
    )
  return query_encoder.init(
    jax.random.split(rng, 3)[0],
    config.query_encoder,
    vocab_size=vocab_size,
    token_weights=frequency,
    pretrained=pretrained.query_encoder if pretrained else None,
  )


def retrieve(
  params: Params,
  config: RagConfig,
  index: indexes.Index,
  encoding: query_encoder.Encoding,
  *,
  words: jax.Array | None = None,
  allowed: jax.Array | None = None,
) -> types.Candidates:
  """Decodes documents for encoded queries; see `ops.beam.search`.

  With `search.lexical_weight` the beam plans ahead: a node also gets the best
  BM25 score of the documents below it, a document its own. With
  `search.lexical_follows` that weight has grown by as much as the ranker's has
  beside its weight of vectors.
  """
  batch_size, width = encoding.vector.shape
  plan = None
  if config.search.lexical_weight:
    lexicon, words = _words(index, words)
    matches = lexical.score_all(lexicon, words)
    plan = config.search.lexical_weight * tries.max_below(index.trie, matches)
    if config.search.lexical_follows:
      plan *= ranker.lexical_growth(params['ranker'], config.ranker)
  return beam.search(
    (params['id_decoder'], encoding),
    id_decoder.initial_cache(config.id_decoder, batch_size, width),
    index.trie,
    step_fn=functools.partial(id_decoder.apply, config=config.id_decoder),
    batch_size=batch_size,
    beam_size=config.search.beam_size,
    allowed=allowed,
    scoring=config.search.scoring,
    plan=plan,
  )


def _words(
  index: indexes.Index, words: jax.Array | None
) -> tuple[lexical.Lexicon, jax.Array]:
  """The lexicon and the words of the queries, which have to be there."""
  if index.lexicon is None or words is None:
    raise ValueError(
      'search.lexical_weight needs the words of questions and documents, got '
      'none. Set --config.data.max_query_words=16.'
    )
  return index.lexicon, lexical.with_pairs(index.lexicon, words)


def score_docids(
  params: Params,
  config: RagConfig,
  index: indexes.Index,
  encoding: query_encoder.Encoding,
  documents: jax.Array,
) -> jax.Array:
  """Differentiable docid scores of given documents, float32[B, K], nats."""
  batch_size, width = encoding.vector.shape
  return beam.score(
    (params['id_decoder'], encoding),
    id_decoder.initial_cache(config.id_decoder, batch_size, width),
    index.trie,
    index.codes[documents],
    step_fn=functools.partial(id_decoder.apply, config=config.id_decoder),
    scoring=config.search.scoring,
  )


def level_log_likelihood(
  params: Params,
  config: RagConfig,
  index: indexes.Index,
  encoding: query_encoder.Encoding,
  documents: jax.Array,
) -> jax.Array:
  """What trains `absolute` scoring, float32[B, K]; see `id_decoder`."""
  return id_decoder.level_log_likelihood(
    (params['id_decoder'], encoding),
    index.trie,
    index.codes[documents],
    config=config.id_decoder,
    where=index.asked,
  )


def rank(
  params: Params,
  config: RagConfig,
  index: indexes.Index,
  batch: types.Batch,
  encoding: query_encoder.Encoding,
  candidates: types.Candidates,
) -> Ranking:
  """Scores and weighs candidates; every signal is made in the step."""
  documents = candidates.documents
  passages = index.tokens[documents]
  docid = score_docids(params, config, index, encoding, documents)
  docid = jnp.where(candidates.where, docid, 0.0)
  if config.query_encoder.weights:  # its documents are rows of the node table
    vectors = query_encoder.normalise(params['id_decoder']['table'][documents])
  else:
    vectors = query_encoder.embed_documents(params['query_encoder'], passages)
  if index.lexicon is not None:
    matches = lexical.score(*_words(index, batch.words), documents)
  else:
    matches = ranker.lexical(
      params['ranker'],
      config.ranker,
      batch.query,
      passages,
      mean_length=index.mean_length,
    )
  scores = ranker.apply(
    params['ranker'],
    config.ranker,
    docid=docid,
    vector=jnp.einsum('bd,bkd->bk', encoding.vector, vectors),
    lexical=matches,
  )
  weights = ranker.select(config.ranker, scores, where=candidates.where)
  return Ranking(
    candidates=candidates, docid=docid, scores=scores, weights=weights
  )


def choose(
  index: indexes.Index,
  ranking: Ranking,
  size: int,
  *,
  first: jax.Array | None = None,
) -> Reading:
  """Takes the documents with the best scores; sparse weights need no more.

  Args:
    index: the corpus.
    ranking: what `rank` made of the candidates.
    size: R, documents to take.
    first: bool[B, K], candidates to take before all others.
  """
  where = ranking.candidates.where
  order = jax.lax.stop_gradient(jnp.where(where, ranking.scores, -jnp.inf))
  if first is not None:
    order = jnp.where(first & where, jnp.inf, order)
  chosen = jax.lax.top_k(order, size)[1]

  def take(x):
    return jnp.take_along_axis(x, chosen, axis=1)

  documents = take(ranking.candidates.documents)
  return Reading(
    documents=documents,
    passages=index.tokens[documents],
    places=chosen,
    scores=take(ranking.scores),
    weights=take(ranking.weights),
    docid=take(ranking.docid),
    where=take(where),
  )


def read(
  params: Params, config: RagConfig, query: jax.Array, reading: Reading
) -> Reading:
  """Runs the extractive reader; with `ranker.reads` it weighs documents too.

  Its relevance joins the scores of the documents read, which then share the
  weight among themselves: a ranker that has read what it ranks.
  """
  pointers = reader.point(
    params['reader'], config.reader, query, reading.passages
  )
  if not config.ranker.reads:
    return dataclasses.replace(reading, pointers=pointers)
  scores = reading.scores + pointers.relevance
  weights = ranker.select(config.ranker, scores, where=reading.where)
  return dataclasses.replace(
    reading, pointers=pointers, scores=scores, weights=weights
  )


def answer(
  params: Params,
  batch: types.Batch,
  index: indexes.Index,
  *,
  config: RagConfig,
  allowed: jax.Array | None = None,
  candidates: types.Candidates | None = None,
) -> Answer:
  """Answers questions: search, ranking and reading in one program.

  Args:
    params: what `init` made.
    batch: the questions; answers and gold documents are not looked at.
    index: the corpus.
    config: what to compute.
    allowed: bool[N] or bool[B, N], documents that may be returned.
    candidates: documents to rank and read, in the place of a search.
  """
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
  if config.reader.kind == 'extractive':
    reading = read(params, config, batch.query, reading)
    if config.ranker.reads:
      ranking = _reorder(ranking, reading)
  everything = choose(index, ranking, count)
  common: dict[str, Any] = {
    'candidates': candidates,
    'documents': jnp.where(everything.where, everything.documents, -1),
    'weights': everything.weights,
    'beam_mass': beam.beam_mass(candidates),
  }
  length = config.reader.max_answer_tokens
  if config.reader.kind == 'fusion':
    tokens, score = reader.write(
      params['reader'],
      config.reader,
      batch.query,
      reading.passages,
      reading.weights,
    )
    zero = jnp.zeros_like(reading.documents[:, 0])
    return Answer(
      read=reading.documents[:, 0],
      start=zero,
      end=zero,
      tokens=tokens,
      log_probability=score,
      no_answer=-score,
      **common,
    )
  assert reading.pointers is not None  # the reader is extractive
  spans = reader.best_spans(reading.pointers.spans, max_tokens=length)
  support = reading.weights > 0
  joint = spans.score + jnp.log(jnp.where(support, reading.weights, 1.0))
  joint = jnp.where(support, joint, reader.IMPOSSIBLE)
  best = joint.argmax(axis=1)
  null = jnp.zeros(best.shape)
  if config.reader.null_document:
    null = reader.null_log_odds(reading.pointers.relevance, reading.where)

  def pick(x):
    return jnp.take_along_axis(x, best[:, None], axis=1)[:, 0]

  return Answer(
    read=pick(reading.documents),
    start=pick(spans.start),
    end=pick(spans.end),
    tokens=jnp.zeros((best.shape[0], length), jnp.int32),
    log_probability=pick(joint),
    no_answer=null - pick(joint),
    **common,
  )


def _reorder(ranking: Ranking, reading: Reading) -> Ranking:
  """Puts the documents that were read first, by their new scores."""
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
