"""A T5 and a Llama in published form are read as they were written."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from rag_jax.nn import (
  llama,
  llama_config,
  llama_weights,
  published_form,
  t5,
  t5_weights,
  weights,
)

SMALL = {'vocab_size': 30, 'width': 16, 'num_layers': 1, 'mlp_dim': 24}


def write(folder, state, described):
  weights.write(folder / 'model.safetensors', state)
  (folder / 'config.json').write_text(json.dumps(described))
  return weights.read(folder / 'model.safetensors')


@pytest.mark.parametrize(
  'options',
  [
    {'num_heads': 3, 'head_size': 4},
    {'gated': True, 'tied': False, 'num_buckets': 8, 'max_distance': 64}
    | {'num_heads': 2, 'head_size': 8, 'epsilon': 1e-5},
  ],
)
def test_t5(options, tmp_path):
  config = t5.T5Config(**SMALL, num_decoder_layers=2, **options)
  params = t5.init(jax.random.key(0), config)
  state = write(tmp_path, *published_form.of_t5(params, config))
  assert weights.t5_config(tmp_path) == config
  found = t5_weights.from_state_dict(state, config)
  jax.tree.map(np.testing.assert_array_equal, found, params)


@pytest.mark.parametrize(
  'options',
  [
    {},
    {'tied': False, 'rope_divisors': (4.0,) * 3},
    {'windows': (0, 5)},
    {'qkv_bias': True},
    {'qkv_bias': True, 'windows': (5, 0)},
    {'qk_norm': True},
    {
      'qk_norm': True,
      'post_norms': True,
      'activation': 'gelu_tanh',
      'embedding_scale': 4.0,
      'query_scale': 0.25,
      'windows': (5, 0),
      'local_rope_base': 1e4,
    },
  ],
)
def test_a_language_model(options, tmp_path):
  config = llama.LlamaConfig(
    **SMALL | {'num_layers': 2},
    num_heads=4,
    num_key_value_heads=2,
    head_size=6,  # not the width over the number of heads
    rope_base=3e4,
    epsilon=1e-6,
    **options,
  )
  params = llama.init(jax.random.key(0), config)
  form = published_form.of_language_model(params, config, end_token=2)
  state = write(tmp_path, *form)
  assert llama_config.read(tmp_path) == config
  found = llama_weights.from_state_dict(state, config)
  jax.tree.map(np.testing.assert_array_equal, found, params)


def test_scaling_that_no_field_describes_is_left_out():
  config = llama.LlamaConfig(
    **SMALL, num_heads=1, num_key_value_heads=1, head_size=4
  )
  config = dataclasses.replace(config, rope_divisors=(1.0, 8.0))
  params = llama.init(jax.random.key(0), config)
  state, about = published_form.of_language_model(params, config, end_token=2)
  assert state and not about
