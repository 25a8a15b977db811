"""Weights of a T5 from elsewhere, in the form that `t5` takes."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from rag_jax.nn import t5


def from_state_dict(
  state: Mapping[str, Any], config: t5.T5Config
) -> dict[str, Any]:
  """Weights of Hugging Face's `T5ForConditionalGeneration`.

  Args:
    state: name -> array on the CPU, what `model.state_dict()` gives.
    config: the sizes of that model.

  Returns:
    What `init` returns.

  Raises:
    ValueError: if an array is absent or of another shape.
  """

  def take(name, *shape):
    if name not in state:
      raise ValueError(
        f'state must hold {name!r}, got {len(state)} arrays without it. '
        'Give the state dict of a T5ForConditionalGeneration, and set gated, '
        'tied and the numbers of layers as in its config.'
      )
    array = np.array(state[name], np.float32)  # a copy: theirs may train on
    if array.shape != shape:
      raise ValueError(
        f'{name} must be of shape {shape}, got {array.shape}. Set the sizes '
        'of T5Config as in the config of the model.'
      )
    return array

  width, inner = config.width, config.num_heads * config.head_size

  def matrix(prefix, names, shape):
    parts = [take(f'{prefix}.{name}.weight', *shape).T for name in names]
    return jnp.asarray(np.concatenate(parts, axis=1))

  def vector(name):
    return jnp.asarray(take(f'{name}.weight', width))

  def block(prefix, crosses):
    own = f'{prefix}.layer.0'
    last = f'{prefix}.layer.{2 if crosses else 1}'
    ups = ('wi_0', 'wi_1') if config.gated else ('wi',)
    attention, dense = f'{own}.SelfAttention', f'{last}.DenseReluDense'
    part = {
      'norm': vector(f'{own}.layer_norm'),
      'qkv': matrix(attention, 'qkv', (inner, width)),
      'out': matrix(attention, 'o', (width, inner)),
      'hidden_norm': vector(f'{last}.layer_norm'),
      'up': matrix(dense, ups, (config.hidden, width)),
      'down': matrix(dense, ('wo',), (width, config.hidden)),
    }
    if crosses:
      attention = f'{prefix}.layer.1.EncDecAttention'
      part |= {
        'cross_norm': vector(f'{prefix}.layer.1.layer_norm'),
        'cross_query': matrix(attention, 'q', (inner, width)),
        'cross_key_value': matrix(attention, 'kv', (inner, width)),
        'cross_out': matrix(attention, 'o', (width, inner)),
      }
    return part

  def stack(name, layers, crosses):
    first = f'{name}.block.0.layer.0.SelfAttention.relative_attention_bias'
    shape = (config.num_buckets, config.num_heads)
    return {
      f'block_{i}': block(f'{name}.block.{i}', crosses) for i in range(layers)
    } | {
      'bias': jnp.asarray(take(f'{first}.weight', *shape)),
      'norm': vector(f'{name}.final_layer_norm'),
    }

  table = (config.vocab_size, width)
  params = {
    'embedding': jnp.asarray(take('shared.weight', *table)),
    'encoder': stack('encoder', config.num_layers, False),
    'decoder': stack('decoder', config.num_decoder_layers, True),
  }
  if not config.tied:
    params['output'] = jnp.asarray(take('lm_head.weight', *table))
  return params
