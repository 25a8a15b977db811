"""A model on a mesh that divides the index finds what one device finds."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax import compiled, parallel, placement
from rag_jax import step as steps
from rag_jax.index import further
from rag_jax.index import index as indexes
from rag_jax.ops import lexical, split_lexicon, split_rows

MESH = 'fsdp=4,data=2'
SEARCH = {'beam_size': 4, 'read_size': 3, 'lexical_weight': 0.7}


@pytest.fixture(scope='module')
def config(small_config):
  losses = {'docid': 1.0, 'ranking': 1.0, 'prefix_margin': 1.0}
  return small_config(
    data={'lexicon': True},
    ranker={'docid_weight': 0.0},
    search=SEARCH | {'learned_lexical_weight': True},
    train={'clip_norm': 1e9},
    stages={'joint': {'steps': 4, 'batch_size': 8, 'losses': losses}},
  )


@pytest.fixture(scope='module')
def index(small_index, small_tokens):
  lexicon = lexical.build(small_tokens, vocab_size=50)
  return dataclasses.replace(small_index, lexicon=lexicon)


@pytest.fixture(scope='module')
def batch(small_batch, small_tokens):
  """Eight questions; words of neighbouring documents in each."""
  twice = jax.tree.map(lambda x: jnp.concatenate([x, x]), small_batch)
  words = np.concatenate([small_tokens[:8, :4], small_tokens[4:, 2:4]], axis=1)
  return dataclasses.replace(twice, words=jnp.asarray(words))


@pytest.fixture(scope='module')
def state(config, index):
  init = functools.partial(steps.init_state, config, config.stages[0][1])
  return jax.jit(init)(index, vocab=jnp.zeros(50))


@pytest.fixture(scope='module')
def placed(index):
  return placement.place_index(index, placement.mesh(MESH))


def test_no_table_of_documents_is_whole_on_a_device(placed):
  assert isinstance(placed.lexicon, split_lexicon.Lexicon)
  for table in (placed.tokens, placed.codes, placed.lexicon.impacts):
    assert isinstance(table, split_rows.Rows)
    shard = table.array.addressable_shards[0].data
    assert shard.size == table.array.size / 4


@pytest.mark.parametrize(
  'name',
  ['search', 'rank', pytest.param('regret', marks=pytest.mark.long)],
)
def test_the_same_documents_with_the_same_scores(
  name, config, index, placed, state, batch
):
  function = getattr(compiled, name)(config.model)
  wanted = parallel.call(function, state.params, batch, index)
  params = placement.place(state.params, placement.mesh(MESH))
  found = parallel.call(function, params, batch, placed)
  for ours, theirs in zip(*map(jax.tree.leaves, (found, wanted)), strict=True):
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
  if name == 'search':  # which depends on the words
    impacts = jnp.zeros_like(index.lexicon.impacts)
    lexicon = dataclasses.replace(index.lexicon, impacts=impacts)
    other = dataclasses.replace(index, lexicon=lexicon)
    other = parallel.call(function, state.params, batch, other)
    assert (other.documents != found.documents).any()


@pytest.mark.long
def test_the_gradients_of_all_questions(config, index, placed, state, batch):
  function = compiled.health(config.model)
  wanted = parallel.call_whole(function, state.params, batch, index)
  params = placement.place(state.params, placement.mesh(MESH))
  found = parallel.call_whole(function, params, batch, placed)
  for ours, theirs in zip(*map(jax.tree.leaves, (found, wanted)), strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize('candidates', ['beam+gold', 'all'])
def test_a_step_has_the_same_losses(
  candidates, config, index, placed, state, batch
):
  stage = dataclasses.replace(config.stages[0][1], candidates=candidates)
  step = functools.partial(steps.train_step, config=config, stage=stage)
  copy = jax.tree.map(jnp.array, state)
  _, wanted = jax.jit(step)(copy, batch, index)
  run = parallel.compile_step(step, mesh=MESH)
  _, found = run(jax.tree.map(jnp.array, state), batch, placed)
  assert found.keys() == wanted.keys() and 'prefix_margin' in found
  for own, value in found.items():
    np.testing.assert_allclose(
      value, wanted[own], rtol=1e-4, atol=1e-5, err_msg=own
    )


@pytest.mark.long
def test_further_docids_have_a_divided_lexicon_too(config, index, batch):
  codes = np.asarray(index.codes)
  keys = np.random.default_rng(0).permutation(codes)[:, :-1]
  chosen = np.arange(len(codes))[None]
  tokens = np.asarray(index.tokens)
  more = further.build(codes, keys, tokens, chosen)
  index = indexes.with_further(index, more)
  init = functools.partial(steps.init_state, config, config.stages[0][1])
  params = jax.jit(init)(index, vocab=jnp.zeros(50)).params
  devices = placement.mesh(MESH)
  placed = placement.place_index(index, devices)
  assert isinstance(placed.lexicon, split_lexicon.Lexicon)
  function = compiled.rank(config.model)
  wanted = parallel.call(function, params, batch, index)
  found = parallel.call(
    function, placement.place(params, devices), batch, placed
  )
  np.testing.assert_array_equal(found.documents, wanted.documents)
  for ours, theirs in zip(*map(jax.tree.leaves, (found, wanted)), strict=True):
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
