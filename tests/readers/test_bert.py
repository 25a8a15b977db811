import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax import readers
from rag_jax.nn import bert, bert_weights, encoders, weights
from rag_jax.ops import losses, masking
from rag_jax.readers import base

VOCAB = 40
WEIGHTS = jnp.array([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]])


def config_of(**options):
  sizes = {'width': 16, 'num_layers': 2, 'num_heads': 2, 'mlp_dim': 16}
  fields = sizes | {'max_answer_tokens': 4, 'weights': 'tiny'}
  return base.ReaderConfig(kind='bert', **(fields | options))


def bert_reader(**options):
  """A tiny reader with random weights in place of published ones."""
  config = config_of(**options)
  reader = readers.make(config)
  sizes = dataclasses.replace(
    encoders.body(config), vocab_size=VOCAB, max_positions=32
  )
  params = reader.init(
    jax.random.key(1),
    vocab_size=VOCAB,
    pretrained={'bert': bert.init(jax.random.key(0), sizes)},
  )
  params['relevance'] = jnp.linspace(-1, 1, 16)
  return params, reader, config


def test_padding_changes_neither_spans_nor_relevance(texts):
  params, reader, _ = bert_reader()
  query, passages = texts
  wide = jnp.pad(passages, ((0, 0), (0, 0), (0, 4)))
  wider = jnp.pad(query, ((0, 0), (0, 3)))
  read = jax.jit(reader.read)
  close, far = read(params, query, passages), read(params, wider, wide)
  np.testing.assert_allclose(
    close.spans, far.spans[:, :, : passages.shape[-1]], atol=1e-5
  )
  np.testing.assert_allclose(
    reader.relevance(close), reader.relevance(far), atol=1e-5
  )


def test_spans_and_relevance_equal_those_of_bert_on_a_text_pair(texts):
  params, reader, config = bert_reader()
  query, passages = texts
  question, passage = query[:1], passages[0, :1]  # the question has padding
  tokens = jnp.concatenate([question[:, :3], passage], axis=1)
  segments = jnp.asarray([[0] * 3 + [1] * passage.shape[1]])
  states = bert.apply(
    params['bert'],
    encoders.body(config),
    tokens,
    segments=segments,
  )
  logits = states[:, 3:] @ params['pointer']
  found = reader.read(params, question, passage[:, None])
  np.testing.assert_allclose(
    found.spans[:, 0], jax.nn.log_softmax(logits, axis=1), atol=1e-5
  )
  mean = states[0, :3].mean(axis=0)  # the question states without padding
  np.testing.assert_allclose(
    found.relevance[0, 0], mean @ params['relevance'], atol=1e-5
  )


def test_relevance_includes_the_score_of_the_best_span(texts):
  params, plain, config = bert_reader()
  _, reader, _ = bert_reader(span_relevance=0.5)
  query, passages = texts
  question, passage = query[:1, :3], passages[0, :1]
  before = plain.read(params, question, passage[:, None])
  after = reader.read(params, question, passage[:, None])
  np.testing.assert_array_equal(before.spans, after.spans)
  tokens = jnp.concatenate([question, passage], axis=1)
  states = bert.apply(
    params['bert'],
    encoders.body(config),
    tokens,
    segments=(jnp.arange(12) >= 3)[None].astype(int),
  )
  logits = np.asarray(states[0, 3:] @ params['pointer'])
  best = max(
    logits[i, 0] + logits[j, 1]
    for i in range(9)
    for j in range(i, i + 4)
    if j < 9
  )
  change = reader.relevance(after) - plain.relevance(before)
  np.testing.assert_allclose(change[0, 0], 0.5 * best, rtol=1e-3)


def test_a_shared_softmax_sums_to_one_over_all_passages(texts):
  params, reader, _ = bert_reader(shared_softmax=True)
  chances = jnp.exp(reader.read(params, *texts).spans)
  np.testing.assert_allclose(chances.sum((1, 2)), 1, rtol=1e-5)


def test_frozen_layers_get_no_gradient(texts):
  params, reader, _ = bert_reader(frozen_layers=1)

  def total(params):
    return reader.relevance(reader.read(params, *texts)).sum()

  gradient = jax.grad(total)(params)['bert']
  for name in ('embedding', 'positions', 'segments', 'norm'):
    assert float(jnp.abs(gradient[name]).max()) == 0
  sizes = [
    max(float(jnp.abs(x).max()) for x in jax.tree.leaves(gradient[block]))
    for block in ('block_0', 'block_1')
  ]
  assert sizes[0] == 0 < sizes[1]


def test_a_gradient_step_lowers_the_answer_loss(texts, losses_of_a_step):
  params, reader, _ = bert_reader()
  answers = texts[1][:, 1, None, 2:4]

  def loss(params):
    memory = reader.read(params, *texts)
    scores = reader.log_likelihood(params, memory, answers)[..., 0]
    holds = scores > masking.NEG_INF / 2
    return losses.sequence_marginal(WEIGHTS, scores, where=holds).sum()

  before, after = losses_of_a_step(loss, params, 0.1)
  assert after < before - 0.01


def test_the_answer_score_is_the_likelihood_of_its_tokens(texts):
  params, reader, _ = bert_reader(null_document=True)
  memory = reader.read(params, *texts)
  where = jnp.asarray([[True, True, False], [True, True, True]])
  found = reader.answer(params, memory, WEIGHTS, where)
  rows = jnp.arange(2)
  tokens = reader.answer_each(params, memory)[rows, found.place]
  scores = reader.log_likelihood(params, memory, tokens[:, None])
  expected = scores[rows, found.place, 0] + jnp.log(WEIGHTS[rows, found.place])
  np.testing.assert_allclose(found.log_probability, expected, rtol=1e-5)
  total = (jnp.exp(memory.relevance) * where).sum(1)
  np.testing.assert_allclose(
    found.no_answer, -jnp.log(total) - expected, rtol=1e-5
  )


class TestLoad:
  @pytest.fixture
  def folder(self, tmp_path):
    """A tiny BERT in the files of Hugging Face."""
    sizes = dataclasses.replace(
      encoders.body(config_of()), vocab_size=VOCAB, max_positions=32
    )
    params = bert.init(jax.random.key(0), sizes)
    weights.write(
      tmp_path / 'model.safetensors', bert_weights.to_state_dict(params, sizes)
    )
    (tmp_path / 'config.json').write_text(
      '{"model_type": "bert", "hidden_act": "gelu", "vocab_size": 40, '
      '"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, '
      '"intermediate_size": 16, "max_position_embeddings": 32, '
      '"type_vocab_size": 2, "layer_norm_eps": 1e-12}'
    )
    return str(tmp_path), params

  def test_load_returns_the_published_weights(self, folder):
    path, params = folder
    found = readers.make(config_of(weights=path)).load()
    assert found.tokenizer is None
    jax.tree.map(np.testing.assert_array_equal, found.params, {'bert': params})

  def test_a_size_mismatch_raises(self, folder):
    path, _ = folder
    reader = readers.make(config_of(weights=path, num_layers=3))
    with pytest.raises(ValueError, match='reader.num_layers must be 2 as in'):
      reader.load()
