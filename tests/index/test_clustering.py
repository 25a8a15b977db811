import numpy as np
import pytest

from rag_jax.index import clustering, hierarchy


def vectors_of(count, *, seed=0, width=8):
  rng = np.random.default_rng(seed)
  centres = rng.normal(size=(5, width))
  rows = centres[rng.integers(5, size=count)] + rng.normal(size=(count, width))
  return rows.astype(np.float32)


def brute_force(vectors, centres):
  return ((vectors[:, None] - centres) ** 2).sum(axis=-1).argmin(axis=1)


def test_kmeans_leaves_no_cluster_empty():
  vectors = vectors_of(60)
  centres, labels = clustering.kmeans(vectors, 12, seed=0)
  assert centres.shape == (12, 8)
  assert set(labels.tolist()) == set(range(12))


def test_an_empty_cluster_takes_the_farthest_vector():
  # 100 copies and three outliers: each outlier must get a cluster.
  vectors = np.zeros((103, 2), np.float32)
  vectors[100:] = [[9, 0], [0, 9], [9, 9]]
  for seed in range(5):
    centres, labels = clustering.kmeans(vectors, 4, seed=seed)
    np.testing.assert_allclose(centres[labels], vectors, atol=1e-5)


def test_kmeans_converges_to_a_fixed_point_of_lloyd():
  vectors = vectors_of(60)
  centres, labels = clustering.kmeans(vectors, 5, iterations=50)
  np.testing.assert_array_equal(labels, brute_force(vectors, centres))
  for cluster in range(5):
    mean = vectors[labels == cluster].mean(axis=0)
    np.testing.assert_allclose(centres[cluster], mean, rtol=1e-5, atol=1e-6)


def test_kmeans_is_as_good_as_lloyd_in_numpy():
  vectors = vectors_of(400)
  rng = np.random.default_rng(0)
  errors = []
  for _ in range(5):
    centres = vectors[rng.permutation(400)[:8]]
    for _ in range(15):
      labels = brute_force(vectors, centres)
      centres = np.stack(
        [
          vectors[labels == c].mean(axis=0) if (labels == c).any() else old
          for c, old in enumerate(centres)
        ]
      )
    errors.append(
      ((vectors - centres[brute_force(vectors, centres)]) ** 2).sum()
    )
  centres, labels = clustering.kmeans(vectors, 8)
  assert ((vectors - centres[labels]) ** 2).sum() < 1.05 * np.median(errors)


def test_kmeans_fits_a_sample_and_labels_all_vectors():
  vectors = vectors_of(500)
  centres, labels = clustering.kmeans(vectors, 4, train_rows=20)
  assert labels.shape == (500,)
  np.testing.assert_array_equal(labels, brute_force(vectors, centres))


def test_chunks_do_not_change_the_nearest_centre(monkeypatch):
  vectors, centres = vectors_of(50), vectors_of(7, seed=1)
  monkeypatch.setattr(clustering, 'CHUNK', 16)
  got = clustering.nearest(vectors, centres)
  np.testing.assert_array_equal(got, brute_force(vectors, centres))


def test_groups_are_clustered_independently():
  vectors = vectors_of(200)
  owners = np.random.default_rng(1).integers(-1, 3, size=200)
  centres, labels = clustering.kmeans_groups(
    vectors, owners, 4, iterations=50, most_groups=6
  )
  assert centres.shape == (3, 4, 8)
  assert (labels[owners < 0] == -1).all()
  for group in range(3):
    in_group = owners == group
    got = brute_force(vectors[in_group], centres[group])
    np.testing.assert_array_equal(labels[in_group], got)
    for cluster in range(4):
      mean = vectors[in_group & (labels == cluster)].mean(axis=0)
      np.testing.assert_allclose(
        centres[group, cluster], mean, rtol=1e-4, atol=1e-5
      )


def test_padding_of_groups_and_rows_does_not_change_the_clusters():
  vectors = vectors_of(200)
  owners = np.random.default_rng(1).integers(0, 3, size=200)
  unpadded = clustering.kmeans_groups(vectors, owners, 4)
  padded = clustering.kmeans_groups(
    vectors, owners, 4, most_groups=21, most_rows=900
  )
  np.testing.assert_array_equal(unpadded[1], padded[1])
  np.testing.assert_allclose(unpadded[0], padded[0], rtol=1e-5, atol=1e-6)


def test_a_group_of_copies_and_outliers_has_no_empty_cluster():
  vectors = np.zeros((80, 2), np.float32)
  vectors[38:40] = [[9, 0], [0, 9]]
  vectors[78:] = [[5, 0], [0, 5]]
  centres, labels = clustering.kmeans_groups(
    vectors, np.repeat([0, 1], 40), 3, iterations=20
  )
  rebuilt = centres[np.repeat([0, 1], 40), labels]
  np.testing.assert_allclose(rebuilt, vectors, atol=1e-5)


@pytest.mark.parametrize('rows', [1, 40, 8192])
def test_a_tree_splits_every_large_cluster(rows, monkeypatch):
  monkeypatch.setattr(hierarchy, 'ROWS', rows)
  vectors = vectors_of(300)
  codes, tree = hierarchy.fit(vectors, branching=3, leaf_size=12, max_depth=20)
  _, counts = np.unique(codes, axis=0, return_counts=True)
  assert counts.max() <= 12
  np.testing.assert_array_equal(hierarchy.encode(tree, vectors), codes)
  # Descend the tree by hand: every code is the nearest child.
  for row in range(0, 300, 17):
    node = 0
    for code in codes[row]:
      first, count = tree['first_child'][node], tree['num_children'][node]
      if not count:
        assert code == 0
        continue
      children = tree['centres'][first : first + count]
      assert code == ((children - vectors[row]) ** 2).sum(axis=1).argmin()
      node = first + code
    assert not tree['num_children'][node]


def test_batches_hold_as_many_groups_as_fit():
  # Batches: 7 rows; 10 rows; three groups; two; one too large; the rest.
  ends = hierarchy._batches(np.array([3, 4, 9, 1, 1, 1, 1, 1, 50, 2]), 10, 3)
  assert ends == [2, 4, 7, 8, 9, 10]


def test_identical_vectors_are_split_evenly():
  codes, _ = hierarchy.fit(
    np.ones((64, 3), np.float32), branching=4, leaf_size=4, max_depth=9
  )
  _, counts = np.unique(codes, axis=0, return_counts=True)
  assert codes.shape == (64, 2)
  assert (counts == 4).all()
