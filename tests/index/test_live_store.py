"""A saved live index and its extra arrays load unchanged."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax.index import docids, live, live_store, node_table
from rag_jax.ops import trie as tries

CONFIG = docids.DocidConfig(branching=3, leaf_size=3)


def corpus(count, seed=0):
  rng = np.random.default_rng(seed)
  tokens = rng.integers(1, 1000, (count, 5)).astype(np.int32)
  return tokens, rng.normal(size=(count, 6)).astype(np.float32)


def changed():
  """An index after an addition and a deletion, and its node table."""
  index = live.build(*corpus(50), CONFIG, capacity=80)
  vectors = np.pad(corpus(50)[1], ((0, 30), (0, 0)))
  table = tries.sum_below(index.index.trie, jnp.asarray(vectors))
  tokens, new = corpus(20, seed=1)
  index, change = live.add(index, tokens, new)
  table = node_table.update(table, change, new)
  index, change = live.delete(index, np.arange(20, 40))
  return index, node_table.update(table, change)


def test_save_and_load_are_inverse(tmp_path):
  index, table = changed()
  gold = np.arange(len(table)) % 3 == 0
  extra = {'id_decoder/table': table, 'gold': gold, 'tokens': np.array('a')}
  path = tmp_path / 'live.npz'
  live_store.save(index, path, extra)
  assert [p.name for p in tmp_path.iterdir()] == ['live.npz']
  loaded, arrays = live_store.load(path, CONFIG)
  assert arrays.keys() == extra.keys()
  for name, array in extra.items():
    np.testing.assert_array_equal(arrays[name], array, strict=True)
  for ours, theirs in zip(
    jax.tree.leaves((index.index, index.rows, index.quantiser)),
    jax.tree.leaves((loaded.index, loaded.rows, loaded.quantiser)),
    strict=True,
  ):
    np.testing.assert_array_equal(ours, theirs)
  tokens, new = corpus(5, seed=2)
  (one, change), (other, same) = (
    live.add(grown, tokens, new) for grown in (index, loaded)
  )
  np.testing.assert_array_equal(one.codes, other.codes)
  np.testing.assert_array_equal(change.rotated, same.rotated)


def test_a_failed_save_keeps_the_old_file(tmp_path):
  index, _ = changed()
  path = tmp_path / 'live.npz'
  live_store.save(index, path, {'table': np.ones(3)})
  for bad in (jnp.zeros(2, jnp.bfloat16), np.array([None])):
    with pytest.raises(ValueError, match=r"extra\['x'\] must be .* Convert"):
      live_store.save(index, path, {'x': bad})
  assert live_store.load(path)[1]['table'].tolist() == [1, 1, 1]


def test_a_changed_extra_array_is_refused(tmp_path):
  path = tmp_path / 'live.npz'
  live_store.save(changed()[0], path, {'table': np.ones(3)})
  with np.load(path) as stored:
    arrays = dict(stored)
  np.savez_compressed(path, **arrays | {'extra/table': np.zeros(3)})
  with pytest.raises(ValueError, match='checksum differs'):
    live_store.load(path)
