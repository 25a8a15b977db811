"""Fusion-in-decoder on a T5, beside the T5 itself."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax.components import reader, t5_reader
from rag_jax.nn import t5

VOCAB = 40
CONFIG = reader.ReaderConfig(
  kind='fusion',
  width=16,
  num_layers=2,
  num_heads=2,
  hidden=24,
  max_answer_tokens=6,
  weights='tiny',
)
SIZES = t5.T5Config(
  vocab_size=VOCAB,
  width=16,
  num_layers=2,
  num_decoder_layers=1,
  num_heads=2,
  head_size=8,
  hidden=24,
  gated=True,
  tied=False,
)
score = jax.jit(reader.write_log_likelihood, static_argnums=1)
ANSWER = jnp.array([[7, 9, 1, 0], [8, 1, 0, 0]])


@pytest.fixture(scope='module')
def params():
  pretrained = jax.jit(t5.init, static_argnums=1)(jax.random.key(0), SIZES)
  # Larger weights than T5 starts from, so that every input matters.
  pretrained = jax.tree.map(lambda x: 2 * x, pretrained)
  return reader.init(
    jax.random.key(1), CONFIG, vocab_size=VOCAB, pretrained=pretrained
  )


@pytest.fixture(scope='module')
def texts():
  rng = np.random.default_rng(0)
  query = rng.integers(2, VOCAB, (2, 6))
  query[:, 4] = t5_reader.END
  query[:, 5] = 0
  return jnp.asarray(query), jnp.asarray(rng.integers(2, VOCAB, (2, 3, 9)))


def test_one_passage_is_read_as_the_t5_reads_it(params, texts):
  query, passages = texts
  found = score(
    params, CONFIG, query, passages[:, :1], jnp.ones((2, 1)), ANSWER
  )
  end = jnp.ones((2, 1), int)
  tokens = jnp.concatenate([query[:, :4], passages[:, 0], end], axis=1)
  real = jnp.ones(tokens.shape, bool)
  memory = t5.encode(params['t5'], SIZES, tokens, real)
  read = jnp.pad(ANSWER[:, :-1], ((0, 0), (1, 0)))
  logits = t5.decode(params['t5'], SIZES, memory, real, read)
  chances = jax.nn.log_softmax(logits)
  wanted = jnp.take_along_axis(chances, ANSWER[..., None], -1)[..., 0]
  wanted = jnp.where(ANSWER > 0, wanted, 0)
  # Differently padded sums of float32: some 30 of its steps, relative.
  np.testing.assert_allclose(found, wanted, rtol=4e-6, atol=1e-6)


def test_padding_and_how_a_weight_is_split_change_nothing(params, texts):
  query, passages = texts
  weights = jnp.array([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]])
  plain = score(params, CONFIG, query, passages, weights, ANSWER)
  padded = score(
    params,
    CONFIG,
    jnp.pad(query, ((0, 0), (0, 3))),
    jnp.pad(passages, ((0, 0), (0, 0), (0, 4))),
    weights,
    ANSWER,
  )
  np.testing.assert_allclose(plain, padded, rtol=2e-5)
  twice = jnp.concatenate([passages, passages], axis=1)
  halves = jnp.concatenate([weights / 4, weights * 3 / 4], axis=1)
  split = score(params, CONFIG, query, twice, halves, ANSWER)
  np.testing.assert_allclose(plain, split, rtol=2e-5)
  assert float(jnp.abs(plain - plain[:, ::-1]).max()) > 0.1


def test_what_has_no_weight_is_not_read_and_the_rest_moves_it(params, texts):
  query, passages = texts
  weights = jnp.array([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]])
  other = passages.at[0, 2].set(5)
  np.testing.assert_array_equal(
    score(params, CONFIG, query, passages, weights, ANSWER),
    score(params, CONFIG, query, other, weights, ANSWER),
  )
  remat = dataclasses.replace(CONFIG, remat=True)
  slopes = [
    jax.jit(
      jax.grad(
        lambda weights, own=own: reader.write_log_likelihood(
          params, own, query, passages, weights, ANSWER
        ).sum()
      )
    )(weights)
    for own in (CONFIG, remat)
  ]
  np.testing.assert_allclose(*slopes, atol=1e-5)
  assert bool(jnp.isfinite(slopes[0]).all())
  assert ((np.asarray(slopes[0]) != 0) == (np.asarray(weights) > 0)).all()


def test_what_is_written_scores_as_when_teacher_forced(params, texts):
  weights = jnp.array([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]])
  write = jax.jit(reader.write, static_argnums=1)
  tokens, total = write(params, CONFIG, *texts, weights)
  assert tokens.shape == (2, 6)
  length = (tokens != 0).sum(1)
  forced = jnp.pad(tokens, ((0, 0), (0, 1)))
  ended = (jnp.arange(7) == length[:, None]) & (length < 6)[:, None]
  forced = jnp.where(ended, reader.end_token(CONFIG), forced)
  scores = score(params, CONFIG, *texts, weights, forced)
  np.testing.assert_allclose(total, scores.sum(1), rtol=1e-4)
