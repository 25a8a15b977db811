"""Converts weights between Hugging Face's `BertModel` and `bert`."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from rag_jax.nn import bert, weight_tables

# Heads of other tasks, and buffers that are not weights.
_UNUSED = [
  'cls.',
  'classifier.',
  'qa_outputs.',
  'pooler.',
  'embeddings.position_ids',
]


def from_state_dict(
  state: Mapping[str, Any], config: bert.BertConfig
) -> dict[str, Any]:
  """Converts the weights of Hugging Face's `BertModel`.

  Args:
    state: name -> array on the CPU, as from `weights.read`, with or without the
      prefix `bert.`.
    config: the configuration of that model.

  Returns:
    Parameters as from `init`.

  Raises:
    ValueError: if arrays are missing, unexpected or of the wrong shape.
  """
  plain = {_current_name(name): array for name, array in state.items()}
  return weight_tables.from_published(plain, _table(config), ignore=_UNUSED)


def to_state_dict(
  params: dict[str, Any], config: bert.BertConfig
) -> dict[str, np.ndarray]:
  """Converts parameters to the names of Hugging Face's `BertModel`.

  Args:
    params: parameters from `init`.
    config: the model configuration.

  Returns:
    name -> float32 array, for `weights.write`.
  """
  return weight_tables.to_published(params, _table(config))


def with_table_sizes(
  config: bert.BertConfig, params: dict[str, Any]
) -> bert.BertConfig:
  """A configuration with the sizes of the embedding tables."""
  return dataclasses.replace(
    config,
    vocab_size=len(params['embedding']),
    max_positions=len(params['positions']),
    num_segments=len(params['segments']),
  )


def _current_name(name):
  """Removes the prefix `bert.` and updates old names of the layer norms."""
  name = name.removeprefix('bert.')
  name = name.replace('LayerNorm.gamma', 'LayerNorm.weight')
  return name.replace('LayerNorm.beta', 'LayerNorm.bias')


def _table(config):
  """The published arrays of each parameter."""
  width, mlp_dim = config.width, config.mlp_dim

  def rows(name, count):
    shape = (count, width)
    return weight_tables.Entry({f'embeddings.{name}_embeddings.weight': shape})

  def bias(prefix, names, size):
    return weight_tables.Entry(
      {f'{prefix}.{name}.bias': (size,) for name in names}
    )

  def norm(prefix, name):
    scale, shift = f'{prefix}.LayerNorm.weight', f'{prefix}.LayerNorm.bias'
    return {
      name: weight_tables.Entry({scale: (width,)}),
      f'{name}_bias': weight_tables.Entry({shift: (width,)}),
    }

  def product(name, prefix, names, outputs, inputs):
    return {
      name: weight_tables.dense(prefix, names, outputs, inputs),
      f'{name}_bias': bias(prefix, names, outputs),
    }

  def block(prefix):
    attention = f'{prefix}.attention'
    qkv = ('query', 'key', 'value')
    return (
      product('qkv', f'{attention}.self', qkv, width, width)
      | product('out', f'{attention}.output', ('dense',), width, width)
      | norm(f'{attention}.output', 'norm')
      | product('up', f'{prefix}.intermediate', ('dense',), mlp_dim, width)
      | product('down', f'{prefix}.output', ('dense',), width, mlp_dim)
      | norm(f'{prefix}.output', 'hidden_norm')
    )

  return {
    'embedding': rows('word', config.vocab_size),
    'positions': rows('position', config.max_positions),
    'segments': rows('token_type', config.num_segments),
    **norm('embeddings', 'norm'),
  } | {
    f'block_{i}': block(f'encoder.layer.{i}') for i in range(config.num_layers)
  }
