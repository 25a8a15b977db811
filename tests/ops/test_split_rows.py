"""Tables divided over devices, against plain indexing on one device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax.ops import split_rows

AXES = ('data', 'fsdp', 'model')
SIZES = [(2, 4, 1), (1, 2, 4), (2, 2, 2)]
P = jax.sharding.PartitionSpec


@pytest.fixture(params=SIZES, ids=str)
def mesh(request):
  automatic = (jax.sharding.AxisType.Auto,) * 3
  return jax.make_mesh(request.param, AXES, axis_types=automatic)


@pytest.fixture(scope='module')
def arrays():
  """A table with 2 added rows, states, and rows of the table."""
  draw = np.random.default_rng(0)
  table = draw.normal(size=(16, 3)).astype(np.float32)
  states = draw.normal(size=(8, 4, 3)).astype(np.float32)
  return table, states, draw.integers(0, 14, (8, 4, 5))


def squares(vectors):
  return jnp.square(vectors).sum(-1)


def reads(table, states, rows):
  """What all ways to read give."""
  every = split_rows.all_products(table, states)
  read = split_rows.Rows(table, 14)
  return {
    'rows': read[rows],
    'one': jax.vmap(lambda row: read[row])(rows[:, 0, 0]),
    'last': read[rows[:, 0] - 14],
    'products': split_rows.products(table, states, rows, scale=squares),
    'taken': split_rows.take(every, rows),
    'every': split_rows.whole(every),
  }


def expected(table, states, rows):
  """The same by NumPy."""
  vectors = table[rows]
  return {
    'rows': vectors,
    'one': table[rows[:, 0, 0]],
    'last': table[rows[:, 0]],
    'products': (states[:, :, None] * vectors).sum(-1) * (vectors**2).sum(-1),
    'taken': (states[:, :, None] * vectors).sum(-1),
    'every': states @ table.T,
  }


def check(found, arrays):
  wanted = expected(*arrays)
  assert found.keys() == wanted.keys()
  for name, value in wanted.items():
    np.testing.assert_allclose(found[name], value, atol=1e-5, err_msg=name)


def test_without_a_mesh_tables_read_like_arrays(arrays):
  check(reads(*map(jnp.asarray, arrays)), arrays)


def test_the_compiler_divides_reads_and_their_gradients(mesh, arrays):
  table, states, rows = arrays

  def total(table, states):
    found = reads(table, states, rows)
    return sum(jnp.sin(x).sum() for x in found.values()), found

  run = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))
  (_, plain), slopes = run(table, states)
  check(plain, arrays)
  with jax.set_mesh(mesh):
    own = jax.device_put(table, jax.NamedSharding(mesh, P('fsdp')))
    (_, found), gradients = run(own, states)
  check(found, arrays)
  for ours, theirs in zip(gradients, slopes, strict=True):
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_each_device_reads_for_its_questions(mesh, arrays):
  batch, split = P(split_rows.BATCH), P(split_rows.SPLIT)
  run = jax.shard_map(
    reads,
    mesh=mesh,
    in_specs=(split, batch, batch),
    out_specs=batch,
    check_vma=False,
  )
  check(jax.jit(run)(*arrays), arrays)


def test_no_read_exchanges_the_table(mesh, arrays):
  table, states, rows = arrays
  table = np.tile(table, (8, 1))
  where = [jax.NamedSharding(mesh, spec) for spec in (P('fsdp'), P(), P())]
  with jax.set_mesh(mesh):
    run = jax.jit(
      lambda t, s, r: split_rows.products(t, s, r), in_shardings=where
    )
    text = run.lower(table, states, rows).compile().as_text()
  gathered = [line for line in text.splitlines() if ' all-gather(' in line]
  assert gathered  # states and row numbers
  assert not [line for line in gathered if f'f32[{len(table)},3]' in line]


def test_the_host_sees_no_added_rows(arrays):
  rows = split_rows.Rows(jnp.asarray(arrays[0]), 14)
  assert (rows.shape, len(rows)) == ((14, 3), 14)
  assert rows.dtype == jnp.float32
  np.testing.assert_array_equal(np.asarray(rows), arrays[0][:14])
  np.testing.assert_array_equal(rows[3:], arrays[0][3:14])
