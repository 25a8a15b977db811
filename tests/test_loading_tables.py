"""A run that divides tables of documents puts no whole one on a device."""

import jax
import numpy as np
import pytest

from rag_jax import config as configs
from rag_jax import parallel, placement
from rag_jax import workdir as workdirs
from rag_jax.index import index as indexes
from rag_jax.ops import split_lexicon, split_rows


@pytest.fixture(scope='module')
def opened(tiny_values, tmp_path_factory):
  """Mesh -> the arrays on devices before, and a workdir that was opened."""
  folder = tmp_path_factory.mktemp('work')

  def make(mesh):
    values = tiny_values | {'train': tiny_values['train'] | {'mesh': mesh}}
    values['data'] = values['data'] | {'lexicon': True}
    before = {id(x) for x in jax.live_arrays()}
    config = configs.build(values)
    workdirs.open(config, folder / 'run')  # makes the index
    return before, workdirs.open(config, folder / 'run')

  return make


def largest(before, sizes):
  """Shapes of the new parts of arrays on a device that are of these sizes."""
  return {
    shard.data.shape
    for array in jax.live_arrays()
    if id(array) not in before
    for shard in array.addressable_shards
    if shard.data.size >= min(sizes) and shard.data.shape[0] in sizes
  }


def test_no_device_has_all_rows(opened):
  before, prepared = opened('fsdp=8')
  index = prepared.index
  count = len(index.codes)
  postings = len(index.lexicon.impacts)
  sizes = {count, postings}
  for table in (index.tokens, index.codes, index.lexicon.impacts):
    assert isinstance(table, np.ndarray)
  whole = {(count, *index.tokens.shape[1:]), index.codes.shape, (postings,)}
  assert not largest(before, sizes) & whole
  placed = prepared.system.on_devices().index
  assert isinstance(placed.tokens, split_rows.Rows)
  assert isinstance(placed.lexicon, split_lexicon.Lexicon)
  assert not largest(before, sizes) & whole
  for ours, theirs in (
    (placed.tokens, index.tokens),
    (placed.codes, index.codes),
  ):
    np.testing.assert_array_equal(np.asarray(ours), theirs)
  # One device has all of them, as this test would see.
  before, prepared = opened('')
  assert isinstance(prepared.index.tokens, jax.Array)
  assert largest(before, sizes) >= whole


def test_rows_are_read_by_the_process_that_has_them(monkeypatch):
  read = []

  class Table(np.ndarray):
    """Notes what is read."""

    def __getitem__(self, index):
      if isinstance(index, slice):
        read.append((index.start, index.stop))
      return super().__getitem__(index)

  tokens = np.arange(30, dtype=np.int32).reshape(10, 3)
  index = indexes.from_codes(tokens, np.arange(10)[:, None], placed=False)
  index = index.replace(tokens=tokens.view(Table))
  read.clear()
  devices = placement.mesh('fsdp=4,data=2')
  placed = placement.place_index(index, devices)
  assert {stop - start for start, stop in read} == {3}
  np.testing.assert_array_equal(np.asarray(placed.tokens), tokens)
  array = placed.tokens.array
  assert array.shape == (12, 3)
  np.testing.assert_array_equal(np.asarray(array[10:]), 0)


def test_only_a_mesh_with_fsdp_divides_tables():
  assert parallel.divides_tables('jit', 'fsdp=4,data=2')
  assert not parallel.divides_tables('jit', '')
  assert not parallel.divides_tables('jit', 'fsdp=1,data=8')
  assert not parallel.divides_tables('pmap', '')
