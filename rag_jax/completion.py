"""Fields of an experiment that the folder of its published encoder determines.

Fields at their defaults get the values of the weights: sizes and architecture,
pooling, similarity, dense layers, prompts, lengths and special tokens.
"""

import dataclasses
import pathlib
from typing import Any

from rag_jax import config as configs
from rag_jax import console
from rag_jax.data import (
  encoder_input,
  tokenizer_files,
  tokenizers,
  widths,
)
from rag_jax.nn import (
  bert_weights,
  encoders,
  published,
  sentence_folder,
  weights,
)
from rag_jax.readers import base

# Prompts of well-known models whose folders do not hold them, by a part of
# their name: (part, of questions, of documents).
_SEARCH = 'Represent this sentence for searching relevant passages: '
_PROMPTS = (
  ('e5-', 'query: ', 'passage: '),
  ('bge-small-en', _SEARCH, ''),
  ('bge-base-en', _SEARCH, ''),
  ('bge-large-en', _SEARCH, ''),
  ('arctic-embed-l-v2', 'query: ', ''),
  ('arctic-embed-m-v2', 'query: ', ''),
  ('arctic-embed', _SEARCH, ''),
  ('mxbai-embed', _SEARCH, ''),
  ('nomic-embed', 'search_query: ', 'search_document: '),
)


def encoder(config: configs.Config) -> configs.Config:
  """The experiment with what the folder of its query encoder says.

  Raises:
    ValueError: if a field has another value than the weights, or the folder
      says what is not supported here.
  """
  ours = config.query_encoder
  folder = published.folder(ours.weights)
  sizes, architecture = encoders.read_config(folder)
  path = published.tokenizer(config.data.tokenizer)
  said = sentence_folder.read(folder, width=sizes.width)
  pad = _check_padding(path, folder, architecture)
  part = _filled(
    'query_encoder',
    ours,
    {name: getattr(sizes, name) for name in encoders.SIZES}
    | {'dense': said.dense, 'vector_width': said.width or sizes.width},
  )
  architecture = dataclasses.replace(architecture, pad_token=pad)
  part = dataclasses.replace(
    part,
    architecture=_filled_architecture(ours, architecture, 'query_encoder'),
    pooling=ours.pooling or said.pooling or 'mean',
    similarity=ours.similarity or said.similarity or 'cosine',
  )
  limit = min(said.max_tokens or sizes.max_positions, sizes.max_positions)
  data = config.data
  length = data.max_vector_tokens or min(limit, encoder_input.MAX_TOKENS)
  if not encoder_input.FEWEST <= length <= sizes.max_positions:
    raise ValueError(
      f'data.max_vector_tokens must be {encoder_input.FEWEST} to '
      f'{sizes.max_positions}, the tokens that query_encoder.weights '
      f'{ours.weights!r} take, got {length}. Set '
      f'--config.data.max_vector_tokens={sizes.max_positions}.'
    )
  prompts: dict[str, Any] = {
    name: (getattr(said, name) or '')
    if getattr(data, name) == encoder_input.AUTO
    else getattr(data, name)
    for name in ('query_prompt', 'document_prompt')
  }
  for note in (*said.notes, *_prompt_notes(config, prompts, folder)):
    console.note(note)
  data = dataclasses.replace(data, max_vector_tokens=length, **prompts)
  return dataclasses.replace(config, query_encoder=part, data=data)


def _prompt_notes(
  config: configs.Config, prompts: dict[str, str], folder: pathlib.Path
) -> list[str]:
  """A note if a well-known model needs prompts, and none are given."""
  given = (config.data.query_prompt, config.data.document_prompt)
  if any(prompts.values()) or encoder_input.AUTO not in given:
    return []
  name = str(config.query_encoder.weights).rstrip('/').lower()
  described = published.read_json(folder / 'config.json', weights.REMEDY)
  names = (name.rpartition('/')[2], str(described.get('_name_or_path')).lower())
  for part, question, document in _PROMPTS:
    if any(part in known for known in names):
      flags = f'--config.data.query_prompt={question!r}'
      if document:
        flags += f' --config.data.document_prompt={document!r}'
      return [
        f'models like {part!r} expect prompts, which the folder of '
        f'query_encoder.weights does not hold: {flags}.'
      ]
  return []


def reader(config: configs.Config) -> base.ReaderConfig:
  """A reader of kind 'bert' with what the folder of its weights says.

  Raises:
    ValueError: if a field has another value than the weights.
  """
  ours = config.reader
  folder = published.folder(ours.weights)
  sizes, architecture = encoders.read_config(folder)
  path = reader_tokenizer_file(config)
  pad = _check_padding(path, folder, architecture)
  kind = encoders.kind(folder)
  wanted = {name: getattr(sizes, name) for name in encoders.SIZES}
  is_head = kind.endswith(('ForQuestionAnswering', 'ForSequenceClassification'))
  if is_head or architecture.family != 'bert':
    pair = encoder_input.pair_tokens(tokenizers.load_published(path))
    wanted |= {'between': tuple(pair[0]), 'after': tuple(pair[1])}
  wanted |= {'relevance_state': encoders.pooled_state(folder)}
  found = _filled('reader', ours, wanted)
  data = config.data
  length = widths.LEAST + data.max_document_tokens
  length += len(found.between) + len(found.after)
  if length > sizes.max_positions:
    most = sizes.max_positions - length + data.max_document_tokens
    raise ValueError(
      f'a question of {widths.LEAST} tokens and a passage must have at most '
      f'{sizes.max_positions} tokens, which reader.weights {ours.weights!r} '
      f'take, got {length}. Set --config.data.max_document_tokens='
      f'{max(most, 1)}.'
    )
  architecture = dataclasses.replace(architecture, pad_token=pad)
  return dataclasses.replace(
    found, architecture=_filled_architecture(ours, architecture, 'reader')
  )


def _filled(part: str, ours: Any, wanted: dict[str, Any]) -> Any:
  """Fields at their defaults get the wanted values; others must have them."""
  found = with_defaults(ours, wanted)
  base.check_fields(part, found, wanted)
  return found


def _filled_architecture(
  ours: Any, theirs: encoders.Architecture, part: str
) -> encoders.Architecture:
  wanted = dataclasses.asdict(theirs)
  defaults = encoders.Architecture()
  for name, value in wanted.items():
    own = getattr(ours.architecture, name)
    if own not in (getattr(defaults, name), value):
      raise base.other_value(f'{part}.architecture', name, ours, value, own)
  return theirs


def _check_padding(
  path: pathlib.Path,
  folder: pathlib.Path,
  architecture: encoders.Architecture,
) -> int:
  """The id of padding in the published tokenizer.

  Raises:
    ValueError: if positions of the weights begin after another padding.
  """
  pad = tokenizer_files.pad_token(path)
  shifted = bert_weights.is_shifted(architecture.family)
  if shifted and pad != architecture.pad_token:
    raise ValueError(
      f'pad_token_id in {str(folder / "config.json")!r} must be {pad}, the '
      f'padding of {str(path)!r}, got {architecture.pad_token}. Give the '
      'weights with their own tokenizer.'
    )
  return pad


def reader_tokenizer_file(config: configs.Config) -> pathlib.Path:
  """The tokenizer beside the reader's weights, else that of the data."""
  own = published.own_tokenizer(config.reader.weights)
  return own or published.tokenizer(config.data.tokenizer)


def with_defaults(ours: Any, values: dict[str, Any]) -> Any:
  """A part of an experiment with values for fields at their defaults."""
  defaults = {field.name: field.default for field in dataclasses.fields(ours)}
  changed = {
    name: value
    for name, value in values.items()
    if getattr(ours, name) == defaults[name]
  }
  return dataclasses.replace(ours, **changed)
