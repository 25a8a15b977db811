"""`rag-jax plan`: bytes as they are once an index is made."""

import dataclasses

import jax
import numpy as np
import pytest

from rag_jax import config as configs
from rag_jax import placement, plan
from rag_jax.index import index as indexes
from rag_jax.index import uniqueness
from rag_jax.ops import docid_layout, docid_sizes, lexical, node_slots

GIB = 2**30


def random_codes(count, values, levels):
  rng = np.random.default_rng(0)
  codes = rng.integers(0, values, (count, levels)).astype(np.int32)
  return uniqueness.append_uniqueness(codes)


def measured(tree):
  return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def config(scheme='random', codes=256, levels=4, **data):
  docid = {'scheme': scheme, 'codebook_size': codes, 'num_levels': levels}
  return configs.build({'docid': docid, 'data': data})


def part(found, name, number=0):
  return [own for own in found if own.name == name][number]


@pytest.mark.parametrize(
  'count, values, levels',
  [(10_000, 256, 4), (100_000, 24, 3), (100_000, 256, 4), (60, 2, 3)],
)
def test_the_expected_trie_is_the_trie_of_random_docids(count, values, levels):
  layout = docid_layout.lay_out(random_codes(count, values, levels))
  real = docid_layout.tight(layout)
  found = docid_sizes.expected(count, values, levels)
  assert found.memory == pytest.approx(real.memory, rel=0.02)
  assert found.num_nodes == pytest.approx(real.num_nodes, rel=0.01)
  for own, other in zip(found.nodes, real.nodes, strict=False):
    assert own == pytest.approx(other, rel=0.05, abs=30)


def test_bytes_of_an_index_within_a_tenth():
  count, length = 20_000, 32
  rng = np.random.default_rng(0)
  tokens = rng.integers(1, 8000, (count, length)).astype(np.uint16)
  codes = random_codes(count, 256, 4)
  own = config(lexicon=True)
  size = plan.size_of(own, count, tokens=length, words=20)
  found = plan.parts(own, size)
  plain = indexes.from_codes(tokens.astype(np.int32), codes)
  packed = indexes.from_codes(tokens, codes)
  host = indexes.from_codes(tokens, codes, on_host=True)
  for number, index in enumerate((plain, packed, host)):
    planned = part(found, 'tokens', number)
    assert planned.device == measured(index.tokens)
  assert part(found, 'tokens', 2).host == tokens.nbytes
  for name, array in (('docids', plain.codes), ('marks', plain.alive)):
    assert part(found, name).device == pytest.approx(array.nbytes, rel=0.1)
  assert part(found, 'trie').device == pytest.approx(
    measured(plain.trie), rel=0.1
  )
  width = own.query_encoder.width
  assert part(found, 'node table').device == pytest.approx(
    4 * plain.trie.num_nodes * width, rel=0.1
  )
  words = rng.integers(1, 25_001, (count, 20))
  lexicon = lexical.build(words, vocab_size=25_001)
  assert part(found, 'lexicon').device == pytest.approx(
    measured(lexicon), rel=0.1
  )
  plain = dataclasses.replace(plain, lexicon=lexicon)
  divided = placement.place_index(plain, placement.mesh('fsdp=8')).lexicon
  several = plan.Part('lexicon', '', 80, shared=1, copies=3)
  assert [several.on_each(n) for n in (1, 2, 8)] == [80, 81, 31]
  assert part(found, 'lexicon').on_each(8) == pytest.approx(
    sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(divided)),
    rel=0.1,
  )


def test_what_fits_is_chosen_with_the_fewest_changes():
  own = config()
  size = plan.size_of(own, 20_000_000, tokens=160, device_memory=1000)
  everything = plan.make(own, size)
  assert everything.fits and not everything.flags
  on_host = '--config.data.host_tokens=True'
  used = everything.device / GIB / plan.SHARE
  less = dataclasses.replace(size, device_memory=used - 1)
  found = plan.make(own, less)
  assert found.fits and found.flags == (on_host,)
  table = 4 * part(everything.parts, 'node table').device
  assert table > 20 * GIB
  less = dataclasses.replace(size, device_memory=20)
  found = plan.make(own, less)
  assert found.fits
  assert found.flags == (on_host, '--config.id_decoder.output=codebook')
  found = plan.make(own, dataclasses.replace(size, device_memory=0.1))
  assert not found.fits
  text = plan.show(own, dataclasses.replace(size, device_memory=0.1))
  assert 'It does not fit' in text
  assert 'It fits' in plan.show(own, size)


@pytest.mark.parametrize('limits', [(2, 0), (1, 8)])
def test_rows_of_a_smaller_node_table_within_a_tenth(limits):
  own = config(codes=64, levels=3)
  levels, documents = limits
  decoder = dataclasses.replace(
    own.id_decoder, table_levels=levels, table_documents=documents
  )
  own = dataclasses.replace(own, id_decoder=decoder, stages=())
  count, width = 20_000, own.query_encoder.width
  found = plan.parts(own, plan.size_of(own, count))
  trie = indexes.from_codes(
    np.ones((count, 1), np.int32), random_codes(count, 64, 3)
  ).trie
  slots = node_slots.of_trie(trie, *limits)
  assert part(found, 'node table').device == pytest.approx(
    4 * slots.count * width, rel=0.1
  )
  shared = slots.rows.nbytes + 4 * width * (64 * 4)
  assert part(found, 'shared rows').device == pytest.approx(shared, rel=0.1)


def test_rows_of_upper_levels_are_kept_if_those_fit():
  own = config(scheme='residual_kmeans')
  size = plan.size_of(own, 20_000_000, tokens=160, device_memory=20)
  found = plan.make(own, size)
  flag = '--config.id_decoder.table_levels='
  assert found.fits and found.flags == (flag + '2',)
  decoder = dataclasses.replace(own.id_decoder, table_levels=2)
  smaller = dataclasses.replace(own, id_decoder=decoder)
  again = plan.make(smaller, size)
  assert again.device == found.device and not again.flags
  # All nodes of three levels do not fit: most documents end there.
  decoder = dataclasses.replace(decoder, table_levels=3)
  assert not plan.make(dataclasses.replace(own, id_decoder=decoder), size).fits


def test_what_the_devices_divide_is_what_a_mesh_divides(small_index):
  devices = placement.mesh('fsdp=8')
  placed = placement.place_index(small_index, devices)
  params = {'id_decoder': {'table': np.zeros((16, 4))}}
  where = {
    'tokens': placed.tokens,
    'docids': placed.codes,
    'marks': placed.alive,
    'trie': placed.trie,
    'node table': placement.place(params, devices),
  }
  found = plan.parts(config(lexicon=True), plan.size_of(config(), 1000))
  for name, arrays in where.items():
    whole = all(x.sharding.is_fully_replicated for x in jax.tree.leaves(arrays))
    assert part(found, name).is_divided != whole, name
  assert part(found, 'lexicon').is_divided


def test_without_training_a_table_of_half_the_size_may_fit():
  own = config()
  untrained = dataclasses.replace(own, stages=())
  size = plan.size_of(own, 20_000_000, tokens=160, device_memory=1000)
  everything = plan.make(untrained, size)
  assert everything.fits and not everything.flags
  full, half = (
    next(p for p in found if p.name == 'node table')
    for found in (everything.chosen, everything.parts[::-1])
  )
  assert half.device == full.device / 2
  tokens = part(everything.chosen, 'tokens').device
  used = everything.device - tokens - half.device / 2
  used /= GIB * plan.SHARE
  found = plan.make(untrained, dataclasses.replace(size, device_memory=used))
  assert found.fits and half in found.chosen and full not in found.chosen
  assert found.flags[-1] == '--config.search.vector_type=bfloat16'
  search = dataclasses.replace(own.search, vector_type='bfloat16')
  for stages, chosen in ((own.stages, full), ((), half)):
    again = dataclasses.replace(own, search=search, stages=stages)
    assert chosen in plan.make(again, size).chosen


def test_the_flags_of_a_plan_are_fields():
  own = config(lexicon=True)
  for memory in (0.1, 10, 20, 40, 80):
    size = plan.size_of(
      own, 20_000_000, tokens=160, devices=4, device_memory=memory
    )
    for flag in plan.make(own, size).flags:
      configs.check_field(flag.removeprefix('--config.').partition('=')[0])


@pytest.mark.parametrize(
  'options, problem',
  [
    ({'documents': 0}, '--documents must be at least 1'),
    ({'documents': 2**31}, '--documents must be below 2,147,483,647'),
    ({'documents': 5, 'devices': 0}, '--devices must be at least 1'),
    ({'documents': 5, 'device_memory': -1}, '--device_memory must be at'),
    ({'documents': 5, 'device_memory': float('nan')}, '--device_memory must'),
  ],
)
def test_bad_input_is_an_error_in_one_line(options, problem):
  with pytest.raises(ValueError, match=problem) as error:
    plan.size_of(config(), **options)
  assert '\n' not in str(error.value)


def test_too_many_postings_are_an_error():
  own = config(lexicon=True)
  size = plan.size_of(own, 21_000_000, tokens=400)
  with pytest.raises(ValueError, match='postings, got 4,200,000,000'):
    plan.make(own, size)
