import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rag_jax import readers
from rag_jax.nn import generate
from rag_jax.readers import base, fid

VOCAB = 40
READER = readers.make(
  base.ReaderConfig(
    kind='fid',
    width=16,
    num_layers=1,
    num_heads=2,
    mlp_dim=16,
    max_answer_tokens=4,
  )
)
WEIGHTS = jnp.array([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]])
ANSWERS = jnp.array([[[7, 0, 0]], [[8, 9, 0]]])
read = jax.jit(READER.read)


@jax.jit
def score(params, query, passages, weights, answers):
  memory = READER.read(params, query, passages)
  return READER.joint_log_likelihood(params, memory, weights, answers)


@pytest.fixture(scope='module')
def params():
  init = jax.jit(READER.init, static_argnames='vocab_size')
  return init(jax.random.key(0), vocab_size=VOCAB)


def test_generated_scores_equal_teacher_forced_scores(params, texts):
  memory = read(params, *texts)
  found = jax.jit(READER.answer)(params, memory, WEIGHTS, WEIGHTS > 0)
  tokens = found.tokens
  assert tokens.shape == (2, 4)
  scores = score(params, *texts, WEIGHTS, tokens[:, None])
  # The end token counts only if it was generated.
  ended = (tokens != 0).sum(1, keepdims=True) < 4
  real = (jnp.arange(5) < 4) | ended
  np.testing.assert_allclose(
    found.log_probability, (scores * real).sum(1), rtol=1e-4
  )
  np.testing.assert_array_equal(found.no_answer, -found.log_probability)
  assert found.place.tolist() == [0, 2]
  assert (found.start == -1).all() and (found.end == -1).all()


def test_answer_each_equals_answering_from_each_passage_alone(params, texts):
  memory = read(params, *texts)
  tokens = jax.jit(READER.answer_each)(params, memory)
  assert tokens.shape == (2, 3, 4)
  answer = jax.jit(READER.answer)
  for k in range(3):
    one = jnp.tile(jax.nn.one_hot(k, 3), (2, 1))
    alone = answer(params, memory, one, one > 0)
    np.testing.assert_array_equal(tokens[:, k], alone.tokens)


def test_a_passage_of_weight_zero_is_ignored(params, texts):
  query, passages = texts
  weights = jnp.array([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])
  other = passages.at[:, 2].set(5)
  np.testing.assert_array_equal(
    score(params, query, passages, weights, ANSWERS),
    score(params, query, other, weights, ANSWERS),
  )


def test_the_answer_loss_has_gradients_for_positive_weights(params, texts):
  def loss(weights):
    return -score(params, *texts, weights, ANSWERS).sum()

  gradient = jax.grad(loss)(WEIGHTS)
  assert bool(jnp.isfinite(gradient).all())
  assert bool((gradient != 0)[WEIGHTS > 0].all())
  assert float(gradient[0, 2]) == 0


def test_padding_after_the_answer_has_log_likelihood_zero(params, texts):
  scores = score(params, *texts, jnp.ones((2, 3)) / 3, ANSWERS)
  target = base.with_end(ANSWERS[:, 0], fid.EOS)
  assert target.tolist() == [[7, 2, 0, 0], [8, 9, 2, 0]]
  assert bool((scores[target == 0] == 0).all())
  assert bool((scores[target != 0] < 0).all())


def test_a_single_passage_equals_a_passage_of_weight_one(params, texts):
  memory = read(params, *texts)
  alone = jax.jit(READER.log_likelihood)(params, memory, ANSWERS)
  assert alone.shape == (2, 3, 4)
  for k in range(3):
    one = jnp.tile(jax.nn.one_hot(k, 3), (2, 1))
    joint = score(params, *texts, one, ANSWERS)
    np.testing.assert_allclose(alone[:, k], joint, rtol=1e-5, atol=1e-6)
  assert float(jnp.abs(alone[:, 0] - alone[:, 1]).max()) > 1e-3


@pytest.mark.parametrize('joint', [True, False])
def test_a_gradient_step_lowers_the_answer_loss(
  params, texts, joint, losses_of_a_step
):
  def loss(params):
    if joint:
      return -score(params, *texts, WEIGHTS, ANSWERS).sum()
    memory = READER.read(params, *texts)
    return -READER.log_likelihood(params, memory, ANSWERS).sum()

  before, after = losses_of_a_step(loss, params, 0.1)
  assert after < before - 0.01


def test_attention_increases_with_the_weights(params, texts):
  memory = read(params, *texts)
  attend = jax.jit(READER.attention)
  shares = attend(params, memory, WEIGHTS, ANSWERS)
  np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-5)
  assert float(shares[0, 2]) == 0 and bool((shares >= 0).all())
  # Log weights are added to the attention scores.
  more = attend(params, memory, WEIGHTS.at[0].set([0.9, 0.1, 0]), ANSWERS)
  assert float(more[0, 0]) > float(shares[0, 0]) + 0.1
  none = attend(params, memory, jnp.zeros((2, 3)), ANSWERS)
  assert not none.any()
  one = jax.grad(lambda p: READER.attention(p, memory, WEIGHTS, ANSWERS).sum())
  assert not any(x.any() for x in jax.tree.leaves(one(params)))


def test_attention_against_a_computation_by_hand(params, texts):
  """With one layer, the queries depend only on the prefix."""
  memory = read(params, *texts)
  shares = READER.attention(params, memory, WEIGHTS, jnp.zeros((2, 1, 1), int))
  # The target is only the end token, so the decoder input is only BOS.
  block = params['decoder']['block_0']
  x = params['embedding']['embedding'][jnp.full((2,), fid.BOS)]

  def norm(x, name):
    size = jax.lax.rsqrt((x**2).mean(-1, keepdims=True) + 1e-6)
    return x * size * block[name]['scale']

  attention = block['attention']
  value = jnp.einsum(
    'bw,whd->bhd', norm(x, 'attention_norm'), attention['value']['kernel']
  )
  x = x + jnp.einsum('bhd,hdw->bw', value, attention['out']['kernel'])
  cross = block['cross_attention']
  query = jnp.einsum(
    'bw,whd->bhd', norm(x, 'cross_norm'), cross['query']['kernel']
  )
  key = jnp.einsum('bksw,whd->bhksd', memory.states, cross['key']['kernel'])
  scores = jnp.einsum('bhd,bhksd->bhks', query, key) / query.shape[-1] ** 0.5
  chances = jnp.exp(scores) * (memory.tokens != 0)[:, None]
  chances *= WEIGHTS[:, None, :, None]
  chances /= chances.sum((2, 3), keepdims=True)
  np.testing.assert_allclose(shares, chances.sum(3).mean(1), rtol=1e-4)


def test_sampled_answers_are_as_frequent_as_likely(params, texts):
  """After training on answers 7, and 8 9 twice; teacher-forced chances."""
  query, passages = texts[0][:1], texts[1][:1, :1]
  targets = jnp.array([[[7, 0]], [[8, 9]], [[8, 9]]])
  optimizer = optax.adam(0.02)

  def nll(params, targets):
    memory = READER.read(params, query, passages)
    memory = jax.tree.map(lambda x: jnp.repeat(x, len(targets), 0), memory)
    return -READER.log_likelihood(params, memory, targets).sum((1, 2))

  @jax.jit
  def train(params):
    def step(carry, _):
      grad = jax.grad(lambda p: nll(p, targets).mean())(carry[0])
      change, state = optimizer.update(grad, carry[1])
      return (optax.apply_updates(carry[0], change), state), None

    start = params, optimizer.init(params)
    return jax.lax.scan(step, start, length=30)[0][0]

  params = train(params)
  memory = read(params, query, passages)
  many = jax.tree.map(lambda x: jnp.repeat(x, 1000, axis=0), memory)
  keys = jax.random.split(jax.random.key(0), 1000)[:, None]
  sample = jax.jit(READER.sample_each, static_argnums=3)
  drawn = np.asarray(sample(params, many, keys, generate.Sampling()))[:, 0]
  chances = np.exp(-np.asarray(jax.jit(nll)(params, targets[:2])))
  for answer, chance in zip(([7, 0], [8, 9]), chances, strict=True):
    share = (drawn == [*answer, 0, 0]).all(1).mean()
    assert 0.1 < chance < 0.9 and abs(share - chance) < 0.06


def test_an_unfinished_sample_is_all_padding(params, texts):
  memory = read(params, *texts)
  keys = jax.random.split(jax.random.key(0), (2, 3))
  sample = jax.jit(READER.sample_each, static_argnums=3)
  best = sample(params, memory, keys, generate.Sampling(top_k=1))
  greedy = jax.jit(READER.answer_each)(params, memory)
  ended = (greedy != 0).sum(-1, keepdims=True) < 4
  np.testing.assert_array_equal(best, jnp.where(ended, greedy, 0))
