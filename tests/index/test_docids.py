import numpy as np
import pytest

from rag_jax.index import codebooks, docids

SCHEMES = docids.SCHEMES


def small(scheme, **changes):
  """A configuration of a scheme with small sizes."""
  sizes = {
    'branching': 4,
    'codebook_size': 4,
    'leaf_size': 3,
    'steps': 5,
    'batch_size': 16,
  }
  sizes |= {'hidden_dims': (16,), 'latent': 4} | changes
  return docids.DocidConfig(scheme=scheme, **sizes)


def titles_of(count):
  return [
    f'The {"red owl" if i % 3 else "fox"} of {i % 7}' for i in range(count)
  ]


def vectors_of(count, *, seed=0, width=8):
  rng = np.random.default_rng(seed)
  centres = rng.normal(size=(5, width))
  rows = centres[rng.integers(5, size=count)] + rng.normal(size=(count, width))
  return rows.astype(np.float32)


@pytest.mark.parametrize('scheme', SCHEMES)
@pytest.mark.parametrize('count', [1, 7, 120])
def test_every_document_gets_a_unique_docid(scheme, count):
  config = small(scheme)
  codes = docids.assign(
    vectors_of(count), config, seed=3, titles=titles_of(count)
  )
  assert codes.dtype == np.int32
  assert codes.shape[0] == count
  assert codes.min() >= 0
  assert len(np.unique(codes, axis=0)) == count


@pytest.mark.parametrize('scheme', SCHEMES)
def test_docids_are_deterministic_by_seed(scheme):
  config = small(scheme)
  first = docids.assign(vectors_of(50), config, seed=1, titles=titles_of(50))
  again = docids.assign(vectors_of(50), config, seed=1, titles=titles_of(50))
  np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize('scheme', SCHEMES)
def test_identical_vectors_get_different_docids(scheme):
  config = small(scheme)
  codes = docids.assign(
    np.ones((40, 8), np.float32), config, titles=['same'] * 40
  )
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


def test_residual_kmeans_reduces_the_error_at_every_level():
  vectors = vectors_of(200)
  centres, codes = codebooks.residual_kmeans(vectors, 3, 8)
  errors = [(vectors**2).sum()]
  rebuilt = np.zeros_like(vectors)
  for level in range(3):
    # Each code is the nearest to the residual, by brute force.
    residual = vectors - rebuilt
    distance = ((residual[:, None] - centres[level]) ** 2).sum(axis=-1)
    np.testing.assert_array_equal(codes[:, level], distance.argmin(axis=1))
    rebuilt += centres[level][codes[:, level]]
    errors.append(((vectors - rebuilt) ** 2).sum())
  assert errors[0] > errors[1] > errors[2] > errors[3]


@pytest.mark.parametrize('width', [6, 8])
def test_product_quantisation_codes_each_slice_independently(width):
  vectors = vectors_of(100, width=width)
  config = docids.DocidConfig(
    scheme='product_quantisation', num_levels=3, codebook_size=8
  )
  codes, quantiser = docids.fit(vectors, config)
  part = -(-width // 3)
  assert quantiser['centres'].shape == (3, 8, part)
  wide = np.zeros((100, 3 * part), np.float32)
  wide[:, :width] = vectors
  for level, centres in enumerate(quantiser['centres']):
    columns = wide[:, level * part : (level + 1) * part]
    distance = ((columns[:, None] - centres) ** 2).sum(axis=-1)
    np.testing.assert_array_equal(codes[:, level], distance.argmin(axis=1))


@pytest.mark.parametrize(
  'scheme', [s for s in SCHEMES if s not in ('string', 'random')]
)
def test_encode_gives_the_fitted_documents_their_codes(scheme):
  vectors, titles = vectors_of(90), titles_of(90)
  config = small(scheme)
  codes, quantiser = docids.fit(vectors, config, seed=2, titles=titles)
  again = docids.encode(quantiser, vectors, config, titles=titles)
  np.testing.assert_array_equal(again, codes[:, :-1])


@pytest.mark.parametrize('scheme', SCHEMES)
def test_new_documents_get_unique_docids(scheme):
  vectors, titles = vectors_of(130), titles_of(130)
  config = small(scheme)
  codes, quantiser = docids.fit(
    vectors[:90], config, seed=2, titles=titles[:90]
  )
  new = docids.encode(quantiser, vectors[90:], config, titles=titles[90:])
  assert new.dtype == np.int32
  assert new.shape == (40, codes.shape[1] - 1)
  last = docids.next_free(codes, new, np.ones(90, bool))
  joined = np.concatenate([codes, np.column_stack([new, last])])
  assert len(np.unique(joined, axis=0)) == 130
  # The quantiser holds arrays only; codes do not depend on the batch.
  assert all(
    isinstance(a, (np.ndarray, np.generic)) for a in quantiser.values()
  )
  if scheme != 'string':
    alone = docids.encode(
      quantiser, vectors[95:96], config, titles=titles[95:96]
    )
    np.testing.assert_array_equal(alone[0], new[5])


def test_string_docids_are_the_digits_of_the_row():
  codes = docids.assign(vectors_of(120), small('string'))
  assert [''.join(map(str, row)) for row in codes] == [
    f'{i:03}' for i in range(120)
  ]


@pytest.mark.parametrize('scheme', ['residual_kmeans', 'hierarchical_kmeans'])
def test_the_depth_is_capped(scheme):
  vectors = np.random.default_rng(0).normal(size=(60, 2)) ** 9
  config = small(scheme, leaf_size=1, branching=2, codebook_size=2, max_depth=3)
  codes = docids.assign(vectors, config)
  assert codes.shape == (60, 4)
  assert len(np.unique(codes, axis=0)) == 60


@pytest.mark.parametrize(
  'field, value, word',
  [
    ('scheme', 'semantic', 'hierarchical_kmeans'),
    ('branching', 1, 'at least 2'),
    ('leaf_size', 0, 'at least 1'),
    ('num_levels', 0, 'at least 1'),
    ('max_depth', 0, 'at least 1'),
    ('steps', -1, 'at least 0'),
    ('learning_rate', 0.0, 'positive'),
  ],
)
def test_errors_name_the_field_the_value_and_the_remedy(field, value, word):
  with pytest.raises(ValueError, match=word) as error:
    docids.DocidConfig(**{field: value})
  assert f'docid.{field}' in str(error.value)
  assert repr(value) in str(error.value)
  assert f'--config.docid.{field}' in str(error.value)


@pytest.mark.parametrize(
  'vectors, scheme, words',
  [
    (np.ones(3), 'atomic', r'vectors must have the shape \[N, D\], got \(3,\)'),
    (np.full((2, 1), np.nan), 'rq_vae', 'vectors must be finite.* in row 0'),
    (np.ones((0, 3)), 'random', 'vectors must not be empty'),
    (
      np.ones((3, 2)),
      'title',
      r'titles must be one per document \(3\), got None',
    ),
  ],
)
def test_errors_of_vectors_and_titles(vectors, scheme, words):
  with pytest.raises(ValueError, match=words):
    docids.fit(vectors, small(scheme))
