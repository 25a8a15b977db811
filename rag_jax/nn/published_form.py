"""Weights and config.json of T5 and language models in published form."""

from typing import Any

import numpy as np

from rag_jax.nn import llama, llama_config, llama_weights, t5, t5_weights

State = dict[str, np.ndarray]  # published name -> array


def of_t5(params: Any, config: t5.T5Config) -> tuple[State, dict[str, Any]]:
  """A T5 in published form.

  Args:
    params: its parameters.
    config: its configuration.

  Returns:
    Arrays for `weights.write`, and the contents of config.json, which
    `weights.t5_config` reads again.

  Example:
    >>> import jax
    >>> config = t5.T5Config(num_layers=1, num_decoder_layers=1, width=8,
    ...                      vocab_size=9, mlp_dim=8, num_heads=1, head_size=4)
    >>> params = t5.init(jax.random.key(0), config)
    >>> of_t5(params, config)[0]['shared.weight'].shape
    (9, 8)
  """
  described = {
    'architectures': ['T5ForConditionalGeneration'],
    'model_type': 't5',
    'is_encoder_decoder': True,
    'vocab_size': config.vocab_size,
    'd_model': config.width,
    'd_kv': config.head_size,
    'd_ff': config.mlp_dim,
    'num_layers': config.num_layers,
    'num_decoder_layers': config.num_decoder_layers,
    'num_heads': config.num_heads,
    'relative_attention_num_buckets': config.num_buckets,
    'relative_attention_max_distance': config.max_distance,
    'layer_norm_epsilon': config.epsilon,
    'feed_forward_proj': 'gated-gelu' if config.gated else 'relu',
    'tie_word_embeddings': config.tied,
    'scale_decoder_outputs': config.tied,
    'pad_token_id': 0,
    'eos_token_id': 1,
    'decoder_start_token_id': 0,
  }
  return t5_weights.to_state_dict(params, config), described


def of_language_model(
  params: Any, config: llama.LlamaConfig, *, end_token: int
) -> tuple[State, dict[str, Any]]:
  """A Llama, Mistral, Qwen or Gemma in published form.

  Args:
    params: its parameters.
    config: its configuration.
    end_token: the token that ends an answer.

  Returns:
    Arrays for `weights.write`, and the contents of config.json, which
    `llama_config.read` reads again; {} if the divisors of rotary frequencies
    are not all equal, since the fields that made them are unknown.
  """
  state = llama_weights.to_state_dict(params, config)
  divisors = set(config.rope_divisors)
  if len(divisors) > 1:
    return state, {}
  kind = _kind(config)
  described = {
    'architectures': [_ARCHITECTURES[kind]],
    'model_type': kind,
    'hidden_act': 'silu',
    'vocab_size': config.vocab_size,
    'hidden_size': config.width,
    'num_hidden_layers': config.num_layers,
    'num_attention_heads': config.num_heads,
    'num_key_value_heads': config.num_key_value_heads,
    'head_dim': config.head_size,
    'intermediate_size': config.mlp_dim,
    'rms_norm_eps': config.epsilon,
    'rope_theta': config.rope_base,
    'tie_word_embeddings': config.tied,
    'eos_token_id': end_token,
  }
  if divisors:
    scaling = {'rope_type': 'linear', 'factor': divisors.pop()}
    described['rope_scaling'] = scaling
  if any(config.windows):
    described |= {
      'sliding_window': max(config.windows),
      'use_sliding_window': True,
      'layer_types': [
        llama_config.SLIDING if window else llama_config.FULL
        for window in config.windows
      ],
    }
  elif kind != 'llama':
    described |= {'sliding_window': None, 'use_sliding_window': False}
  if kind == 'gemma3_text':
    del described['hidden_act']
    described |= {
      'hidden_activation': 'gelu_pytorch_tanh',
      'query_pre_attn_scalar': config.query_scale**-2,
      'rope_local_base_freq': config.local_rope_base,
    }
  return state, described


_ARCHITECTURES = {
  'llama': 'LlamaForCausalLM',
  'mistral': 'MistralForCausalLM',
  'qwen2': 'Qwen2ForCausalLM',
  'qwen3': 'Qwen3ForCausalLM',
  'gemma3_text': 'Gemma3ForCausalLM',
}


def _kind(config: llama.LlamaConfig) -> str:
  """The `model_type` of a configuration."""
  if config.post_norms:
    return 'gemma3_text'
  if config.qk_norm:
    return 'qwen3'
  if config.qkv_bias:
    return 'qwen2'
  return 'mistral' if any(config.windows) else 'llama'
