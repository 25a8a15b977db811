"""Hierarchical k-means: a tree of clusters, built level by level."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from rag_jax.index import clustering

ROWS = 8192  # approximate number of vectors per call of `kmeans_groups`


def fit(
  vectors: np.ndarray,
  *,
  branching: int,
  leaf_size: int,
  max_depth: int,
  iterations: int = 15,
  train_rows: int = 256,
  seed: int = 0,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
  """Splits clusters by k-means until each has at most `leaf_size` vectors.

  If k-means puts all vectors of a group into one cluster (identical vectors),
  the group is split evenly, so the algorithm always terminates. Empty clusters
  are dropped.

  Args:
    vectors: float32[N, D].
    branching: maximum children per cluster.
    leaf_size: maximum size of a cluster that is not split.
    max_depth: maximum number of levels.
    iterations: maximum number of Lloyd iterations of each k-means.
    train_rows: training vectors per centroid, for the first level only.
    seed: of k-means.

  Returns:
    Codes int32[N, depth], the index of the child at each level, 0 below a leaf;
    not unique. And the tree for `encode`, with its M clusters in level order
    from the root and siblings contiguous: 'centres' float32[M, D],
    'first_child' int32[M], 'num_children' int32[M] (0 at a leaf) and 'depth'
    int32[].

  Reference:
    Tay et al., Transformer Memory as a Differentiable Search Index, 2022.
  """
  count, width = vectors.shape
  on_device = jnp.asarray(vectors)
  centres = [np.zeros((1, width), np.float32)]
  first, children = [np.zeros(1, np.int32)], [np.zeros(1, np.int32)]
  node = np.zeros(count, np.int64)  # cluster at the last level, -1 = in a leaf
  codes: list[np.ndarray] = []
  sizes = np.bincount(node)
  total = 1
  while len(codes) < max_depth and (sizes > leaf_size).any():
    split = np.flatnonzero(sizes > leaf_size)
    groups = np.full(len(sizes) + 1, -1)  # the last entry is for node = -1
    groups[split] = np.arange(len(split))
    owners = groups[node]
    if len(codes) == 0:
      means, labels = _split_root(
        vectors,
        branching,
        iterations=iterations,
        train_rows=train_rows,
        seed=seed,
      )
    else:
      means, labels = _split_groups(
        on_device,
        owners,
        sizes[split],
        branching=branching,
        leaf_size=leaf_size,
        iterations=iterations,
        seed=seed + total,
      )
    labels = _split_evenly(owners, labels, branching)
    inside = owners >= 0
    cluster = np.where(inside, owners * branching + labels, -1)
    counts = np.bincount(cluster[inside], minlength=len(split) * branching)
    kept = np.flatnonzero(counts)
    number = np.full(len(counts) + 1, -1)
    number[kept] = np.arange(len(kept))
    per_node = (counts.reshape(-1, branching) > 0).sum(axis=1)
    start = np.cumsum(per_node) - per_node
    children[-1][split] = per_node
    first[-1][split] = total + start
    total += len(kept)
    node = np.where(inside, number[cluster], -1)
    codes.append(np.where(inside, node - start[owners], 0))
    centres.append(means.reshape(-1, width)[kept])
    first.append(np.zeros(len(kept), np.int32))
    children.append(np.zeros(len(kept), np.int32))
    sizes = counts[kept]
  tree = {
    'centres': np.concatenate(centres),
    'first_child': np.concatenate(first),
    'num_children': np.concatenate(children),
    'depth': np.asarray(len(codes), np.int32),
  }
  if not codes:
    return np.zeros((count, 0), np.int32), tree
  return np.stack(codes, axis=1).astype(np.int32), tree


def _split_root(
  vectors: np.ndarray, branching: int, **options: int
) -> tuple[np.ndarray, np.ndarray]:
  """K-means of all vectors, in the format of `_split_groups`."""
  means, labels = clustering.kmeans(vectors, branching, **options)
  missing = branching - len(means)
  return np.pad(means, ((0, missing), (0, 0)))[None], labels


def _split_groups(
  vectors: jax.Array,
  owners: np.ndarray,
  sizes: np.ndarray,
  *,
  branching: int,
  leaf_size: int,
  iterations: int,
  seed: int,
) -> tuple[np.ndarray, np.ndarray]:
  """K-means within each group, for a batch of groups at a time.

  Args:
    vectors: float32[N, D].
    owners: int[N], the group of each vector, -1 = none.
    sizes: int[G], vectors in each group.
    branching: maximum clusters per group.
    leaf_size: all groups are larger than this.
    iterations: maximum number of Lloyd iterations.
    seed: of k-means; batch i uses seed + i.

  Returns:
    Centroids float32[G, branching, D], and the cluster of each vector within
    its group, int32[N], -1 = none.
  """
  count, width = vectors.shape
  means = np.zeros((len(sizes), branching, width), np.float32)
  labels = np.full(count, -1, np.int32)
  most_rows = min(ROWS, count)
  # As many groups as fit if each has twice the rows of the smallest possible.
  most_groups = max(most_rows // (2 * leaf_size + 2), 1)
  ends = _batches(sizes, most_rows, most_groups)
  for batch, (begin, end) in enumerate(itertools.pairwise([0, *ends])):
    inside = (owners >= begin) & (owners < end)
    means[begin:end], batch_labels = clustering.kmeans_groups(
      vectors,
      np.where(inside, owners - begin, -1),
      branching,
      iterations=iterations,
      seed=seed + batch,
      most_groups=most_groups,
      most_rows=most_rows,
    )
    labels[inside] = batch_labels[inside]
  return means, labels


def _batches(sizes: np.ndarray, most_rows: int, most_groups: int) -> list[int]:
  """Ends of batches of consecutive groups, each within both limits.

  A single group may exceed `most_rows`.
  """
  ends: list[int] = []
  begin = rows = 0
  for group, size in enumerate(sizes.tolist()):
    if group > begin and (
      rows + size > most_rows or group - begin == most_groups
    ):
      ends.append(group)
      begin, rows = group, 0
    rows += size
  return [*ends, len(sizes)]


def encode(tree: dict[str, np.ndarray], vectors: np.ndarray) -> np.ndarray:
  """Codes of new vectors: the nearest child at each level, from the root.

  Args:
    tree: from `fit`.
    vectors: float32[M, D].

  Returns:
    int32[M, depth].
  """
  node = np.zeros(len(vectors), np.int64)
  codes = np.zeros((len(vectors), int(tree['depth'])), np.int32)
  for level in range(codes.shape[1]):
    order = np.argsort(node, kind='stable')
    parents, starts = np.unique(node[order], return_index=True)
    for parent, rows in zip(parents, np.split(order, starts[1:]), strict=True):
      children = int(tree['num_children'][parent])
      if not children:
        continue
      begin = int(tree['first_child'][parent])
      centres = tree['centres'][begin : begin + children]
      # NumPy: in JAX, each cluster size would compile a program.
      scores = (centres**2).sum(axis=1) - 2 * vectors[rows] @ centres.T
      codes[rows, level] = scores.argmin(axis=1)
      node[rows] = begin + codes[rows, level]
  return codes


def _split_evenly(
  owners: np.ndarray, labels: np.ndarray, branching: int
) -> np.ndarray:
  """Spreads labels evenly in groups whose vectors all have the same label."""
  inside = np.flatnonzero(owners >= 0)
  groups = int(owners.max()) + 1
  low = np.full(groups, branching)
  high = np.full(groups, -1)
  np.minimum.at(low, owners[inside], labels[inside])
  np.maximum.at(high, owners[inside], labels[inside])
  unsplit = inside[(low == high)[owners[inside]]]
  unsplit = unsplit[np.argsort(owners[unsplit], kind='stable')]
  _, start, count = np.unique(
    owners[unsplit], return_index=True, return_counts=True
  )
  labels = labels.copy()
  number = np.arange(len(unsplit)) - np.repeat(start, count)
  labels[unsplit] = number % branching
  return labels
