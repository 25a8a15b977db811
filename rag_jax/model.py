"""The model: its configuration and its initial parameters."""

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from rag_jax import readers
from rag_jax.components import (
  id_decoder,
  query_encoder,
  ranker,
  second_query,
)
from rag_jax.data import widths
from rag_jax.index import further, pseudo_queries
from rag_jax.index import index as indexes
from rag_jax.nn import encoders, transformer
from rag_jax.ops import beam, split_rows, token_table
from rag_jax.readers import base

Params = dict[str, Any]


VECTOR_TYPES = ('float32', 'bfloat16')


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchConfig:
  """Options of the beam search, and how many documents are read."""

  beam_size: int = 16  # number of documents that the beam search returns
  read_size: int = 4  # number of documents that the reader reads
  # scores of a prefix: 'log_softmax' over children, 'inner_product' summed over
  # codes, or 'absolute', of the node alone
  scoring: str = 'log_softmax'
  # weight in the beam search of the best BM25 below each node, nats
  lexical_weight: float = 0.0
  # scale that weight by the learned ratio of lexical to vector weight
  learned_lexical_weight: bool = False
  # searches per question; 2 = a second one, by what the first one found
  hops: int = 1
  # documents found first that the second search is conditioned on
  hop_documents: int = 2
  # tokens of these documents that are added to the question
  hop_tokens: int = 16
  # type of the node table where a trained system searches: 'float32' or
  # 'bfloat16', in half of the memory
  vector_type: str = 'float32'

  def __post_init__(self) -> None:
    """Raises a ValueError on a value out of range."""
    try:
      beam.check_scoring(self.scoring, logits=False)
    except ValueError as error:
      raise ValueError(
        f'search.{error} Set --config.search.scoring=log_softmax.'
      ) from error
    if self.vector_type not in VECTOR_TYPES:
      raise ValueError(
        f'search.vector_type must be one of {", ".join(VECTOR_TYPES)}, got '
        f'{self.vector_type!r}. Set --config.search.vector_type=float32.'
      )
    for name in ('beam_size', 'read_size', 'hop_documents', 'hop_tokens'):
      value = getattr(self, name)
      if value < 1:
        raise ValueError(
          f'search.{name} must be at least 1, got {value}. '
          f'Set --config.search.{name}.'
        )
    if self.hops not in (1, 2):
      raise ValueError(
        f'search.hops must be 1 or 2, got {self.hops}. Set '
        '--config.search.hops.'
      )
    if self.hops == 2 and self.scoring != 'log_softmax':
      raise ValueError(
        'search.hops=2 adds up the probabilities of two searches, got '
        f'search.scoring={self.scoring!r}. Set '
        '--config.search.scoring=log_softmax or --config.search.hops=1.'
      )
    if self.read_size > self.beam_size:
      raise ValueError(
        f'search.read_size must be at most beam_size ({self.beam_size}), got '
        f'{self.read_size}. Set --config.search.read_size.'
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
  """The four components and the search; determines the compiled model."""

  query_encoder: query_encoder.QueryEncoderConfig
  id_decoder: id_decoder.IdDecoderConfig
  ranker: ranker.RankerConfig
  reader: base.ReaderConfig
  search: SearchConfig
  pseudo_queries: pseudo_queries.PseudoQueryConfig

  def __post_init__(self) -> None:
    """Raises a ValueError on incompatible values."""
    width = self.query_encoder.width
    transformer.check_heads('query_encoder', width, self.query_encoder)
    if self.id_decoder.num_layers:
      vector_width = query_encoder.vector_width(self.query_encoder)
      transformer.check_heads('id_decoder', vector_width, self.id_decoder)
    readers.make(self.reader)  # checks the options of its kind
    encoder = query_encoder.make(self.query_encoder)
    if encoder.published and self.search.hops == 2:
      raise ValueError(
        'search.hops=2 needs a query encoder that is trained from scratch, got '
        f'query_encoder.weights={self.query_encoder.weights!r}. Set '
        "--config.search.hops=1 or --config.query_encoder.weights=''."
      )
    if encoder.documents is None and self.id_decoder.output != 'node_table':
      raise ValueError(
        'query_encoder.weights needs a table with a row per document, '
        f"id_decoder.output='node_table', got {self.id_decoder.output!r}. "
        'Set --config.id_decoder.output=node_table.'
      )
    if (
      self.search.vector_type != 'float32'
      and self.id_decoder.output != 'node_table'
    ):
      raise ValueError(
        f'search.vector_type={self.search.vector_type!r} is that of a node '
        f'table, got id_decoder.output={self.id_decoder.output!r}. Set '
        '--config.id_decoder.output=node_table or '
        '--config.search.vector_type=float32.'
      )
    if self.search.learned_lexical_weight:
      self._check_lexical()

  def _check_lexical(self) -> None:
    """Raises a ValueError if the ranker learns no lexical-to-vector ratio."""
    if not query_encoder.is_unit(self.query_encoder):
      raise ValueError(
        'search.learned_lexical_weight needs vectors of unit length, got '
        "query_encoder.similarity='dot'. Set "
        '--config.search.learned_lexical_weight=False or '
        '--config.query_encoder.similarity=cosine.'
      )
    docid_weight = self.ranker.docid_weight
    weights = {
      'search.lexical_weight': self.search.lexical_weight,
      'ranker.lexical_weight': self.ranker.lexical_weight,
      'ranker.vector_weight': self.ranker.vector_weight,
    }
    if not all(weights.values()) or docid_weight:
      given = ', '.join(f'{name}={value}' for name, value in weights.items())
      raise ValueError(
        'search.learned_lexical_weight needs lexical scores in the search, and '
        'a ranker with lexical and vector scores only, got '
        f'{given}, ranker.docid_weight={docid_weight}. Set the first '
        'three above 0 and --config.ranker.docid_weight=0, or '
        '--config.search.learned_lexical_weight=False.'
      )


def to_search(config: SearchConfig, params: Params) -> Params:
  """Parameters with the node table in the type that searches read.

  Training keeps float32: smaller steps than 1/256 of a number would be lost in
  bfloat16.
  """
  if config.vector_type == 'float32' or not params:
    return params
  decoder = params['id_decoder']
  table = decoder['table'].astype(config.vector_type)
  return params | {'id_decoder': decoder | {'table': table}}


def query_limit(config: ModelConfig, document_tokens: int) -> int:
  """Maximum tokens of a question that encoder and reader take.

  Args:
    config: the model.
    document_tokens: maximum tokens of a document.
  """
  most = widths.LIMIT
  if query_encoder.make(config.query_encoder).published:
    most = encoders.body(config.query_encoder).max_positions
  if config.reader.kind == 'bert':  # encodes a question with a document
    reader = config.reader
    document_tokens += len(reader.between) + len(reader.after)
    most = min(most, encoders.body(reader).max_positions - document_tokens)
  return most


@flax.struct.dataclass
class Pretrained:
  """Weights to start from; None and {} = random initial parameters."""

  # published: 'bert', of any family, and 'dense'
  query_encoder: Params | None = None
  reader: Params | None = None  # published
  vectors: jax.Array | None = None  # float32[N, D], documents by the encoder
  # component -> parameters of another run, see `starts`
  start: Params = flax.struct.field(default_factory=dict)
  # float32[N, D], documents by its encoder, if that is a published one
  start_vectors: jax.Array | None = None


def init(
  rng: jax.Array,
  config: ModelConfig,
  index: indexes.Index,
  *,
  vocab_size: int,
  pretrained: Pretrained | None = None,
) -> Params:
  """Initialises the parameters of all components, for one index.

  Args:
    rng: PRNG key.
    config: the model.
    index: the corpus.
    vocab_size: number of token ids.
    pretrained: weights to start from.

  Returns:
    Component name -> its parameters.
  """
  pretrained = pretrained or Pretrained()
  keys = jax.random.split(rng, 3)
  frequency = query_encoder.inverse_document_frequency(
    index.tokens, vocab_size=vocab_size
  )
  start = dict(pretrained.start)
  encoder = start.pop('query_encoder', None) or query_encoder.init(
    keys[0],
    config.query_encoder,
    vocab_size=vocab_size,
    token_weights=frequency,
    pretrained=pretrained.query_encoder,
  )
  if config.search.hops == 2 and second_query.NAME not in encoder:
    encoder = encoder | {
      second_query.NAME: second_query.init(
        jax.random.fold_in(keys[0], 1),
        config.query_encoder,
        vocab_size=vocab_size,
      )
    }
  vectors = pretrained.start_vectors
  if vectors is None:
    vectors = pretrained.vectors
  if vectors is None:
    vectors = query_encoder.embed_corpus(encoder, index.tokens)
    vectors = split_rows.by_columns(vectors)
  unit = query_encoder.is_unit(config.query_encoder)
  scale = 1.0 if unit else id_decoder.mean_square(vectors)
  decoder = id_decoder.init(
    keys[1],
    config.id_decoder,
    trie=index.trie,
    codes=further.leaf_codes(split_rows.every_row(index.codes), index.further),
    document_vectors=_leaf_vectors(encoder, index, vectors),
    memory_width=config.query_encoder.width,
    unit=unit,
    slots=index.slots,
  )
  initial = {
    'query_encoder': encoder,
    'id_decoder': decoder | start.pop('id_decoder', {}),
    'ranker': ranker.init(
      config.ranker, token_weights=frequency, vector_scale=scale
    ),
    'reader': readers.make(config.reader).init(
      keys[2], vocab_size=vocab_size, pretrained=pretrained.reader
    ),
  }
  return initial | start


def _leaf_vectors(
  encoder: Params, index: indexes.Index, vectors: jax.Array
) -> jax.Array:
  """Vectors of all docids, float32[N (F + 1), D]: documents, then keys."""
  if index.further is None:
    return vectors
  where, keys = index.further.where, index.further.tokens
  assert keys is not None  # kept until a node table is made
  more = query_encoder.embed_corpus(encoder, keys.reshape(-1, keys.shape[-1]))
  more = split_rows.by_columns(more)
  more = jnp.where(where.reshape(-1, 1), more, 0.0)
  return jnp.concatenate([vectors, more])


def init_key(seed: int) -> jax.Array:
  """PRNG key of the initial parameters, and so of the docids."""
  return jax.random.key(seed)


def document_vectors(
  rng: jax.Array,
  config: ModelConfig,
  tokens: token_table.Table,
  *,
  vocab_size: int,
  pretrained: Pretrained | None = None,
  texts: jax.Array | None = None,
) -> jax.Array:
  """Document vectors float32[N, D] of `init`, for assigning docids.

  Those of `texts`, int32[n, T], if given: other texts by the same encoder.
  """
  encoder = _initial_encoder(rng, config, tokens, vocab_size, pretrained)
  return query_encoder.embed_corpus(encoder, tokens if texts is None else texts)


def embed(
  rng: jax.Array,
  config: ModelConfig,
  tokens: jax.Array,
  query: jax.Array,
  *,
  vocab_size: int,
  pretrained: Pretrained | None = None,
) -> jax.Array:
  """Query vectors float32[B, D] by the initial encoder of `init`."""
  encoder = _initial_encoder(rng, config, tokens, vocab_size, pretrained)
  return query_encoder.apply(encoder, config.query_encoder, query).vector


def _initial_encoder(
  rng: jax.Array,
  config: ModelConfig,
  tokens: token_table.Table,
  vocab_size: int,
  pretrained: Pretrained | None = None,
) -> Params:
  if pretrained and 'query_encoder' in pretrained.start:
    return jax.tree.map(jnp.asarray, pretrained.start['query_encoder'])
  frequency = None
  # A published encoder does not use token weights.
  if not query_encoder.make(config.query_encoder).published:
    frequency = query_encoder.inverse_document_frequency(
      tokens, vocab_size=vocab_size
    )
  weights = pretrained.query_encoder if pretrained else None
  return initial_encoder(rng, config, vocab_size, frequency, weights)


def initial_encoder(
  rng: jax.Array,
  config: ModelConfig,
  vocab_size: int,
  token_weights: jax.Array | None,
  pretrained: Params | None = None,
) -> Params:
  """The query encoder of `init`, before training.

  Args:
    rng: PRNG key of `init`.
    config: the model.
    vocab_size: number of token ids.
    token_weights: float32[vocab_size], inverse document frequencies; None for a
      published encoder.
    pretrained: its published weights, or None.
  """
  return query_encoder.init(
    jax.random.split(rng, 3)[0],
    config.query_encoder,
    vocab_size=vocab_size,
    token_weights=token_weights,
    pretrained=pretrained,
  )
