"""A lexicon divided over devices gives what a whole one gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax import per_device, placement
from rag_jax.index import further, uniqueness
from rag_jax.index import index as indexes
from rag_jax.ops import lexical, split_lexicon, split_rows
from rag_jax.ops import trie as tries

P = jax.sharding.PartitionSpec
COUNT, VOCABULARY = 61, 30


@pytest.fixture(
  scope='module',
  params=['all', pytest.param('deleted', marks=pytest.mark.long), 'further'],
)
def index(request):
  """Docids of unequal length, so that leaves end at several depths.

  With further docids, some documents have up to three of them, and some have
  none; others are deleted, too.
  """
  rng = np.random.default_rng(0)
  codes = rng.integers(0, 3, (COUNT, 4)).astype(np.int32)
  codes = uniqueness.append_uniqueness(codes)
  words = rng.integers(0, VOCABULARY, (COUNT, 9))
  alive = np.ones(COUNT, bool)
  if request.param != 'all':
    alive = rng.random(COUNT) < 0.8
  found = indexes.from_codes(words, codes, alive=alive)
  if request.param == 'further':
    keys = rng.integers(0, 3, (3 * COUNT, codes.shape[1] - 1))
    chosen = rng.permutation(3 * COUNT).reshape(3, COUNT)
    chosen = np.where(rng.random((3, COUNT)) < 0.6, chosen, -1)
    more = further.build(codes, keys, np.ones((len(keys), 1)), chosen)
    found = indexes.with_further(found, more)
  lexicon = lexical.build(words, vocab_size=VOCABULARY, pair_weight=0.5)
  return found.replace(lexicon=lexicon)


@pytest.fixture(scope='module')
def query():
  return np.random.default_rng(1).integers(0, VOCABULARY, (16, 5))


@pytest.fixture(scope='module')
def run(index):
  """Runs a function of the divided lexicon, a query and rows, on a mesh."""

  def run(function, mesh, query, *rest):
    devices = placement.mesh(mesh)
    placed = placement.place_index(index, devices)
    each = jax.shard_map(
      lambda index, *own: function(index.lexicon, *own),
      in_specs=(per_device.index_specs(placed), *(placement.BATCH,) * 2),
      out_specs=placement.BATCH,
      axis_names=set(split_rows.BATCH),
      check_vma=False,
    )
    query = lexical.with_pairs(index.lexicon, jnp.asarray(query))
    with jax.set_mesh(devices):
      return np.asarray(jax.jit(each)(placed, query, *rest))

  return run


MESHES = (
  pytest.param('fsdp=8', marks=pytest.mark.long),
  *('fsdp=4,data=2', 'fsdp=2,data=2,model=2'),
)


@pytest.mark.parametrize('mesh', MESHES)
def test_the_best_below_each_node_is_that_of_all_documents(
  mesh, index, query, run
):
  nodes = index.trie.num_nodes
  real = np.ones(nodes, bool)  # but for further docids that there are not
  leaves = further.leaf_where(np.asarray(index.alive), index.further)
  real[COUNT : len(leaves)] = leaves[COUNT:]
  rows = np.random.default_rng(2).permuted(
    np.tile(np.flatnonzero(real), (len(query), 1)), axis=1
  )
  found = run(
    lambda lexicon, query, rows: (
      split_lexicon.max_below(lexicon, query) * 1.0
    ).take(rows),
    mesh,
    query,
    jnp.asarray(rows),
  )
  words = lexical.with_pairs(index.lexicon, jnp.asarray(query))
  scores = lexical.score_all(index.lexicon, words)
  scores = further.repeat(scores, index.further)
  wanted = np.asarray(tries.max_below(index.trie, scores))
  np.testing.assert_array_equal(found, np.take_along_axis(wanted, rows, axis=1))


@pytest.mark.parametrize('mesh', MESHES)
def test_scores_of_given_documents_are_those_of_the_whole_lexicon(
  mesh, index, query, run
):
  rows = np.random.default_rng(3).integers(0, COUNT, (len(query), 7))
  found = run(split_lexicon.score, mesh, query, jnp.asarray(rows))
  words = lexical.with_pairs(index.lexicon, jnp.asarray(query))
  wanted = lexical.score(index.lexicon, words, jnp.asarray(rows))
  np.testing.assert_array_equal(found, wanted)
  assert (np.asarray(wanted) > 0).any()


def test_each_device_has_its_part_of_the_postings(index):
  devices = placement.mesh('fsdp=8')
  whole = index.lexicon
  divided = placement.place_index(index, devices).lexicon
  number = int(whole.first[-1])
  found = []
  for part in range(8):
    [own] = [
      x.data
      for x in divided.first.array.addressable_shards
      if x.index[0].start == part * len(whole.first)
    ]
    found.append(int(own[-1]))
  size = divided.documents.array.addressable_shards[0].data.size
  assert size == max(found) + lexical.WINDOW
  if index.further is None:
    assert sum(found) == number and max(found) < number / 4
  else:  # once for each device with a docid of the document
    leaves = further.leaf_where(np.asarray(index.alive), index.further).sum()
    assert number < sum(found) < number / COUNT * leaves
    assert max(found) < number / 2
  again = placement.place_index(index.replace(lexicon=divided), devices)
  assert again.lexicon is divided


def test_a_host_makes_the_parts_that_it_needs(index):
  whole = split_lexicon.divide(index.lexicon, index.trie, 4)
  own = split_lexicon.divide(index.lexicon, index.trie, 4, [1, 2])
  for name in ('first', 'documents', 'impacts'):
    ours, theirs = (getattr(x, name).array.reshape(4, -1) for x in (own, whole))
    np.testing.assert_array_equal(ours[1:3], theirs[1:3])
    assert theirs[0].any() and not ours[[0, 3]].any()


@pytest.mark.parametrize('count', [1, 2, 17])
def test_docids_of_one_code_are_divided_too(count):
  codes = np.random.default_rng(0).permutation(count)[:, None]
  words = np.random.default_rng(1).integers(1, VOCABULARY, (count, 4))
  lexicon = lexical.build(words, vocab_size=VOCABULARY)
  divided = split_lexicon.divide(lexicon, tries.build(codes), 4)
  width, most = sum(divided.blocks), len(divided.impacts) // 4
  document = {place: row for row, place in enumerate(divided.places[:count])}
  found, wanted = [], []
  for part in range(4):
    first = divided.first.array.reshape(4, -1)[part]
    for word in range(VOCABULARY):
      for i in part * most + np.arange(first[word], first[word + 1]):
        row = document[part * width + divided.documents.array[i]]
        found.append((word, row, divided.impacts.array[i]))
  for word in range(VOCABULARY):
    for i in range(lexicon.first[word], lexicon.first[word + 1]):
      wanted.append((word, int(lexicon.documents[i]), lexicon.impacts[i]))
  assert sorted(found) == wanted


def test_few_nodes_lie_on_a_border(index):
  for parts in (2, 4, 8):
    divided = split_lexicon.divide(index.lexicon, index.trie, parts)
    border = divided.border.array.reshape(parts, -1)
    width = sum(divided.blocks)
    shared = border[:, :-1]
    assert shared.shape[1] <= (parts - 1) * (index.trie.depth - 1)
    assert ((shared < width).sum(0) >= 2).all()
