"""`data.host_tokens`: tokens on the host, the same numbers."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rag_jax
from rag_jax import config as configs
from rag_jax import store, train
from rag_jax.index import index as indexes
from rag_jax.offline import run
from rag_jax.ops import token_table


def build(values, **data):
  return configs.build(values | {'data': values['data'] | data})


def losses(folder):
  lines = (folder / 'metrics.jsonl').read_text().splitlines()
  return [
    {k: v for k, v in json.loads(line).items() if 'second' not in k}
    for line in lines
  ]


@pytest.fixture(scope='module')
def runs(tiny_values, tmp_path_factory):
  """Three runs: tokens int32, uint16 by `rag-jax corpus`, and on the host."""
  folder = tmp_path_factory.mktemp('runs')
  found = {}
  for name in ('packed', 'host', 'plain'):
    config = build(tiny_values, host_tokens=name == 'host')
    for step in run.STEPS:
      run.step(config, folder / name, [step])
    if name == 'plain':  # the same docids, with tokens as a run writes them
      index, quantiser = indexes.load(folder / name / store.INDEX)
      index = index.replace(tokens=jnp.asarray(np.asarray(index.tokens)))
      indexes.save(index, quantiser, folder / name / store.INDEX)
    train.run(config, folder / name)
    found[name] = folder / name
  return found


def test_tokens_are_where_they_should_be(runs):
  tables = {
    name: rag_jax.load(folder).index.tokens for name, folder in runs.items()
  }
  assert isinstance(tables['plain'], jax.Array)
  assert tables['plain'].dtype == np.int32
  assert isinstance(tables['packed'], token_table.Packed)
  assert tables['packed'].tokens.dtype == np.uint16
  assert isinstance(tables['host'], token_table.OnHost)
  assert isinstance(tables['host'].host.array, np.memmap)
  assert not jax.tree.leaves(tables['host'])  # nothing on the device
  for table in tables.values():
    assert np.array_equal(np.asarray(table), np.asarray(tables['plain']))


@pytest.mark.parametrize('name', ['packed', 'host'])
def test_losses_and_answers_are_the_same(runs, name):
  assert losses(runs[name]) == losses(runs['plain'])
  questions = ['How much does the red cat weigh?', 'The white elk?']
  own, plain = (
    rag_jax.load(runs[key]).ask(questions) for key in (name, 'plain')
  )
  for one, other in zip(own, plain, strict=True):
    assert one.text == other.text
    assert [c.document.id for c in one.candidates] == [
      c.document.id for c in other.candidates
    ]
    assert [c.weight for c in one.candidates] == pytest.approx(
      [c.weight for c in other.candidates], abs=1e-6
    )


def test_documents_can_be_added_to_a_system_with_tokens_on_the_host(runs):
  system = rag_jax.load(runs['host'])
  more = system.add([{'id': 'new', 'text': 'The pink yak weighs 3 grams.'}])
  assert 'new' in more.rows
  [found] = more.search(['The pink yak weighs?'])
  assert found


def test_the_mapped_file_is_that_of_its_index(runs, tmp_path):
  path = tmp_path / store.INDEX
  path.write_bytes((runs['host'] / store.INDEX).read_bytes())
  index, quantiser = indexes.load(path, on_host=True)
  plain, other = indexes.load(path)
  assert np.array_equal(np.asarray(index.tokens), np.asarray(plain.tokens))
  assert quantiser.keys() == other.keys()
  [copy] = tmp_path.glob('index-tokens-*.npy')
  with copy.open('r+b') as file:
    file.seek(-1, 2)
    file.write(b'\x07')
  with pytest.raises(ValueError, match='its checksum differs'):
    indexes.load(path, on_host=True)
  indexes.load(path, on_host=True)  # the damaged file was removed
  path.write_bytes(path.read_bytes()[:-100])
  with pytest.raises(ValueError, match='cannot be read'):
    indexes.load(path, on_host=True)


def test_rows_are_read_as_from_an_array():
  array = np.random.default_rng(0).integers(0, 900, (50, 7)).astype(np.uint16)
  plain = jnp.asarray(array.astype(np.int32))
  rows = jnp.array([[3, 49, 60], [0, -1, 7]])
  for table in (
    token_table.make(array),
    token_table.make(array, on_host=True),
  ):
    assert table.shape == plain.shape and len(table) == 50
    assert table[rows].dtype == jnp.int32
    assert np.array_equal(table[rows], plain[rows])
    found = jax.jit(jax.vmap(lambda row, t: t[row], (0, None)))(rows, table)
    assert np.array_equal(found, plain[rows])
    block = jax.jit(token_table.block, static_argnums=2)(table, 40, 10)
    assert np.array_equal(block, plain[40:])
    assert np.array_equal(token_table.lengths(table), (array != 0).sum(axis=1))

    def loss(x, table=table):
      best = jax.lax.top_k(x, 2)[1]
      return (table[best] * x[best][:, None]).sum()

    x = jnp.arange(50.0)
    assert np.array_equal(
      jax.grad(loss)(x), jax.grad(lambda x: loss(x, plain))(x)
    )
