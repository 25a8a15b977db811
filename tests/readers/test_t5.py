"""Fusion-in-decoder on a T5, compared with the T5 itself."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax import readers
from rag_jax.nn import generate, t5, t5_weights, weights
from rag_jax.readers import base
from rag_jax.readers import t5 as t5_reader

VOCAB = 40
CONFIG = base.ReaderConfig(
  kind='t5',
  width=16,
  num_layers=2,
  num_heads=2,
  mlp_dim=24,
  max_answer_tokens=6,
  weights='tiny',
)
READER = readers.make(CONFIG)
SIZES = t5.T5Config(
  vocab_size=VOCAB,
  width=16,
  num_layers=2,
  num_decoder_layers=1,
  num_heads=2,
  head_size=8,
  mlp_dim=24,
  gated=True,
  tied=False,
)
ANSWERS = jnp.array([[[7, 9, 0]], [[8, 0, 0]]])
TARGET = jnp.array([[7, 9, 1, 0], [8, 1, 0, 0]])
WEIGHTS = jnp.array([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]])
read = jax.jit(READER.read)


@jax.jit
def score(params, query, passages, weights, answers):
  memory = READER.read(params, query, passages)
  return READER.joint_log_likelihood(params, memory, weights, answers)


@pytest.fixture(scope='module')
def params():
  pretrained = jax.jit(t5.init, static_argnums=1)(jax.random.key(0), SIZES)
  # Larger weights than T5's initialisation, so that every input matters.
  pretrained = jax.tree.map(lambda x: 2 * x, pretrained)
  return READER.init(jax.random.key(1), vocab_size=VOCAB, pretrained=pretrained)


@pytest.fixture(scope='module')
def texts():
  rng = np.random.default_rng(0)
  query = rng.integers(2, VOCAB, (2, 6))
  query[:, 4] = t5_reader.END
  query[:, 5] = 0
  return jnp.asarray(query), jnp.asarray(rng.integers(2, VOCAB, (2, 3, 9)))


def test_one_passage_scores_as_in_the_original_t5(params, texts):
  query, passages = texts
  found = score(params, query, passages[:, :1], jnp.ones((2, 1)), ANSWERS)
  end = jnp.ones((2, 1), int)
  tokens = jnp.concatenate([query[:, :4], passages[:, 0], end], axis=1)
  real = jnp.ones(tokens.shape, bool)
  memory = t5.encode(params['t5'], SIZES, tokens, real)
  read = jnp.pad(TARGET[:, :-1], ((0, 0), (1, 0)))
  logits = t5.decode(params['t5'], SIZES, memory, real, read)
  chances = jax.nn.log_softmax(logits)
  wanted = jnp.take_along_axis(chances, TARGET[..., None], -1)[..., 0]
  wanted = jnp.where(TARGET > 0, wanted, 0)
  # Float32 sums differ with padding: about 30 units in the last place.
  np.testing.assert_allclose(found, wanted, rtol=4e-6, atol=1e-6)


def test_padding_and_duplicate_passages_change_nothing(params, texts):
  query, passages = texts
  plain = score(params, query, passages, WEIGHTS, ANSWERS)
  padded = score(
    params,
    jnp.pad(query, ((0, 0), (0, 3))),
    jnp.pad(passages, ((0, 0), (0, 0), (0, 4))),
    WEIGHTS,
    ANSWERS,
  )
  np.testing.assert_allclose(plain, padded, rtol=2e-5)
  twice = jnp.concatenate([passages, passages], axis=1)
  halves = jnp.concatenate([WEIGHTS / 4, WEIGHTS * 3 / 4], axis=1)
  split = score(params, query, twice, halves, ANSWERS)
  np.testing.assert_allclose(plain, split, rtol=2e-5)
  assert float(jnp.abs(plain - plain[:, ::-1]).max()) > 0.1


def test_only_passages_with_weight_count_and_get_gradients(params, texts):
  query, passages = texts
  other = passages.at[0, 2].set(5)
  np.testing.assert_array_equal(
    score(params, query, passages, WEIGHTS, ANSWERS),
    score(params, query, other, WEIGHTS, ANSWERS),
  )
  remat = readers.make(dataclasses.replace(CONFIG, remat=True))

  def total(weights, reader):
    memory = reader.read(params, query, passages)
    return reader.joint_log_likelihood(params, memory, weights, ANSWERS).sum()

  slopes = [
    jax.jit(jax.grad(total), static_argnums=1)(WEIGHTS, reader)
    for reader in (READER, remat)
  ]
  np.testing.assert_allclose(*slopes, atol=1e-5)
  assert bool(jnp.isfinite(slopes[0]).all())
  assert ((np.asarray(slopes[0]) != 0) == (np.asarray(WEIGHTS) > 0)).all()


def test_generated_scores_equal_teacher_forced_scores(params, texts):
  memory = read(params, *texts)
  found = jax.jit(READER.answer)(params, memory, WEIGHTS, WEIGHTS > 0)
  tokens = found.tokens
  assert tokens.shape == (2, 6)
  scores = score(params, *texts, WEIGHTS, tokens[:, None])
  ended = (tokens != 0).sum(1, keepdims=True) < 6
  real = (jnp.arange(7) < 6) | ended
  np.testing.assert_allclose(
    found.log_probability, (scores * real).sum(1), rtol=1e-4
  )
  np.testing.assert_array_equal(found.no_answer, -found.log_probability)
  assert found.place.tolist() == [0, 2] and (found.start == -1).all()


def test_sampling_the_best_token_is_greedy(params, texts):
  memory = read(params, *texts)
  keys = jax.random.split(jax.random.key(0), (2, 3))
  sample = jax.jit(READER.sample_each, static_argnums=3)
  best = sample(params, memory, keys, generate.Sampling(top_k=1))
  greedy = jax.jit(READER.answer_each)(params, memory)
  ended = (greedy != 0).sum(-1, keepdims=True) < 6
  np.testing.assert_array_equal(best, jnp.where(ended, greedy, 0))


def test_a_single_passage_equals_a_passage_of_weight_one(params, texts):
  memory = read(params, *texts)
  alone = jax.jit(READER.log_likelihood)(params, memory, ANSWERS)
  tokens = jax.jit(READER.answer_each)(params, memory)
  assert alone.shape == (2, 3, 4) and tokens.shape == (2, 3, 6)
  answer = jax.jit(READER.answer)
  for k in range(3):
    one = jnp.tile(jax.nn.one_hot(k, 3), (2, 1))
    joint = score(params, *texts, one, ANSWERS)
    np.testing.assert_allclose(alone[:, k], joint, rtol=2e-5, atol=1e-6)
    written = answer(params, memory, one, one > 0).tokens
    np.testing.assert_array_equal(tokens[:, k], written)
  assert float(jnp.abs(alone[:, 0] - alone[:, 1]).max()) > 1e-2


@pytest.mark.parametrize('joint', [True, False])
def test_a_gradient_step_lowers_the_answer_loss(
  params, texts, joint, losses_of_a_step
):
  def loss(params):
    if joint:
      return -score(params, *texts, WEIGHTS, ANSWERS).sum()
    memory = READER.read(params, *texts)
    return -READER.log_likelihood(params, memory, ANSWERS).sum()

  before, after = losses_of_a_step(loss, params, 0.01)
  assert after < before - 0.01


def test_attention_increases_with_the_weights(params, texts):
  memory = read(params, *texts)
  attend = jax.jit(READER.attention)
  shares = attend(params, memory, WEIGHTS, ANSWERS)
  np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-5)
  assert float(shares[0, 2]) == 0 and bool((shares >= 0).all())
  more = attend(params, memory, WEIGHTS.at[0].set([0.9, 0.1, 0]), ANSWERS)
  assert float(more[0, 0]) > float(shares[0, 0]) + 0.05
  assert not attend(params, memory, jnp.zeros((2, 3)), ANSWERS).any()
  one = jax.grad(lambda p: READER.attention(p, memory, WEIGHTS, ANSWERS).sum())
  assert not any(x.any() for x in jax.tree.leaves(one(params)))


class TestLoad:
  @pytest.fixture
  def folder(self, tmp_path, params):
    """The T5 in the files of Hugging Face."""
    weights.write(
      tmp_path / 'model.safetensors',
      t5_weights.to_state_dict(params['t5'], SIZES),
    )
    fields = {
      'model_type': 't5',
      'feed_forward_proj': 'gated-gelu',
      'tie_word_embeddings': False,
      'vocab_size': VOCAB,
      'd_model': 16,
      'num_layers': 2,
      'num_decoder_layers': 1,
      'num_heads': 2,
      'd_kv': 8,
      'd_ff': 24,
      'relative_attention_num_buckets': 32,
      'layer_norm_epsilon': 1e-6,
    }

    def write(**other):
      text = json.dumps(fields | other)
      (tmp_path / 'config.json').write_text(text, encoding='utf-8')
      return str(tmp_path)

    return write

  def test_load_returns_the_published_weights(self, folder, params):
    config = dataclasses.replace(CONFIG, weights=folder())
    found = readers.make(config).load()
    assert found.tokenizer is None
    jax.tree.map(np.testing.assert_array_equal, found.params, params['t5'])

  def test_load_reads_shards(self, folder, params, tmp_path):
    config = dataclasses.replace(CONFIG, weights=folder())
    shard = 'model-00001-of-00001.safetensors'
    state = weights.read(tmp_path)
    (tmp_path / 'model.safetensors').rename(tmp_path / shard)
    index = json.dumps({'weight_map': dict.fromkeys(state, shard)})
    (tmp_path / 'model.safetensors.index.json').write_text(index)
    found = readers.make(config).load()
    jax.tree.map(np.testing.assert_array_equal, found.params, params['t5'])

  def test_a_size_mismatch_raises(self, folder):
    config = dataclasses.replace(CONFIG, weights=folder(), mlp_dim=32)
    with pytest.raises(ValueError, match='reader.mlp_dim must be 24 as in'):
      readers.make(config).load()

  def test_an_unsupported_t5_raises(self, folder):
    config = dataclasses.replace(
      CONFIG, weights=folder(layer_norm_epsilon=1e-5)
    )
    with pytest.raises(ValueError, match='with epsilon 1e-06, got 1e-05 in'):
      readers.make(config).load()
