"""Reads GGUF files, the format of llama.cpp.

A file holds the configuration, the weights and the tokenizer. It needs the
package `gguf` (pip install 'rag_jax[gguf]').
"""

import contextlib
import os
from typing import NamedTuple

import numpy as np
import tokenizers as hf
from tokenizers import decoders, models, pre_tokenizers

from rag_jax.nn import gguf_header, llama

ARCHITECTURE = 'llama'
_CONTROL = 3  # type of special tokens, such as the end of a turn

# Tensor name in a GGUF file -> name in Hugging Face.
_NAMES = {
  'token_embd': 'model.embed_tokens',
  'output_norm': 'model.norm',
  'output': 'lm_head',
}
_BLOCK_NAMES = {
  'attn_norm': 'input_layernorm',
  'attn_q': 'self_attn.q_proj',
  'attn_k': 'self_attn.k_proj',
  'attn_v': 'self_attn.v_proj',
  'attn_output': 'self_attn.o_proj',
  'ffn_norm': 'post_attention_layernorm',
  'ffn_gate': 'mlp.gate_proj',
  'ffn_up': 'mlp.up_proj',
  'ffn_down': 'mlp.down_proj',
}


class Model(NamedTuple):
  """Contents of a GGUF file."""

  config: llama.LlamaConfig
  state: dict[str, np.ndarray]  # float32, under the names of Hugging Face
  tokenizer: hf.Tokenizer


def read(path: str | os.PathLike[str]) -> Model:
  """Reads a Llama from a GGUF file; quantised weights become float32.

  Args:
    path: the file.

  Returns:
    Configuration, weights for `llama_weights.from_state_dict`, and tokenizer.

  Raises:
    ValueError: if `gguf` is not installed, the file is damaged, or the kind of
      model or tokenizer is not supported.

  Reference:
    https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
  """
  try:
    import gguf
  except ImportError as error:
    raise ValueError(
      f'reading {str(path)!r} needs the package gguf, which is not installed. '
      "Install it by pip install 'rag_jax[gguf]'."
    ) from error
  try:
    gguf_header.check(path)
    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    arrays = {
      tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type)
      for tensor in reader.tensors
    }
  except Exception as error:  # NumPy raises many types on truncated files
    reason = (str(error) or type(error).__name__).splitlines()[0]
    raise ValueError(
      f'{str(path)!r} must be a complete GGUF file, got one that cannot be '
      f'read ({reason[:200]}). Download it again.'
    ) from error
  config = _config(fields, arrays, path)
  state = _state(arrays, config, path)
  return Model(config, state, _tokenizer(fields, config, path))


def _config(fields, arrays, path):
  """The configuration from the metadata."""
  found = fields.get('general.architecture')
  if found != ARCHITECTURE:
    raise ValueError(
      f'{str(path)!r} must hold architecture {ARCHITECTURE!r}, got {found!r}. '
      'Give a model of this architecture, such as SmolLM2.'
    )

  def take(name, default=None, kind=int):
    value = fields.get(f'{ARCHITECTURE}.{name}', default)
    if type(value) is not kind or (kind is not str and not 0 < value < 2**31):
      wanted = {int: 'whole number', float: 'number'}.get(kind, 'text')
      got = 'none' if value is None else repr(value)[:60]
      raise ValueError(
        f'{str(path)!r} must hold the {wanted} {ARCHITECTURE}.{name}, got '
        f'{got}. Convert the model again with a current llama.cpp.'
      )
    return value

  embedding = arrays.get('token_embd.weight')
  if embedding is None or embedding.ndim != 2:
    raise ValueError(
      f'{str(path)!r} must hold the matrix token_embd.weight, got '
      f'{"none" if embedding is None else embedding.shape}. Download it again.'
    )
  scaling = take('rope.scaling.type', 'none', str)
  if scaling != 'none' or 'rope_freqs.weight' in arrays:
    raise ValueError(
      f'{str(path)!r} must have rotary positions without scaling, got scaling '
      f'{scaling!r} or a tensor rope_freqs.weight. Give a model without RoPE '
      'scaling.'
    )
  heads, width = take('attention.head_count'), take('embedding_length')
  # Every layer has tensors, so a count above theirs is damage.
  if (layers := take('block_count')) > len(arrays):
    raise ValueError(
      f'{str(path)!r} must hold the tensors of {layers} layers, got '
      f'{len(arrays)} tensors. Download it again.'
    )
  sizes = {
    'vocab_size': len(embedding),
    'width': width,
    'num_layers': layers,
    'num_heads': heads,
    'num_key_value_heads': take('attention.head_count_kv', heads),
    'head_size': take('attention.key_length', width // heads),
    'mlp_dim': take('feed_forward_length'),
    'rope_base': take('rope.freq_base', 10000.0, float),
    'epsilon': take('attention.layer_norm_rms_epsilon', kind=float),
  }
  with _naming(path):
    return llama.LlamaConfig(**sizes, tied='output.weight' not in arrays)


@contextlib.contextmanager
def _naming(path):
  """Errors of what is built from a file name the file, in one line."""
  try:
    yield
  except Exception as error:  # `tokenizers` raises bare Exception
    reason = (str(error) or type(error).__name__).splitlines()[0]
    raise ValueError(
      f'{str(path)!r} must be an intact GGUF file, got one that does not fit '
      f'together ({reason[:200]}). Download it again.'
    ) from error


def _state(arrays, config, path):
  """Arrays under the names of Hugging Face; unknown names are kept."""
  state = {}
  for name, array in arrays.items():
    first, _, rest = name.removesuffix('.weight').partition('.')
    layer, _, part = rest.partition('.')
    if first in _NAMES and not rest:
      name = f'{_NAMES[first]}.weight'
    elif first == 'blk' and part in _BLOCK_NAMES:
      name = f'model.layers.{layer}.{_BLOCK_NAMES[part]}.weight'
    if part in ('attn_q', 'attn_k'):
      with _naming(path):
        array = _split_rotary_pairs(array, config.head_size)
    state[name] = np.asarray(array, np.float32)
  return state


def _split_rotary_pairs(array, size):
  """Reorders each head's rows from interleaved to half-split rotary pairs.

  The file has the order 0, D/2, 1, D/2 + 1, ...
  """
  pairs = array.reshape(-1, size // 2, 2, array.shape[-1])
  return pairs.swapaxes(1, 2).reshape(array.shape)


def _tokenizer(fields, config, path):
  """The byte-pair tokenizer from the metadata."""
  kind = fields.get('tokenizer.ggml.model'), fields.get('tokenizer.ggml.pre')
  splitters = {
    ('gpt2', 'smollm'): [pre_tokenizers.Digits(individual_digits=True)],
    ('gpt2', 'gpt-2'): [],
  }
  if kind not in splitters:
    raise ValueError(
      f'{str(path)!r} must have a tokenizer of {list(splitters)}, got {kind}. '
      "Load the model's tokenizer.json by tokenizers.Tokenizer.from_file."
    )
  names = 'tokens', 'merges'
  lists = [fields.get(f'tokenizer.ggml.{name}') for name in names]
  for name, texts in zip(names, lists, strict=True):
    if not isinstance(texts, list) or not all(
      isinstance(t, str) for t in texts
    ):
      raise ValueError(
        f'{str(path)!r} must hold the texts tokenizer.ggml.{name}, got '
        f'{repr(texts)[:60]}. Convert the model again with a current llama.cpp.'
      )
  tokens, merges = lists
  if len(tokens) != config.vocab_size:
    raise ValueError(
      f'{str(path)!r} must have one token for each of the {config.vocab_size} '
      f'rows of the embedding, got {len(tokens)} tokens. Download it again.'
    )
  vocabulary = {token: i for i, token in enumerate(tokens)}
  with _naming(path):
    pairs = [tuple(merge.split(' ')) for merge in merges]
    tokenizer = hf.Tokenizer(models.BPE(vocab=vocabulary, merges=pairs))
  tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
    [*splitters[kind], pre_tokenizers.ByteLevel(add_prefix_space=False)]
  )
  tokenizer.decoder = decoders.ByteLevel()
  types = fields.get('tokenizer.ggml.token_type')
  types = types if isinstance(types, list) else []
  tokenizer.add_special_tokens(
    [t for t, kind in zip(tokens, types, strict=False) if kind == _CONTROL]
  )
  return tokenizer
