"""The families of language models: folders, GGUF files, and logits."""

import dataclasses
import json
import shutil
import sys
import types

import jax
import jax.numpy as jnp
import language_models
import ml_dtypes
import numpy as np
import pytest

from rag_jax.nn import llama, llama_config, llama_weights

FAMILIES = tuple(language_models.FIELDS)
TOKENS = np.random.default_rng(5).integers(0, language_models.VOCAB, (1, 24))
# Logits of six tokens at places 11 and 23, from transformers 5.24.0, float32.
EXPECTED = {
  'llama': [
    [0.242176, -1.603307, -0.803313, 0.689587, 1.52687, 1.99503],
    [-0.866925, 0.625827, 0.147554, -1.645607, -0.714194, 1.894034],
  ],
  'llama3': [
    [-0.447417, 0.226458, -1.262851, 0.332552, -0.569248, -0.478196],
    [2.630759, 1.730045, 0.672716, 0.327918, 2.504894, 1.73253],
  ],
  'mistral': [
    [-1.785524, -0.0681, 1.399921, -1.221981, -1.725528, -1.351162],
    [-0.673287, 0.113924, 0.204165, -1.936471, 0.932203, 0.627322],
  ],
  'qwen2': [
    [-0.386438, 1.126833, 1.262149, 0.985232, 1.873399, -1.432412],
    [-1.921591, 1.024968, 1.438581, 0.523965, 1.358992, 1.251046],
  ],
  'qwen3': [
    [0.821167, 1.737244, -2.176189, -1.501587, -0.6252, -3.121902],
    [-0.46093, 0.561992, -3.317489, -0.909086, -0.634763, -1.724454],
  ],
  'gemma3': [
    [2.706064, -0.305902, -1.094225, -0.917728, -2.109052, 0.708477],
    [-1.027695, -0.454133, -1.118705, -0.379027, 1.39948, -0.80515],
  ],
}
apply = jax.jit(llama.apply, static_argnums=1)


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
  """Each family as a folder, and loaded."""
  parent = tmp_path_factory.mktemp('families')
  found = {}
  for family in FAMILIES:
    shards = 2 if family in ('qwen2', 'gemma3') else 1
    folder = parent / family
    language_models.write_folder(folder, family, shards=shards)
    found[family] = folder, llama_weights.load(folder)
  return found


@pytest.mark.parametrize('family', FAMILIES)
def test_logits_equal_those_of_transformers(folders, family):
  params, config, _ = folders[family][1]
  tokens = jnp.asarray(TOKENS)
  logits = apply(params, config, tokens, tokens >= 0)[0]
  found = np.asarray(logits[jnp.array([11, 23]), :6])
  scale = np.abs(np.asarray(logits)).max()
  np.testing.assert_allclose(found, EXPECTED[family], atol=2e-5 * scale, rtol=0)


@pytest.mark.parametrize('family', FAMILIES)
def test_a_gguf_file_has_the_same_model(folders, family, tmp_path):
  path = tmp_path / 'model.gguf'
  language_models.write_gguf(path, family)
  folder, found = folders[family]
  params, config, tokenizer = llama_weights.load(path)
  close = jax.tree.map(lambda x, y: np.abs(x - y).max(), params, found.params)
  assert max(jax.tree.leaves(close)) <= (1e-7 if family == 'gemma3' else 0)
  ours, theirs = map(dataclasses.asdict, (config, found.config))
  for name in ('epsilon', 'rope_divisors', 'query_scale'):  # as float32
    own = ours.pop(name) or config.head_size**-0.5
    other = theirs.pop(name) or config.head_size**-0.5
    np.testing.assert_allclose(own, other, rtol=1e-6)
  assert ours == theirs
  text = 'the thes  12345, été\n\n \u4e16 I\u2019ll<|im_end|> the'
  for special in (False, True):
    ids = tokenizer.encode(text, add_special_tokens=special).ids
    expected = found.tokenizer.encode(text, add_special_tokens=special)
    assert ids == expected.ids
  assert tokenizer.decode(ids) == found.tokenizer.decode(ids)
  ours, theirs = map(llama_weights.describe, (path, folder))
  assert ours.config == config and theirs.config == found.config
  assert ours[2:] == theirs[2:]
  assert ours.end == language_models.END[family]


@pytest.mark.parametrize('kind, bound', [('F16', 1e-3), ('Q8_0', 2e-2)])
def test_the_error_of_quantised_weights_is_bounded(
  monkeypatch, tmp_path, kind, bound
):
  wide = language_models.FIELDS['qwen2'] | {'hidden_size': 32}
  monkeypatch.setitem(language_models.FIELDS, 'qwen2', wide)
  models = []
  for own in (None, kind):
    path = language_models.write_gguf(
      tmp_path / f'{own}.gguf', 'qwen2', quantised=own
    )
    models.append(llama_weights.load(path))
  exact, found = (
    np.asarray(model.params['block_0']['qkv']) for model in models
  )
  error = np.abs(exact - found).max()
  assert 0 < error < bound


@pytest.mark.parametrize('dtype', [np.float16, ml_dtypes.bfloat16])
def test_half_precision_becomes_single_precision(folders, tmp_path, dtype):
  language_models.write_folder(tmp_path, 'gemma3', dtype=dtype)
  exact = folders['gemma3'][1].params['block_0']['out']
  found = llama_weights.load(tmp_path).params['block_0']['out']
  np.testing.assert_array_equal(found, np.asarray(exact).astype(dtype))
  assert found.dtype == np.float32


@pytest.mark.parametrize(
  'family, changes, words',
  [
    ('llama', {'model_type': 'mixtral'}, 'model_type .*qwen3.* .mixtral.'),
    (
      'llama',
      {'rope_scaling': {'rope_type': 'yarn', 'factor': 2}},
      "got 'yarn'",
    ),
    ('llama', {'rope_scaling': {'type': 'dynamic', 'factor': 2}}, "'dynamic'"),
    ('llama', {'rope_scaling': {'type': 'longrope'}}, "'longrope'"),
    (
      'llama3',
      {'rope_scaling': {'rope_type': 'llama3', 'factor': 2}},
      'low_fr',
    ),
    ('llama', {'quantization_config': {'bits': 4}}, 'quantization_config'),
    ('llama', {'attention_bias': True}, 'attention_bias'),
    ('llama', {'mlp_bias': True}, 'mlp_bias'),
    ('mistral', {'num_local_experts': 8}, 'num_local_experts'),
    ('mistral', {'sliding_window': 'x'}, 'sliding_window'),
    ('qwen3', {'layer_types': ['linear_attention'] * 3}, 'layer_types'),
    ('qwen3', {'layer_types': ['full_attention']}, 'layer_types .* hold 3'),
    ('qwen2', {'partial_rotary_factor': 0.5}, 'partial_rotary_factor'),
    ('gemma3', {'final_logit_softcapping': 30.0}, 'final_logit_softcapping'),
    ('gemma3', {'use_bidirectional_attention': True}, 'use_bidirectional'),
    ('gemma3', {'hidden_activation': 'relu'}, 'hidden_activation'),
    ('gemma3', {'model_type': 'gemma3'}, 'gemma3_text.* got .gemma3.'),
  ],
)
def test_what_is_not_supported_is_refused_by_name(
  tmp_path, family, changes, words
):
  fields = language_models.FIELDS[family] | changes
  (tmp_path / 'config.json').write_text(json.dumps(fields))
  with pytest.raises(ValueError, match=words) as error:
    llama_config.read(tmp_path)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('family', ['llama', 'gemma3'])  # one file, shards
def test_a_repository_on_the_hub_is_downloaded(
  folders, tmp_path, monkeypatch, family
):
  """Each file comes alone, into a cache that begins empty."""
  folder, found = folders[family]
  cache = tmp_path / 'cache'

  def hf_hub_download(name, filename):
    assert name == f'maker/{family}'
    if not (folder / filename).exists():
      raise FileNotFoundError(filename)
    cache.mkdir(exist_ok=True)
    return shutil.copy(folder / filename, cache / filename)

  hub = types.SimpleNamespace(hf_hub_download=hf_hub_download)
  monkeypatch.setitem(sys.modules, 'huggingface_hub', hub)
  loaded = llama_weights.load(f'maker/{family}')
  jax.tree.map(np.testing.assert_array_equal, loaded.params, found.params)
  ours = llama_weights.describe(f'maker/{family}')
  assert ours[2:] == llama_weights.describe(folder)[2:]


def test_an_adapter_is_refused(folders, tmp_path):
  language_models.write_folder(tmp_path, 'llama')
  (tmp_path / 'adapter_config.json').write_text('{}')
  with pytest.raises(ValueError, match=r'got adapter_config.json.* Merge'):
    llama_weights.load(tmp_path)


@pytest.mark.parametrize('name', ['expert_count', 'rope.scaling.type'])
def test_what_a_gguf_file_says_is_honoured_or_refused(tmp_path, name):
  path = tmp_path / 'model.gguf'
  language_models.write_gguf(path, 'llama', fields=[(name, 'yarn')])
  with pytest.raises(ValueError, match=f"{name}|rotary.*, got 'yarn'"):
    llama_weights.load(path)


def test_a_window_counts_tokens_and_not_padding(folders):
  """Prompts have padding between the passage and the question."""
  params, config, _ = folders['mistral'][1]
  tokens = jnp.asarray(TOKENS)
  expected = apply(params, config, tokens, tokens >= 0)[0, -1]
  gap = jnp.insert(tokens, jnp.array([0, 7, 7, 7, 15]), 0, axis=1)
  where = jnp.insert(tokens >= 0, jnp.array([0, 7, 7, 7, 15]), False, axis=1)
  found = apply(params, config, gap, where)[0, -1]
  np.testing.assert_allclose(found, expected, atol=1e-4)
  cut = jnp.asarray(where.at[0, -3:].set(False))
  prefill = jax.jit(llama.prefill, static_argnums=(1, 4))
  step, follow = (
    jax.jit(f, static_argnums=1) for f in (llama.step, llama.follow)
  )
  logits, prompt, cache = prefill(params, config, gap, cut, 4)
  found = follow(params, config, prompt, tokens[:, None, -3:])
  for i in range(3):
    logits, cache = step(params, config, prompt, cache, tokens[:, None, -3 + i])
    np.testing.assert_allclose(logits[:, 0], found[:, 0, i], atol=1e-4)
  np.testing.assert_allclose(logits[0, 0], expected, atol=1e-4)
