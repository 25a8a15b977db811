import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax import checkpoint


def state_of(value):
  return {'step': jnp.asarray(value), 'w': jnp.full((3, 2), float(value))}


def save(folder, steps, **options):
  checkpointer = checkpoint.open(folder, **options)
  for step in steps:
    checkpoint.save(checkpointer, step, state_of(step))
  checkpoint.close(checkpointer)


def restore(folder, state):
  checkpointer = checkpoint.open(folder)
  try:
    return checkpoint.restore(checkpointer, state)
  finally:
    checkpoint.close(checkpointer)


def test_the_newest_state_comes_back_bit_for_bit(tmp_path):
  save(tmp_path, [1, 2, 3])
  step, state = restore(tmp_path, state_of(0))
  assert step == 3
  for ours, theirs in zip(
    jax.tree.leaves(state_of(3)), jax.tree.leaves(state), strict=True
  ):
    np.testing.assert_array_equal(ours, theirs)
    assert ours.dtype == theirs.dtype


def test_only_so_many_are_kept(tmp_path):
  save(tmp_path, [1, 2, 3, 4], keep=2)
  names = sorted(p.name for p in tmp_path.iterdir() if p.name.isdigit())
  assert names == ['3', '4']


def test_an_empty_folder_has_none(tmp_path):
  assert restore(tmp_path / 'new', state_of(0)) is None


def test_a_step_that_is_saved_is_not_saved_again(tmp_path):
  save(tmp_path, [2, 2])
  assert restore(tmp_path, state_of(0))[0] == 2


def test_another_structure_is_one_clear_error(tmp_path):
  save(tmp_path, [1])
  other = state_of(0) | {'w': jnp.zeros((4, 4)), 'b': jnp.zeros(2)}
  with pytest.raises(ValueError, match='step 1 cannot be loaded.*--workdir'):
    restore(tmp_path, other)
