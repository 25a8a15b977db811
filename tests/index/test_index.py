import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax.index import docids, pseudo_queries
from rag_jax.index import index as indexes


@pytest.fixture
def index():
  rng = np.random.default_rng(0)
  tokens = rng.integers(1, 50, (30, 12)).astype(np.int32)
  tokens[:, 9:] = 0
  vectors = rng.normal(size=(30, 4)).astype(np.float32)
  config = docids.DocidConfig(branching=3, leaf_size=3)
  built, _ = indexes.build(tokens, vectors, config)
  return indexes.from_codes(
    tokens, np.asarray(built.codes), alive=np.arange(30) != 7
  )


QUANTISER = {'centres': np.arange(6.0).reshape(2, 3), 'depth': np.array(3)}


def test_save_and_load_are_inverse(index, tmp_path):
  indexes.save(index, QUANTISER, tmp_path / 'index.npz')
  loaded, quantiser = indexes.load(tmp_path / 'index.npz')
  assert quantiser.keys() == QUANTISER.keys()
  for name, array in QUANTISER.items():
    np.testing.assert_array_equal(quantiser[name], array, strict=True)
  assert jax.tree.structure(loaded) == jax.tree.structure(index)
  for ours, theirs in zip(
    jax.tree.leaves(index), jax.tree.leaves(loaded), strict=True
  ):
    np.testing.assert_array_equal(ours, theirs)
  assert [p.name for p in tmp_path.iterdir()] == ['index.npz']


@pytest.mark.parametrize('scheme', docids.SCHEMES)
def test_a_loaded_quantiser_gives_the_same_docids(scheme, tmp_path):
  rng = np.random.default_rng(0)
  vectors = rng.normal(size=(30, 4)).astype(np.float32)
  titles = [f'the {n % 4} of {n}' for n in range(30)]
  config = docids.DocidConfig(
    scheme=scheme,
    branching=3,
    codebook_size=3,
    leaf_size=3,
    num_levels=2,
    steps=3,
    hidden_dims=(4,),
  )
  tokens = np.ones((20, 2), np.int32)
  index, quantiser = indexes.build(
    tokens, vectors[:20], config, titles=titles[:20], seed=3
  )
  codes, _ = docids.fit(vectors[:20], config, titles=titles[:20], seed=3)
  np.testing.assert_array_equal(index.codes, codes)
  indexes.save(index, quantiser, tmp_path / 'index.npz')
  _, loaded = indexes.load(tmp_path / 'index.npz')
  np.testing.assert_array_equal(
    docids.encode(loaded, vectors[20:], config, titles=titles[20:]),
    docids.encode(quantiser, vectors[20:], config, titles=titles[20:]),
  )


def test_a_file_of_an_earlier_version_has_no_quantiser(index, tmp_path):
  names = ('tokens', 'codes', 'alive')
  arrays = {name: np.asarray(getattr(index, name)) for name in names}
  indexes.write(tmp_path / 'index.npz', arrays)
  assert indexes.load(tmp_path / 'index.npz')[1] == {}


def test_mean_length_ignores_padding(index):
  assert float(index.mean_length) == 9.0


def test_an_index_is_a_pytree_for_jit(index):
  count = jax.jit(lambda i: i.alive.sum())(index)
  assert int(count) == 29


def test_from_codes_keeps_the_codes():
  codes = np.array([[0, 2], [1, 0], [0, 1]], np.int32)
  index = indexes.from_codes(np.ones((3, 2), np.int32), codes)
  np.testing.assert_array_equal(index.codes, codes)


def test_codes_of_another_corpus_are_refused():
  with pytest.raises(ValueError, match='got 2 for 3 documents'):
    indexes.from_codes(np.ones((3, 2)), np.array([[0], [1]]))


def test_a_missing_file_is_one_clear_error(tmp_path):
  with pytest.raises(ValueError, match='cannot be read.*FileNotFound'):
    indexes.load(tmp_path / 'index.npz')


@pytest.mark.parametrize('size', [0, 10, 300])
def test_a_truncated_file_is_refused(index, tmp_path, size):
  path = tmp_path / 'index.npz'
  indexes.save(index, QUANTISER, path)
  path.write_bytes(path.read_bytes()[:size])
  with pytest.raises(ValueError, match='cannot be read'):
    indexes.load(path)


@pytest.mark.parametrize('name', ['codes', 'quantiser/centres'])
def test_a_changed_array_is_refused(index, tmp_path, name):
  path = tmp_path / 'index.npz'
  indexes.save(index, QUANTISER, path)
  with np.load(path) as stored:
    arrays = dict(stored)
  arrays[name] = arrays[name][::-1]
  np.savez_compressed(path, **arrays)
  with pytest.raises(ValueError, match='checksum differs'):
    indexes.load(path)


class TestPseudoQueries:
  def draw(self, index, positions, generated=None, **fields):
    config = pseudo_queries.PseudoQueryConfig(**{'max_tokens': 6} | fields)
    return pseudo_queries.draw(
      jax.random.key(1), config, index.tokens, positions, generated=generated
    )

  def test_a_crop_is_a_span_of_its_document(self, index):
    crops, rows = self.draw(index, jnp.arange(64), drop_rate=0.0)
    for crop, row in zip(np.asarray(crops), np.asarray(rows), strict=True):
      crop = crop[crop > 0].tolist()
      document = np.asarray(index.tokens[row]).tolist()
      starts = range(len(document) - len(crop) + 1)
      assert 3 <= len(crop) <= 6
      assert any(document[i : i + len(crop)] == crop for i in starts)

  def test_no_crop_is_empty_at_any_drop_rate(self, index):
    crops, _ = self.draw(index, jnp.arange(64), drop_rate=1.0)
    assert (np.asarray(crops) > 0).any(axis=1).all()

  def test_title_rate_one_starts_every_crop_at_the_title(self, index):
    crops, rows = self.draw(
      index, jnp.arange(64), title_rate=1.0, drop_rate=0.0
    )
    np.testing.assert_array_equal(crops[:, 0], index.tokens[rows, 0])

  def test_keywords_are_distinct_and_in_document_order(self, index):
    crops, rows = self.draw(index, jnp.arange(64), keyword_rate=1.0)
    for crop, row in zip(np.asarray(crops), np.asarray(rows), strict=True):
      crop = crop[crop > 0].tolist()
      document = np.asarray(index.tokens[row]).tolist()
      assert len(set(crop)) == len(crop)
      places = [document.index(token) for token in crop]
      assert places == sorted(places)
      assert min(3, len(set(document) - {0})) <= len(crop) <= 6

  def test_keywords_are_drawn_by_weight(self):
    config = pseudo_queries.PseudoQueryConfig(
      keyword_rate=1.0, min_tokens=1, max_tokens=1
    )
    crops, _ = pseudo_queries.draw(
      jax.random.key(0),
      config,
      jnp.array([[1, 1, 2, 3, 0, 0]]),
      jnp.arange(8000),
      log_token_weight=jnp.log(jnp.array([9.0, 1.0, 2.0, 5.0])),
    )
    shares = np.bincount(np.asarray(crops)[:, 0], minlength=4) / 8000
    np.testing.assert_allclose(shares, [0, 1 / 8, 2 / 8, 5 / 8], atol=0.02)

  def test_keyword_rate_does_not_change_the_other_crops(self, index):
    spans, rows = self.draw(index, jnp.arange(64))
    mixed, same = self.draw(index, jnp.arange(64), keyword_rate=0.5)
    np.testing.assert_array_equal(rows, same)
    equal = (spans == mixed).all(axis=1)
    assert 16 < int(equal.sum()) < 48

  def test_generated_questions_take_the_place_of_crops(self, index):
    """Row r has r % 3 questions; token 900 + 10 r + s begins number s."""
    count = len(index.tokens)
    counts = np.arange(count) % 3
    questions = np.zeros((count, 2, 9), int)
    questions[..., 0] = 900 + 10 * np.arange(count)[:, None] + np.arange(2)
    questions[..., 8] = 7
    questions *= (np.arange(2) < counts[:, None])[..., None]
    table = jnp.asarray(questions), jnp.asarray(counts)
    places = jnp.arange(600)
    crops, rows = self.draw(index, places)
    for rate in (0.0, 0.5, 1.0):
      found, same = self.draw(index, places, table, generated_rate=rate)
      np.testing.assert_array_equal(rows, same)
      found, has = np.asarray(found), counts[np.asarray(rows)] > 0
      given = found[:, 0] >= 900
      wide = np.pad(crops, ((0, 0), (0, found.shape[1] - crops.shape[1])))
      np.testing.assert_array_equal(found[~given], wide[~given])
      assert not given[~has].any()
      assert abs(given[has].mean() - rate) < 0.12
      row, number = divmod(found[given, 0] - 900, 10)
      np.testing.assert_array_equal(row, np.asarray(rows)[given])
      assert (number < counts[row]).all() and (found[given, 8:] == 7).all()
      if rate:
        assert found.shape[1] == 9
        assert 0.3 < number[counts[row] == 2].mean() < 0.7

  @pytest.mark.parametrize('keyword_rate', [0.0, 0.5])
  def test_sharded_draws_equal_those_of_one_device(self, index, keyword_rate):
    draw = functools.partial(self.draw, index, keyword_rate=keyword_rate)
    whole = draw(jnp.arange(16))
    parts = [draw(jnp.arange(i, i + 4)) for i in (0, 4, 8, 12)]
    for i, array in enumerate(whole):
      joined = np.concatenate([part[i] for part in parts])
      np.testing.assert_array_equal(array, joined)

  def test_a_rate_out_of_range_is_refused(self):
    with pytest.raises(ValueError, match='title_rate must be between 0 and 1'):
      pseudo_queries.PseudoQueryConfig(title_rate=1.5)

  def test_a_crop_of_no_length_raises_an_error(self):
    with pytest.raises(ValueError, match=r'min_tokens must be .*\(2\), got 3'):
      pseudo_queries.PseudoQueryConfig(max_tokens=2)
