"""Weights of a Llama from elsewhere, in the form that `llama` takes."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from rag_jax.nn import llama, weights

_UNUSED = ('model.rotary_emb.',)  # numbers that are no weights


def from_state_dict(
  state: Mapping[str, Any], config: llama.LlamaConfig
) -> dict[str, Any]:
  """Weights of Hugging Face's `LlamaForCausalLM`.

  Args:
    state: name -> array on the CPU, as `weights.read` gives.
    config: the sizes of that model.

  Returns:
    What `init` returns.

  Raises:
    ValueError: if arrays are absent, too many or of another shape.
  """
  # A tied output matrix is the embedding once more.
  unused = (*_UNUSED, 'lm_head.weight') if config.tied else _UNUSED
  return weights.take(state, _table(config), ignore=unused)


def to_state_dict(
  params: dict[str, Any], config: llama.LlamaConfig
) -> dict[str, np.ndarray]:
  """Weights under the names of Hugging Face's `LlamaForCausalLM`.

  Args:
    params: what `init` returned.
    config: the sizes.

  Returns:
    name -> float32 array, for `weights.write`.
  """
  return weights.give(params, _table(config))


def _table(config):
  """Which published arrays make each parameter."""
  width, hidden, size = config.width, config.hidden, config.head_size
  inner = config.num_heads * size
  shared = config.num_key_value_heads * size

  def vector(name):
    return weights.Entry({f'{name}.weight': (width,)})

  def block(prefix):
    own, mlp = f'{prefix}.self_attn', f'{prefix}.mlp'
    qkv = {'q_proj': inner, 'k_proj': shared, 'v_proj': shared}
    shapes = {f'{own}.{n}.weight': (rows, width) for n, rows in qkv.items()}
    return {
      'norm': vector(f'{prefix}.input_layernorm'),
      'qkv': weights.Entry(shapes, transposed=True),
      'out': weights.dense(own, ('o_proj',), width, inner),
      'hidden_norm': vector(f'{prefix}.post_attention_layernorm'),
      'up': weights.dense(mlp, ('gate_proj', 'up_proj'), hidden, width),
      'down': weights.dense(mlp, ('down_proj',), width, hidden),
    }

  rows = (config.vocab_size, width)
  table = {
    'embedding': weights.Entry({'model.embed_tokens.weight': rows}),
    'norm': vector('model.norm'),
  } | {
    f'block_{i}': block(f'model.layers.{i}') for i in range(config.num_layers)
  }
  if not config.tied:
    table['output'] = weights.Entry({'lm_head.weight': rows})
  return table
