"""Reads and checks the published weights and tokenizer of an experiment."""

import contextlib
import dataclasses
from typing import Any

import tokenizers as hf_tokenizers

from rag_jax import config as configs
from rag_jax import console, model, readers, starts, types
from rag_jax.components import query_encoder
from rag_jax.data import pipeline, tokenizers
from rag_jax.nn import bert_weights, published, weights
from rag_jax.readers import base

# Files with a tokenizer, the first that exists.
_TOKENIZERS = ('tokenizer.json', 'spiece.model')


def complete(config: configs.Config) -> configs.Config:
  """Fills in the fields of the reader that its published weights determine.

  Prints a note for a field that had another value than its default.

  Args:
    config: the experiment; that of a trained run is complete already.

  Raises:
    ValueError: if the weights cannot be read.
  """
  reader = readers.make(config.reader)
  if reader.published_fields is None:
    return config
  found = reader.published_fields()
  for name, value in found.items():
    was = getattr(config.reader, name)
    if was not in (value, getattr(base.ReaderConfig, name)):
      console.note(
        f'reader.{name} is {value!r} as in {config.reader.weights!r}, not '
        f'{was!r}'
      )
  own = dataclasses.replace(config.reader, **found)
  return dataclasses.replace(config, reader=own)


def load(
  config: configs.Config,
) -> tuple[model.Pretrained, hf_tokenizers.Tokenizer | None]:
  """Reads the published weights of the components, if any.

  Returns:
    The weights, and the tokenizer of a reader that does not use that of the
    data, or None.

  Raises:
    ValueError: if a size in the configuration differs from the weights, or the
      tokenizer has more tokens than the weights.
  """
  found: dict[str, Any] = {}
  own_tokenizer = None
  if query_encoder.make(config.query_encoder).published:
    found['query_encoder'] = _load_encoder(config.query_encoder)
    _check_vocabulary(config, 'query_encoder', found['query_encoder'])
  reader = readers.make(config.reader)
  if reader.load is not None:
    loaded = reader.load()
    found['reader'], own_tokenizer = loaded.params, loaded.tokenizer
    if own_tokenizer is None:
      own_tokenizer = _reader_tokenizer(config, reader, loaded.params)
  return model.Pretrained(**found), own_tokenizer


def _reader_tokenizer(
  config: configs.Config, reader: base.Reader, params: model.Params
) -> hf_tokenizers.Tokenizer | None:
  """The tokenizer beside the reader's weights, or None.

  It is None if `data.tokenizer` is the same, or if there is none beside the
  weights; then the reader uses `data.tokenizer`, which must fit.
  """
  source = config.reader.weights
  own = None
  for name in _TOKENIZERS:
    if own is None:
      with contextlib.suppress(ValueError):
        path = published.resolve(source, name)
        own = tokenizers.load_published(path)
  if own is not None:
    _check_fits('reader', source, own, source, params)
    _check_end(own, source, reader, source)
    if not config.data.tokenizer:
      return own
  elif not config.data.tokenizer:
    raise ValueError(
      f'reader.weights {source!r} must have a tokenizer.json or spiece.model '
      "beside them, got none, and data.tokenizer=''. Copy one there, or set "
      '--config.data.tokenizer to that of the weights.'
    )
  data = _published_tokenizer(config)
  if own is not None:
    return None if own.to_str() == data.to_str() else own
  _check_fits('reader', source, data, config.data.tokenizer, params)
  _check_end(data, config.data.tokenizer, reader, source)
  return None


def tokenizer(
  config: configs.Config, dataset: types.Dataset
) -> hf_tokenizers.Tokenizer:
  """The tokenizer of an experiment.

  It is that of the run `init_from`, else `data.tokenizer`, else trained on the
  data.
  """
  if config.init_from:
    return starts.tokenizer(config)
  if not config.data.tokenizer:
    return pipeline.train_tokenizer(dataset, config.data)
  return _published_tokenizer(config)


def encoder_sizes(source: str) -> dict[str, int]:
  """The sizes of a published encoder, as fields of `query_encoder`."""
  path = published.resolve(source, 'model.safetensors')
  sizes = weights.bert_config(path.parent)
  names = ('width', 'num_layers', 'num_heads', 'mlp_dim')
  return {name: getattr(sizes, name) for name in names}


def _load_encoder(config: query_encoder.QueryEncoderConfig) -> model.Params:
  path = published.resolve(config.weights, 'model.safetensors')
  sizes = weights.bert_config(path.parent)
  base.check_sizes('query_encoder', config, sizes)
  return bert_weights.from_state_dict(weights.read(path), sizes)


def _published_tokenizer(config: configs.Config) -> hf_tokenizers.Tokenizer:
  path = published.resolve(config.data.tokenizer, 'tokenizer.json')
  return tokenizers.load_published(path)


def _check_vocabulary(
  config: configs.Config, part: str, params: model.Params
) -> None:
  """Raises a ValueError if the embedding has fewer rows than the tokenizer."""
  _check_fits(
    part,
    getattr(config, part).weights,
    _published_tokenizer(config),
    config.data.tokenizer,
    params,
  )


def _check_fits(part, weights, tokenizer, source, params):
  """Raises a ValueError if a tokenizer has more tokens than the embedding."""
  count = max(tokenizer.get_vocab().values()) + 1
  rows = len(params['embedding'])
  if count > rows:
    raise ValueError(
      f'{part}.weights {weights!r} must have a row of the embedding for each '
      f'token, got {rows} rows for the {count} tokens of {source!r}. Give the '
      'tokenizer of these weights: --config.data.tokenizer, or for a reader '
      'the tokenizer.json beside its weights.'
    )


def _check_end(tokenizer, source, reader, weights):
  """Raises a ValueError if a tokenizer lacks the reader's end token."""
  end = tokenizer.token_to_id('</s>')
  if not reader.points and end != reader.end_token:
    raise ValueError(
      f'the tokenizer of reader.weights {weights!r} must end texts with </s>, '
      f'token {reader.end_token}, got token {end} of {source!r}. Put the '
      'tokenizer.json or spiece.model of the T5 beside its weights.'
    )
