"""Prepares a workdir for training: data, tokenizer, index and weights."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import flax.struct
import jax.numpy as jnp
import numpy as np
import tokenizers as hf_tokenizers

from rag_jax import (
  checkpoint,
  console,
  corpus,
  distributed,
  fingerprints,
  further_keys,
  generated,
  lock,
  memory,
  model,
  parallel,
  pretrained,
  queries,
  same_data,
  sizes,
  starts,
  store,
  types,
)
from rag_jax import config as configs
from rag_jax import system as systems
from rag_jax.data import formats, pipeline, tokenizers
from rag_jax.index import docids, encoding
from rag_jax.index import index as indexes
from rag_jax.ops import token_table

T = TypeVar('T')
FEW = 200  # training questions that are too few to train from scratch


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

  @functools.cached_property
  def fingerprints(self) -> dict[str, int]:
    """What tells apart the files that a checkpoint belongs to."""
    system = self.system
    tokenizers = system.tokenizer, system.reader_tokenizer
    return fingerprints.of(system.index, *tokenizers, system.documents)

  def trained(self, params: model.Params) -> systems.System:
    """The system with these parameters."""
    return dataclasses.replace(self.system, params=params)


def open(
  config: configs.Config,
  workdir: str | os.PathLike[str],
  *,
  writes: bool = True,
) -> Prepared:
  """Loads the data, and builds or loads tokenizer and index of the workdir.

  Errors of the data are raised before anything is written. It prints notes,
  such as the number of truncated documents.

  Args:
    config: the experiment.
    workdir: folder of the run; created if missing.
    writes: whether the workdir is trained in. Otherwise it must have been
      trained, nothing is written, and fields in `config.MAY_CHANGE_IN_USE` may
      differ from config.json.

  Returns:
    The input of training.

  Raises:
    ValueError: if the data is invalid, or the workdir has another experiment.
  """
  workdir = store.local(workdir)
  configs.check(config)
  config = pretrained.complete(config)
  if writes:
    store.check(workdir, config, resumes=True)
  else:
    store.check_use(workdir, config)
  if not distributed.is_first() and not (workdir / store.INDEX).exists():
    raise ValueError(
      f'workdir {str(workdir)!r} must lie on a file system that all processes '
      f'of a run share, got no {store.INDEX} there. Set --workdir to a folder '
      'of one.'
    )
  dataset = load_data(config)
  if writes and any(
    stage.steps and not stage.data for _, stage in config.stages
  ):
    pipeline.check_training(dataset, config.data)
  weights, reader_tokenizer = pretrained.load(config)
  memory.check(config, sizes.of(dataset, weights))
  return prepare(
    config, dataset, weights, workdir, reader_tokenizer, writes=writes
  )


def read(path: pathlib.Path, load: Callable[[pathlib.Path], T]) -> T:
  """Loads a file of a trained workdir that training can make again.

  Raises:
    ValueError: if it is missing or damaged.
  """
  _check_present(path)
  try:
    return load(path)
  except ValueError as error:
    raise ValueError(
      f'{str(path)!r} is damaged. Delete it, and run rag-jax train with the '
      'same --workdir, which makes it again.'
    ) from error


def load_index(
  config: configs.Config, path: pathlib.Path, *, placed: bool = True
) -> tuple[indexes.Index, docids.Quantiser]:
  """Reads the index of a workdir; see `read`."""
  on_host = config.data.host_tokens
  load = functools.partial(indexes.load, on_host=on_host, placed=placed)
  return read(path, load)


def _check_present(*paths: pathlib.Path) -> None:
  """Raises a ValueError if a file of a trained workdir is missing."""
  for path in paths:
    if not path.exists():
      raise ValueError(
        f'{str(path)!r} is missing. Run rag-jax train with the same --workdir, '
        'which makes it again.'
      )


def load_data(config: configs.Config) -> types.Dataset:
  """Loads the data of an experiment, and checks its splits.

  Raises:
    ValueError: if it is missing, invalid or lacks one of `data.eval_splits`.
  """
  dataset = formats.load(
    config.data.path, format=config.data.format, **config.data.reading
  )
  pipeline.check_splits(dataset, config.data)
  return dataset


def prepare(
  config: configs.Config,
  dataset: types.Dataset,
  weights: model.Pretrained,
  workdir: pathlib.Path,
  reader_tokenizer: hf_tokenizers.Tokenizer | None = None,
  *,
  writes: bool = True,
) -> Prepared:
  """Builds tokenizer and index, or loads them; builds all before it writes."""
  paths = workdir / store.TOKENIZER, workdir / store.INDEX
  made_tokenizer, made_index = (not path.exists() for path in paths)
  if not writes:
    _check_present(*paths, *generated.needed(config, workdir))
  if made_tokenizer:
    tokenizer = pretrained.tokenizer(config, dataset)
  else:
    tokenizer = read(paths[0], tokenizers.load)
  weights = pretrained.with_tokenizer(config, weights, tokenizer)
  placed = not parallel.divides_tables(config.train.parallel, config.train.mesh)
  source, trained = None, checkpoint.steps(workdir / store.CHECKPOINTS)
  if config.init_from and writes and not trained:
    source, size = starts.read(config), tokenizer.get_vocab_size()
    weights = starts.with_components(source, config, weights, vocab_size=size)
  encoded = pipeline.encode_documents(tokenizer, dataset.documents, config.data)
  for note in notes(config, dataset, tokenizer, encoded):
    console.note(note)
  weights, index, quantiser = _index(
    config, dataset, weights, workdir, tokenizer, encoded.tokens, source
  )
  if source:
    weights = starts.with_decoder(source, config, weights, index)
    console.note(starts.note(source, config, weights.start))
  same_data.check_documents(config, index.tokens, encoded.tokens, workdir)
  if writes and distributed.is_first():
    same_data.check_questions(config, dataset, workdir)
    store.claim(workdir, config, resumes=True)
    try:
      if made_tokenizer:
        tokenizers.save(tokenizer, paths[0])
      if made_index:
        parts = index, quantiser, tokenizer
        index = further_keys.make(config, dataset, *parts, workdir)
        indexes.save(index, quantiser, paths[1])
        index, quantiser = load_index(config, paths[1], placed=placed)
      _save(config, dataset, workdir, tokenizer, reader_tokenizer)
    except OSError as error:
      raise lock.unwritable(workdir, error) from error
  found = generated.make(config, dataset, tokenizer, workdir)
  documents = generated.keyed(config, dataset.documents, found)
  index, vocabulary = corpus.complete(
    *(config, documents, tokenizer),
    corpus.with_gold_nodes(config, dataset, index),
    reader_tokenizer=reader_tokenizer,
    notes=True,
    workdir=workdir,
    placed=placed,
  )
  index = generated.with_pseudo_queries(config, index, tokenizer, found)
  system = systems.System(
    config=config,
    tokenizer=tokenizer,
    documents=documents,
    index=index,
    vocabulary=vocabulary,
    reader_tokenizer=reader_tokenizer,
    quantiser=quantiser,
    workdir=workdir,
  )
  return Prepared(dataset=dataset, system=system, pretrained=weights)


def _save(
  config: configs.Config,
  dataset: types.Dataset,
  workdir: pathlib.Path,
  tokenizer: hf_tokenizers.Tokenizer,
  reader_tokenizer: hf_tokenizers.Tokenizer | None,
) -> None:
  """Writes the documents, with generated questions if there are any."""
  if reader_tokenizer is not None:
    tokenizers.save(reader_tokenizer, workdir / store.READER_TOKENIZER)
  same_data.save(dataset, config, workdir)
  found = generated.make(config, dataset, tokenizer, workdir)
  store.save_documents(
    generated.keyed(config, dataset.documents, found), workdir
  )


def _index(
  config: configs.Config,
  dataset: types.Dataset,
  weights: model.Pretrained,
  workdir: pathlib.Path,
  tokenizer: hf_tokenizers.Tokenizer,
  tokens: np.ndarray,
  source: starts.Source | None,
) -> tuple[model.Pretrained, indexes.Index, docids.Quantiser]:
  """Weights with document vectors, the index and its quantiser."""
  path = workdir / store.INDEX
  placed = not parallel.divides_tables(config.train.parallel, config.train.mesh)
  place: Any = jnp.asarray if placed else np.asarray
  is_published = weights.query_encoder is not None
  arguments = config, dataset.documents, tokenizer, tokens
  same = source and starts.has_docids(source, config, weights, tokens)
  if is_published or not (path.exists() or same):
    published = dataclasses.replace(weights, start={})
    first = published if is_published else weights
    vectors = document_vectors(*arguments, first, workdir.parent)
  if is_published:
    weights = dataclasses.replace(weights, vectors=place(vectors))
  if source and same:
    return weights, source.index, source.quantiser
  if is_published and 'query_encoder' in weights.start:
    vectors = document_vectors(*arguments, weights, workdir.parent)
    weights = dataclasses.replace(weights, start_vectors=place(vectors))
  if path.exists():
    return weights, *load_index(config, path, placed=placed)
  index, quantiser = indexes.build(
    tokens,
    vectors,
    config.docid,
    seed=config.seed,
    titles=[document.title for document in dataset.documents],
    placed=placed,
  )
  return weights, index, quantiser


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
  initial encoder of the model encodes `tokens`, int32[N, P], in blocks if a
  mesh divides tables. Weights of another run take the place of either.
  """
  if weights.query_encoder is None:
    train = config.train
    on_host = parallel.divides_tables(train.parallel, train.mesh)
    vectors = model.document_vectors(
      model.init_key(config.seed),
      config.model,
      token_table.make(tokens, on_host=on_host),
      vocab_size=tokenizer.get_vocab_size(),
      pretrained=weights,
    )
    return np.asarray(vectors)
  texts = corpus.with_special_tokens(config, tokenizer, documents)
  start = weights.start.get('query_encoder')
  return encoding.encode(
    weights.query_encoder if start is None else start,
    config.query_encoder,
    texts,
    folder=folder / 'vectors',
  )


def notes(
  config: configs.Config,
  dataset: types.Dataset,
  tokenizer: hf_tokenizers.Tokenizer,
  encoded: tokenizers.Encoded,
) -> Iterator[str]:
  """Notes for the user about the data, truncation, beam size and labels.

  Args:
    config: the experiment.
    dataset: the data.
    tokenizer: tokenizer of questions and documents.
    encoded: the documents as tokens.
  """
  yield from dataset.notes
  count = len(dataset.documents)
  if note := pipeline.truncation_note(encoded, dataset.documents, config.data):
    yield note
  if config.search.beam_size > count:
    yield (
      f'search.beam_size is {config.search.beam_size}, but there are only '
      f'{count} documents; the rest of the beam is masked.'
    )
  measured = pipeline.check_splits(dataset, config.data)
  yield from queries.notes(
    config, tokenizer, {name: dataset.splits[name] for name in measured}
  )
  yield from _split_notes(config, dataset, measured)


def _split_notes(
  config: configs.Config, dataset: types.Dataset, measured: Sequence[str]
) -> Iterator[str]:
  """Notes on the splits that are measured and trained on, and on labels."""
  if not measured:
    yield 'the data has no questions: nothing is trained and measured.'
  if config.steps and config.data.train_split in measured:
    yield (
      f'split {config.data.train_split!r} is measured, but also trained on; '
      '--config.data.eval_splits names others.'
    )
  asked = len(dataset.splits.get(config.data.train_split, ()))
  scratch = [
    part
    for part, weights in (
      ('query encoder', config.query_encoder.weights),
      ('reader', config.reader.weights),
    )
    if not weights
  ]
  if config.steps and asked < FEW and scratch:
    yield (
      f'{asked} training questions teach a {" and a ".join(scratch)} without '
      'published weights little; use published weights, such as '
      '--config=nq_minilm.'
    )
  if config.data.labelled_questions:
    training = pipeline.train_questions(dataset, config.data)
    kept = sum(bool(question.document_ids) for question in training)
    yield (
      f'{kept} of {len(training)} training questions keep their gold documents '
      f'(--config.data.labelled_questions={config.data.labelled_questions}).'
    )
