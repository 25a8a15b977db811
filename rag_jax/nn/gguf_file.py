"""Reads GGUF files, the format of llama.cpp.

A file holds the configuration, the weights and the tokenizer. It needs the
package `gguf` (pip install 'rag_jax[gguf]').
"""

import os
from typing import Any, NamedTuple

import numpy as np
import tokenizers as hf

from rag_jax.nn import gguf_header, gguf_tokenizer, llama

# Options of each architecture. Mistral's files have the architecture 'llama'.
ARCHITECTURES: dict[str, dict[str, Any]] = {
  'llama': {},
  'qwen2': {'qkv_bias': True},
  'qwen3': {'qk_norm': True},
  'gemma3': {'qk_norm': True, 'post_norms': True, 'activation': 'gelu_tanh'},
}
# Metadata that changes numbers and must be absent or 0.
_UNSUPPORTED = (
  'expert_count',
  'attn_logit_softcapping',
  'final_logit_softcapping',
)
# In Gemma 3, as in llama.cpp: every sixth layer has no window, the others have
# this rotary base; the largest model has another factor of attention scores.
_PATTERN, _LOCAL_BASE, _LARGEST = 6, 1e4, 62
_DIVISORS = 'rope_freqs.weight'  # of the rotary frequencies

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
  'attn_q_norm': 'self_attn.q_norm',
  'attn_k_norm': 'self_attn.k_norm',
  'attn_output': 'self_attn.o_proj',
  'ffn_norm': 'post_attention_layernorm',
  'ffn_gate': 'mlp.gate_proj',
  'ffn_up': 'mlp.up_proj',
  'ffn_down': 'mlp.down_proj',
}
_GEMMA_NAMES = {
  'post_attention_norm': 'post_attention_layernorm',
  'ffn_norm': 'pre_feedforward_layernorm',
  'post_ffw_norm': 'post_feedforward_layernorm',
}


class Model(NamedTuple):
  """Contents of a GGUF file."""

  config: llama.LlamaConfig
  state: dict[str, np.ndarray]  # float32, under the names of Hugging Face
  tokenizer: hf.Tokenizer
  chat_template: str  # '' if there is none
  end: str  # token at the end of a text, or ''


def read(path: str | os.PathLike[str], *, with_weights: bool = True) -> Model:
  """Reads a language model from a GGUF file; quantised weights become float32.

  Args:
    path: the file.
    with_weights: False leaves `state` empty.

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
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    arrays = {
      name: gguf.dequantize(tensor.data, tensor.tensor_type)
      for name, tensor in tensors.items()
      if with_weights or name == _DIVISORS
    }
  except Exception as error:  # NumPy raises many types on truncated files
    reason = (str(error) or type(error).__name__).splitlines()[0]
    raise ValueError(
      f'{str(path)!r} must be a complete GGUF file, got one that cannot be '
      f'read ({reason[:200]}). Download it again.'
    ) from error
  config = _Fields(fields, tensors, path).config(arrays.get(_DIVISORS))
  state = _state(arrays, config, path) if with_weights else {}
  return Model(
    config,
    state,
    gguf_tokenizer.make(fields, config.vocab_size, path),
    gguf_tokenizer.text(fields, 'tokenizer.chat_template'),
    gguf_tokenizer.end(fields),
  )


class _Fields:
  """The metadata of a file."""

  def __init__(self, fields, tensors, path):
    self.fields, self.tensors, self.path = fields, tensors, path
    self.kind = fields.get('general.architecture')
    if self.kind not in ARCHITECTURES:
      raise ValueError(
        f'{str(path)!r} must hold one of the architectures '
        f'{", ".join(ARCHITECTURES)}, got {self.kind!r}. Give a model of '
        'one of these, such as SmolLM2.'
      )

  def take(self, name, default=None, kind=int):
    """A value of the architecture: a positive number, or a text."""
    name = f'{self.kind}.{name}'
    value = self.fields.get(name, default)
    if type(value) is not kind or (kind is not str and not 0 < value < 2**31):
      wanted = {int: 'whole number', float: 'number'}.get(kind, 'text')
      got = 'none' if value is None else repr(value)[:60]
      raise ValueError(
        f'{str(self.path)!r} must hold the {wanted} {name}, got {got}. Convert '
        'the model again with a current llama.cpp.'
      )
    return value

  def config(self, divisors) -> llama.LlamaConfig:
    """The configuration of the model."""
    for name in _UNSUPPORTED:
      name = f'{self.kind}.{name}'
      if value := self.fields.get(name):
        raise ValueError(
          f'{str(self.path)!r} must have no {name}, which is not supported, '
          f'got {value!r}. Give a model without it.'
        )
    take = self.take
    heads, width = take('attention.head_count'), take('embedding_length')
    # Every layer has tensors, so a count above theirs is damage.
    if (layers := take('block_count')) > len(self.tensors):
      raise ValueError(
        f'{str(self.path)!r} must hold the tensors of {layers} layers, got '
        f'{len(self.tensors)} tensors. Download it again.'
      )
    head_size = take('attention.key_length', width // heads)
    options = dict(ARCHITECTURES[self.kind])
    if self.kind == 'gemma3':
      options['embedding_scale'] = float(np.float32(width**0.5))
      options['local_rope_base'] = take(
        'rope.freq_base_swa', _LOCAL_BASE, float
      )
      size = width / heads if layers == _LARGEST else head_size
      options['query_scale'] = size**-0.5
    with gguf_tokenizer.naming(self.path):
      return llama.LlamaConfig(
        vocab_size=self.vocab_size(),
        width=width,
        num_layers=layers,
        num_heads=heads,
        num_key_value_heads=take('attention.head_count_kv', heads),
        head_size=head_size,
        mlp_dim=take('feed_forward_length'),
        rope_base=take('rope.freq_base', 10000.0, float),
        epsilon=take('attention.layer_norm_rms_epsilon', kind=float),
        tied='output.weight' not in self.tensors,
        windows=self.windows(layers),
        rope_divisors=self.divisors(divisors, head_size),
        **options,
      )

  def vocab_size(self):
    """The rows of the embedding matrix."""
    tensor = self.tensors.get('token_embd.weight')
    shape = () if tensor is None else tuple(map(int, tensor.shape))
    if len(shape) != 2:
      raise ValueError(
        f'{str(self.path)!r} must hold the matrix token_embd.weight, got '
        f'{shape or "none"}. Download it again.'
      )
    return shape[1]  # a file has the columns first

  def divisors(self, array, head_size):
    """Divisors of the rotary frequencies."""
    scaling = self.take('rope.scaling.type', 'none', str)
    if array is not None:
      return tuple(np.asarray(array, np.float32).reshape(-1).tolist())
    if scaling == 'linear':
      return (self.take('rope.scaling.factor', kind=float),) * (head_size // 2)
    if scaling != 'none':
      raise ValueError(
        f'{str(self.path)!r} must have rotary positions with scaling none or '
        f'linear, got {scaling!r}. Give a model with one of these.'
      )
    return ()

  def windows(self, layers):
    """The window of each layer; () = none."""
    name = f'{self.kind}.attention.sliding_window'
    if not self.fields.get(name):
      return ()
    window = self.take('attention.sliding_window')
    if self.kind != 'gemma3':
      return (window,) * layers
    pattern = self.fields.get(f'{name}_pattern', _PATTERN)
    if isinstance(pattern, list):  # True = a window
      return tuple(window if own else 0 for own in pattern)
    return tuple(window if (i + 1) % pattern else 0 for i in range(layers))


def _state(arrays, config, path):
  """Arrays under the names of Hugging Face; unknown names are kept."""
  state = {}
  block_names = _BLOCK_NAMES | (_GEMMA_NAMES if config.post_norms else {})
  # llama.cpp's converter changes the order in the architecture 'llama' only.
  permuted = not (config.qkv_bias or config.qk_norm)
  for name, array in arrays.items():
    if name == _DIVISORS:
      continue
    whole, _, kind = name.rpartition('.')
    first, _, rest = whole.partition('.')
    layer, _, part = rest.partition('.')
    if first in _NAMES and not rest:
      name = f'{_NAMES[first]}.{kind}'
    elif first == 'blk' and part in block_names:
      name = f'model.layers.{layer}.{block_names[part]}.{kind}'
    array = np.asarray(array, np.float32)
    if permuted and part in ('attn_q', 'attn_k'):
      with gguf_tokenizer.naming(path):
        array = _split_rotary_pairs(array, config.head_size)
    if (
      config.post_norms
      and part.endswith('_norm')
      or (config.post_norms and first == 'output_norm')
    ):
      array = array - 1  # a file of Gemma has 1 + weight
    state[name] = array
  return state


def _split_rotary_pairs(array, size):
  """Reorders each head's rows from interleaved to half-split rotary pairs.

  The file has the order 0, D/2, 1, D/2 + 1, ...
  """
  pairs = array.reshape(-1, size // 2, 2, array.shape[-1])
  return pairs.swapaxes(1, 2).reshape(array.shape)
