"""Reads the config.json of a Llama, Mistral, Qwen 2, Qwen 3 or Gemma 3.

All have the body of `llama`; `FAMILIES` has what differs. What changes the
numbers of a model and is not supported here raises an error with its name.
"""

import dataclasses
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from rag_jax.nn import llama, published, weights

_NAMES = {
  'vocab_size': 'vocab_size',
  'width': 'hidden_size',
  'num_layers': 'num_hidden_layers',
  'num_heads': 'num_attention_heads',
  'mlp_dim': 'intermediate_size',
  'epsilon': 'rms_norm_eps',
}
# Fields that must have these values in all families; None = missing.
_SUPPORTED: dict[str, tuple[Any, ...]] = {
  'quantization_config': (None,),
  'num_local_experts': (None,),
  'num_experts': (None,),
  'partial_rotary_factor': (None, 1, 1.0),
  'attention_bias': (None, False),
  'mlp_bias': (None, False),
}
SLIDING, FULL = 'sliding_attention', 'full_attention'
_ROPE_TYPES = ('default', 'linear', 'llama3')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
  """What distinguishes the models of one `model_type`."""

  options: Mapping[str, Any]  # fields of `llama.LlamaConfig`
  activation: str = 'hidden_act'  # its field in config.json
  supported: Mapping[str, tuple[Any, ...]]  # further fields and their values
  # Values of fields that config.json leaves out, as in transformers.
  defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  has_windows: bool = True  # whether sliding_window has an effect
  windows_if: str = ''  # field that must be true for it
  local_rope_base: float = 0.0  # default base of layers with a window


_SILU = {'hidden_act': ('silu',)}
FAMILIES = {
  'llama': Family(options={}, supported=_SILU, has_windows=False),
  'mistral': Family(
    options={}, supported=_SILU, defaults={'sliding_window': 4096}
  ),
  'qwen2': Family(
    options={'qkv_bias': True},
    supported=_SILU | {'use_mrope': (None, False)},
    defaults={'max_window_layers': 28},
    windows_if='use_sliding_window',
  ),
  'qwen3': Family(
    options={'qk_norm': True},
    supported=_SILU,
    defaults={'max_window_layers': 28, 'head_dim': 128},
    windows_if='use_sliding_window',
  ),
  'gemma3_text': Family(
    options={'qk_norm': True, 'post_norms': True, 'activation': 'gelu_tanh'},
    activation='hidden_activation',
    supported={
      'hidden_activation': ('gelu_pytorch_tanh', None),
      'attn_logit_softcapping': (None,),
      'final_logit_softcapping': (None,),
      'use_bidirectional_attention': (None, False),
    },
    defaults={
      'head_dim': 256,
      'query_pre_attn_scalar': 256,
      'sliding_window': 4096,
      'sliding_window_pattern': 6,
      'rope_theta': 1e6,
      'tie_word_embeddings': True,
    },
    local_rope_base=1e4,
  ),
}


def read(folder: weights.Path) -> llama.LlamaConfig:
  """The configuration of a model in `FAMILIES`, from a folder's config.json.

  Raises:
    ValueError: if it describes another kind of model, or the folder holds an
      adapter, which changes the weights.
  """
  path = pathlib.Path(folder) / 'config.json'
  kind = published.read_json(path, weights.REMEDY).get('model_type')
  family = FAMILIES.get(kind) if isinstance(kind, str) else None
  _check_adapter(path.parent)
  supported = {'model_type': tuple(FAMILIES)} | _SUPPORTED
  if family:
    supported |= family.supported
  given, fields = weights.read_config(folder, _NAMES, supported)
  assert family is not None  # else read_config has raised
  sizes = dict(family.defaults) | {
    name: value for name, value in given.items() if value is not None
  }
  heads = fields['num_heads']
  head_size = sizes.get('head_dim') or fields['width'] // heads
  options = dict(family.options) | _rope(path, sizes, family, head_size)
  if scalar := sizes.get('query_pre_attn_scalar'):
    weights.check_size(path, 'query_pre_attn_scalar', scalar, float)
    options['query_scale'] = float(scalar) ** -0.5
  if family.options.get('post_norms'):
    options['embedding_scale'] = float(np.float32(fields['width'] ** 0.5))
  return llama.LlamaConfig(
    **fields,
    num_key_value_heads=sizes.get('num_key_value_heads') or heads,
    head_size=head_size,
    tied=sizes.get('tie_word_embeddings', False),
    windows=_windows(path, sizes, given, family, fields['num_layers']),
    **options,
  )


def _check_adapter(folder):
  """Raises a ValueError if a folder holds an adapter such as LoRA."""
  adapter = folder / 'adapter_config.json'
  if adapter.exists():
    raise ValueError(
      f'{str(folder)!r} must hold a whole model, got {adapter.name}, an '
      'adapter that changes its weights. Merge the adapter into the model, '
      'such as by merge_and_unload() of peft, and give the new folder.'
    )


def _windows(path, sizes, given, family, num_layers):
  """The window of each layer, 0 = none; () if no layer has one."""
  window = sizes.get('sliding_window')
  # Explicit null turns off the default window.
  if 'sliding_window' in given and given['sliding_window'] is None:
    window = None
  if family.windows_if and not sizes.get(family.windows_if):
    window = None
  if not family.has_windows:
    return ()
  types = sizes.get('layer_types')
  if types is None:
    types = _layer_types(sizes, num_layers)
  known = isinstance(types, list) and {*map(str, types)} <= {SLIDING, FULL}
  if not known or len(types) != num_layers:
    raise ValueError(
      f'layer_types in {str(path)!r} must hold {num_layers} of {SLIDING} and '
      f'{FULL}, got {repr(types)[:80]}. Give the folder of a model with these.'
    )
  if not window or SLIDING not in types:
    return ()
  weights.check_size(path, 'sliding_window', window, int)
  return tuple(window if kind == SLIDING else 0 for kind in types)


def _layer_types(sizes, num_layers):
  """The kinds of attention of files without `layer_types`."""
  pattern = sizes.get('_sliding_window_pattern')
  pattern = pattern or sizes.get('sliding_window_pattern') or 0
  first = sizes.get('max_window_layers', 0)
  return [
    FULL if i < first or (pattern and (i + 1) % pattern == 0) else SLIDING
    for i in range(num_layers)
  ]


def _rope(path, sizes, family, head_size):
  """Options of the rotary positions: base, divisors, base of local layers."""
  new, old = sizes.get('rope_parameters'), sizes.get('rope_scaling')
  for name, value in (('rope_parameters', new), ('rope_scaling', old)):
    if value is not None and not isinstance(value, dict):
      raise ValueError(
        f'{name} in {str(path)!r} must be an object, got {repr(value)[:60]}. '
        'Correct it, or download the file again.'
      )
  default = sizes.get('rope_theta', 1e4)
  given = new or {}
  rope = {'rope_theta': default} | (old or {}) | given.get(FULL, given)
  options = {
    'rope_base': _base(path, rope),
    'rope_divisors': divisors(path, rope, head_size),
  }
  if family.local_rope_base:
    base = sizes.get('rope_local_base_freq', family.local_rope_base)
    local = {'rope_theta': base} | given.get(SLIDING, {})
    if divisors(path, local, head_size):
      raise ValueError(
        f"rope_type of {SLIDING} in {str(path)!r} must be 'default', got "
        f'{local!r}. Give the folder of a model without it.'
      )
    options['local_rope_base'] = _base(path, local)
  return options


def _base(path, rope):
  weights.check_size(path, 'rope_theta', rope['rope_theta'], float)
  return float(rope['rope_theta'])


def divisors(
  path: weights.Path, rope: Mapping[str, Any], head_size: int
) -> tuple[float, ...]:
  """Divisors of the rotary frequencies, for longer texts than in training.

  Args:
    path: of the file, for errors.
    rope: the object `rope_scaling` or `rope_parameters` of a config.json.
    head_size: dimensions per head.

  Returns:
    head_size / 2 divisors, or () for all 1.

  Raises:
    ValueError: if the kind of scaling is not supported.

  Reference:
    Chen et al., Extending Context Window of Large Language Models via
    Positional Interpolation, 2023 (linear). Grattafiori et al., The Llama 3
    Herd of Models, 2024 (llama3).
  """
  kind = rope.get('rope_type', rope.get('type'))
  if kind is None:
    kind = 'unknown' if 'factor' in rope else 'default'
  if kind not in _ROPE_TYPES:
    raise ValueError(
      f'rope_type of rope_scaling in {str(path)!r} must be one of '
      f'{", ".join(_ROPE_TYPES)}, got {kind!r}. Give the folder of a model '
      'with one of these.'
    )
  if kind == 'default':
    return ()
  names = ['factor']
  if kind == 'llama3':
    names += ['low_freq_factor', 'high_freq_factor']
    names.append('original_max_position_embeddings')
  for name in names:
    weights.check_size(pathlib.Path(path), name, rope.get(name), float)
  factor = float(rope['factor'])
  if kind == 'linear':
    return (factor,) * (head_size // 2)
  low, high = float(rope['low_freq_factor']), float(rope['high_freq_factor'])
  exponent = np.arange(0, head_size, 2) / head_size
  length = 2 * math.pi * float(rope['rope_theta']) ** exponent
  turns = float(rope['original_max_position_embeddings']) / length
  # 1 = keep the frequency, 0 = divide it by the factor.
  kept = np.clip((turns - low) / (high - low), 0, 1)
  return tuple((1 / ((1 - kept) / factor + kept)).tolist())
