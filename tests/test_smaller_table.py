"""Systems whose node table has rows for some nodes only."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rag_jax
from rag_jax import changes, loading, parallel, placement, starts
from rag_jax import corpus as corpora
from rag_jax import step as steps
from rag_jax.index import docids
from rag_jax.index import index as indexes

DECODER = {'table_levels': 1, 'table_documents': 3}
ANIMALS = ('cat', 'dog', 'gnu', 'eel', 'fox', 'owl')
COLOURS = ('red', 'blue', 'pink', 'grey')


@pytest.fixture(scope='module')
def system():
  """A search of documents, without training."""
  texts = [f'A {c} {a} lives here.' for c in COLOURS for a in ANIMALS]
  config = loading.search_config(len(texts))
  config = dataclasses.replace(
    config,
    docid=docids.DocidConfig(
      scheme='residual_kmeans', codebook_size=3, num_levels=2
    ),
    id_decoder=dataclasses.replace(config.id_decoder, **DECODER),
  )
  return rag_jax.from_documents(texts, config=config)


def found(system, text):
  [best] = system.search([text])
  return best[0].document.text


@pytest.mark.long
def test_documents_are_added_deleted_saved_and_loaded(system, tmp_path):
  decoder = system.params['id_decoder']
  slots = system.index.slots
  assert len(decoder['table']) == slots.count < system.index.trie.num_nodes / 2
  assert found(system, 'pink gnu') == 'A pink gnu lives here.'
  new = [f'A white {name} swims there.' for name in ANIMALS]
  grown = system.add(new)
  less = grown.delete([grown.documents[0].id])
  again = less.add([{'id': 'black', 'text': 'A black cat.'}])
  for own in (grown, less, again):
    assert len(own.params['id_decoder']['table']) == own.index.slots.count
    assert found(own, 'white owl') == 'A white owl swims there.'
    fresh = corpora.with_slots(
      own.config, dataclasses.replace(own.index, slots=None)
    )
    np.testing.assert_array_equal(fresh.slots.rows, own.index.slots.rows)
  assert found(again, 'black cat') == 'A black cat.'
  assert found(less, 'red cat') != 'A red cat lives here.'
  path = tmp_path / 'live.npz'
  changes.save(less.live, less.documents, less.params, path)
  live, documents, params = changes.load(less.config, path, system.params)
  assert documents == less.documents
  np.testing.assert_array_equal(
    live.index.slots.rows, less.live.index.slots.rows
  )
  assert live.index.slots.count == less.index.slots.count
  for ours, theirs in zip(
    *map(jax.tree.leaves, (params, less.params)), strict=True
  ):
    np.testing.assert_array_equal(ours, theirs)


@pytest.fixture(scope='module')
def config(small_config):
  return small_config(
    docid={'scheme': 'residual_kmeans', 'codebook_size': 3, 'num_levels': 2},
    id_decoder={'num_layers': 0} | DECODER,
    search={'beam_size': 4, 'scoring': 'absolute'},
    train={'clip_norm': 1e9, 'warmup_steps': 1},
    stages={'joint': {'steps': 2, 'batch_size': 8, 'losses': {'docid': 1.0}}},
  )


@pytest.fixture(scope='module')
def index(config, small_tokens):
  rng = np.random.default_rng(0)
  codes = rng.integers(0, 3, (12, 2))
  codes = np.concatenate([codes, np.arange(12)[:, None]], axis=1)
  return corpora.with_slots(config, indexes.from_codes(small_tokens, codes))


@pytest.fixture(scope='module')
def initial(config, index):
  """Makes the state before the first step."""
  init = functools.partial(steps.init_state, config, config.stages[0][1])
  run = jax.jit(init)
  return lambda: run(index, vocab=jnp.zeros(50))


@pytest.mark.long
def test_a_mesh_that_divides_the_table_trains_the_same(
  config, index, initial, small_batch
):
  [(_, stage)] = config.stages
  batch = jax.tree.map(lambda x: jnp.concatenate([x, x]), small_batch)
  run = functools.partial(steps.train_step, config=config, stage=stage)
  results = []
  for mesh in ('', 'fsdp=4,data=2'):
    state = initial()
    step = parallel.compile_step(run, mesh=mesh) if mesh else jax.jit(run)
    before = jax.device_get(state.params['id_decoder'])
    for _ in range(2):  # the first has the rate 0
      state, _ = step(state, batch, index)
    if mesh:
      table = state.params['id_decoder']['table']
      assert table.addressable_shards[0].data.shape[0] == len(table) // 4
    params = placement.stored(state.params, index.table_rows)
    results.append(jax.device_get(params))
    for name in ('table', 'codebook'):  # both are trained
      old, new = before[name], results[-1]['id_decoder'][name]
      moved = jax.tree.map(lambda a, b: abs(a - b).max(), old, new)
      assert min(jax.tree.leaves(moved)) > 1e-5, name
  for ours, theirs in zip(*map(jax.tree.leaves, results), strict=True):
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_another_run_gives_its_table_and_codebook(config, index, initial):
  params = initial().params
  assert index.table_rows == len(params['id_decoder']['table'])
  bare = dataclasses.replace(index, slots=None)  # as it is read from a file
  source = starts.Source(config=config, params=params, index=bare, quantiser={})
  weights = starts.with_components(
    source, config, steps.model.Pretrained(), vocab_size=50
  )
  start = starts.with_decoder(source, config, weights, bare).start
  taken = start['id_decoder']
  assert sorted(taken) == sorted(params['id_decoder'])
  assert taken['codebook'] is params['id_decoder']['codebook']
  codes = np.asarray(index.codes)[::-1]
  other = indexes.from_codes(np.asarray(index.tokens), codes)
  taken = starts.with_decoder(source, config, weights, other).start
  assert not {'table', 'codebook'} & set(taken['id_decoder'])
