"""Converts weights between Hugging Face's ModernBERT and `modernbert`."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from rag_jax.nn import bert, modernbert, weight_tables, weights

PREFIX = 'model.'  # of all arrays, if the model has a head
_UNUSED = ['head.', 'decoder.', 'classifier.']
_SIZES = {
  'vocab_size': 'vocab_size',
  'width': 'hidden_size',
  'num_layers': 'num_hidden_layers',
  'num_heads': 'num_attention_heads',
  'mlp_dim': 'intermediate_size',
  'max_positions': 'max_position_embeddings',
  'epsilon': 'norm_eps',
  'window': 'local_attention',
}
_ROPE = {
  'rope_base': ('full_attention', 'global_rope_theta'),
  'local_rope_base': ('sliding_attention', 'local_rope_theta'),
}


def read_config(folder: weights.Path) -> modernbert.ModernBertConfig:
  """The configuration of a ModernBERT, from the config.json of a folder.

  Raises:
    ValueError: if it describes another kind of model.
  """
  supported = {
    'model_type': ('modernbert',),
    'hidden_activation': tuple(bert.ACTIVATIONS),
    'norm_bias': (False, None),
    'attention_bias': (False, None),
    'mlp_bias': (False, None),
    'rope_scaling': (None,),
  }
  values, fields = weights.read_config(folder, _SIZES, supported)
  path = pathlib.Path(folder) / 'config.json'
  for ours, (kind, theirs) in _ROPE.items():
    default = getattr(modernbert.ModernBertConfig, ours)
    nested = (values.get('rope_parameters') or {}).get(kind) or {}
    if (rope := nested.get('rope_type', 'default')) != 'default':
      raise ValueError(
        f"rope_type in {str(path)!r} must be 'default', got {rope!r}. Give the "
        'folder of a model without RoPE scaling.'
      )
    base = nested.get('rope_theta') or values.get(theirs) or default
    weights.check_size(path, theirs, base, float)
    fields[ours] = float(base)
  every = values.get('global_attn_every_n_layers') or _every(values, path)
  weights.check_size(path, 'global_attn_every_n_layers', every, int)
  return modernbert.ModernBertConfig(
    **fields, activation=values['hidden_activation'], global_every=every
  )


def _every(values: Mapping[str, Any], path: pathlib.Path) -> int:
  """n, if every n-th of the layers attends to all tokens."""
  kinds = values.get('layer_types')
  if not kinds:
    return modernbert.ModernBertConfig.global_every
  count = len(kinds)
  for every in range(1, count + 1):
    names = ('full_attention', 'sliding_attention')
    if kinds == [names[i % every > 0] for i in range(count)]:
      return every
  raise ValueError(
    f"layer_types in {str(path)!r} must be 'full_attention' for every n-th "
    f'layer from the first on, got {repr(kinds)[:60]}. Give the folder of a '
    'model with such layers.'
  )


def describe(config: modernbert.ModernBertConfig) -> dict[str, Any]:
  """The contents of config.json: the inverse of `read_config`."""
  sizes = {theirs: getattr(config, ours) for ours, theirs in _SIZES.items()}
  return sizes | {
    'model_type': 'modernbert',
    'hidden_activation': config.activation,
    'global_attn_every_n_layers': config.global_every,
    'global_rope_theta': config.rope_base,
    'local_rope_theta': config.local_rope_base,
  }


def from_state_dict(
  state: Mapping[str, Any], config: modernbert.ModernBertConfig
) -> dict[str, Any]:
  """Converts the weights of Hugging Face's `ModernBertModel`.

  Args:
    state: name -> array on the CPU, as from `weights.read`, with or without the
      prefix `model.`.
    config: the configuration of that model.

  Returns:
    Parameters for `modernbert.apply`.

  Raises:
    ValueError: if arrays are missing, unexpected or of the wrong shape.
  """
  plain = {name.removeprefix(PREFIX): array for name, array in state.items()}
  return weight_tables.from_published(plain, _table(config), ignore=_UNUSED)


def to_state_dict(
  params: dict[str, Any], config: modernbert.ModernBertConfig
) -> dict[str, np.ndarray]:
  """Converts parameters to the names of Hugging Face's `ModernBertModel`."""
  return weight_tables.to_published(params, _table(config))


def _table(config):
  """The published arrays of each parameter."""
  width, mlp_dim = config.width, config.mlp_dim

  def scale(name):
    return weight_tables.Entry({f'{name}.weight': (width,)})

  def block(i):
    prefix = f'layers.{i}'
    first = {'norm': scale(f'{prefix}.attn_norm')} if i else {}
    return first | {
      'qkv': weight_tables.dense(f'{prefix}.attn', ['Wqkv'], 3 * width, width),
      'out': weight_tables.dense(f'{prefix}.attn', ['Wo'], width, width),
      'hidden_norm': scale(f'{prefix}.mlp_norm'),
      'up': weight_tables.dense(f'{prefix}.mlp', ['Wi'], 2 * mlp_dim, width),
      'down': weight_tables.dense(f'{prefix}.mlp', ['Wo'], width, mlp_dim),
    }

  return {
    'embedding': weight_tables.Entry(
      {'embeddings.tok_embeddings.weight': (config.vocab_size, width)}
    ),
    'norm': scale('embeddings.norm'),
    'final_norm': scale('final_norm'),
  } | {f'block_{i}': block(i) for i in range(config.num_layers)}
