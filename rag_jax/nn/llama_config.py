"""Reads the configuration of a Llama from a config.json."""

import pathlib

from rag_jax.nn import llama, weights


def read(folder: weights.Path) -> llama.LlamaConfig:
  """The configuration of a Llama, from the config.json of a folder.

  Raises:
    ValueError: if it describes another kind of model.
  """
  names = {
    'vocab_size': 'vocab_size',
    'width': 'hidden_size',
    'num_layers': 'num_hidden_layers',
    'num_heads': 'num_attention_heads',
    'mlp_dim': 'intermediate_size',
    'epsilon': 'rms_norm_eps',
  }
  supported = {
    'model_type': ('llama',),
    'hidden_act': ('silu',),
    'rope_scaling': (None,),
  }
  sizes, fields = weights.read_config(folder, names, supported)
  heads = fields['num_heads']
  rope = sizes.get('rope_parameters') or sizes  # newer files nest it
  path = pathlib.Path(folder) / 'config.json'
  if not isinstance(rope, dict):
    raise ValueError(
      f'rope_parameters in {str(path)!r} must be an object, got '
      f'{repr(rope)[:60]}. Correct it, or download the file again.'
    )
  weights.check_size(path, 'rope_theta', rope.get('rope_theta', 1e4), float)
  if (kind := rope.get('rope_type', 'default')) != 'default':
    raise ValueError(
      f"rope_type in {str(folder)!r} must be 'default', got {kind!r}. Give the "
      'folder of a model without RoPE scaling.'
    )
  return llama.LlamaConfig(
    **fields,
    num_key_value_heads=sizes.get('num_key_value_heads') or heads,
    head_size=sizes.get('head_dim') or fields['width'] // heads,
    rope_base=rope.get('rope_theta', 1e4),
    tied=sizes.get('tie_word_embeddings', False),
  )
