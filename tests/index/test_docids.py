import numpy as np
import pytest

from rag_jax.index import docids

SCHEMES = docids.SCHEMES


def vectors_of(count, *, seed=0, width=8):
  rng = np.random.default_rng(seed)
  centres = rng.normal(size=(5, width))
  rows = centres[rng.integers(5, size=count)] + rng.normal(size=(count, width))
  return rows.astype(np.float32)


@pytest.mark.parametrize('scheme', SCHEMES)
@pytest.mark.parametrize('count', [1, 2, 7, 120])
def test_every_document_gets_its_own_code(scheme, count):
  config = docids.DocidConfig(scheme=scheme, branching=4, leaf_size=3)
  codes = docids.assign(vectors_of(count), config, seed=3)
  assert codes.dtype == np.int32
  assert codes.shape[0] == count
  assert codes.min() >= 0
  assert len(np.unique(codes, axis=0)) == count


@pytest.mark.parametrize('scheme', SCHEMES)
def test_a_seed_gives_the_same_codes_again(scheme):
  config = docids.DocidConfig(scheme=scheme, branching=4, leaf_size=3)
  first = docids.assign(vectors_of(50), config, seed=1)
  again = docids.assign(vectors_of(50), config, seed=1)
  np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize('scheme', SCHEMES)
def test_identical_vectors_are_told_apart(scheme):
  config = docids.DocidConfig(scheme=scheme, branching=4, leaf_size=3)
  codes = docids.assign(np.ones((40, 8), np.float32), config)
  assert len(np.unique(codes, axis=0)) == 40


def test_hierarchical_kmeans_puts_neighbours_under_one_prefix():
  rng = np.random.default_rng(0)
  truth = np.repeat(np.arange(4), 10)
  vectors = np.eye(4, dtype=np.float32)[truth] * 10
  vectors += rng.normal(size=vectors.shape).astype(np.float32) * 0.1
  config = docids.DocidConfig(branching=4, leaf_size=10)
  codes = docids.assign(vectors, config)
  for cluster in range(4):
    assert len(set(codes[truth == cluster, 0])) == 1
  assert len(set(codes[:, 0])) == 4
  assert codes.max() <= 9


def test_residual_kmeans_comes_closer_with_every_level():
  vectors = vectors_of(200)
  errors = []
  for levels in (1, 2, 3):
    config = docids.DocidConfig(num_levels=levels, branching=8)
    residual = vectors.copy()
    rng = np.random.default_rng(0)
    codes = docids.residual_kmeans(vectors, config, rng)
    for level in range(levels):
      for value in np.unique(codes[:, level]):
        rows = codes[:, level] == value
        residual[rows] -= residual[rows].mean(axis=0)
    errors.append(float((residual**2).sum()))
  assert errors[0] > errors[1] > errors[2]


def test_kmeans_leaves_no_cluster_empty():
  vectors = vectors_of(60)
  config = docids.DocidConfig()
  rng = np.random.default_rng(0)
  centres, labels = docids.kmeans(vectors, 12, config, rng)
  assert centres.shape == (12, 8)
  assert set(labels.tolist()) == set(range(12))


def test_kmeans_ends_at_the_centres_of_its_clusters():
  vectors = vectors_of(60)
  config = docids.DocidConfig(iterations=50)
  centres, labels = docids.kmeans(vectors, 5, config, np.random.default_rng(0))
  for cluster in range(5):
    mean = vectors[labels == cluster].mean(axis=0)
    np.testing.assert_allclose(centres[cluster], mean, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
  'field, value, word',
  [
    ('scheme', 'semantic', 'hierarchical_kmeans'),
    ('branching', 1, 'at least 2'),
    ('leaf_size', 0, 'at least 1'),
    ('num_levels', 0, 'at least 1'),
  ],
)
def test_bad_values_name_the_field_and_the_remedy(field, value, word):
  with pytest.raises(ValueError, match=word) as error:
    docids.DocidConfig(**{field: value})
  assert f'docid.{field}' in str(error.value)
  assert repr(value) in str(error.value)
  assert f'--config.docid.{field}' in str(error.value)
