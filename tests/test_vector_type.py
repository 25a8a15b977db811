"""A node table in bfloat16, where a trained system searches."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from rag_jax import changes, compiled, model, parallel, placement
from rag_jax import step as steps
from rag_jax.components import table_products


@pytest.fixture(scope='module')
def config(small_config):
  return small_config(search={'beam_size': 4, 'vector_type': 'bfloat16'})


@pytest.fixture(scope='module')
def params(config, small_index):
  init = functools.partial(steps.init_state, config, config.stages[0][1])
  return jax.jit(init)(small_index, vocab=jnp.zeros(50)).params


@pytest.fixture(scope='module')
def rounded(config, params):
  return model.to_search(config.search, params)


def test_the_table_alone_is_rounded_to_half_of_its_size(
  config, params, rounded
):
  before, after = (x['id_decoder']['table'] for x in (params, rounded))
  assert after.dtype == jnp.bfloat16 and after.nbytes * 2 == before.nbytes
  np.testing.assert_array_equal(
    after, np.asarray(before).astype(ml_dtypes.bfloat16)
  )
  others = {
    x.dtype for x in jax.tree.leaves(rounded | {'id_decoder': {}}) if x.size
  }
  assert others == {jnp.dtype('float32')}
  plain = dataclasses.replace(config.search, vector_type='float32')
  assert model.to_search(plain, params) is params
  assert model.to_search(config.search, {}) == {}


@pytest.mark.parametrize('ratio', [0, 32], ids=['gathered', 'all'])
def test_products_are_those_of_rounded_vectors(ratio, monkeypatch, rounded):
  monkeypatch.setattr(table_products, 'MAX_PRODUCT_RATIO', ratio)
  table = rounded['id_decoder']['table']
  rng = np.random.default_rng(0)
  states = rng.normal(size=(2, 3, table.shape[1])).astype(np.float32)
  rows = rng.integers(0, len(table), (2, 3, 5))
  found = table_products.of_rows(jnp.asarray(states), table, rows, unit=True)
  vectors = np.asarray(table, np.float64)[rows]
  if ratio:
    states = states.astype(ml_dtypes.bfloat16)
  wanted = np.einsum('bkd,bkcd->bkc', states.astype(np.float64), vectors)
  wanted /= np.linalg.norm(vectors, axis=-1)
  assert found.dtype == jnp.float32
  np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_scores_stay_close_and_a_mesh_gives_the_same(
  config, params, rounded, small_index, small_batch
):
  batch = jax.tree.map(lambda x: jnp.concatenate([x, x]), small_batch)
  function = compiled.search(config.model)
  exact, wanted = (
    parallel.call(function, x, batch, small_index) for x in (params, rounded)
  )
  assert (exact.documents[:, 0] == wanted.documents[:, 0]).mean() > 0.7
  np.testing.assert_allclose(exact.scores[:, 0], wanted.scores[:, 0], atol=0.1)
  assert (exact.scores != wanted.scores).any()
  devices = placement.mesh('fsdp=4,data=2')
  placed = placement.place(rounded, devices)
  assert placed['id_decoder']['table'].dtype == jnp.bfloat16
  found = parallel.call(function, placed, batch, small_index)
  for ours, theirs in zip(*map(jax.tree.leaves, (found, wanted)), strict=True):
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.long
def test_gradients_of_an_evaluation_stay_close(
  config, params, rounded, small_index, small_batch
):
  function = compiled.health(config.model)
  found, wanted = (
    parallel.call_whole(function, x, small_batch, small_index)
    for x in (rounded, params)
  )
  for ours, theirs in zip(*map(jax.tree.leaves, (found, wanted)), strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=0.1, atol=0.05)


def test_bad_input_is_one_line_with_a_remedy(small_config, config):
  with pytest.raises(ValueError, match=r'search\.vector_type must be one of'):
    small_config(search={'vector_type': 'float16'})
  with pytest.raises(ValueError, match=r'output=node_table or'):
    small_config(
      search={'vector_type': 'bfloat16'}, id_decoder={'output': 'codebook'}
    )
  small_config(
    search={'vector_type': 'float32'}, id_decoder={'output': 'codebook'}
  )
  with pytest.raises(ValueError, match=r"vector_type='float32'\)"):
    changes.with_capacity(config, None, None, {}, {}, 1)
