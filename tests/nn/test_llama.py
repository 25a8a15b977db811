import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax.nn import generate, llama, llama_weights
from rag_jax.ops import beam

SIZES = {
  'vocab_size': 40,
  'width': 24,
  'num_layers': 2,
  'num_heads': 6,
  'num_key_value_heads': 2,
  'head_size': 4,
  'mlp_dim': 32,
}
VERSIONS = pytest.mark.parametrize('tied', [True, False], ids=['tied', 'apart'])
apply = jax.jit(llama.apply, static_argnums=1)
prefill = jax.jit(llama.prefill, static_argnums=(1, 4))
step = jax.jit(llama.step, static_argnums=1)
follow = jax.jit(llama.follow, static_argnums=1)


def model(seed=0, tied=True, **sizes):
  """A random model with random norms, and two prompts, padded right."""
  config = llama.LlamaConfig(tied=tied, **(SIZES | sizes))
  params = jax.jit(llama.init, static_argnums=1)(jax.random.key(seed), config)
  leaves, structure = jax.tree.flatten(params)
  rng = np.random.default_rng(seed)
  leaves = [
    leaf + 0.2 * rng.normal(size=leaf.shape).astype(np.float32)
    for leaf in leaves
  ]
  tokens = rng.integers(0, config.vocab_size, (2, 7))
  where = np.arange(7) < np.array([[7], [4]])
  params = jax.tree.unflatten(structure, leaves)
  return params, config, jnp.asarray(tokens), jnp.asarray(where)


def join(prompt, count, read):
  """Concatenates a prompt and a continuation, padded to 12 tokens."""
  row = jnp.concatenate([prompt[:count], read])
  where = jnp.arange(12) < len(row)
  return jnp.pad(row, (0, 12 - len(row)))[None], where[None]


@VERSIONS
def test_step_and_follow_equal_one_pass(tied):
  params, config, tokens, where = model(tied=tied)
  read = jnp.asarray(np.random.default_rng(1).integers(0, 40, (2, 3, 4)))
  first, prompt, cache = prefill(params, config, tokens, where, 5)
  whole = follow(params, config, prompt, read)
  for b, count in enumerate((7, 4)):
    for k in range(3):
      alone = apply(params, config, *join(tokens[b], count, read[b, k]))[0]
      np.testing.assert_allclose(first[b], alone[count - 1], atol=2e-5)
      np.testing.assert_allclose(
        whole[b, k], alone[count : count + 4], atol=2e-5
      )
  cache = beam.reorder(cache, jnp.zeros((2, 3), jnp.int32))
  for i in range(4):
    logits, cache = step(params, config, prompt, cache, read[:, :, i])
    np.testing.assert_allclose(logits, whole[:, :, i], atol=2e-5)
  assert cache['taken'].tolist() == [[4] * 3] * 2


def test_padding_on_either_side_has_no_effect():
  params, config, tokens, where = model()
  right = apply(params, config, tokens, where)[1, :4]
  padded_left = jnp.roll(tokens[1], 3)[None], jnp.roll(where[1], 3)[None]
  left = apply(params, config, *padded_left)[0, 3:]
  alone = apply(params, config, tokens[1:, :4], where[1:, :4])[0]
  np.testing.assert_allclose(right, alone, atol=1e-5)
  np.testing.assert_allclose(left, alone, atol=1e-5)
  first, prompt, _ = prefill(params, config, *padded_left, 1)
  np.testing.assert_allclose(first[0], alone[-1], atol=1e-5)
  after = follow(params, config, prompt, jnp.array([[[5, 6]]]))[0, 0]
  whole = apply(params, config, *join(tokens[1], 4, jnp.array([5, 6])))[0, 4:6]
  np.testing.assert_allclose(after, whole, atol=1e-5)


@VERSIONS
def test_sizes_recovers_the_configuration(tied):
  params, config, _, _ = model(tied=tied, rope_base=1e4, epsilon=1e-6)
  given = {'num_heads': 6, 'rope_base': 1e4, 'epsilon': 1e-6}
  assert llama.sizes(params, **given) == config


def test_logits_at_given_places():
  params, config, tokens, where = model()
  whole = apply(params, config, tokens, where)
  places = jnp.array([[6, 0], [3, 1]])
  few = apply(params, config, tokens, where, places=places)
  rows = jnp.arange(2)[:, None]
  np.testing.assert_allclose(few, whole[rows, places], atol=1e-5)


def test_attention_is_causal():
  params, config, tokens, where = model()
  whole = apply(params, config, tokens, where)
  other = apply(params, config, tokens.at[:, 2:].set(9), where)
  np.testing.assert_allclose(whole[:, :2], other[:, :2], atol=1e-6)
  assert float(jnp.abs(whole - other)[:, 2:].max()) > 1e-2


def test_export_and_import_are_inverse():
  params, config, _, _ = model(tied=False)
  state = llama_weights.to_state_dict(params, config)
  assert state['model.layers.1.self_attn.k_proj.weight'].shape == (8, 24)
  again = llama_weights.from_state_dict(state, config)
  jax.tree.map(np.testing.assert_array_equal, params, again)
  assert jax.tree.structure(params) == jax.tree.structure(again)


def test_errors_name_the_field_the_value_and_the_remedy():
  with pytest.raises(ValueError, match='num_layers must be at least 1, got 0.'):
    llama.LlamaConfig(num_layers=0)
  with pytest.raises(ValueError, match='a multiple of .* 3, got 8. Equal'):
    llama.LlamaConfig(num_heads=8)
  with pytest.raises(ValueError, match='head_size must be even, got 7.'):
    llama.LlamaConfig(head_size=7)
  params, config, tokens, where = model()
  with pytest.raises(ValueError, match='max_length must be at least 1, got 0'):
    llama.prefill(params, config, tokens, where, 0)
  with pytest.raises(ValueError, match='20 missing .*, 1 unexpected .a.'):
    llama_weights.from_state_dict({'a': tokens}, config)


@VERSIONS
def test_logits_equal_those_of_transformers(tied):
  """With padded prompts and grouped-query attention."""
  torch = pytest.importorskip('torch', reason='PyTorch is not installed')
  transformers = pytest.importorskip(
    'transformers', reason='transformers is not installed'
  )
  params, config, _, _ = model(tied=tied)
  theirs = their_model(torch, transformers, params, config)
  rng = np.random.default_rng(0)
  tokens = rng.integers(0, 40, (2, 90))
  where = np.arange(90) < np.array([[90], [60]])
  with torch.no_grad():
    expected = theirs(
      input_ids=torch.tensor(tokens),
      attention_mask=torch.tensor(where).long(),
    ).logits.numpy()
  logits = apply(params, config, jnp.asarray(tokens), jnp.asarray(where))
  assert np.abs(expected).max() > 0.5
  np.testing.assert_allclose(logits[where], expected[where], atol=2e-5)


def their_model(torch, transformers, params, config):
  """A `LlamaForCausalLM` with our weights."""
  theirs = transformers.LlamaForCausalLM(
    transformers.LlamaConfig(
      vocab_size=config.vocab_size,
      hidden_size=config.width,
      intermediate_size=config.mlp_dim,
      num_hidden_layers=config.num_layers,
      num_attention_heads=config.num_heads,
      num_key_value_heads=config.num_key_value_heads,
      head_dim=config.head_size,
      rope_parameters={
        'rope_type': 'default',
        'rope_theta': config.rope_base,
      },
      rms_norm_eps=config.epsilon,
      tie_word_embeddings=config.tied,
      bos_token_id=1,
      eos_token_id=2,
      pad_token_id=0,
    )
  ).eval()
  state = llama_weights.to_state_dict(params, config)
  state = {name: torch.tensor(array) for name, array in state.items()}
  missing, spare = theirs.load_state_dict(state, strict=False)
  assert missing == (['lm_head.weight'] if config.tied else []) and not spare
  return theirs


@VERSIONS
def test_generated_texts_equal_those_of_transformers(tied):
  """Fifty tokens, greedy and with four beams, prompts padded left."""
  torch = pytest.importorskip('torch', reason='PyTorch is not installed')
  transformers = pytest.importorskip(
    'transformers', reason='transformers is not installed'
  )
  params, config, _, _ = model(tied=tied, seed=5)
  theirs = their_model(torch, transformers, params, config)
  tokens = np.random.default_rng(0).integers(3, 40, (3, 9))
  where = np.arange(9) >= np.array([[0], [4], [2]])

  @functools.partial(jax.jit, static_argnums=(1, 4))
  def generate_texts(params, config, tokens, where, size):
    logits, prompt, cache = llama.prefill(params, config, tokens, where, 50)
    step_fn = functools.partial(llama.step, params, config, prompt)
    options = {'end_token': 2, 'max_length': 50}
    if size == 1:
      return generate.greedy(step_fn, logits, cache, **options)
    return generate.beam(
      step_fn, logits, cache, beam_size=size, length_penalty=1.0, **options
    )

  for size in (1, 4):
    found = generate_texts(
      params, config, jnp.asarray(tokens), jnp.asarray(where), size
    )
    with torch.no_grad():
      expected = theirs.generate(
        input_ids=torch.tensor(tokens),
        attention_mask=torch.tensor(where).long(),
        max_new_tokens=50,
        do_sample=False,
        num_beams=size,
      )[:, 9:].numpy()
    length = expected.shape[1]
    np.testing.assert_array_equal(found.tokens[:, 0, :length], expected)
    assert not found.where[:, 0, length:].any()
