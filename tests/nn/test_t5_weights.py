"""T5 weights in files, compared with the model of Hugging Face."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax.nn import t5, t5_weights, weights

SIZES = {'width': 16, 'num_heads': 2, 'head_size': 8, 'mlp_dim': 24}
LAYERS = {'num_layers': 3, 'num_decoder_layers': 2}
VERSIONS = pytest.mark.parametrize(
  'version',
  [
    {'gated': False, 'tied': True},
    {'gated': True, 'tied': False},
    {'gated': True, 'tied': True},
  ],
  ids=['1.0', '1.1', 'gated-tied'],
)
encode = jax.jit(t5.encode, static_argnums=1)
decode = jax.jit(t5.decode, static_argnums=1)
LENGTH = 50  # tokens generated


def draw(**version):
  config = t5.T5Config(vocab_size=40, **SIZES, **LAYERS, **version)
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(lambda: t5.init(jax.random.key(0), config))
  params = jax.tree.map(
    lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes
  )
  return params, config


@VERSIONS
def test_export_and_import_are_inverse(tmp_path, version):
  params, config = draw(**version)
  state = t5_weights.to_state_dict(params, config)
  weights.write(tmp_path / 'model.safetensors', state)
  again = t5_weights.from_state_dict(weights.read(tmp_path), config)
  same = jax.tree.map(lambda x, y: bool((x == y).all()), params, again)
  assert jax.tree.all(same)


def test_a_tied_output_matrix_must_equal_the_embedding():
  params, config = draw()
  state = t5_weights.to_state_dict(params, config)
  state['lm_head.weight'] = state['encoder.embed_tokens.weight'] = state[
    'shared.weight'
  ]
  assert 'output' not in t5_weights.from_state_dict(state, config)
  state['lm_head.weight'] = state['lm_head.weight'] + 1
  with pytest.raises(ValueError, match='must equal shared.* Set tied=False'):
    t5_weights.from_state_dict(state, config)


def test_one_error_lists_all_mismatches():
  _, config = draw()
  with pytest.raises(ValueError, match='the 55 tensors .* 55 missing .* 1 une'):
    t5_weights.from_state_dict({'a': np.ones(1)}, config)


@VERSIONS
def test_states_and_texts_equal_those_of_transformers(tmp_path, version):
  """With questions long enough to reach the last position bucket."""
  torch = pytest.importorskip('torch', reason='PyTorch is not installed')
  transformers = pytest.importorskip(
    'transformers', reason='transformers is not installed'
  )
  theirs = transformers.T5ForConditionalGeneration(
    transformers.T5Config(
      vocab_size=40,
      d_model=SIZES['width'],
      d_kv=SIZES['head_size'],
      d_ff=SIZES['mlp_dim'],
      num_heads=SIZES['num_heads'],
      **LAYERS,
      feed_forward_proj='gated-gelu' if version['gated'] else 'relu',
      tie_word_embeddings=version['tied'],
      decoder_start_token_id=0,
      eos_token_id=None,
    )
  ).eval()
  # A seed with which no version repeats one token only.
  generator = torch.Generator().manual_seed(16)
  with torch.no_grad():
    if not version['tied']:
      theirs.lm_head.weight = torch.nn.Parameter(torch.empty(40, 16))
    for name, weight in theirs.named_parameters():
      # With larger weights, float32 differs from float64 by more than 2e-5.
      scale = 0.2 if weight.ndim == 2 else 0.1
      weight.normal_(float('norm' in name), scale, generator=generator)
  theirs.save_pretrained(tmp_path)
  config = weights.t5_config(tmp_path)
  params = t5_weights.from_state_dict(weights.read(tmp_path), config)
  assert config == draw(**version)[1]

  rng = np.random.default_rng(0)
  tokens, read = rng.integers(0, 40, (2, 150)), rng.integers(0, 40, (2, 140))
  where = np.arange(150) < np.array([[150], [90]])
  inputs = {
    'input_ids': torch.tensor(tokens),
    'attention_mask': torch.tensor(where).long(),
  }
  with torch.no_grad():
    expected = theirs(**inputs, decoder_input_ids=torch.tensor(read))
    written = theirs.generate(
      **inputs, max_new_tokens=LENGTH, do_sample=False, num_beams=1
    ).numpy()[:, 1:]
  where = jnp.asarray(where)
  memory = encode(params, config, jnp.asarray(tokens), where)
  states = expected.encoder_last_hidden_state.numpy()
  np.testing.assert_allclose(memory[where], states[where], atol=2e-5)
  logits = decode(params, config, memory, where, jnp.asarray(read))
  assert expected.logits.abs().max() > 0.5
  np.testing.assert_allclose(logits, expected.logits.numpy(), atol=2e-5)

  # Each generated token is the argmax given those before it.
  read = np.zeros_like(read)  # the shape that is compiled already
  read[:, 1 : LENGTH + 1] = written
  logits = decode(params, config, memory, where, jnp.asarray(read))
  assert written.shape == (2, LENGTH) and len(np.unique(written)) > 5
  np.testing.assert_array_equal(logits[:, :LENGTH].argmax(-1), written)

  (tmp_path / 'model.safetensors').unlink()
  state = t5_weights.to_state_dict(jax.tree.map(jnp.negative, params), config)
  weights.write(tmp_path / 'model.safetensors', state)
  again = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path)
  again = again.state_dict()
  for name, array in state.items():
    np.testing.assert_array_equal(again[name], array)
