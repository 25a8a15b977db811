"""Every loss of `objective.TERMS`, on a small model with each reader."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax import model, objective
from rag_jax import stage as stages
from rag_jax.nn import bert, llama

VOCAB = 50
# Softmax gives every document a gradient.
OPEN = {'ranker': {'operator': 'softmax'}, 'search': {'read_size': 6}}
PUBLISHED = {'weights': 'tiny', 'max_answer_tokens': 12}


def stage_of(*losses, **fields):
  return stages.Stage(losses=tuple((name, 1.0) for name in losses), **fields)


@functools.cache
def initialise(config):
  """(key, index) -> parameters; tiny random weights act as published ones."""
  pretrained = None
  if config.reader.kind == 'bert':
    sizes = bert.BertConfig(
      vocab_size=VOCAB,
      width=16,
      num_layers=1,
      num_heads=2,
      mlp_dim=16,
      max_positions=32,
    )
    own = jax.jit(bert.init, static_argnums=1)(jax.random.key(2), sizes)
    pretrained = {'bert': own}
  if config.reader.kind == 'causal':
    sizes = llama.LlamaConfig(
      vocab_size=VOCAB,
      width=16,
      num_layers=1,
      num_heads=2,
      num_key_value_heads=1,
      head_size=8,
      mlp_dim=16,
    )
    own = jax.jit(llama.init, static_argnums=1)(jax.random.key(2), sizes)
    pretrained = jax.tree.map(lambda x: 3 * x, own)

  def init(rng, index):
    start = model.Pretrained(reader=pretrained)
    return model.init(
      rng, config.model, index, vocab_size=VOCAB, pretrained=start
    )

  return jax.jit(init)


def init(config, index):
  return initialise(config)(jax.random.key(0), index)


@functools.cache
def values_and_slopes(config, stage):
  """(params, batch, index) -> each mean of `stage`, and its gradient."""

  def means(params, batch, index):
    terms, _ = objective.loss(
      params, jax.random.key(5), batch, index, config=config.model, stage=stage
    )
    own = {name: value / count for name, (value, count) in terms.items()}
    return own, own

  return jax.jit(jax.jacrev(means, has_aux=True))


def size(tree):
  return float(sum(jnp.abs(leaf).sum() for leaf in jax.tree.leaves(tree)))


@pytest.fixture(scope='module')
def batch_of_words(small_batch):
  """Questions whose one-token answers occur in several documents."""
  answers = small_batch.answers.at[:, :, 1:].set(0)
  return dataclasses.replace(small_batch, answers=answers)


# Reader -> losses to test with it.
BY_READER = {
  'extractive': (
    'answer',
    'docid',
    'docid_posterior',
    'emdr2',
    'indexing',
    'list_mle',
    'loop',
    'margin',
    'pdist',
    'posterior',
    'prefix_margin',
    'ranking',
    'replug',
  ),
  'bert': ('answer', 'null_document', 'posterior', 'relevance', 'reranking'),
  'fid': (
    'adist',
    'answer',
    'docid_posterior',
    'emdr2',
    'emdr2_token',
    'loop',
    'pdist',
    'posterior',
    'replug',
  ),
  'causal': ('answer', 'emdr2_token', 'loop', 'pdist'),
}


class TestTerms:
  """Losses are finite and have gradients to the expected components."""

  def run(self, kind, losses, small_config, index, batch, **fields):
    own = dict(OPEN)
    own['reader'] = {'kind': kind}
    if kind in ('bert', 'causal'):
      own['reader'] |= PUBLISHED
      own['data'] = {'tokenizer': 'tiny'}
    if kind == 'bert':
      own['reader'] |= {'reranks': True, 'null_document': True}
      own['stages'] = {
        'joint': {
          'steps': 1,
          'read_size': 6,
          'losses': dict.fromkeys(losses, 1.0),
        }
      }
    config = small_config(**own)
    params = init(config, index)
    if kind == 'bert':  # initially zero
      params['reader']['relevance'] = jnp.linspace(-1, 1, 16)
    stage = stage_of(*losses, margin=3.0, **fields)
    slopes, values = values_and_slopes(config, stage)(params, batch, index)
    assert set(values) == set(losses)
    return values, slopes

  def test_every_loss_is_tested(self):
    known = {name for names in BY_READER.values() for name in names}
    assert known | {'expected_cost'} == set(objective.TERMS)
    unread = {'docid', 'indexing', 'list_mle', 'margin', 'prefix_margin'}
    assert set(objective.TERMS) - objective.READER_LOSSES == unread | {
      'ranking'
    }

  @pytest.mark.parametrize(
    ('kind', 'name'),
    [(kind, name) for kind, names in BY_READER.items() for name in names],
  )
  def test_the_loss_is_finite_and_reaches_the_expected_components(
    self, kind, name, small_config, small_index, batch_of_words
  ):
    # Compiled once per reader.
    values, slopes = self.run(
      kind, BY_READER[kind], small_config, small_index, batch_of_words
    )
    assert np.isfinite(values[name])
    gradient = slopes[name]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    found = {part for part, own in gradient.items() if size(own) > 1e-7}
    if name in ('relevance', 'null_document'):
      moved = {'reader'}
    elif name in (
      'docid',
      'docid_posterior',
      'indexing',
      'margin',
      'prefix_margin',
    ):
      moved = {'query_encoder', 'id_decoder'}
    else:
      moved = {'query_encoder', 'id_decoder', 'ranker'}
    # Distillation trains the reader only through its relevance in the scores.
    if name in ('answer', 'reranking') or kind == 'bert':
      moved.add('reader')
    assert found == moved
