"""Prepares a workdir for training: data, tokenizer, index and weights."""

import dataclasses
import pathlib
import sys
from collections.abc import Iterator, Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import tokenizers as hf_tokenizers

from rag_jax import config as configs
from rag_jax import corpus, model, pretrained, store, types
from rag_jax import system as systems
from rag_jax.components import query_encoder
from rag_jax.data import formats, pipeline, tokenizers
from rag_jax.index import encoding
from rag_jax.index import index as indexes
from rag_jax.ops import trie as tries


@flax.struct.dataclass
class Prepared:
  """Input of training: data, the untrained system, and published weights."""

  dataset: types.Dataset = flax.struct.field(pytree_node=False)
  system: systems.System = flax.struct.field(pytree_node=False)
  pretrained: model.Pretrained

  @property
  def index(self) -> indexes.Index:
    """The corpus."""
    return self.system.index

  @property
  def vocab_size(self) -> int:
    """Number of token ids."""
    return self.system.tokenizer.get_vocab_size()

  def trained(self, params: model.Params) -> systems.System:
    """The system with these parameters."""
    return dataclasses.replace(self.system, params=params)


def open(config: configs.Config, workdir: pathlib.Path) -> Prepared:
  """Loads the data, and builds or loads tokenizer and index of the workdir.

  Errors of the data are raised before anything is written. Prints notes, such
  as the number of truncated documents.

  Args:
    config: the experiment.
    workdir: folder of the run; created if missing.

  Returns:
    The input of training.

  Raises:
    ValueError: if the data is invalid, or the workdir has another experiment.
  """
  dataset = load_data(config)
  weights, reader_tokenizer = pretrained.load(config)
  store.claim(workdir, config)
  return prepare(config, dataset, weights, workdir, reader_tokenizer)


def load_data(config: configs.Config) -> types.Dataset:
  """Loads the data of an experiment, and checks its splits.

  Raises:
    ValueError: if the data is missing or invalid, or lacks a split.
  """
  dataset = formats.load(
    config.data.path, format=config.data.format, on_empty=config.data.on_empty
  )
  pipeline.check_splits(dataset, config.data)
  return dataset


def prepare(
  config: configs.Config,
  dataset: types.Dataset,
  weights: model.Pretrained,
  workdir: pathlib.Path,
  reader_tokenizer: hf_tokenizers.Tokenizer | None = None,
) -> Prepared:
  """Builds tokenizer and index, or loads those of the workdir."""
  tokenizer = _tokenizer(config, dataset, workdir)
  encoded = pipeline.encode_documents(tokenizer, dataset.documents, config.data)
  for note in (*dataset.notes, *_notes(config, dataset, encoded.truncated)):
    print(f'note: {note}', file=sys.stderr)
  index_path = workdir / store.INDEX
  is_published = weights.query_encoder is not None
  if is_published or not index_path.exists():
    vectors = document_vectors(
      config,
      dataset.documents,
      tokenizer,
      encoded.tokens,
      weights,
      workdir.parent,
    )
  if is_published:
    weights = dataclasses.replace(weights, vectors=jnp.asarray(vectors))
  if not index_path.exists():
    index, quantiser = indexes.build(
      encoded.tokens,
      vectors,
      config.docid,
      seed=config.seed,
      titles=[document.title for document in dataset.documents],
    )
    indexes.save(index, quantiser, index_path)
  index, quantiser = indexes.load(index_path)
  if not np.array_equal(np.asarray(index.tokens), encoded.tokens):
    raise ValueError(
      f'data.path {config.data.path!r} holds other documents than the index '
      f'in {str(workdir)!r}. Use another --workdir, or the original data.'
    )
  store.save_documents(dataset.documents, workdir)
  if reader_tokenizer is not None:
    tokenizers.save(reader_tokenizer, workdir / store.READER_TOKENIZER)
  index, vocabulary = corpus.complete(
    config,
    dataset.documents,
    tokenizer,
    _with_gold_nodes(config, dataset, index),
    reader_tokenizer=reader_tokenizer,
  )
  system = systems.System(
    config=config,
    tokenizer=tokenizer,
    documents=dataset.documents,
    index=index,
    vocabulary=vocabulary,
    reader_tokenizer=reader_tokenizer,
    quantiser=quantiser,
    workdir=workdir,
  )
  return Prepared(dataset=dataset, system=system, pretrained=weights)


def _with_gold_nodes(
  config: configs.Config, dataset: types.Dataset, index: indexes.Index
) -> indexes.Index:
  """The index with a mask of the trie nodes above gold training documents.

  Losses exclude all other documents from their negatives. The index stays
  without the mask in two cases: with the loss `indexing`, because crops make
  every document gold, and without a published query encoder, because training
  from scratch must move every document.
  """
  published = query_encoder.make(config.query_encoder).published
  if not published or config.trains_with(frozenset(('indexing',))):
    return index
  rows = {d.id: i for i, d in enumerate(dataset.documents)}
  is_gold = np.zeros(len(rows), np.float32)
  for question in pipeline.train_questions(dataset, config.data):
    is_gold[[rows[name] for name in question.document_ids]] = 1
  below = tries.sum_below(index.trie, jnp.asarray(is_gold))
  return dataclasses.replace(index, gold_nodes=below > 0)


def _tokenizer(
  config: configs.Config, dataset: types.Dataset, workdir: pathlib.Path
) -> hf_tokenizers.Tokenizer:
  """Loads the tokenizer of the workdir; on the first run it creates it."""
  path = workdir / store.TOKENIZER
  if path.exists():
    return tokenizers.load(path)
  tokenizer = pretrained.tokenizer(config, dataset)
  tokenizers.save(tokenizer, path)
  return tokenizer


def document_vectors(
  config: configs.Config,
  documents: Sequence[types.Document],
  tokenizer: hf_tokenizers.Tokenizer,
  tokens: np.ndarray,
  weights: model.Pretrained,
  folder: pathlib.Path,
) -> np.ndarray:
  """Document vectors float32[N, D], for docids and for the initial node table.

  A published encoder encodes the texts, up to `data.max_vector_tokens` and with
  special tokens, and caches the vectors in `folder`/vectors. Otherwise the
  initial encoder of the model encodes `tokens`, int32[N, P].
  """
  if weights.query_encoder is None:
    vectors = model.document_vectors(
      init_key(config),
      config.model,
      jnp.asarray(tokens),
      vocab_size=tokenizer.get_vocab_size(),
    )
    return np.asarray(vectors)
  texts = corpus.with_special_tokens(config, tokenizer, documents)
  return encoding.encode(
    weights.query_encoder,
    query_encoder.bert_config(config.query_encoder),
    texts,
    folder=folder / 'vectors',
  )


def init_key(config: configs.Config) -> jax.Array:
  """PRNG key of the initial parameters, and so of the docids."""
  return jax.random.key(config.seed)


def _notes(
  config: configs.Config, dataset: types.Dataset, truncated: int
) -> Iterator[str]:
  """Notes for the user about truncation, beam size and labels."""
  count = len(dataset.documents)
  if truncated:
    yield (
      f'{truncated} of {count} documents are truncated to '
      f'{config.data.max_document_tokens} tokens '
      '(--config.data.max_document_tokens).'
    )
  if config.search.beam_size > count:
    yield (
      f'search.beam_size is {config.search.beam_size}, but there are only '
      f'{count} documents; the rest of the beam is masked.'
    )
  if config.data.labelled_questions:
    training = pipeline.train_questions(dataset, config.data)
    kept = sum(bool(question.document_ids) for question in training)
    yield (
      f'{kept} of {len(training)} training questions keep their gold documents '
      f'(--config.data.labelled_questions={config.data.labelled_questions}).'
    )
