"""K-means on the device, for one set of vectors or for many groups at once.

Each iteration computes the distances by one matrix product and the cluster sums
by one scatter, so it reads the vectors twice. Shapes are padded to a few sizes
to limit the number of compilations.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

BLOCK = 32  # rows per block in `kmeans_groups`; a block has one group
CHUNK = 65_536  # rows whose distances are in memory at once
START_ROWS = 4  # k-means++ chooses from this many rows per centroid


def kmeans(
  vectors: np.ndarray,
  num_clusters: int,
  *,
  iterations: int = 15,
  train_rows: int = 256,
  seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
  """Lloyd's algorithm with k-means++ initialisation.

  It stops once no assignment changes. An empty cluster takes the vector that is
  farthest from its centroid.

  Args:
    vectors: float32[N, D].
    num_clusters: k; min(k, N) clusters are used.
    iterations: maximum number of Lloyd iterations.
    train_rows: training vectors per centroid, sampled at random.
    seed: of the initialisation and of the sample.

  Returns:
    Centroids float32[k, D], and int32[N], the nearest centroid of each vector.

  Example:
    >>> vectors = np.array([[0.0], [1.0], [10.0], [11.0]], np.float32)
    >>> centres, labels = kmeans(vectors, 2)
    >>> sorted(centres[:, 0].tolist())
    [0.5, 10.5]

  Reference:
    Arthur and Vassilvitskii, k-means++: the advantages of careful seeding,
    2007.
  """
  vectors = np.asarray(vectors, np.float32)
  num_clusters = min(num_clusters, len(vectors))
  rng = np.random.default_rng(seed)
  sample = vectors
  if len(vectors) > train_rows * num_clusters:
    chosen = rng.choice(len(vectors), train_rows * num_clusters, replace=False)
    sample = vectors[np.sort(chosen)]
  start = rng.permutation(len(sample))[: START_ROWS * num_clusters]
  noise = _gumbel(rng, (num_clusters, len(start)))
  centres = np.asarray(_lloyd(noise, sample, start, iterations=iterations))
  return centres, nearest(vectors, centres)


def nearest(vectors: np.ndarray, centres: np.ndarray) -> np.ndarray:
  """Index of the nearest centroid of each vector; ties go to the lowest index.

  Args:
    vectors: float32[N, D].
    centres: float32[k, D].

  Returns:
    int32[N].

  Example:
    >>> nearest(np.array([[0.2], [0.9]]), np.array([[0.0], [1.0]])).tolist()
    [0, 1]
  """
  vectors = np.asarray(vectors, np.float32)
  centres = np.asarray(centres, np.float32)
  labels = [
    np.asarray(_nearest(vectors[start : start + CHUNK], centres))
    for start in range(0, len(vectors), CHUNK)
  ]
  return np.concatenate([np.zeros(0, np.int32), *labels])


def kmeans_groups(
  vectors: jax.Array,
  owners: np.ndarray,
  num_clusters: int,
  *,
  iterations: int = 15,
  seed: int = 0,
  most_groups: int = 1,
  most_rows: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
  """Runs k-means within each group of vectors, all groups in one program.

  Args:
    vectors: float32[N, D].
    owners: int[N], the group of each vector, 0 to G - 1, or -1 for no group. No
      group is empty.
    num_clusters: k; a group with fewer distinct vectors has empty clusters.
    iterations: maximum number of Lloyd iterations.
    seed: of the initialisation.
    most_groups: pads the number of groups to at least this, so that calls with
      fewer groups share one compiled program.
    most_rows: likewise for the number of vectors in groups.

  Returns:
    Centroids float32[G, k, D], and int32[N], the nearest centroid of each
    vector within its group, -1 for vectors without a group.
  """
  order = np.argsort(owners, kind='stable')
  order = order[np.searchsorted(owners[order], 0) :]
  sizes = np.bincount(owners[order])
  groups = len(sizes)
  # Each group starts a new block, so that all rows of a block share centroids.
  blocks = -(-sizes // BLOCK)
  padded = _round_up(max(groups, most_groups))
  most_blocks = most_rows // BLOCK + most_groups
  total = _round_up(max(int(blocks.sum()), most_blocks))
  rows = np.full(total * BLOCK, -1)
  ends = np.cumsum(sizes)
  within = np.arange(len(order)) - np.repeat(ends - sizes, sizes)
  first = BLOCK * (np.cumsum(blocks) - blocks)
  rows[np.repeat(first, sizes) + within] = order
  block_owners = np.zeros(total, np.int32)
  block_owners[: blocks.sum()] = np.repeat(np.arange(groups), blocks)
  # Initial rows are drawn with replacement, so small groups need no mask. They
  # are drawn for real groups only, so that padding does not change a result.
  rng = np.random.default_rng(seed)
  share = rng.random((groups, START_ROWS * num_clusters))
  start_rows = (ends - sizes)[:, None] + (share * sizes[:, None]).astype(
    np.int64
  )
  noise = _gumbel(rng, (groups, num_clusters, start_rows.shape[1]))
  more = padded - groups
  centres, flat = _lloyd_groups(
    np.pad(noise, ((0, more), (0, 0), (0, 0))),
    vectors,
    rows.reshape(total, BLOCK),
    block_owners,
    np.pad(order[start_rows], ((0, more), (0, 0))),
    iterations=iterations,
  )
  labels = np.full(len(owners), -1, np.int32)
  real = rows >= 0
  labels[rows[real]] = np.asarray(flat).ravel()[real]
  return np.asarray(centres)[:groups], labels


def _gumbel(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
  """Gumbel noise, float32."""
  exponential = rng.standard_exponential(shape, np.float32)
  return -np.log(np.maximum(exponential, np.finfo(np.float32).tiny))


def _round_up(count: int) -> int:
  """Rounds up to one of the eight sizes between two powers of two."""
  step = 1 << max(count.bit_length() - 4, 0)
  return -(-count // step) * step


@jax.jit
def _nearest(vectors: jax.Array, centres: jax.Array) -> jax.Array:
  return _scores(vectors, centres).argmin(axis=-1).astype(jnp.int32)


def _scores(vectors: jax.Array, centres: jax.Array) -> jax.Array:
  """Squared distances minus the vectors' squared norms, float32[..., N, k]."""
  dots = jnp.einsum('...nd,...kd->...nk', vectors, centres, precision='highest')
  return jnp.sum(centres * centres, axis=-1)[..., None, :] - 2 * dots


def _plus_plus(noise: jax.Array, sample: jax.Array) -> jax.Array:
  """K-means++ initialisation: k rows, drawn by squared distance.

  Args:
    noise: float32[k, S], Gumbel noise; argmax(log p + noise) samples from p.
    sample: float32[S, D].

  Returns:
    float32[k, D].
  """
  # All dot products at once; each step then reads one row of the matrix.
  dots = jnp.matmul(sample, sample.T, precision='highest')
  square = jnp.diagonal(dots)

  def step(best, noise):
    # If all distances are 0, all scores are -inf and argmax takes row 0.
    row = jnp.argmax(jnp.log(best) + noise)
    distance = jnp.maximum(square + square[row] - 2 * dots[row], 0)
    return jnp.minimum(best, distance).at[row].set(0), row

  # Without a centroid, all rows have the same distance: the first is uniform.
  best = jnp.full(sample.shape[0], jnp.finfo(sample.dtype).max)
  _, rows = jax.lax.scan(step, best, noise)
  return sample[rows]


@functools.partial(jax.jit, static_argnames='iterations')
def _lloyd(noise, vectors, start, *, iterations):
  """Centroids float32[k, D] of float32[N, D].

  `start`, int[S], are the rows that k-means++ chooses from.
  """
  k = noise.shape[0]
  square = jnp.sum(vectors * vectors, axis=-1)

  def step(state):
    i, _, old, centres = state
    scores = _scores(vectors, centres)
    labels = jnp.argmin(scores, axis=-1).astype(jnp.int32)
    counts = jnp.zeros(k, jnp.int32).at[labels].add(1)
    distance = jnp.min(scores, axis=-1) + square
    labels = jax.lax.cond(
      (counts == 0).any(),
      _fill_empty,
      lambda *a: a[0],
      labels,
      counts,
      distance,
    )
    sums = jax.ops.segment_sum(vectors, labels, k)
    counts = jnp.zeros(k).at[labels].add(1)
    means = sums / jnp.maximum(counts, 1)[:, None]
    centres = jnp.where(counts[:, None] > 0, means, centres)
    return i + 1, (labels != old).any(), labels, centres

  centres = _plus_plus(noise, vectors[start])
  labels = jnp.full(vectors.shape[0], -1, jnp.int32)
  state = 0, jnp.bool_(True), labels, centres
  return _repeat(step, state, iterations)


def _repeat(step, state, iterations):
  """Repeats `step` until no label changes; returns the centroids."""
  return jax.lax.while_loop(
    lambda state: (state[0] < iterations) & state[1], step, state
  )[3]


def _fill_empty(labels, counts, distance):
  """Moves the vectors farthest from their centroids to the empty clusters."""
  k = counts.shape[0]
  _, rows = jax.lax.top_k(distance, k)  # k <= number of vectors
  rank = jnp.cumsum(counts == 0) - 1
  empty = jnp.where(counts == 0, jnp.arange(k), 0)
  target = jnp.where(counts == 0, rows[rank], labels.shape[0])
  return labels.at[target].set(empty.astype(labels.dtype), mode='drop')


@functools.partial(jax.jit, static_argnames='iterations')
def _lloyd_groups(noise, vectors, rows, owners, start, *, iterations):
  """Centroids float32[G, k, D] and labels int32[blocks, BLOCK]."""
  groups, k, _ = noise.shape
  blocks = vectors[jnp.maximum(rows, 0)]
  where = rows >= 0
  flat = blocks.reshape(-1, blocks.shape[-1])
  square = jnp.sum(blocks * blocks, axis=-1)
  columns = jnp.swapaxes(blocks, 1, 2)  # the fastest layout on a CPU

  def assign(centres):
    block_centres = centres[owners]
    dots = jnp.einsum(
      'bkd,bdn->bkn', block_centres, columns, precision='highest'
    )
    scores = (
      jnp.sum(block_centres * block_centres, axis=-1)[..., None] - 2 * dots
    )
    labels = jnp.argmin(scores, axis=1).astype(jnp.int32)
    return labels, jnp.min(scores, axis=1)

  def step(state):
    i, _, old, centres = state
    labels, least = assign(centres)
    # Padding goes to an extra cluster after the last one, which is dropped.
    cluster = jnp.where(where, owners[:, None] * k + labels, groups * k).ravel()
    counts = (
      jnp.zeros(groups * k + 1).at[cluster].add(1)[:-1].reshape(groups, k)
    )
    # The first empty cluster of a group moves to the group's farthest vector.
    distance = jnp.where(where, least + square, -1)
    farthest = jax.ops.segment_max(distance.max(axis=1), owners, groups)
    is_farthest = distance == farthest[owners][:, None]
    number = jnp.arange(is_farthest.size).reshape(is_farthest.shape)
    number = jnp.where(is_farthest & where, number, is_farthest.size).min(
      axis=1
    )
    row = jax.ops.segment_min(number, owners, groups)
    fill = (counts == 0).any(axis=1) & (farthest > 0)
    empty = jnp.arange(groups) * k + jnp.argmin(counts, axis=1)
    row = jnp.where(fill & (row < is_farthest.size), row, is_farthest.size)
    cluster = cluster.at[row].set(empty.astype(cluster.dtype), mode='drop')
    counts = jnp.zeros(groups * k + 1).at[cluster].add(1)[:-1]
    sums = jax.ops.segment_sum(flat, cluster, groups * k + 1)[:-1]
    means = (sums / jnp.maximum(counts, 1)[:, None]).reshape(centres.shape)
    full = (counts > 0).reshape(groups, k, 1)
    centres = jnp.where(full, means, centres)
    return i + 1, (cluster != old).any(), cluster, centres

  centres = jax.vmap(_plus_plus)(noise, vectors[start])
  cluster = jnp.full(flat.shape[0], -1, jnp.int32)
  state = 0, jnp.bool_(True), cluster, centres
  centres = _repeat(step, state, iterations)
  return centres, assign(centres)[0]
