import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rag_jax import checkpoint


def parts_of(value):
  """Parts as a state has them; a frozen component has an empty place."""
  params = {'w': jnp.full((3, 2), float(value)), 'own': {'b': jnp.ones(2)}}
  training = {'step': jnp.asarray(value)}
  training['optimizer'] = (jnp.asarray(2 * value), {'frozen': {}})
  return {'params': params, 'training': training}


def save(folder, steps, **options):
  checkpointer = checkpoint.open(folder, **options)
  for step in steps:
    checkpoint.save(checkpointer, step, parts_of(step))
  checkpoint.close(checkpointer)


def restore(folder, parts):
  checkpointer = checkpoint.open(folder)
  try:
    return checkpoint.restore(checkpointer, parts)
  finally:
    checkpoint.close(checkpointer)


def latest(folder):
  checkpointer = checkpoint.open(folder)
  try:
    return checkpoint.latest_step(checkpointer)
  finally:
    checkpoint.close(checkpointer)


def assert_same(ours, theirs):
  assert jax.tree.structure(ours) == jax.tree.structure(theirs)
  for one, other in zip(
    jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True
  ):
    np.testing.assert_array_equal(one, other)
    assert one.dtype == other.dtype


def test_the_newest_state_comes_back_bit_for_bit(tmp_path):
  save(tmp_path, [1, 2, 3])
  assert latest(tmp_path) == 3
  assert_same(restore(tmp_path, parts_of(0)), parts_of(3))


def test_a_part_comes_back_alone_and_as_it_was_saved(tmp_path):
  save(tmp_path, [1, 2])
  found = restore(tmp_path, {'params': None})
  assert found.keys() == {'params'}
  assert_same(found['params'], parts_of(2)['params'])


def test_only_so_many_are_kept(tmp_path):
  save(tmp_path, [1, 2, 3, 4], keep=2)
  names = sorted(p.name for p in tmp_path.iterdir() if p.name.isdigit())
  assert names == ['3', '4']


def test_an_empty_folder_has_none(tmp_path):
  assert restore(tmp_path / 'new', parts_of(0)) is None
  assert latest(tmp_path / 'new') is None


def test_a_step_that_is_saved_is_not_saved_again(tmp_path):
  save(tmp_path, [2, 2])
  assert latest(tmp_path) == 2
  assert_same(restore(tmp_path, parts_of(0)), parts_of(2))


def test_another_structure_is_one_clear_error(tmp_path):
  save(tmp_path, [1])
  other = parts_of(0)
  other['params'] |= {'w': jnp.zeros((4, 4)), 'c': jnp.zeros(2)}
  with pytest.raises(ValueError, match='step 1 cannot be loaded.*--workdir'):
    restore(tmp_path, other)
  with pytest.raises(ValueError, match='step 1 cannot be loaded.*--workdir'):
    restore(tmp_path, {'weights': None})


def test_moments_of_what_was_frozen_are_not_left_out(tmp_path):
  def parts(frozen):
    own = {'a': jnp.ones(2), 'b': jnp.ones(3)} | {frozen: optax.MaskedNode()}
    return {'training': {'mu': own}}

  checkpointer = checkpoint.open(tmp_path)
  checkpoint.save(checkpointer, 1, parts('b'))
  checkpoint.close(checkpointer)
  assert_same(restore(tmp_path, parts('b')), parts('b'))
  message = 'step 1 cannot be loaded.*another structure.*--workdir'
  with pytest.raises(ValueError, match=message):
    restore(tmp_path, parts('a'))
