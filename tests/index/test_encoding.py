"""Tests for rag_jax.index.encoding and rag_jax.index.vector_cache."""

import concurrent.futures
import dataclasses
import fcntl
import hashlib
import json
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest

from rag_jax.components import query_encoder
from rag_jax.index import encoding, vector_cache
from rag_jax.nn import bert, encoders, pooling

CONFIG = query_encoder.QueryEncoderConfig(
  weights='tiny', width=8, num_layers=1, num_heads=2, mlp_dim=8
)
SIZES = dataclasses.replace(
  encoders.body(CONFIG), vocab_size=30, max_positions=40
)


@pytest.fixture(scope='module')
def params():
  return {'bert': bert.init(jax.random.key(0), SIZES)}


@pytest.fixture(scope='module')
def tokens():
  """Seventy texts of 1 to 40 tokens."""
  rng = np.random.default_rng(0)
  tokens = rng.integers(1, 30, (70, 40)).astype(np.int32)
  lengths = rng.integers(1, 41, 70)
  return np.where(np.arange(40) < lengths[:, None], tokens, 0)


def test_batching_and_padding_do_not_change_a_vector(params, tokens, tmp_path):
  found = encoding.encode(params, CONFIG, tokens, folder=tmp_path)
  for row in (0, 33, 69):
    text = tokens[row : row + 1, : (tokens[row] != 0).sum()]
    mean = bert.apply(params['bert'], SIZES, text).mean(1)[0]
    expected = mean / np.linalg.norm(mean)
    np.testing.assert_allclose(found[row], expected, atol=1e-5)


def test_a_second_call_reads_the_cache(params, tokens, tmp_path, monkeypatch):
  first = encoding.encode(params, CONFIG, tokens, folder=tmp_path)
  monkeypatch.setattr(bert, 'apply', None)  # nothing may be encoded again
  again = encoding.encode(params, CONFIG, tokens, folder=tmp_path)
  np.testing.assert_array_equal(first, again)


def test_other_texts_and_other_weights_are_cached_separately(
  params, tokens, tmp_path
):
  encoding.encode(params, CONFIG, tokens, folder=tmp_path)
  encoding.encode(params, CONFIG, tokens[:-1], folder=tmp_path)
  other = {'bert': bert.init(jax.random.key(1), SIZES)}
  encoding.encode(other, CONFIG, tokens, folder=tmp_path)
  assert len(list(tmp_path.glob('*.npy'))) == 3


def _stop_at_the_third_batch(monkeypatch):
  """The third batch is interrupted; returns what the first ones were."""
  pooled, steps = pooling.pool, []

  def stop(*args):
    steps.append(None)
    if len(steps) == 3:
      raise KeyboardInterrupt
    return pooled(*args)

  monkeypatch.setattr(pooling, 'pool', stop)
  # Without padding of lengths, every step has a new shape and is traced.
  monkeypatch.setattr(encoding, 'STEP', 1)
  return steps


def _texts_encoded(monkeypatch):
  """The number of texts of each batch that is appended from now on."""
  appended, real = [], vector_cache.Partial.append

  def append(self, batch):
    appended.append(len(batch))
    real(self, batch)

  monkeypatch.setattr(vector_cache.Partial, 'append', append)
  return appended


@pytest.fixture
def stopped(params, tokens, tmp_path, monkeypatch):
  """A folder with the partial file of an interrupted call: 64 of 70 texts."""
  with monkeypatch.context() as patched:
    _stop_at_the_third_batch(patched)
    with pytest.raises(KeyboardInterrupt):
      encoding.encode(params, CONFIG, tokens, folder=tmp_path / 'stopped')
  [partial] = (tmp_path / 'stopped').iterdir()
  assert partial.stat().st_size == 2 * (encoding.BATCH * CONFIG.width * 4 + 32)
  return partial


@pytest.fixture(scope='module')
def whole(params, tokens, tmp_path_factory):
  folder = tmp_path_factory.mktemp('whole')
  return encoding.encode(params, CONFIG, tokens, folder=folder)


def _suffixes(folder):
  return sorted(path.suffix for path in folder.iterdir())


def test_an_interrupted_call_resumes(
  params, tokens, stopped, whole, monkeypatch
):
  encoded = _texts_encoded(monkeypatch)
  found = encoding.encode(params, CONFIG, tokens, folder=stopped.parent)
  np.testing.assert_allclose(found, whole, atol=1e-5)
  assert encoded == [6]
  assert _suffixes(stopped.parent) == ['.json', '.npy']


def test_a_partial_file_of_a_living_process_is_left_alone(
  params, tokens, stopped, whole, monkeypatch
):
  before = stopped.read_bytes()
  encoded = _texts_encoded(monkeypatch)
  with stopped.open('rb') as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    found = encoding.encode(params, CONFIG, tokens, folder=stopped.parent)
  np.testing.assert_allclose(found, whole, atol=1e-5)
  assert encoded == [32, 32, 6]
  assert stopped.read_bytes() == before


@pytest.mark.parametrize('place, kept', [(5, [32, 32, 6]), (1100, [32, 6])])
def test_a_damaged_batch_of_a_partial_file_is_encoded_again(
  params, tokens, stopped, whole, monkeypatch, place, kept
):
  _flip(stopped, place)
  encoded = _texts_encoded(monkeypatch)
  found = encoding.encode(params, CONFIG, tokens, folder=stopped.parent)
  np.testing.assert_allclose(found, whole, atol=1e-5)
  assert encoded == kept


def _flip(path, place):
  data = bytearray(path.read_bytes())
  data[place] ^= 1
  path.write_bytes(data)


def _cut(path):
  path.write_bytes(path.read_bytes()[:-1])


DAMAGE = {
  'a bit of a vector': (lambda npy, note: _flip(npy, 500), 'checksum differs'),
  'a bit of the header': (lambda npy, note: _flip(npy, 30), 'checksum differs'),
  'the end is missing': (lambda npy, note: _cut(npy), 'checksum differs'),
  'no note': (lambda npy, note: note.unlink(), 'no note'),
  'an empty note': (lambda npy, note: note.write_text(''), 'damaged note'),
  'half a note': (lambda npy, note: _cut(note) or _cut(note), 'damaged note'),
  'a list as note': (lambda npy, note: note.write_text('[]'), 'damaged note'),
  'a deep note': (lambda npy, note: note.write_text('[' * 99_999), 'damaged'),
  'another key': (lambda npy, note: _edit(note, key='x'), "'key': 'x'"),
  'another shape': (lambda npy, note: _edit(note, shape=[1, 8]), '[1, 8]'),
  'another dtype': (lambda npy, note: _edit(note, dtype='int8'), 'int8'),
}


def _edit(note, **fields):
  note.write_text(json.dumps(json.loads(note.read_text()) | fields))


@pytest.mark.parametrize('damage, words', DAMAGE.values(), ids=list(DAMAGE))
def test_damaged_vectors_are_encoded_again(
  params, tokens, tmp_path, whole, capsys, damage, words
):
  encoding.encode(params, CONFIG, tokens, folder=tmp_path)
  [npy], [note] = tmp_path.glob('*.npy'), tmp_path.glob('*.json')
  damage(npy, note)
  capsys.readouterr()
  found = encoding.encode(params, CONFIG, tokens, folder=tmp_path)
  np.testing.assert_array_equal(found, whole)
  [line] = [x for x in capsys.readouterr().err.splitlines() if 'note' in x]
  assert words in line and line.endswith('The documents are encoded again.')
  again = encoding.encode(params, CONFIG, tokens, folder=tmp_path)
  np.testing.assert_array_equal(again, whole)
  assert 'note' not in capsys.readouterr().err


@pytest.mark.parametrize(
  'array', [np.zeros((1, 8), np.float32), np.zeros((70, 8))]
)
def test_another_array_with_a_valid_checksum_is_no_cache(
  params, tokens, tmp_path, whole, capsys, array
):
  encoding.encode(params, CONFIG, tokens, folder=tmp_path)
  [npy], [note] = tmp_path.glob('*.npy'), tmp_path.glob('*.json')
  np.save(npy, array)
  _edit(note, sha256=hashlib.sha256(npy.read_bytes()).hexdigest())
  found = encoding.encode(params, CONFIG, tokens, folder=tmp_path)
  np.testing.assert_array_equal(found, whole)
  assert f'holds {array.dtype}' in capsys.readouterr().err


def test_runs_that_start_together_share_the_cache(
  params, tokens, tmp_path, whole, monkeypatch
):
  """Every call is in the middle of its work before any goes on."""
  count = 3
  barrier = threading.Barrier(count, timeout=60)
  real = vector_cache.Partial.append

  def append(self, batch):
    barrier.wait()
    real(self, batch)
    barrier.wait()

  monkeypatch.setattr(vector_cache.Partial, 'append', append)

  def encode(_):
    return encoding.encode(params, CONFIG, tokens, folder=tmp_path)

  with concurrent.futures.ThreadPoolExecutor(count) as pool:
    for found in pool.map(encode, range(count)):
      np.testing.assert_allclose(found, whole, atol=1e-5)
  assert _suffixes(tmp_path) == ['.json', '.npy']
  monkeypatch.setattr(bert, 'apply', None)  # the cache is whole
  np.testing.assert_allclose(encode(0), whole, atol=1e-5)


PROGRAM = """
import dataclasses, sys, jax, numpy as np
from rag_jax.components import query_encoder
from rag_jax.index import encoding, vector_cache
from rag_jax.nn import bert, encoders

config = query_encoder.QueryEncoderConfig(
  weights='tiny', width=8, num_layers=1, num_heads=2, mlp_dim=8
)
sizes = dataclasses.replace(
  encoders.body(config), vocab_size=30, max_positions=40
)
if sys.argv[2] == 'waits':
  real = vector_cache.Partial.append
  def append(self, batch):
    real(self, batch)
    print('appended', flush=True)
    sys.stdin.readline()
  vector_cache.Partial.append = append
tokens = np.load(sys.argv[3])
params = {'bert': bert.init(jax.random.key(0), sizes)}
encoding.encode(params, config, tokens, folder=sys.argv[1])
print('done', flush=True)
"""


def test_a_killed_process_leaves_its_batches_to_the_next(
  params, tokens, tmp_path, whole, monkeypatch
):
  cache, source = tmp_path / 'cache', tmp_path / 'tokens.npy'
  np.save(source, tokens)
  process = subprocess.Popen(
    [sys.executable, '-c', PROGRAM, str(cache), 'waits', str(source)],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    stderr=subprocess.DEVNULL,
    text=True,
  )
  with process:
    assert process.stdout.readline() == 'appended\n'
    [partial] = cache.iterdir()
    # The process lives, so this call takes nothing over from it.
    with monkeypatch.context() as patched:
      encoded = _texts_encoded(patched)
      found = encoding.encode(params, CONFIG, tokens, folder=cache)
      assert encoded == [32, 32, 6]
    assert partial.exists()
    process.kill()
  for path in cache.glob('*.npy'):
    path.unlink()  # as if the other call had never been
  encoded = _texts_encoded(monkeypatch)
  again = encoding.encode(params, CONFIG, tokens, folder=cache)
  assert encoded == [32, 6]
  np.testing.assert_allclose(found, whole, atol=1e-5)
  np.testing.assert_allclose(again, whole, atol=1e-5)
  assert _suffixes(cache) == ['.json', '.npy']


def test_a_folder_that_cannot_be_written_is_one_line(params, tokens, tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(ValueError, match='cannot be written .* run again'):
    encoding.encode(params, CONFIG, tokens, folder=tmp_path / 'file')
