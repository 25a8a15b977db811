import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax.nn import generate
from rag_jax.ops import masking

END, SIZE, LENGTH = 2, 5, 4
OPTIONS = {'end_token': END, 'max_length': LENGTH}


def markov(seed=0, batch=2):
  """A second-order Markov model, and an enumeration of its texts."""
  rng = np.random.default_rng(seed)
  first = rng.normal(size=(batch, SIZE)).astype(np.float32)
  table = 2 * rng.normal(size=(SIZE + 1, SIZE, SIZE)).astype(np.float32)

  def step_fn(cache, tokens):
    return jnp.asarray(table)[cache['last'], tokens], {'last': tokens}

  def log_softmax(x):
    return x - np.logaddexp.reduce(x, axis=-1, keepdims=True)

  def texts(row):
    for length in range(1, LENGTH + 1):
      for text in itertools.product(range(SIZE), repeat=length):
        ends = text[-1] == END
        if END in text[:-1] or (length < LENGTH and not ends):
          continue
        before = (SIZE, *text)
        score = log_softmax(first[row])[text[0]]
        for i in range(1, length):
          score += log_softmax(table[before[i - 1], text[i - 1]])[text[i]]
        yield float(score), text

  cache = {'last': jnp.full((batch, 1), SIZE)}
  return step_fn, jnp.asarray(first), cache, texts


def text_of(found, row, place=0):
  return tuple(found.tokens[row, place][found.where[row, place]].tolist())


@pytest.mark.parametrize('penalty', [0.0, 1.0])
def test_wide_beam_equals_enumeration(penalty):
  step_fn, logits, cache, texts = markov()
  width = 4 * SIZE**LENGTH  # wide enough for all texts and prefixes
  search = functools.partial(
    generate.beam, step_fn, beam_size=width, length_penalty=penalty, **OPTIONS
  )
  found = jax.jit(search)(logits, cache)
  for row in range(2):
    expected = [(s / len(t) ** penalty, t) for s, t in texts(row)]
    expected = sorted(expected, reverse=True)
    real = found.where[row].any(-1)
    assert int(real.sum()) == len(expected)
    np.testing.assert_allclose(
      found.scores[row, : len(expected)], [s for s, _ in expected], atol=1e-5
    )
    assert text_of(found, row) == expected[0][1]
    assert (found.scores[row, len(expected) :] == masking.NEG_INF).all()


def test_greedy_takes_the_most_probable_token_at_each_step():
  step_fn, logits, cache, texts = markov(seed=3)
  run = jax.jit(functools.partial(generate.greedy, step_fn, **OPTIONS))
  found = run(logits, cache)
  narrow = functools.partial(generate.beam, step_fn, beam_size=1, **OPTIONS)
  narrow = jax.jit(narrow)(logits, cache)
  for row in range(2):
    scores = {text: score for score, text in texts(row)}
    text = text_of(found, row)
    np.testing.assert_allclose(found.scores[row, 0], scores[text], atol=1e-5)
    for i in range(len(text)):  # each token is the argmax given its prefix
      mass = np.full(SIZE, -np.inf)
      for other, score in scores.items():
        if other[:i] == text[:i] and len(other) > i:
          mass[other[i]] = np.logaddexp(mass[other[i]], score)
      assert mass.argmax() == text[i]
    assert narrow.scores[row, 0] >= found.scores[row, 0] - 1e-5


def in_passage(text, passages):
  body = text[:-1] if text[-1] == END else text
  return len(body) > 0 and any(
    tuple(p[i : i + len(body)]) == body for p in passages for i in range(len(p))
  )


def test_runs_of_passages_equal_enumeration():
  step_fn, logits, cache, texts = markov(seed=1)
  passages = jnp.array([[[3, 4, 3], [1, 1, 0]], [[0, 1, 3], [4, 3, 2]]])
  where = jnp.array([[[1, 1, 1], [1, 1, 0]], [[1, 1, 1], [1, 1, 0]]], bool)

  @jax.jit
  def run(logits, cache):
    constraint = generate.runs(passages, where, end_token=END, vocab_size=SIZE)
    options = {'constraint': constraint, **OPTIONS}
    return (
      generate.beam(step_fn, logits, cache, beam_size=64, **options),
      generate.greedy(step_fn, logits, cache, **options),
    )

  found, best = run(logits, cache)
  for row in range(2):
    bodies = [
      p[w].tolist() for p, w in zip(passages[row], where[row], strict=True)
    ]
    allowed = [pair for pair in texts(row) if in_passage(pair[1], bodies)]
    allowed = sorted(allowed, reverse=True)
    assert int(found.where[row].any(-1).sum()) == len(allowed)
    np.testing.assert_allclose(
      found.scores[row, : len(allowed)], [s for s, _ in allowed], atol=1e-5
    )
    assert text_of(found, row) == allowed[0][1]
    assert text_of(best, row) in [text for _, text in allowed]


def test_unused_beams_have_no_text():
  step_fn, logits, cache, _ = markov()
  passages = jnp.array([[[3, 4]], [[1, 0]]])

  @jax.jit
  def run(logits, cache):
    constraint = generate.runs(
      passages, passages > 0, end_token=END, vocab_size=SIZE
    )
    return generate.beam(
      step_fn, logits, cache, beam_size=8, constraint=constraint, **OPTIONS
    )

  found = run(logits, cache)
  assert found.where.any(-1).sum(1).tolist() == [3, 1]  # 3, 4, 3 4; and 1
  assert (found.scores[0, 3:] == masking.NEG_INF).all()


def test_errors_name_the_field_the_value_and_the_remedy():
  step_fn, logits, cache, _ = markov()
  with pytest.raises(ValueError, match='max_length must be at least 1, got 0'):
    generate.greedy(step_fn, logits, cache, end_token=END, max_length=0)
  with pytest.raises(ValueError, match='beam_size must be at least 1, got 0'):
    generate.beam(step_fn, logits, cache, beam_size=0, **OPTIONS)


class TestSample:
  """Texts drawn at random from the Markov model, against their enumeration."""

  COUNT = 2000

  def draw(self, how, row=0):
    step_fn, logits, _, texts = markov()
    logits = jnp.tile(logits[row : row + 1], (self.COUNT, 1))
    cache = {'last': jnp.full((self.COUNT, 1), SIZE)}
    keys = jax.random.split(jax.random.key(1), self.COUNT)
    sample = functools.partial(
      generate.sample, step_fn=step_fn, how=how, **OPTIONS
    )
    found = jax.jit(sample)(keys, logits=logits, cache=cache)
    scores = {text: score for score, text in texts(row)}
    drawn = [text_of(found, i) for i in range(self.COUNT)]
    for i in range(0, self.COUNT, 500):
      assert float(found.scores[i, 0]) == pytest.approx(
        scores[drawn[i]], abs=1e-4
      )
    return scores, drawn

  def test_texts_are_as_frequent_as_probable(self):
    scores, drawn = self.draw(generate.Sampling())
    for text, score in scores.items():
      chance = np.exp(score)
      share = sum(own == text for own in drawn) / self.COUNT
      assert abs(share - chance) < 5 * np.sqrt(chance / self.COUNT) + 1e-3

  def test_the_best_token_alone_is_greedy_decoding(self):
    step_fn, logits, cache, _ = markov()
    best = generate.greedy(step_fn, logits, cache, **OPTIONS)
    for how in (
      generate.Sampling(top_k=1, temperature=2.0),
      generate.Sampling(top_p=1e-6),
    ):
      keys = jax.random.split(jax.random.key(0), 2)
      found = generate.sample(keys, step_fn, logits, cache, how=how, **OPTIONS)
      np.testing.assert_array_equal(found.tokens, best.tokens)
      np.testing.assert_allclose(found.scores, best.scores, rtol=1e-5)

  def test_a_row_has_its_own_key(self):
    step_fn, logits, cache, _ = markov(batch=6)
    keys = jax.random.split(jax.random.key(3), 6)
    whole = generate.sample(keys, step_fn, logits, cache, **OPTIONS)
    part = {'last': cache['last'][2:4]}
    some = generate.sample(keys[2:4], step_fn, logits[2:4], part, **OPTIONS)
    np.testing.assert_array_equal(whole.tokens[2:4], some.tokens)
