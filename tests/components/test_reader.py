import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax.components import query_encoder, reader
from rag_jax.nn import bert

VOCAB = 40
init = jax.jit(reader.init, static_argnums=1, static_argnames='vocab_size')
read = jax.jit(reader.point, static_argnums=1)
write = jax.jit(reader.write, static_argnums=1)
write_log_likelihood = jax.jit(reader.write_log_likelihood, static_argnums=1)


def point(params, config, query, passages):
  return read(params, config, query, passages).spans


def config_of(kind):
  return reader.ReaderConfig(
    kind=kind,
    width=16,
    num_layers=1,
    num_heads=2,
    hidden=16,
    max_answer_tokens=4,
  )


@pytest.fixture
def texts():
  rng = np.random.default_rng(0)
  query = rng.integers(3, VOCAB, (2, 5))
  passages = rng.integers(3, VOCAB, (2, 3, 9))
  query[0, 3:] = 0
  passages[1, 2, 6:] = 0
  return jnp.asarray(query), jnp.asarray(passages)


def test_pointers_are_distributions_over_the_real_tokens(texts):
  config = config_of('extractive')
  params = init(jax.random.key(0), config, vocab_size=VOCAB)
  pointers = point(params, config, *texts)
  assert pointers.shape == (2, 3, 9, 2)
  chances = jnp.exp(pointers)
  np.testing.assert_allclose(chances.sum(2), 1, rtol=1e-5)
  assert float(chances[1, 2, 6:].max()) == 0


def test_padding_does_not_change_the_pointers(texts):
  config = config_of('extractive')
  params = init(jax.random.key(0), config, vocab_size=VOCAB)
  query, passages = texts
  wide = jnp.pad(passages, ((0, 0), (0, 0), (0, 4)))
  np.testing.assert_allclose(
    point(params, config, query, passages),
    point(params, config, query, wide)[:, :, :9],
    atol=1e-5,
  )


def test_each_passage_is_read_on_its_own(texts):
  config = config_of('extractive')
  params = init(jax.random.key(0), config, vocab_size=VOCAB)
  query, passages = texts
  together = point(params, config, query, passages)
  alone = point(params, config, query, passages[:, 1:2])
  np.testing.assert_allclose(together[:, 1:2], alone, atol=1e-5)


def bert_reader(**options):
  """A tiny reader on weights that stand for published ones."""
  config = reader.ReaderConfig(
    width=16,
    num_layers=2,
    num_heads=2,
    hidden=16,
    max_answer_tokens=4,
    weights='tiny',
    **options,
  )
  sizes = dataclasses.replace(
    query_encoder.bert_config(config), vocab_size=VOCAB, max_positions=32
  )
  params = reader.init(
    jax.random.key(1),
    config,
    vocab_size=VOCAB,
    pretrained=bert.init(jax.random.key(0), sizes),
  )
  params['relevance'] = jnp.linspace(-1, 1, 16)
  return params, config


class TestPublishedWeights:
  def test_padding_changes_neither_pointers_nor_relevance(self, texts):
    params, config = bert_reader()
    query, passages = texts
    wide = jnp.pad(passages, ((0, 0), (0, 0), (0, 4)))
    wider = jnp.pad(query, ((0, 0), (0, 3)))
    close, far = (
      read(params, config, query, passages),
      read(params, config, wider, wide),
    )
    np.testing.assert_allclose(
      close.spans, far.spans[:, :, : passages.shape[-1]], atol=1e-5
    )
    np.testing.assert_allclose(close.relevance, far.relevance, atol=1e-5)

  def test_it_reads_as_bert_reads_a_pair(self, texts):
    params, config = bert_reader()
    query, passages = texts
    own, passage = query[:1], passages[0, :1]  # the question has padding
    tokens = jnp.concatenate([own[:, :3], passage], axis=1)
    segments = jnp.asarray([[0] * 3 + [1] * passage.shape[1]])
    states = bert.apply(
      params['bert'],
      query_encoder.bert_config(config),
      tokens,
      segments=segments,
    )
    logits = states[:, 3:] @ params['pointer']
    found = read(params, config, own, passage[:, None])
    np.testing.assert_allclose(
      found.spans[:, 0], jax.nn.log_softmax(logits, axis=1), atol=1e-5
    )
    mean = states[0, :3].mean(axis=0)  # of the question, without its padding
    np.testing.assert_allclose(
      found.relevance[0, 0], mean @ params['relevance'], atol=1e-5
    )

  def test_a_shared_softmax_is_one_distribution(self, texts):
    params, config = bert_reader(shared_softmax=True)
    chances = jnp.exp(point(params, config, *texts))
    np.testing.assert_allclose(chances.sum((1, 2)), 1, rtol=1e-5)

  def test_frozen_layers_get_no_gradient(self, texts):
    params, config = bert_reader(frozen_layers=1)

    def total(params):
      return reader.point(params, config, *texts).relevance.sum()

    gradient = jax.grad(total)(params)['bert']
    for name in ('embedding', 'positions', 'segments', 'norm'):
      assert float(jnp.abs(gradient[name]).max()) == 0
    sizes = [
      max(float(jnp.abs(x).max()) for x in jax.tree.leaves(gradient[block]))
      for block in ('block_0', 'block_1')
    ]
    assert sizes[0] == 0 < sizes[1]

  def test_only_those_of_a_bert_are_frozen(self):
    with pytest.raises(ValueError, match="'extractive', got 'fusion'"):
      reader.ReaderConfig(kind='fusion', weights='tiny', frozen_layers=1)


def brute_force_likelihood(pointers, passage, answers):
  """Adds P(start) P(end) over every place of every answer."""
  total = 0.0
  for answer in answers:
    answer = [t for t in answer if t]
    if not answer:
      continue
    for i in range(len(passage) - len(answer) + 1):
      if list(passage[i : i + len(answer)]) == answer:
        end = i + len(answer) - 1
        total += np.exp(pointers[i, 0] + pointers[end, 1])
  return total


def test_answer_likelihood_is_the_sum_over_all_its_places():
  rng = np.random.default_rng(1)
  passages = rng.integers(1, 4, (4, 3, 12))
  answers = rng.integers(1, 4, (4, 2, 3))
  answers[0, 1] = 0
  answers[1, :, 2:] = 0
  answers[2, :, 1:] = 0
  answers[3] = 9  # nowhere
  pointers = jax.nn.log_softmax(rng.normal(size=(4, 3, 12, 2)), axis=2)
  found = reader.answer_log_likelihood(
    pointers, jnp.asarray(passages), jnp.asarray(answers)
  )
  for b in range(4):
    for k in range(3):
      expected = brute_force_likelihood(
        np.asarray(pointers[b, k]), passages[b, k], answers[b]
      )
      if expected == 0:
        assert float(found[b, k]) < reader.IMPOSSIBLE / 2
      else:
        np.testing.assert_allclose(np.exp(found[b, k]), expected, rtol=1e-4)
  assert (np.asarray(found)[3] < reader.IMPOSSIBLE / 2).all()


@pytest.mark.parametrize('longest', [1, 2, 5, 20])
def test_best_span_is_the_best_of_all_spans(longest):
  rng = np.random.default_rng(2)
  pointers = jnp.asarray(rng.normal(size=(2, 3, 8, 2)), jnp.float32)
  spans = reader.best_spans(pointers, max_tokens=longest)
  for b in range(2):
    for k in range(3):
      scores = {
        (i, j): float(pointers[b, k, i, 0] + pointers[b, k, j, 1])
        for i in range(8)
        for j in range(i, min(i + longest, 8))
      }
      best = max(scores, key=scores.__getitem__)
      assert (int(spans.start[b, k]), int(spans.end[b, k])) == best
      np.testing.assert_allclose(spans.score[b, k], scores[best], rtol=1e-6)


class TestFusion:
  @pytest.fixture
  def fusion(self):
    config = config_of('fusion')
    params = init(jax.random.key(0), config, vocab_size=VOCAB)
    return params, config

  def test_what_is_written_scores_as_when_teacher_forced(self, fusion, texts):
    weights = jnp.array([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]])
    tokens, score = write(*fusion, *texts, weights)
    length = (tokens != 0).sum(1)
    ended = length < tokens.shape[1]
    forced = jnp.pad(tokens, ((0, 0), (0, 1)))
    place = jnp.arange(forced.shape[1]) == length[:, None]
    forced = jnp.where(place & ended[:, None], reader.EOS, forced)
    total = write_log_likelihood(*fusion, *texts, weights, forced).sum(1)
    np.testing.assert_allclose(score, total, rtol=1e-4)

  def test_a_passage_without_weight_is_not_read(self, fusion, texts):
    query, passages = texts
    answer = jnp.array([[7, 2, 0, 0], [8, 9, 2, 0]])
    weights = jnp.array([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])
    other = passages.at[:, 2].set(5)
    np.testing.assert_array_equal(
      write_log_likelihood(*fusion, query, passages, weights, answer),
      write_log_likelihood(*fusion, query, other, weights, answer),
    )

  def test_the_answer_moves_the_weights_of_what_is_read(self, fusion, texts):
    answer = jnp.array([[7, 2, 0, 0], [8, 9, 2, 0]])

    def loss(weights):
      return -write_log_likelihood(*fusion, *texts, weights, answer).sum()

    weights = jnp.array([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]])
    gradient = jax.grad(loss)(weights)
    assert bool(jnp.isfinite(gradient).all())
    assert bool((gradient != 0)[weights > 0].all())
    assert float(gradient[0, 2]) == 0

  def test_padding_after_the_answer_costs_nothing(self, fusion, texts):
    answer = jnp.array([[7, 2, 0, 0], [8, 9, 2, 0]])
    weights = jnp.ones((2, 3)) / 3
    scores = write_log_likelihood(*fusion, *texts, weights, answer)
    assert bool((scores[answer == 0] == 0).all())
    assert bool((scores[answer != 0] < 0).all())


@pytest.mark.parametrize(
  'field, value', [('kind', 'abstractive'), ('window', 4), ('window', 0)]
)
def test_bad_values_name_the_field_and_the_remedy(field, value):
  with pytest.raises(ValueError, match=f'reader.{field} must') as error:
    reader.ReaderConfig(**{field: value})
  assert repr(value) in str(error.value)
  assert f'--config.reader.{field}' in str(error.value)
