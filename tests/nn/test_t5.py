import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax.nn import t5
from rag_jax.ops import beam, trie

SIZES = {'width': 16, 'num_heads': 2, 'head_size': 8, 'mlp_dim': 24}
LAYERS = {'num_layers': 2, 'num_decoder_layers': 2}
VERSIONS = pytest.mark.parametrize(
  'version',
  [{'gated': False, 'tied': True}, {'gated': True, 'tied': False}],
  ids=['1.0', '1.1'],
)
encode = jax.jit(t5.encode, static_argnums=1)
decode = jax.jit(t5.decode, static_argnums=1)
start = jax.jit(t5.start, static_argnums=(1, 4))
step = jax.jit(t5.step, static_argnums=(1, 5))

VALUES, FIRST = 3, 2  # codes per level; token ID of code 0 at level 0


def model(vocab_size=20, seed=0, **version):
  """A random model with random norms and biases, and two questions."""
  config = t5.T5Config(vocab_size=vocab_size, **SIZES, **LAYERS, **version)
  params = jax.jit(t5.init, static_argnums=1)(jax.random.key(seed), config)
  leaves, structure = jax.tree.flatten(params)
  rng = np.random.default_rng(seed)
  leaves = [
    leaf + 0.3 * rng.normal(size=leaf.shape).astype(np.float32)
    for leaf in leaves
  ]
  tokens = rng.integers(0, vocab_size, (2, 7))
  where = np.arange(7) < np.array([[7], [4]])
  params = jax.tree.unflatten(structure, leaves)
  return params, config, jnp.asarray(tokens), jnp.asarray(where)


def test_attention_is_the_mean_over_the_heads():
  """Compared with NumPy, for one layer and the start token."""
  params, config, tokens, where = model()
  config = dataclasses.replace(config, num_decoder_layers=1)
  memory = encode(params, config, tokens, where)
  bias = jnp.where(jnp.arange(7) < 2, 1.5, 0.0) + jnp.zeros((2, 1))
  read = jnp.array([[0, 5], [0, 6]])
  attend = jax.jit(t5.attention, static_argnums=1)
  found = attend(params, config, memory, where, read, bias=bias)
  assert found.shape == (2, 2, 7)
  np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-5)
  assert not found[1, :, 4:].any()
  block = jax.tree.map(np.asarray, params['decoder']['block_0'])

  def norm(x, name):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * block[name]

  x = np.asarray(params['embedding'])[0]
  x = x + norm(x, 'norm') @ block['qkv'][:, 32:] @ block['out']
  query = (norm(x, 'cross_norm') @ block['cross_query']).reshape(2, 8)
  key = np.asarray(memory) @ block['cross_key_value'][:, :16]
  scores = np.einsum('hd,bqhd->bhq', query, key.reshape(2, 7, 2, 8))
  chances = np.exp(scores + np.asarray(bias)[:, None]) * where[:, None]
  chances /= chances.sum(-1, keepdims=True)
  np.testing.assert_allclose(found[:, 0], chances.mean(1), rtol=2e-4, atol=1e-7)


@VERSIONS
def test_steps_with_a_cache_equal_one_pass(version):
  params, config, tokens, where = model(**version)
  read = jnp.asarray(np.random.default_rng(1).integers(0, 20, (2, 3, 4)))
  read = read.at[:, :, 0].set(0)
  memory = encode(params, config, tokens, where)
  whole = jnp.stack(
    [decode(params, config, memory, where, read[:, k]) for k in range(3)], 1
  )
  shared, cache = start(params, config, memory, where, 4)
  for position in range(4):
    now = read[:, : 3 if position else 1, position]
    logits, cache = step(params, config, shared, cache, now, position)
    np.testing.assert_allclose(
      logits, whole[:, : now.shape[1], position], atol=2e-5
    )
    if not position:  # the root becomes three beams
      cache = beam.reorder(cache, jnp.zeros((2, 3), jnp.int32))


def test_fifty_greedy_steps_equal_the_argmax_of_one_pass():
  params, config, tokens, where = model()
  config = dataclasses.replace(config, num_decoder_layers=1)
  memory = encode(params, config, tokens, where)

  @jax.jit
  def greedy(params, memory, where):
    shared, cache = t5.start(params, config, memory, where, 50)
    found = [jnp.zeros((2, 1), jnp.int32)]
    for position in range(50):
      logits, cache = t5.step(
        params, config, shared, cache, found[-1], position
      )
      found.append(logits.argmax(-1))
    return jnp.concatenate(found, 1)

  found = greedy(params, memory, where)
  logits = decode(params, config, memory, where, found[:, :-1])
  assert len(np.unique(found)) > 3
  np.testing.assert_array_equal(logits.argmax(-1), found[:, 1:])


@VERSIONS
def test_logits_of_selected_output_rows(version):
  params, config, tokens, where = model(**version)
  memory = encode(params, config, tokens, where)
  whole = decode(params, config, memory, where, tokens)
  shared, cache = start(params, config, memory, where, 1)
  rows = np.array([5, 1])
  few, _ = step(params, config, shared, cache, tokens[:, :1], 0, rows=rows)
  np.testing.assert_allclose(few[:, 0], whole[:, 0][:, rows], atol=2e-5)


def test_padding_has_no_effect():
  params, config, tokens, where = model()
  other = jnp.where(where, tokens, 19 - tokens)
  read = jnp.zeros((2, 2), jnp.int32)
  results = []
  for query in (tokens, other):
    memory = encode(params, config, query, where)
    results.append(decode(params, config, memory, where, read))
  np.testing.assert_allclose(*results, atol=1e-6)


def test_the_decoder_is_causal():
  params, config, tokens, where = model()
  memory = encode(params, config, tokens, where)
  read = jnp.arange(8).reshape(2, 4)
  whole = decode(params, config, memory, where, read)
  other = decode(params, config, memory, where, read.at[:, 2:].set(9))
  np.testing.assert_allclose(whole[:, :2], other[:, :2], atol=1e-6)
  assert float(jnp.abs(whole - other)[:, 2:].max()) > 1e-2


@pytest.mark.parametrize('scoring', ['vocabulary', 'log_softmax'])
def test_beam_search_equals_brute_force(scoring):
  """Brute force scores every docid by a teacher-forced pass."""
  length = 3
  params, config, tokens, where = model(FIRST + length * VALUES, seed=3)
  rows = FIRST + np.arange(length * VALUES).reshape(length, VALUES)
  every = np.array(list(itertools.product(range(VALUES), repeat=length)))
  codes = np.random.default_rng(0).permutation(every)[:14]
  memory = encode(params, config, tokens, where)
  shared, cache = start(params, config, memory, where, length)
  search = functools.partial(
    beam.search,
    step_fn=t5.search_step(config, rows),
    batch_size=2,
    beam_size=14,
    scoring=scoring,
    logits=True,
  )
  found = jax.jit(search)((params, shared), cache, trie.build(codes))

  def repeat(x):
    return jnp.repeat(x, len(codes), axis=0)

  read = rows[np.arange(length), codes][:, :-1]
  read = np.pad(np.tile(read, (2, 1)), ((0, 0), (1, 0)))
  logits = np.asarray(
    decode(params, config, repeat(memory), repeat(where), jnp.asarray(read))
  ).reshape(2, len(codes), length, -1)
  totals = np.zeros((2, len(codes)))
  for b, d, level in np.ndindex(2, len(codes), length):
    code_logits = logits[b, d, level, rows[level]].astype(float)
    allowed = np.arange(VALUES)
    if scoring == 'log_softmax':  # the children of the prefix in the trie
      same = (codes[:, :level] == codes[d, :level]).all(1)
      allowed = np.unique(codes[same, level])
    norm = np.logaddexp.reduce(code_logits[allowed])
    totals[b, d] += code_logits[codes[d, level]] - norm
  order = np.argsort(-totals, axis=1)
  np.testing.assert_array_equal(found.documents, order)
  np.testing.assert_array_equal(found.codes, codes[order])
  np.testing.assert_allclose(
    found.scores, np.take_along_axis(totals, order, 1), atol=1e-4
  )


def test_init_preserves_the_variance():
  config = t5.T5Config(vocab_size=64, num_layers=2, num_decoder_layers=1)
  params = jax.jit(t5.init, static_argnums=1)(jax.random.key(0), config)
  tokens = jnp.arange(32).reshape(2, 16)
  memory = encode(params, config, tokens, tokens >= 0)
  assert 0.9 < float(memory.std()) < 1.1
  logits = decode(params, config, memory, tokens >= 0, tokens)
  assert 0.3 < float(logits.std()) < 3


def test_errors_name_the_field_the_value_and_the_remedy():
  with pytest.raises(ValueError, match='num_heads must be at least 1, got 0.'):
    t5.T5Config(num_heads=0)
  with pytest.raises(ValueError, match='max_distance must be above .* 16, got'):
    t5.T5Config(max_distance=16)
  params, config, tokens, where = model()
  memory = encode(params, config, tokens, where)
  with pytest.raises(ValueError, match='max_length must be at least 1, got 0'):
    t5.start(params, config, memory, where, 0)
  shared, cache = t5.start(params, config, memory, where, 1)
  with pytest.raises(ValueError, match='position must be 0, .* 1, got 2. '):
    t5.step(params, config, shared, cache, tokens[:, :1], 2)
