"""Marginals over passages against full forward passes and enumeration."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax.nn import generate, llama
from rag_jax.ops import masking
from rag_jax.readers import causal_marginals

END, LENGTH = 2, 3
CONFIG = llama.LlamaConfig(
  vocab_size=6,
  width=16,
  num_layers=1,
  num_heads=4,
  num_key_value_heads=2,
  head_size=4,
  mlp_dim=24,
)
RUN = {'end_token': END, 'max_length': LENGTH}
WEIGHTS = jnp.array([[0.7, 0.3, 0.0], [0.2, 0.3, 0.5]])
apply = jax.jit(llama.apply, static_argnums=1)


@functools.cache
def model():
  """A random model with peaked distributions, and [2, 3] prompts."""
  params = jax.jit(llama.init, static_argnums=1)(jax.random.key(1), CONFIG)
  params = jax.tree.map(lambda x: 2.5 * x, params)
  rng = np.random.default_rng(0)
  tokens = jnp.asarray(rng.integers(0, 6, (2, 3, 5)))
  where = jnp.arange(5) < jnp.asarray(rng.integers(3, 6, (2, 3, 1)))
  return params, tokens, where


def read(params):
  _, tokens, where = model()
  return causal_marginals.read(params, CONFIG, tokens, where, max_length=LENGTH)


@jax.jit
def score(params, answers, where):
  memory = read(params)
  return causal_marginals.answer_log_likelihood(
    params, CONFIG, memory, answers, where
  )


@functools.cache
def every_text():
  """All possible answers: tokens and mask [C, A]."""
  texts = [
    text
    for length in range(1, LENGTH + 1)
    for text in itertools.product(range(CONFIG.vocab_size), repeat=length)
    if END not in text[:-1] and (length == LENGTH or text[-1] == END)
  ]
  tokens = np.zeros((len(texts), LENGTH), int)
  for row, text in zip(tokens, texts, strict=True):
    row[: len(text)] = text
  lengths = np.array([[len(text)] for text in texts])
  return tokens, np.arange(LENGTH) < lengths


def every_score(kind, weights=WEIGHTS):
  """Log marginals of all possible answers, float[B, C], in NumPy."""
  tokens, where = every_text()
  both = [jnp.asarray(np.tile(x, (2, 1, 1))) for x in (tokens, where)]
  scores = np.exp(np.asarray(score(model()[0], *both), float))  # [B, K, C, A]
  weights = np.asarray(weights)[:, :, None]
  if kind == 'sequence':
    return np.log((weights * scores.prod(-1)).sum(1))
  return np.log((weights[..., None] * scores).sum(1)).sum(-1)


def spell(found, row, place=0):
  return tuple(found.tokens[row, place][found.where[row, place]].tolist())


def test_likelihoods_equal_one_forward_pass_of_prompt_and_answer():
  params, tokens, where = model()
  answers = jnp.array([[[4, 2, 0], [1, 3, 2]], [[2, 0, 0], [5, 5, 2]]])
  real = jnp.array([[[1, 1, 0], [1, 1, 1]], [[1, 0, 0], [1, 1, 1]]], bool)
  found = score(params, answers, real)
  for b, k, c in np.ndindex(2, 3, 2):
    before = tokens[b, k][where[b, k]]
    answer = answers[b, c][real[b, c]]
    row = jnp.concatenate([before, answer])
    last = len(row) - 1
    row = jnp.pad(row, (0, 8 - len(row)))[None]
    logits = apply(params, CONFIG, row, jnp.arange(8)[None] <= last)[0]
    scores = jax.nn.log_softmax(logits)[len(before) - 1 : last]
    expected = scores[jnp.arange(len(answer)), answer]
    np.testing.assert_allclose(
      found[b, k, c, : len(answer)], expected, atol=2e-5
    )
    assert (found[b, k, c, len(answer) :] == 0).all()


@pytest.mark.parametrize('kind', causal_marginals.MARGINALS)
def test_marginals_are_probabilities(kind):
  tokens, where = every_text()
  where = jnp.asarray(np.tile(where, (2, 1, 1)))
  found = causal_marginals.marginal(
    WEIGHTS,
    score(model()[0], jnp.asarray(np.tile(tokens, (2, 1, 1))), where),
    where,
    kind=kind,
  )
  np.testing.assert_allclose(found, every_score(kind), atol=1e-4)
  np.testing.assert_allclose(jnp.exp(found).sum(1), 1, atol=1e-4)


@pytest.mark.parametrize('kind', causal_marginals.MARGINALS)
def test_a_wide_beam_finds_the_best_answer(kind):
  params, _, _ = model()
  write = getattr(causal_marginals, f'write_{kind}')

  @jax.jit
  def run(params, weights):
    return write(params, CONFIG, read(params), weights, beam_size=64, **RUN)

  found = run(params, WEIGHTS)
  scores, (tokens, where) = every_score(kind), every_text()
  for row in range(2):
    best = scores[row].argmax()
    assert spell(found, row) == tuple(tokens[best][where[best]])
    np.testing.assert_allclose(
      found.scores[row, 0], scores[row, best], atol=1e-4
    )
  if kind == 'sequence':  # no answers from passages of weight 0
    alive = found.scores > masking.NEG_INF / 2
    assert alive.sum(1).tolist() == [2 * 64, 3 * 64]


def test_one_passage_of_weight_one_equals_plain_generation():
  params, tokens, where = model()
  one = jnp.ones((2, 1))

  @jax.jit
  def run(params):
    memory = causal_marginals.read(
      params, CONFIG, tokens[:, :1], where[:, :1], max_length=LENGTH
    )
    by_token = causal_marginals.write_token(params, CONFIG, memory, one, **RUN)
    by_text = causal_marginals.write_sequence(
      params, CONFIG, memory, one, **RUN
    )
    logits, prompt, cache = llama.prefill(
      params, CONFIG, tokens[:, 0], where[:, 0], LENGTH
    )
    step_fn = functools.partial(llama.step, params, CONFIG, prompt)
    plain = generate.greedy(step_fn, logits, cache, **RUN)
    return by_token, by_text, plain

  *ours, plain = run(params)
  for found in ours:
    np.testing.assert_array_equal(found.tokens, plain.tokens)
    np.testing.assert_allclose(found.scores, plain.scores, atol=2e-5)


def test_constrained_answers_are_spans_of_passages():
  params, tokens, where = model()
  flat = tokens.reshape(6, 1, 5), where.reshape(6, 1, 5)

  @jax.jit
  def run(params):
    memory = read(params)
    options = {'end_token': END, 'vocab_size': CONFIG.vocab_size}
    by_token = causal_marginals.write_token(
      params,
      CONFIG,
      memory,
      WEIGHTS,
      **RUN,
      constraint=generate.runs(tokens, where, **options),
    )
    by_text = causal_marginals.write_sequence(
      params,
      CONFIG,
      memory,
      WEIGHTS,
      **RUN,
      constraint=generate.runs(*flat, **options),
    )
    return by_token, by_text

  for found, row in itertools.product(run(params), range(2)):
    text = spell(found, row)
    body = text[:-1] if text[-1] == END else text
    passages = [
      t[w].tolist() for t, w in zip(tokens[row], where[row], strict=True)
    ]
    assert any(
      tuple(p[i : i + len(body)]) == body
      for p in passages
      for i in range(len(p))
    )


@pytest.mark.parametrize('kind', causal_marginals.MARGINALS)
def test_gradients_by_finite_differences(kind):
  params, _, _ = model()
  answers = jnp.array([[[4, 2, 0]], [[5, 3, 2]]])
  real = jnp.array([[[1, 1, 0]], [[1, 1, 1]]], bool)

  def loss(scale, weights):
    scaled = params | {'norm': params['norm'] * scale}
    scores = score(scaled, answers, real)
    return -causal_marginals.marginal(weights, scores, real, kind=kind).sum()

  run = jax.jit(jax.value_and_grad(loss, (0, 1)))
  _, (by_scale, by_weights) = run(1.0, WEIGHTS)
  small = 1e-2
  change = run(1 + small, WEIGHTS)[0] - run(1 - small, WEIGHTS)[0]
  np.testing.assert_allclose(by_scale, change / (2 * small), rtol=2e-2)
  nudge = jnp.zeros_like(WEIGHTS).at[1, 2].set(small)
  change = run(1.0, WEIGHTS + nudge)[0] - run(1.0, WEIGHTS - nudge)[0]
  np.testing.assert_allclose(by_weights[1, 2], change / (2 * small), rtol=2e-2)


def test_unknown_marginal():
  with pytest.raises(ValueError, match="sequence, token, got 'x'. Pass"):
    causal_marginals.marginal(WEIGHTS, jnp.zeros((2, 3, 1, 1)), None, kind='x')
