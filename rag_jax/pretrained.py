"""Reads and checks the published weights and tokenizer of an experiment."""

from typing import Any

import tokenizers as hf_tokenizers

from rag_jax import config as configs
from rag_jax import model, readers, types
from rag_jax.components import query_encoder
from rag_jax.data import pipeline, tokenizers
from rag_jax.nn import bert_weights, published, weights
from rag_jax.readers import base


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
      _check_vocabulary(config, 'reader', loaded.params)
      _check_end(config, reader)
  return model.Pretrained(**found), own_tokenizer


def tokenizer(
  config: configs.Config, dataset: types.Dataset
) -> hf_tokenizers.Tokenizer:
  """The tokenizer: `data.tokenizer`, or trained on the data if that is ''."""
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
  vocabulary = _published_tokenizer(config).get_vocab()
  count, rows = max(vocabulary.values()) + 1, len(params['embedding'])
  if count > rows:
    raise ValueError(
      f'data.tokenizer must have at most the {rows} tokens of {part}.weights '
      f'{getattr(config, part).weights!r}, got {count} of '
      f'{config.data.tokenizer!r}. Set --config.data.tokenizer to that of the '
      'weights.'
    )


def _check_end(config: configs.Config, reader: base.Reader) -> None:
  """Raises a ValueError if the tokenizer lacks the reader's end token."""
  end = _published_tokenizer(config).token_to_id('</s>')
  if not reader.points and end != reader.end_token:
    raise ValueError(
      f'data.tokenizer must end texts with </s>, token {reader.end_token}, as '
      f'reader.weights {config.reader.weights!r} do, got token {end} of '
      f'{config.data.tokenizer!r}. Set --config.data.tokenizer to that of the '
      'T5; a BERT has another tokenizer.'
    )
