"""Where arrays lie on a mesh of eight devices."""

import dataclasses
import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax import config as configs
from rag_jax import parallel, per_device, placement, train
from rag_jax import step as steps
from rag_jax.components import query_encoder
from rag_jax.ops import split_rows, token_table

P = jax.sharding.PartitionSpec


@pytest.fixture(scope='module')
def state(small_config, small_index):
  config = small_config()
  init = functools.partial(steps.init_state, config, config.stages[0][1])
  return jax.jit(init)(small_index, vocab=jnp.zeros(50))


@pytest.fixture(scope='module')
def devices():
  return placement.mesh('fsdp=4,model=2')


@pytest.mark.parametrize(
  'text', ['fsdp', 'fsdp=x', 'fsdp=0', 'data=2,data=4', 'tensor=8', 'data=-1']
)
def test_a_mesh_is_refused_with_a_remedy(text):
  with pytest.raises(ValueError, match=r'train\.mesh .*got .*--config'):
    configs.build({'train': {'mesh': text}})


@pytest.mark.parametrize(
  ('text', 'remedy'),
  [('data=3', 'data=8'), ('fsdp=2', 'data=4,fsdp=2'), ('data=2,fsdp=8', '')],
)
def test_the_remedy_for_a_mesh_of_another_size_works(text, remedy):
  with pytest.raises(ValueError, match='got 8') as error:
    parallel.check_mesh(text)
  found = re.search(r'[Ss]et --config\.train\.mesh=([\w=,]+)', str(error.value))
  given = found[1] if found else ''
  assert remedy in ('', given)
  parallel.check_mesh(given)
  assert placement.mesh(given).size == 8


def test_pmap_has_no_mesh():
  with pytest.raises(ValueError, match=r'pmap.*parallel=jit'):
    parallel.check_mesh('data=8', 'pmap')


@pytest.mark.parametrize(
  ('size', 'mesh', 'parts', 'remedy'),
  [(12, '', 1, 16), (8, '', 4, 32), (2, 'model=2,data=4', 1, 4)],
)
def test_the_remedy_for_a_batch_works(size, mesh, parts, remedy):
  with pytest.raises(ValueError, match=f'batch=?.*={remedy}'):
    parallel.check_batch(size, field='batch', mesh=mesh, parts=parts)
  parallel.check_batch(remedy, field='batch', mesh=mesh, parts=parts)


def test_a_run_is_refused_before_it_writes(tiny_values, tmp_path):
  values = tiny_values | {'train': {'mesh': 'data=3'}}
  with pytest.raises(ValueError, match=r'train\.mesh'):
    train.run(configs.build(values), tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


def test_parameters_and_their_optimiser_state_are_divided(state, devices):
  placed = placement.place(state, devices)
  names = {
    jax.tree_util.keystr(path, simple=True, separator='/'): leaf
    for path, leaf in jax.tree.leaves_with_path(placed)
  }
  params = {n: x for n, x in names.items() if n.startswith('params/')}
  divided = {n for n, x in params.items() if not x.sharding.is_fully_replicated}
  for part in ('table', 'query/kernel', 'out/kernel', 'up/kernel', 'embedding'):
    assert [name for name in divided if name.endswith(part)], part
  held = sum(x.addressable_shards[0].data.nbytes for x in params.values())
  assert held < 0.3 * sum(x.nbytes for x in params.values())
  for name, leaf in params.items():
    for moment in ('mu', 'nu'):
      own = name.removeprefix('params/')
      [other] = [x for n, x in names.items() if n.endswith(f'/{moment}/{own}')]
      assert other.sharding == leaf.sharding, name


def test_the_node_table_is_stored_without_added_rows(state, devices):
  nodes = len(state.params['id_decoder']['table'])
  assert nodes % 4
  placed = placement.place(state, devices)
  padded = placed.params['id_decoder']['table']
  assert len(padded) == math.ceil(nodes / 4) * 4
  assert padded.sharding.spec == P('fsdp', None)
  stored = placement.stored(placed, nodes)
  wanted = placement.abstract(jax.eval_shape(lambda: state), devices)
  for ours, theirs, shape in zip(
    *map(jax.tree.leaves, (stored, state, wanted)), strict=True
  ):
    np.testing.assert_array_equal(ours, theirs)
    assert (ours.shape, ours.sharding) == (shape.shape, shape.sharding)


def test_a_state_can_be_made_where_it_lies(
  small_config, small_index, state, devices
):
  config = small_config()
  init = functools.partial(steps.init_state, config, config.stages[0][1])
  make = functools.partial(init, vocab=np.zeros(50))
  made = placement.make(make, small_index, devices=devices)
  nodes = len(state.params['id_decoder']['table'])
  for ours, theirs in zip(
    *map(jax.tree.leaves, (placement.stored(made, nodes), state)), strict=True
  ):
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_tokens_are_divided_by_rows_and_read_the_same(small_index, devices):
  index = dataclasses.replace(small_index, reader_tokens=small_index.tokens[:5])
  placed = placement.place_index(index, devices)
  assert isinstance(placed.tokens, split_rows.Rows)
  assert placed.tokens.array.addressable_shards[0].data.shape == (3, 9)
  assert placed.passages.array.shape == (8, 9)
  for ours, theirs in zip(
    (placed.tokens, placed.passages, placed.codes),
    (index.tokens, index.passages, index.codes),
    strict=True,
  ):
    np.testing.assert_array_equal(np.asarray(ours), theirs)
  assert placed.alive.sharding.is_fully_replicated
  again = placement.place_index(placed, devices)
  assert again.tokens is placed.tokens


def test_small_tokens_are_divided_and_those_on_the_host_are_not(
  small_index, devices
):
  tokens = np.asarray(small_index.tokens)
  packed = token_table.make(tokens.astype(np.uint16))
  host = token_table.make(tokens, on_host=True)
  index = dataclasses.replace(small_index, tokens=packed, reader_tokens=host)
  placed = placement.place_index(index, devices)
  assert placed.reader_tokens is host
  assert placed.tokens.tokens.array.dtype == np.uint16
  shards = placed.tokens.tokens.array.addressable_shards
  assert shards[0].data.shape == (3, 9)
  rows = jnp.arange(8)[::-1]

  def read(index, rows):
    return index.tokens[rows], index.passages[rows]

  run = jax.shard_map(
    read,
    in_specs=(per_device.index_specs(placed), P()),
    out_specs=P(),
    check_vma=False,
  )
  with jax.set_mesh(devices):
    found = jax.jit(run)(placed, rows)
  for own in found:
    np.testing.assert_array_equal(own, tokens[rows])
  np.testing.assert_array_equal(np.asarray(placed.tokens), tokens)


def test_vectors_of_documents_are_made_in_columns():
  tokens = np.random.default_rng(0).integers(1, 9, (1111, 2), np.int32)
  params = {'embedding': jnp.ones((9, 8)), 'log_token_weight': jnp.zeros(9)}

  def make(params, tokens):
    return split_rows.by_columns(query_encoder.embed_corpus(params, tokens))

  with jax.set_mesh(placement.mesh('fsdp=8')):
    program = jax.jit(make).lower(params, tokens).compile()
  assert 'f32[1111,1]' in program.as_text()
  assert 'f32[1111,8]' not in program.as_text()
  assert split_rows.by_columns(params['embedding']) is params['embedding']
