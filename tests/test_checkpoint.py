import os
import pathlib
import random
import resource
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rag_jax import checkpoint


def parts_of(value):
  """The parts of a training state, with an empty subtree (frozen)."""
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
  found = checkpoint.load(folder, parts)
  return None if found is None else found.parts


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


def test_the_newest_state_is_restored_exactly(tmp_path):
  save(tmp_path, [1, 2, 3])
  assert latest(tmp_path) == 3
  assert_same(restore(tmp_path, parts_of(0)), parts_of(3))


def test_one_part_can_be_restored_alone(tmp_path):
  save(tmp_path, [1, 2])
  found = restore(tmp_path, {'params': None})
  assert found.keys() == {'params'}
  assert_same(found['params'], parts_of(2)['params'])


def test_old_checkpoints_are_deleted(tmp_path):
  save(tmp_path, [1, 2, 3, 4], keep=2)
  names = sorted(p.name for p in tmp_path.iterdir() if p.name.isdigit())
  assert names == ['3', '4']


def test_an_empty_folder_has_no_checkpoint(tmp_path):
  assert restore(tmp_path / 'new', parts_of(0)) is None
  assert latest(tmp_path / 'new') is None


def test_a_saved_step_is_not_saved_again(tmp_path):
  save(tmp_path, [2, 2])
  assert latest(tmp_path) == 2
  assert_same(restore(tmp_path, parts_of(0)), parts_of(2))


def test_another_structure_raises_one_error(tmp_path):
  save(tmp_path, [1])
  other = parts_of(0)
  other['params'] |= {'w': jnp.zeros((4, 4)), 'c': jnp.zeros(2)}
  message = 'step 1 in .* cannot be loaded.*--workdir'
  for parts in (other, {'weights': None}):
    with pytest.raises(ValueError, match=message) as error:
      restore(tmp_path, parts)
    assert '\n' not in str(error.value)


def test_a_change_of_frozen_components_is_detected(tmp_path):
  def parts(frozen):
    own = {'a': jnp.ones(2), 'b': jnp.ones(3)} | {frozen: optax.MaskedNode()}
    return {'training': {'mu': own}}

  checkpointer = checkpoint.open(tmp_path)
  checkpoint.save(checkpointer, 1, parts('b'))
  checkpoint.close(checkpointer)
  assert_same(restore(tmp_path, parts('b')), parts('b'))
  message = 'step 1 in .* cannot be loaded.*another structure.*--workdir'
  with pytest.raises(ValueError, match=message):
    restore(tmp_path, parts('a'))


def files(folder):
  return sorted(path for path in folder.rglob('*') if path.is_file())


def test_notes_come_back_with_the_step(tmp_path):
  notes = {'totals': {'loss': [1 / 3, 2.0]}, 'measured': False}
  checkpointer = checkpoint.open(tmp_path)
  checkpoint.save(checkpointer, 7, parts_of(7), notes)
  checkpoint.close(checkpointer)
  found = checkpoint.load(tmp_path, {'params': None})
  assert (found.step, found.notes) == (7, notes)
  assert checkpoint.steps(tmp_path) == [7]


class TestDamage:
  def flipped(self, path, bit):
    """Flips one bit of a file."""
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)

  def test_no_flipped_bit_loads_other_values(self, tmp_path, capfd):
    save(tmp_path / 'whole', [1])
    wanted, rng = parts_of(1), random.Random(0)
    changed = 0
    for number in range(40):
      folder = tmp_path / str(number)
      shutil.copytree(tmp_path / 'whole', folder)
      path = rng.choice([p for p in files(folder) if p.stat().st_size])
      self.flipped(path, rng.randrange(8 * path.stat().st_size))
      try:
        found = restore(folder, wanted)
      except ValueError as error:
        assert '\n' not in str(error)
        changed += 1
      else:
        assert_same(found, wanted)
    assert changed > 10  # most bits of these files matter

  def test_what_is_stored_is_compared_with_what_is_loaded(
    self, tmp_path, monkeypatch
  ):
    save(tmp_path, [1])
    load = checkpoint.ocp.load_checkpointables

    def other(path, abstract):
      found = load(path, abstract)
      found['params']['w'] = found['params']['w'].at[2, 1].set(1.0000001)
      return found

    monkeypatch.setattr(checkpoint.ocp, 'load_checkpointables', other)
    with pytest.raises(ValueError, match='checksum of params/w differs'):
      restore(tmp_path, parts_of(1))

  @pytest.mark.parametrize('damage', ['empty', 'data', 'metadata', 'commit'])
  def test_the_one_before_is_loaded_and_that_is_said(
    self, tmp_path, damage, capfd
  ):
    save(tmp_path, [1, 2])
    newest = tmp_path / '2'
    if damage == 'empty':
      shutil.rmtree(newest)
      newest.mkdir()
    elif damage == 'data':
      for path in files(newest):
        if path.parent.name == 'd':
          path.write_bytes(path.read_bytes()[:-9])
    elif damage == 'metadata':
      (newest / '_CHECKPOINT_METADATA').write_text('{')
    else:
      (newest / 'params' / '_METADATA').unlink()
    assert_same(restore(tmp_path, parts_of(0)), parts_of(1))
    said = capfd.readouterr().err.strip().splitlines()
    assert len(said) == 1, said
    assert said[0].startswith('note: checkpoint of step 2 in ')
    assert said[0].endswith('that of step 1 is loaded')

  def test_it_is_set_aside_and_its_step_is_saved_again(self, tmp_path, capfd):
    save(tmp_path, [1, 2])
    (tmp_path / '2' / '_CHECKPOINT_METADATA').write_text('')
    for _ in range(2):
      checkpoint.set_aside(tmp_path, checkpoint.load(tmp_path, parts_of).step)
    save(tmp_path, [2])
    assert checkpoint.steps(tmp_path) == [1, 2]
    assert (tmp_path / 'damaged-2').is_dir()
    assert_same(restore(tmp_path, parts_of(0)), parts_of(2))

  def test_a_checkpoint_without_checksums_is_said_to_be_old(
    self, tmp_path, capfd
  ):
    checkpointer = checkpoint.open(tmp_path)
    checkpointer.orbax.save_checkpointables(1, parts_of(1))
    checkpoint.close(checkpointer)
    assert_same(restore(tmp_path, parts_of(1)), parts_of(1))
    assert 'earlier version: no checksums' in capfd.readouterr().err


class TestReaders:
  def test_nothing_is_written_while_another_process_saves(self, tmp_path):
    save(tmp_path, [1])
    half = tmp_path / '2.orbax-checkpoint-tmp'
    half.mkdir()
    (half / 'data').write_text('of the process that trains')
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob('*')}
    assert_same(restore(tmp_path, parts_of(1)), parts_of(1))
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob('*')} == before

  def test_what_is_deleted_meanwhile_is_followed_by_a_newer_one(
    self, tmp_path, monkeypatch, capfd
  ):
    save(tmp_path, [1])
    load, asked = checkpoint.ocp.load_checkpointables, []

    def late(path, abstract):
      asked.append(pathlib.Path(path).name)
      if len(asked) == 1:  # the process that trains keeps one
        save(tmp_path, [2], keep=1)
      return load(path, abstract)

    monkeypatch.setattr(checkpoint.ocp, 'load_checkpointables', late)
    assert_same(restore(tmp_path, parts_of(0)), parts_of(2))
    assert asked == ['1', '2']
    assert capfd.readouterr().err == ''


class TestNotFinite:
  @pytest.mark.parametrize('value', [float('nan'), float('inf')])
  @pytest.mark.parametrize('part', ['params', 'training'])
  def test_it_is_never_saved(self, tmp_path, part, value):
    checkpointer = checkpoint.open(tmp_path)
    checkpoint.save(checkpointer, 1, parts_of(1))
    bad = parts_of(2)
    bad[part]['own'] = {'x': jnp.ones((2, 3)).at[1, 2].set(value)}
    message = (
      f'{part}/own/x is not finite at step 2 .*that of step 1 is kept. Lower it'
    )
    with pytest.raises(ValueError, match=message):
      checkpoint.save(checkpointer, 2, bad, remedy='Lower it.')
    checkpoint.close(checkpointer)
    assert_same(restore(tmp_path, parts_of(0)), parts_of(1))

  def test_half_precision_is_checked_too(self, tmp_path):
    checkpointer = checkpoint.open(tmp_path)
    bad = {'params': {'x': jnp.full(3, jnp.inf, jnp.bfloat16)}}
    with pytest.raises(
      ValueError, match='params/x is not finite.*none is kept'
    ):
      checkpoint.save(checkpointer, 1, bad)
    checkpoint.save(checkpointer, 1, {'params': {'x': jnp.ones(3, 'bfloat16')}})
    checkpoint.close(checkpointer)
    assert_same(
      restore(tmp_path, {'params': None}),
      {'params': {'x': jnp.ones(3, 'bfloat16')}},
    )


class TestFullDisk:
  def test_it_is_one_line_and_the_last_one_is_kept(self, tmp_path, capfd):
    checkpointer = checkpoint.open(tmp_path)
    checkpoint.save(checkpointer, 1, parts_of(1))
    checkpoint.wait(checkpointer)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    random_bits = jax.random.bits(jax.random.key(0), (1000,))  # not compressed
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:  # Python ignores SIGXFSZ: a write fails with EFBIG
      with pytest.raises(ValueError, match='step 2 cannot be saved') as error:
        checkpoint.save(checkpointer, 2, {'params': {'w': random_bits}})
        checkpoint.wait(checkpointer)
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert '\n' not in str(error.value)
    assert os.strerror(27) in str(error.value)
    assert 'resumes from step 1' in str(error.value)
    assert capfd.readouterr().err == ''  # nothing from the threads of Orbax
    checkpoint.close(checkpointer)
    assert_same(restore(tmp_path, parts_of(0)), parts_of(1))
    save(tmp_path, [2])
    assert_same(restore(tmp_path, parts_of(0)), parts_of(2))

  def test_a_folder_that_cannot_be_made_is_one_line(self, tmp_path):
    (tmp_path / 'file').write_text('')
    for name in ('file/x', 'n' * 300):
      with pytest.raises(ValueError, match='cannot be written') as error:
        checkpoint.open(tmp_path / name)
      assert '\n' not in str(error.value)


def test_a_relative_folder_loads(tmp_path, monkeypatch):
  (tmp_path / 'run').mkdir()
  monkeypatch.chdir(tmp_path)
  save('run/checkpoints', [3])
  assert checkpoint.load('run/checkpoints', {'params': None}) is not None
