"""Reads and checks the published weights and tokenizer of an experiment.

`complete` fills in what the folder of the weights says, so that the
configuration in a workdir is whole; `load` reads the weights.
"""

import dataclasses
import pathlib
from typing import Any

import tokenizers as hf_tokenizers

from rag_jax import completion, console, model, readers, starts, store, types
from rag_jax import config as configs
from rag_jax.components import query_encoder
from rag_jax.data import (
  pipeline,
  tokenizer_files,
  tokenizers,
)
from rag_jax.nn import (
  encoders,
  published,
  sentence_folder,
)
from rag_jax.readers import base

# Fields that published weights determine, where they are at their defaults.
FROM_WEIGHTS = {
  'query_encoder': (
    *encoders.SIZES,
    'pooling',
    'similarity',
    'dense',
    'vector_width',
    'architecture',
  ),
  'reader': (
    *encoders.SIZES,
    'between',
    'after',
    'relevance_state',
    'architecture',
    'rope_base',
    'epsilon',
    'end_token',
    'prompt',
    'language_model',
  ),
  'data': ('max_vector_tokens', 'query_prompt', 'document_prompt'),
}


def complete(config: configs.Config) -> configs.Config:
  """Fills in the fields that the published weights determine.

  Fields at their defaults get the values of the folder of the weights: sizes
  and architecture, pooling, similarity, dense layers, prompts and lengths. It
  prints what a user should know, and returns a complete configuration as it is.

  Raises:
    ValueError: if a field has another value than the weights, or the folder
      says what is not supported here.
  """
  if config.query_encoder.weights and not _is_complete(config.query_encoder):
    config = completion.encoder(config)
  if config.reader.kind == 'bert' and not _is_complete(config.reader):
    config = dataclasses.replace(config, reader=completion.reader(config))
  reader = readers.make(config.reader)
  if reader.published_fields is not None:
    found = reader.published_fields()
    for name, value in found.items():
      was = getattr(config.reader, name)
      if was not in (value, getattr(base.ReaderConfig, name)):
        console.note(
          f'reader.{name} is {value!r} as in {config.reader.weights!r}, not '
          f'{was!r}'
        )
    own = dataclasses.replace(config.reader, **found)
    config = dataclasses.replace(config, reader=own)
  _ = config.model  # checks that sizes fit together
  return config


def filled(config: configs.Config, workdir: pathlib.Path) -> configs.Config:
  """Fills in the same fields from the config.json of a workdir.

  It does not need the weights.

  Args:
    config: the experiment.
    workdir: its workdir, trained or not.
  """
  if not (workdir / store.CONFIG).exists():
    return config
  stored, parts = store.read_config(workdir), {}
  for part, names in FROM_WEIGHTS.items():
    ours, theirs = getattr(config, part), getattr(stored, part)
    owner = 'query_encoder' if part == 'data' else part
    source = getattr(config, owner).weights
    if source and source == getattr(stored, owner).weights:
      parts[part] = completion.with_defaults(
        ours, {n: getattr(theirs, n) for n in names}
      )
  return dataclasses.replace(config, **parts)


def _is_complete(part: Any) -> bool:
  return bool(part.architecture.family)


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
    found['query_encoder'] = _load_encoder(config)
  reader = readers.make(config.reader)
  if reader.load is not None:
    loaded = reader.load()
    found['reader'], own_tokenizer = loaded.params, loaded.tokenizer
    if own_tokenizer is None:
      own_tokenizer = _reader_tokenizer(config, reader, loaded.params)
      if reader.points:
        pad = tokenizer_files.pad_token(
          completion.reader_tokenizer_file(config)
        )
        body = encoders.renumber(loaded.params['bert'], pad)
        found['reader'] = loaded.params | {'bert': body}
  return model.Pretrained(**found), own_tokenizer


def _reader_tokenizer(
  config: configs.Config, reader: base.Reader, params: model.Params
) -> hf_tokenizers.Tokenizer | None:
  """The tokenizer beside the reader's weights, or None.

  It is None if `data.tokenizer` is the same, or if there is none beside the
  weights; then the reader uses `data.tokenizer`, which must fit.
  """
  source, path = config.reader.weights, None
  own, table = None, params['bert'] if reader.points else params
  if path := published.own_tokenizer(source):
    own = tokenizers.load_published(path)
    _check_fits('reader', source, own, source, table)
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
  _note_unchecked(config, 'reader')
  _check_fits('reader', source, data, config.data.tokenizer, table)
  _check_end(data, config.data.tokenizer, reader, source)
  return None


def with_tokenizer(
  config: configs.Config,
  weights: model.Pretrained,
  tokenizer: hf_tokenizers.Tokenizer,
) -> model.Pretrained:
  """Weights with what the tokenizer determines of a reader from scratch."""
  found = readers.make(config.reader).from_tokenizer
  if found is None:
    return weights
  return dataclasses.replace(weights, reader=found(tokenizer))


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


def _load_encoder(config: configs.Config) -> model.Params:
  """The parameters of the query encoder."""
  ours = config.query_encoder
  folder = published.folder(ours.weights)
  sizes, architecture = encoders.read_config(folder)
  base.check_sizes('query_encoder', ours, sizes)
  params, state = encoders.load(folder, sizes, architecture)
  if 'qa_outputs.weight' in state:
    console.note(
      f'qa_outputs of query_encoder.weights {ours.weights!r} is not used: a '
      'query encoder points at no answers (--config.reader.weights).'
    )
  _check_same_tokenizer(config, params)
  path = published.tokenizer(config.data.tokenizer)
  found = {'bert': encoders.renumber(params, tokenizer_files.pad_token(path))}
  if ours.dense:
    said = sentence_folder.read(folder, width=sizes.width)
    found['dense'] = sentence_folder.load_dense(folder, said)
  return found


def _check_same_tokenizer(config: configs.Config, params: model.Params) -> None:
  """Raises a ValueError if `data.tokenizer` is not that of the encoder."""
  source, given = config.query_encoder.weights, config.data.tokenizer
  data = _published_tokenizer(config)
  _check_fits('query_encoder', source, data, given, params)
  path, own = published.tokenizer(given), published.own_tokenizer(source)
  if own is None:
    _note_unchecked(config, 'query_encoder')
  elif not own.samefile(path) and (
    what := tokenizer_files.difference(path, own)
  ):
    raise ValueError(
      f'data.tokenizer must be that of query_encoder.weights {source!r}, got '
      f'{given!r}: {what}. Set --config.data.tokenizer={source}.'
    )


def _note_unchecked(config: configs.Config, part: str) -> None:
  console.note(
    f'{part}.weights {getattr(config, part).weights!r} hold no tokenizer, so '
    f'that data.tokenizer {config.data.tokenizer!r} is not compared with '
    'theirs.'
  )


def _published_tokenizer(config: configs.Config) -> hf_tokenizers.Tokenizer:
  lowercase = False
  if source := config.query_encoder.weights:
    folder = published.folder(source)
    lowercase = sentence_folder.lowercases(folder)
  path = published.tokenizer(config.data.tokenizer)
  return tokenizers.load_published(path, lowercase=lowercase)


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
