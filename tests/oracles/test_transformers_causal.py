"""Language models against transformers: small random checkpoints."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax.nn import llama, llama_config, llama_weights, weights

torch = pytest.importorskip('torch', reason='PyTorch is not installed')
transformers = pytest.importorskip(
  'transformers', reason='transformers is not installed'
)

SIZES = {
  'vocab_size': 61,
  'hidden_size': 32,
  'intermediate_size': 48,
  'num_hidden_layers': 4,
  'num_attention_heads': 4,
  'num_key_value_heads': 2,
  'max_position_embeddings': 128,
  'attn_implementation': 'eager',
}
LLAMA3 = {
  'rope_type': 'llama3',
  'rope_theta': 5e5,
  'factor': 8.0,
  'low_freq_factor': 1.0,
  'high_freq_factor': 4.0,
  'original_max_position_embeddings': 64,
}
LINEAR = {'rope_type': 'linear', 'factor': 2.0, 'rope_theta': 1e4}
GEMMA = {'head_dim': 16, 'query_pre_attn_scalar': 24, 'sliding_window': 5}
MODELS = {
  'llama': ('Llama', {}),
  'llama 3': ('Llama', {'rope_parameters': LLAMA3, 'head_dim': 16}),
  'linear': ('Llama', {'rope_parameters': LINEAR}),
  'mistral': ('Mistral', {'sliding_window': 5, 'head_dim': 16}),
  'mistral, all': ('Mistral', {'sliding_window': None}),
  'qwen2': ('Qwen2', {'tie_word_embeddings': True}),
  'qwen2, windows': (
    'Qwen2',
    {'use_sliding_window': True, 'sliding_window': 5, 'max_window_layers': 2},
  ),
  'qwen3': ('Qwen3', {'head_dim': 16}),
  'gemma3': (
    'Gemma3',
    GEMMA | {'sliding_window_pattern': 2},
  ),
  'gemma3, linear': (
    'Gemma3',
    GEMMA
    | {
      'layer_types': ['full_attention', *3 * ['sliding_attention']],
      'rope_parameters': {
        'full_attention': LINEAR,
        'sliding_attention': {'rope_type': 'default', 'rope_theta': 100.0},
      },
    },
  ),
}


def make(name):
  """A random model of transformers, with norms and biases that matter."""
  kind, options = MODELS[name]
  config = 'Gemma3TextConfig' if kind == 'Gemma3' else f'{kind}Config'
  config = getattr(transformers, config)(**SIZES | options)
  torch.manual_seed(0)
  model = getattr(transformers, f'{kind}ForCausalLM')(config).eval()
  with torch.no_grad():
    for key, weight in model.named_parameters():
      scale = 0.3 if weight.ndim == 2 else 0.2
      noise = scale * torch.randn_like(weight)
      weight.copy_(noise + (weight if 'norm' in key else 0))
  return model


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'float16'])
@pytest.mark.parametrize('name', MODELS)
def test_logits(tmp_path, name, dtype):
  model = make(name)
  if dtype != 'float32':
    if name not in ('llama 3', 'gemma3'):
      pytest.skip('two families show that files of half precision are read')
    model = model.to(getattr(torch, dtype))
  options = {'max_shard_size': '20KB'} if name in ('qwen2', 'gemma3') else {}
  model.save_pretrained(tmp_path, **options)
  # Not `model.float()`, whose rotary frequencies stay rounded.
  options = {'dtype': torch.float32, 'attn_implementation': 'eager'}
  model = type(model).from_pretrained(tmp_path, **options).eval()
  config = llama_config.read(tmp_path)
  params = llama_weights.from_state_dict(weights.read(tmp_path), config)
  rng = np.random.default_rng(0)
  tokens = rng.integers(1, SIZES['vocab_size'], (2, 40))
  with torch.no_grad():
    expected = model(torch.tensor(tokens)).logits.numpy()
    exact = model.double()(torch.tensor(tokens)).logits.numpy()
  apply = jax.jit(llama.apply, static_argnums=1)
  found = apply(params, config, jnp.asarray(tokens), jnp.ones((2, 40), bool))
  scale = np.abs(exact).max()
  error = np.abs(np.asarray(found) - exact).max() / scale
  theirs = np.abs(expected - exact).max() / scale
  print(f'{name} {dtype}: {error:.1e}, transformers {theirs:.1e}')
  assert error < 2e-5
  # A search reads the prompt once: the same by `prefill`, `step` and `follow`.
  start = 31
  where = jnp.ones((2, start), bool)
  logits, prompt, cache = llama.prefill(
    params, config, jnp.asarray(tokens[:, :start]), where, 9
  )
  np.testing.assert_allclose(
    logits, exact[:, start - 1], atol=2e-5 * scale, rtol=0
  )
  rest = jnp.asarray(tokens[:, None, start:])
  follow = llama.follow(params, config, prompt, rest)[:, 0]
  np.testing.assert_allclose(
    follow, exact[:, start:], atol=2e-5 * scale, rtol=0
  )
  step = jax.jit(llama.step, static_argnums=1)
  for i in range(9):
    logits, cache = step(params, config, prompt, cache, rest[:, :, i])
    np.testing.assert_allclose(
      logits[:, 0], exact[:, start + i], atol=2e-5 * scale, rtol=0
    )


def test_an_older_config_json_has_the_same_meaning(tmp_path):
  """Files before version 5 of transformers do not nest rotary options."""
  make('llama 3').save_pretrained(tmp_path)
  new = llama_config.read(tmp_path)
  path = tmp_path / 'config.json'
  values = json.loads(path.read_text())
  rope = values.pop('rope_parameters')
  values['rope_theta'] = rope.pop('rope_theta')
  values['rope_scaling'] = rope
  path.write_text(json.dumps(values))
  assert llama_config.read(tmp_path) == new
