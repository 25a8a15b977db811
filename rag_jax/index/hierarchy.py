"""A tree of clusters: k-means within each cluster, a level at a time."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from rag_jax.index import clustering

ROWS = 8192  # vectors that are clustered at once, about


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
  """Clusters until every cluster is small.

  A cluster that swallows everything (identical vectors) is split evenly, so
  this ends on any input; empty clusters are dropped.

  Args:
    vectors: float32[N, D].
    branching: children a cluster, at most.
    leaf_size: a cluster this small is not split.
    max_depth: levels of clusters, at most.
    iterations: Lloyd iterations of each k-means.
    train_rows: rows a centre that the first level is learned from.
    seed: of k-means.

  Returns:
    Codes int32[N, depth], the number of the child at each level, 0 under a
    leaf; several documents share a row. And the tree, for `encode`: 'centres'
    float32[M, D], 'first_child' int32[M] and 'num_children' int32[M] (0 at a
    leaf), its clusters level by level from the root, children side by side;
    and 'depth', int32[].

  Reference:
    Tay et al., Transformer Memory as a Differentiable Search Index, 2022.
  """
  count, width = vectors.shape
  on_device = jnp.asarray(vectors)
  centres = [np.zeros((1, width), np.float32)]
  first, children = [np.zeros(1, np.int32)], [np.zeros(1, np.int32)]
  node = np.zeros(count, np.int64)  # of the newest level, -1 = in a leaf
  codes: list[np.ndarray] = []
  sizes = np.bincount(node)
  total = 1
  while len(codes) < max_depth and (sizes > leaf_size).any():
    split = np.flatnonzero(sizes > leaf_size)
    groups = np.full(len(sizes) + 1, -1)  # the last is for those in leaves
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
    place = np.where(inside, owners * branching + labels, -1)
    counts = np.bincount(place[inside], minlength=len(split) * branching)
    kept = np.flatnonzero(counts)
    number = np.full(len(counts) + 1, -1)
    number[kept] = np.arange(len(kept))
    per_node = (counts.reshape(-1, branching) > 0).sum(axis=1)
    start = np.cumsum(per_node) - per_node
    children[-1][split] = per_node
    first[-1][split] = total + start
    total += len(kept)
    node = np.where(inside, number[place], -1)
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
  """K-means of all vectors; as `_split_groups`, with one group."""
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
  """K-means within each group, a run of groups at a time.

  Args:
    vectors: float32[N, D].
    owners: int[N], the group of each, -1 = none.
    sizes: int[G], vectors in each group.
    branching: clusters a group, at most.
    leaf_size: groups are larger than this.
    iterations: of each k-means.
    seed: of k-means; the next run of groups has the next.

  Returns:
    Centres float32[G, branching, D], and the cluster of each vector within its
    group, int32[N], -1 = none.
  """
  count, width = vectors.shape
  means = np.zeros((len(sizes), branching, width), np.float32)
  labels = np.full(count, -1, np.int32)
  most_rows = min(ROWS, count)
  # As many as fit with twice the rows of the smallest that is split.
  most_groups = max(most_rows // (2 * leaf_size + 2), 1)
  ends = _runs(sizes, most_rows, most_groups)
  for run, (begin, end) in enumerate(itertools.pairwise([0, *ends])):
    inside = (owners >= begin) & (owners < end)
    means[begin:end], some = clustering.kmeans_groups(
      vectors,
      np.where(inside, owners - begin, -1),
      branching,
      iterations=iterations,
      seed=seed + run,
      most_groups=most_groups,
      most_rows=most_rows,
    )
    labels[inside] = some[inside]
  return means, labels


def _runs(sizes: np.ndarray, most_rows: int, most_groups: int) -> list[int]:
  """Ends of runs of groups that fit into the cache, most of one shape."""
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
  """Codes of new vectors: down the tree, to the nearest child at each level.

  Args:
    tree: what `fit` returned.
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
      # NumPy: clusters have many sizes, and each would compile a program.
      scores = (centres**2).sum(axis=1) - 2 * vectors[rows] @ centres.T
      codes[rows, level] = scores.argmin(axis=1)
      node[rows] = begin + codes[rows, level]
  return codes


def _split_evenly(
  owners: np.ndarray, labels: np.ndarray, branching: int
) -> np.ndarray:
  """Labels in which no group of several vectors has one label only."""
  inside = np.flatnonzero(owners >= 0)
  groups = int(owners.max()) + 1
  low = np.full(groups, branching)
  high = np.full(groups, -1)
  np.minimum.at(low, owners[inside], labels[inside])
  np.maximum.at(high, owners[inside], labels[inside])
  stuck = inside[(low == high)[owners[inside]]]
  stuck = stuck[np.argsort(owners[stuck], kind='stable')]
  _, start, count = np.unique(
    owners[stuck], return_index=True, return_counts=True
  )
  labels = labels.copy()
  turn = np.arange(len(stuck)) - np.repeat(start, count)
  labels[stuck] = turn % branching
  return labels
