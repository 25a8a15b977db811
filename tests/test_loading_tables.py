"""A run that divides tables of documents puts no whole one on a device."""

import dataclasses

import jax
import numpy as np
import pytest

import rag_jax
from rag_jax import config as configs
from rag_jax import (
  curriculum,
  evaluate,
  fingerprints,
  loading,
  model,
  parallel,
  placement,
  store,
  train,
)
from rag_jax import system as systems
from rag_jax import workdir as workdirs
from rag_jax.components import query_encoder
from rag_jax.index import index as indexes
from rag_jax.ops import split_lexicon, split_rows, token_table


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


@pytest.fixture(scope='module')
def saved(tiny_values, tmp_path_factory):
  """Workdir of a run without steps, whose mesh divides tables."""
  workdir = tmp_path_factory.mktemp('saved') / 'run'
  values = tiny_values | {'stages': {}}
  values['train'] = values['train'] | {'mesh': 'fsdp=8'}
  values['data'] = values['data'] | {'lexicon': True}
  values['search'] = values['search'] | {'lexical_weight': 0.5}
  config = configs.build(values)
  train.fit(config, workdirs.open(config, workdir), workdir)
  return workdir


class Watch:
  """Tables of documents that lie whole on a device, at several moments."""

  def __init__(self, index):
    self.before = {id(x) for x in jax.live_arrays()}
    self.tables = [np.asarray(x) for x in (index.tokens, index.codes)]
    self.tables.append(np.asarray(index.lexicon.impacts))
    self.calls = 0

  def whole(self):
    sizes = {len(table) for table in self.tables}
    self.calls += 1
    return largest(self.before, sizes) & {x.shape for x in self.tables}

  def during(self, monkeypatch, module, name):
    """Looks whenever a function is called."""
    function = getattr(module, name)

    def watched(*args, **kwargs):
      assert not self.whole(), name
      return function(*args, **kwargs)

    monkeypatch.setattr(module, name, watched)


@pytest.fixture
def watch(saved):
  """A `Watch` of the tables of `saved`."""
  config = store.read_config(saved)
  return Watch(workdirs.open(config, saved, writes=False).index)


def nodes(params):
  """Shapes of the parts of the node table."""
  table = params['id_decoder']['table']
  return {shard.data.shape for shard in table.addressable_shards}


def test_hard_negatives_are_searched_for_in_divided_tables(
  saved, watch, monkeypatch
):
  config = store.read_config(saved)
  prepared = workdirs.open(config, saved, writes=False)
  for place in ((fingerprints, 'check'), (systems.System, 'on_devices')):
    watch.during(monkeypatch, *place)
  divided = rag_jax.load(saved)
  assert watch.calls == 2
  [(rows, _)] = nodes(divided.params)
  assert rows == -(-divided.index.table_rows // 8)
  questions = curriculum.training_questions(prepared)
  watch.during(monkeypatch, parallel, 'call')
  asked = config, divided.params, questions, prepared.index
  found = curriculum.with_negative(*asked).negative
  assert watch.calls == 2 + -(-len(found) // 32) and not watch.whole()
  assert ((found >= 0) & (found != questions.gold[:, 0])).any()
  # One device has whole tables, as this test would see.
  monkeypatch.undo()
  alone = loading.load(saved, mesh='')
  assert watch.whole()
  assert nodes(alone.params) == {(alone.index.table_rows, 16)}


def test_evaluation_divides_tables(saved, watch, monkeypatch):
  class Reached(Exception):
    """Where the first questions are computed, which takes time to compile."""

  def call(function, params, batch, index, allowed=None):
    assert not watch.whole()
    assert isinstance(index.tokens, split_rows.Rows)
    assert isinstance(index.lexicon, split_lexicon.Lexicon)
    raise Reached

  watch.during(monkeypatch, workdirs, 'prepare')
  watch.during(monkeypatch, evaluate, 'splits')
  monkeypatch.setattr(parallel, 'call', call)
  config = store.read_config(saved)
  system = rag_jax.load(saved)
  data = workdirs.open(config, saved, writes=False)
  with pytest.raises(Reached):
    evaluate.measure_search(system.on_devices(), data.dataset)
  assert watch.calls == 3


@pytest.mark.long
def test_a_loaded_system_finds_and_changes_what_one_device_does(
  saved, monkeypatch
):
  divided, alone = rag_jax.load(saved), loading.load(saved, mesh='')
  asked = ['How much does the red cat weigh?', 'Which animal is blue?']
  found = divided.search(asked)
  for ours, theirs in zip(found, alone.search(asked), strict=True):
    assert [c.document.id for c in ours] == [c.document.id for c in theirs]
    np.testing.assert_allclose(
      [c.score for c in ours], [c.score for c in theirs], rtol=1e-5
    )
  prepared = workdirs.open(store.read_config(saved), saved, writes=False)
  questions = curriculum.training_questions(prepared)
  negatives = [
    curriculum.with_negative(x.config, x.params, questions, x.index).negative
    for x in (divided, alone)
  ]
  np.testing.assert_array_equal(*negatives)
  new = [{'id': 'new', 'text': 'The mauve gnu weighs 7 kilograms.'}]
  found = []
  for loaded in (divided, alone):
    system = dataclasses.replace(loaded, workdir=None)
    changed = system.add(new).delete(['red-cat'])
    assert placement.mesh_of(changed.params) is None
    found.append(changed.search(['How much does the mauve gnu weigh?'])[0])
  for ours, theirs in zip(*found, strict=True):
    assert ours.document == theirs.document


def test_first_docids_read_tokens_in_blocks(saved, watch, monkeypatch):
  config = store.read_config(saved)
  vectors = {}
  for mesh in ('fsdp=8', ''):
    own = dataclasses.replace(config.train, mesh=mesh)
    own = dataclasses.replace(config, train=own)
    if mesh:
      watch.during(monkeypatch, query_encoder, 'embed_corpus')
    prepared = workdirs.open(config, saved, writes=False)
    asked = prepared.system.documents, prepared.system.tokenizer
    vectors[mesh] = workdirs.document_vectors(
      own, *asked, watch.tables[0], prepared.pretrained, saved.parent
    )
    monkeypatch.undo()
  assert watch.calls
  np.testing.assert_array_equal(*vectors.values())
  # A corpus of several blocks.
  tokens = np.random.default_rng(0).integers(0, 50, (1500, 3), np.int32)
  small = model.init_key(0), config.model
  found = [
    model.document_vectors(
      *small, token_table.make(tokens, on_host=on_host), vocab_size=50
    )
    for on_host in (False, True)
  ]
  np.testing.assert_array_equal(*found)


def test_lengths_are_counted_where_the_rows_lie():
  tokens = np.random.default_rng(0).integers(0, 3, (11, 5)).astype(np.uint16)
  index = indexes.from_codes(tokens, np.arange(11)[:, None], placed=False)
  placed = placement.place_index(index, placement.mesh('fsdp=8'))
  assert isinstance(placed.tokens.tokens, split_rows.Rows)
  found = token_table.lengths(placed.tokens)
  np.testing.assert_array_equal(found, (tokens > 0).sum(axis=1))
