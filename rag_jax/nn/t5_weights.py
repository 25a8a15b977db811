"""Converts weights between Hugging Face's T5 and `t5`."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from rag_jax.nn import t5, weight_tables

# Copies of the embedding matrix, and an unused table of the first T5.
_UNUSED = [
  'encoder.embed_tokens.',
  'decoder.embed_tokens.',
  'decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.',
]
_EMBEDDING, _OUTPUT = 'shared.weight', 'lm_head.weight'


def from_state_dict(
  state: Mapping[str, Any], config: t5.T5Config
) -> dict[str, Any]:
  """Converts the weights of Hugging Face's `T5ForConditionalGeneration`.

  Args:
    state: name -> array on the CPU, from `weights.read` or
      `model.state_dict()`.
    config: the configuration of that model.

  Returns:
    Parameters as from `init`.

  Raises:
    ValueError: if arrays are missing, unexpected or of the wrong shape.
  """
  unused = [*_UNUSED, _OUTPUT] if config.tied else _UNUSED
  if config.tied and _OUTPUT in state and _EMBEDDING in state:
    _check_tied(np.asarray(state[_OUTPUT]), np.asarray(state[_EMBEDDING]))
  return weight_tables.from_published(state, _table(config), ignore=unused)


def to_state_dict(
  params: dict[str, Any], config: t5.T5Config
) -> dict[str, np.ndarray]:
  """Converts to the names of Hugging Face's `T5ForConditionalGeneration`.

  Args:
    params: parameters from `init`.
    config: the model configuration.

  Returns:
    name -> float32 array, for `weights.write`.
  """
  return weight_tables.to_published(params, _table(config))


def _check_tied(output, embedding):
  """Raises a ValueError if a tied model has another output matrix."""
  if not np.array_equal(output, embedding):
    raise ValueError(
      f'{_OUTPUT} must equal {_EMBEDDING} in a tied model, got another matrix. '
      'Set tied=False, as for T5 version 1.1.'
    )


def _table(config):
  """The published arrays of each parameter."""
  width, inner = config.width, config.num_heads * config.head_size

  def rows(name, count, columns=width):
    return weight_tables.Entry({f'{name}.weight': (count, columns)})

  def norm(name):
    return weight_tables.Entry({f'{name}.weight': (width,)})

  def block(prefix, has_cross_attention):
    first_layer = f'{prefix}.layer.0'
    last = f'{prefix}.layer.{2 if has_cross_attention else 1}'
    ups = ('wi_0', 'wi_1') if config.gated else ('wi',)
    attention, feed = f'{first_layer}.SelfAttention', f'{last}.DenseReluDense'
    part = {
      'norm': norm(f'{first_layer}.layer_norm'),
      'qkv': weight_tables.dense(attention, 'qkv', inner, width),
      'out': weight_tables.dense(attention, 'o', width, inner),
      'hidden_norm': norm(f'{last}.layer_norm'),
      'up': weight_tables.dense(feed, ups, config.mlp_dim, width),
      'down': weight_tables.dense(feed, ('wo',), width, config.mlp_dim),
    }
    if has_cross_attention:
      attention = f'{prefix}.layer.1.EncDecAttention'
      part |= {
        'cross_norm': norm(f'{prefix}.layer.1.layer_norm'),
        'cross_query': weight_tables.dense(attention, 'q', inner, width),
        'cross_key_value': weight_tables.dense(attention, 'kv', inner, width),
        'cross_out': weight_tables.dense(attention, 'o', width, inner),
      }
    return part

  def stack(name, layers, has_cross_attention):
    first = f'{name}.block.0.layer.0.SelfAttention.relative_attention_bias'
    return {
      f'block_{i}': block(f'{name}.block.{i}', has_cross_attention)
      for i in range(layers)
    } | {
      'bias': rows(first, config.num_buckets, config.num_heads),
      'norm': norm(f'{name}.final_layer_norm'),
    }

  table = {
    'embedding': rows('shared', config.vocab_size),
    'encoder': stack('encoder', config.num_layers, False),
    'decoder': stack('decoder', config.num_decoder_layers, True),
  }
  if not config.tied:
    table['output'] = rows('lm_head', config.vocab_size)
  return table
