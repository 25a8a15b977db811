import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from rag_jax import readers
from rag_jax.data import tokenizers
from rag_jax.ops import losses, masking
from rag_jax.readers import base, extractive, spans

VOCAB = 40
CONFIG = base.ReaderConfig(
  width=16, num_layers=1, num_heads=2, mlp_dim=16, max_answer_tokens=4
)
READER = readers.make(CONFIG)
WEIGHTS = jnp.array([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]])
read = jax.jit(READER.read)


def make_params():
  init = jax.jit(READER.init, static_argnames='vocab_size')
  return init(jax.random.key(0), vocab_size=VOCAB)


def point(params, query, passages):
  return read(params, query, passages).spans


def test_span_probabilities_sum_to_one_over_real_tokens(texts):
  pointers = point(make_params(), *texts)
  assert pointers.shape == (2, 3, 9, 2)
  chances = jnp.exp(pointers)
  np.testing.assert_allclose(chances.sum(2), 1, rtol=1e-5)
  assert float(chances[1, 2, 6:].max()) == 0


def test_padding_does_not_change_spans(texts):
  params = make_params()
  query, passages = texts
  wide = jnp.pad(passages, ((0, 0), (0, 0), (0, 4)))
  np.testing.assert_allclose(
    point(params, query, passages),
    point(params, query, wide)[:, :, :9],
    atol=1e-5,
  )


def test_passages_are_read_independently(texts):
  params = make_params()
  query, passages = texts
  together = point(params, query, passages)
  alone = point(params, query, passages[:, 1:2])
  np.testing.assert_allclose(together[:, 1:2], alone, atol=1e-5)


def test_relevance_counts_the_tokens_of_the_question_that_occur(texts):
  """It is 0 at first; then a sum over the real tokens of the question."""
  params = make_params()
  query, passages = texts
  assert not read(params, query, passages).relevance.any()
  params['weigh'] = {'kernel': jnp.zeros((16, 1)), 'bias': jnp.ones(1)}
  length = (query != 0).sum(1)[:, None]
  found = read(params, query, passages).relevance
  np.testing.assert_allclose(found, jnp.broadcast_to(length, (2, 3)))
  params['span_weight'] = jnp.asarray(2.0)
  memory = read(params, query, passages)
  best = spans.best_spans(memory.spans, max_tokens=4).score
  np.testing.assert_allclose(memory.relevance, length + 2 * best, rtol=1e-5)
  # A token that occurs gives other evidence than one that does not.
  params['span_weight'] = jnp.zeros(())
  params['occurs'] = {'embedding': jnp.array([[0.0], [5.0]]) * jnp.ones(16)}
  params['evidence'] = {'kernel': jnp.zeros((16, 16)), 'bias': jnp.zeros(16)}
  params['weigh'] = {'kernel': jnp.ones((16, 1)), 'bias': jnp.zeros(1)}
  occurs = (query[:, None, :, None] == passages[:, :, None]).any(-1)
  count = (occurs & (query != 0)[:, None]).sum(-1)
  found = read(params, query, passages).relevance
  np.testing.assert_allclose(found, 80 * count, rtol=1e-3)


def test_a_gradient_step_lowers_the_answer_loss(texts, losses_of_a_step):
  answers = texts[1][:, 1, None, 2:4]

  def loss(params):
    memory = READER.read(params, *texts)
    scores = READER.log_likelihood(params, memory, answers)
    assert scores.shape == (2, 3, 1)
    scores = scores[..., 0]
    holds = scores > masking.NEG_INF / 2
    return losses.sequence_marginal(WEIGHTS, scores, where=holds).sum()

  before, after = losses_of_a_step(loss, make_params(), 0.1)
  assert after < before - 0.01


def test_the_answer_score_is_the_likelihood_of_its_tokens(texts):
  params = make_params()
  memory = read(params, *texts)
  found = READER.answer(params, memory, WEIGHTS, WEIGHTS > 0)
  tokens = READER.answer_each(params, memory)
  rows = jnp.arange(2)
  answer = tokens[rows, found.place]  # no passage repeats a token
  scores = READER.log_likelihood(params, memory, answer[:, None])
  expected = scores[rows, found.place, 0] + jnp.log(WEIGHTS[rows, found.place])
  np.testing.assert_allclose(found.log_probability, expected, rtol=1e-5)
  length = found.end - found.start + 1
  assert ((answer > 0).sum(1) == length).all()


def test_passages_are_compared_by_their_numbers(texts):
  """Logits of the spans have a term, which a loop computes for each passage."""
  config = dataclasses.replace(CONFIG, shared_softmax=True)
  reader = readers.make(config)
  rng = np.random.default_rng(0)
  numbers = rng.normal(size=VOCAB).astype(np.float32)
  params = reader.init(
    jax.random.key(0), vocab_size=VOCAB, pretrained={'value': numbers}
  )
  params['gate'] = {'kernel': jnp.zeros((16, 4))}  # attends to all alike
  query, passages = texts
  plain = {**params, 'value': jnp.zeros(VOCAB)}
  run = jax.jit(lambda params: reader.read(params, query, passages).spans)
  kernel = np.asarray(params['asked']['kernel'])
  table = np.asarray(params['embedding']['embedding'])
  stated, weights = np.zeros((2, 3)), np.zeros(2)
  for row, (asked, own) in enumerate(
    zip(np.asarray(query), np.asarray(passages), strict=True)
  ):
    weights[row] = sum(table[t] for t in asked if t) @ kernel @ np.ones(4)
    for place, tokens in enumerate(own):
      stated[row, place] = np.mean([numbers[t] for t in tokens if t])
  apart = stated[:, :, None] - stated[:, None]
  apart = np.sign(apart) * np.log1p(np.abs(apart) / extractive.CLOSE)
  scores = weights[:, None] * apart.sum(2) / 2  # the mean over two others
  assert scores.std(axis=1).min() > 1e-2
  logits = np.asarray(run(plain)) + scores[..., None, None]
  where = (np.asarray(passages) != 0)[..., None]
  logits = np.where(where, logits, -np.inf)
  expected = logits - scipy.special.logsumexp(logits, (1, 2), keepdims=True)
  found = np.asarray(run(params))
  np.testing.assert_allclose(
    np.where(where, found, 0), np.where(where, expected, 0), atol=1e-4
  )
  padded = jnp.pad(passages, ((0, 0), (0, 1), (0, 0)))  # one that is not read
  same = jax.jit(reader.read)(params, query, padded).spans[:, :3]
  np.testing.assert_allclose(same, found, atol=1e-5)


def test_gates_depend_on_the_state_of_a_token(texts):
  """The same number counts differently beside other words."""
  reader = readers.make(dataclasses.replace(CONFIG, shared_softmax=True))
  numbers = np.zeros(VOCAB, np.float32)
  numbers[7] = 1.0
  params = reader.init(
    jax.random.key(0), vocab_size=VOCAB, pretrained={'value': numbers}
  )
  params['gate']['kernel'] *= 10

  @jax.jit
  def total(passages):
    read = functools.partial(reader.read, query=jnp.array([[5, 6]]))
    other = {**params, 'value': jnp.zeros(VOCAB)}
    each = [
      read(own, passages=passages).spans[0, :, 0, 0] for own in (params, other)
    ]
    # The term of passage 0 minus that of passage 1.
    return (each[0] - each[1]) @ jnp.array([1.0, -1.0])

  same = total(jnp.array([[[8, 7, 9], [8, 7, 9]]]))
  other = total(jnp.array([[[8, 7, 9], [20, 7, 31]]]))
  assert abs(same) < 1e-5 < 1e-3 < abs(other)


def test_numbers_start_in_their_order():
  tokenizer = tokenizers.train(['In 1848 and 1912.'], vocab_size=300)
  reader = readers.make(dataclasses.replace(CONFIG, shared_softmax=True))
  given = reader.from_tokenizer(tokenizer)
  params = reader.init(
    jax.random.key(0),
    vocab_size=tokenizer.get_vocab_size(),
    pretrained=given,
  )
  np.testing.assert_array_equal(params['value'], given['value'])
  assert np.ptp(params['value']) > 0
  assert READER.from_tokenizer is None


def test_without_a_shared_softmax_passages_are_not_compared():
  assert 'asked' not in make_params()
