"""`data.host_tokens`: tokens on the host, the same numbers."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rag_jax
from rag_jax import config as configs
from rag_jax import model, objective, store, train, workdir
from rag_jax import stage as stages
from rag_jax.components import query_encoder
from rag_jax.data import batches, formats
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
def indexed(tiny_values, tmp_path_factory):
  """A workdir with an index of uint16 tokens, by `rag-jax corpus`."""
  folder = tmp_path_factory.mktemp('indexed') / 'run'
  for step in run.STEPS:
    run.step(build(tiny_values), folder, [step])
  return folder


def prepare(tiny_values, folder, name):
  """The system before training, its tokens int32, packed or on the host."""
  config = build(tiny_values, host_tokens=name == 'host')
  prepared = workdir.prepare(
    config, formats.load(config.data.path), model.Pretrained(), folder
  )
  if name == 'plain':
    tokens = jnp.asarray(np.asarray(prepared.index.tokens))
    index = prepared.index.replace(tokens=tokens)
    system = dataclasses.replace(prepared.system, index=index)
    prepared = prepared.replace(system=system)
  return prepared


def test_tokens_are_where_they_should_be(tiny_values, indexed):
  plain, packed, host = (
    prepare(tiny_values, indexed, name).index.tokens
    for name in ('plain', 'packed', 'host')
  )
  assert isinstance(plain, jax.Array) and plain.dtype == np.int32
  assert isinstance(packed, token_table.Packed)
  assert packed.tokens.dtype == np.uint16
  assert isinstance(host, token_table.OnHost)
  assert isinstance(host.host.array, np.memmap)
  assert not jax.tree.leaves(host)  # nothing on the device
  for table in (packed, host):
    assert np.array_equal(np.asarray(table), np.asarray(plain))


def test_losses_are_the_same(tiny_values, indexed):
  prepared = prepare(tiny_values, indexed, 'plain')
  host = prepared.index.replace(
    tokens=token_table.make(np.asarray(prepared.index.tokens), on_host=True)
  )
  config, size = prepared.system.config, prepared.vocab_size
  # Search and reading; crops of documents.
  losses = {'answer': 1.0, 'indexing': 1.0}
  stage = stages.Stage(losses=tuple(losses.items()))
  init = functools.partial(model.init, config=config.model, vocab_size=size)
  params = jax.jit(lambda key, index: init(key, index=index))(
    jax.random.key(0), prepared.index
  )
  questions = prepared.system.encode(prepared.dataset.splits['train'])
  batch = batches.train_batches(questions, batch_size=8, seed=0)[0]

  def loss(params, index):
    terms, _ = objective.loss(
      params, jax.random.key(1), batch, index, config=config.model, stage=stage
    )
    each = {n: value / jnp.maximum(m, 1) for n, (value, m) in terms.items()}
    return sum(each.values()), each

  one, other = (jax.jit(loss)(params, own) for own in (prepared.index, host))
  assert set(one[1]) == {'answer', 'indexing'}
  for ours, theirs in zip(*map(jax.tree.leaves, (one, other)), strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
  # Compiling it takes long, so that a long test does. A callback that has a
  # gradient is an error of the tracing.
  gradient = jax.grad(loss, has_aux=True)
  assert 'callback' in str(jax.make_jaxpr(gradient)(params, host))


def test_parameters_are_initialised_from_the_same_documents():
  rng = np.random.default_rng(0)
  array = rng.integers(0, 40, (query_encoder.BLOCK + 50, 5)).astype(np.uint16)
  array[7] = array[-1] = 0  # no documents
  plain = jnp.asarray(array.astype(np.int32))
  params = {
    'embedding': jnp.asarray(rng.normal(size=(40, 8)), jnp.float32),
    'log_token_weight': jnp.zeros(40),
  }
  inverse = functools.partial(
    query_encoder.inverse_document_frequency, vocab_size=40
  )
  counts = np.array([(array == token).any(axis=1).sum() for token in range(40)])
  total = (array != 0).any(axis=1).sum()
  expected = np.log1p((total - counts + 0.5) / (counts + 0.5))
  for table in (
    plain,
    token_table.make(array),
    token_table.make(array, on_host=True),
  ):
    np.testing.assert_allclose(inverse(table), expected, rtol=1e-5)
    found = query_encoder.embed_corpus(params, table)
    known = query_encoder.embed_documents(params, plain)
    np.testing.assert_allclose(found, known, atol=1e-5)


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


@pytest.mark.long
@pytest.mark.parametrize('name', ['packed', 'host'])
def test_trained_runs_are_the_same(runs, name):
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


@pytest.mark.long
def test_documents_can_be_added_to_a_system_with_tokens_on_the_host(runs):
  system = rag_jax.load(runs['host'])
  more = system.add([{'id': 'new', 'text': 'The pink yak weighs 3 grams.'}])
  assert 'new' in more.rows
  [found] = more.search(['The pink yak weighs?'])
  assert found


def test_the_mapped_file_is_that_of_its_index(indexed, tmp_path):
  path = tmp_path / store.INDEX
  path.write_bytes((indexed / store.INDEX).read_bytes())
  index, quantiser = indexes.load(path, on_host=True)
  assert [file.name for file in tmp_path.iterdir()] == [store.INDEX]
  plain, other = indexes.load(path)
  assert np.array_equal(np.asarray(index.tokens), np.asarray(plain.tokens))
  assert quantiser.keys() == other.keys()
  damaged = bytearray(path.read_bytes())
  damaged[-2000] ^= 1  # inside of the tokens, which are last
  (tmp_path / 'other.npz').write_bytes(damaged)
  with pytest.raises(ValueError, match='cannot be read'):
    indexes.load(tmp_path / 'other.npz', on_host=True)
  indexes.save(plain, other, path)  # compressed, as a run writes it
  index, _ = indexes.load(path, on_host=True)
  assert np.array_equal(np.asarray(index.tokens), np.asarray(plain.tokens))
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
