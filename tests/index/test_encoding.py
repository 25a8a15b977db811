import json

import jax
import numpy as np
import pytest

from rag_jax.index import encoding
from rag_jax.nn import bert

CONFIG = bert.BertConfig(
  vocab_size=30, width=8, num_layers=1, num_heads=2, mlp_dim=8, max_positions=40
)


@pytest.fixture(scope='module')
def params():
  return bert.init(jax.random.key(0), CONFIG)


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
    states = bert.apply(params, CONFIG, text)
    expected = bert.mean_pool(states, text != 0)[0]
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
  other = bert.init(jax.random.key(1), CONFIG)
  encoding.encode(other, CONFIG, tokens, folder=tmp_path)
  assert len(list(tmp_path.glob('*.npy'))) == 3


def test_an_interrupted_call_resumes(params, tokens, tmp_path, monkeypatch):
  whole = encoding.encode(params, CONFIG, tokens, folder=tmp_path / 'whole')
  monkeypatch.setattr(encoding, 'SAVE_EVERY', 1)
  pooled, steps = bert.mean_pool, []

  def stop_at_the_third(*args):
    steps.append(None)
    if len(steps) == 3:
      raise KeyboardInterrupt
    return pooled(*args)

  monkeypatch.setattr(bert, 'mean_pool', stop_at_the_third)
  # Without padding of lengths, every step has a new shape and is traced.
  monkeypatch.setattr(encoding, 'STEP', 1)
  folder = tmp_path / 'stopped'
  with pytest.raises(KeyboardInterrupt):
    encoding.encode(params, CONFIG, tokens, folder=folder)
  note = json.loads(next(folder.glob('*.json')).read_text())
  assert note == {'done': 2 * encoding.BATCH}
  monkeypatch.setattr(bert, 'mean_pool', pooled)
  found = encoding.encode(params, CONFIG, tokens, folder=folder)
  np.testing.assert_allclose(found, whole, atol=1e-5)
  assert [path.suffix for path in folder.iterdir()] == ['.npy']
