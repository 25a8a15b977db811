"""K-means on the device: one set of vectors, or many small ones at once.

Distances are one matrix product and sums one scatter, so an iteration reads the
vectors twice. Shapes are padded to a few sizes, so that few programs compile.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

BLOCK = 32  # rows that share a cluster, in `kmeans_groups`
CHUNK = 65_536  # rows whose distances are held at once
START_ROWS = 4  # rows a centre that k-means++ chooses from


def kmeans(
  vectors: np.ndarray,
  num_clusters: int,
  *,
  iterations: int = 15,
  train_rows: int = 256,
  seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
  """Lloyd's algorithm from a k-means++ start; ends early where nothing moves.

  An empty cluster takes the vector that is farthest from its centre.

  Args:
    vectors: float32[N, D].
    num_clusters: k; at most N are used.
    iterations: Lloyd iterations at most.
    train_rows: rows a centre that the centres are learned from, at random.
    seed: of the start and of those rows.

  Returns:
    Centres float32[k, D], and int32[N], the nearest centre of each vector.

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
  """Nearest centre of each vector; the first of those equally near.

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
  """One k-means in each group of vectors, all in one program.

  Args:
    vectors: float32[N, D].
    owners: int[N], the group of each, 0 to G - 1; -1 belongs to none. No group
      is empty.
    num_clusters: k; a group of few different vectors leaves some empty.
    iterations: Lloyd iterations at most.
    seed: of the starts.
    most_groups: pads to as many, so that calls with fewer share a program.
    most_rows: the same for the vectors in groups.

  Returns:
    Centres float32[G, k, D], and int32[N], the nearest centre of each vector
    within its group (-1 where it has none).
  """
  order = np.argsort(owners, kind='stable')
  order = order[np.searchsorted(owners[order], 0) :]
  sizes = np.bincount(owners[order])
  groups = len(sizes)
  # Each group starts a new block, so that a block has one set of centres.
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
  # Starts are drawn with repetition, which needs no mask for small groups.
  # Drawn for the groups that there are: padding must not change a result.
  rng = np.random.default_rng(seed)
  share = rng.random((groups, START_ROWS * num_clusters))
  places = (ends - sizes)[:, None] + (share * sizes[:, None]).astype(np.int64)
  noise = _gumbel(rng, (groups, num_clusters, places.shape[1]))
  more = padded - groups
  centres, flat = _lloyd_groups(
    np.pad(noise, ((0, more), (0, 0), (0, 0))),
    vectors,
    rows.reshape(total, BLOCK),
    block_owners,
    np.pad(order[places], ((0, more), (0, 0))),
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
  """The next of eight sizes between two powers of two."""
  step = 1 << max(count.bit_length() - 4, 0)
  return -(-count // step) * step


@jax.jit
def _nearest(vectors: jax.Array, centres: jax.Array) -> jax.Array:
  return _scores(vectors, centres).argmin(axis=-1).astype(jnp.int32)


def _scores(vectors: jax.Array, centres: jax.Array) -> jax.Array:
  """Squared distances less the vectors' own squares, float32[..., N, k]."""
  dots = jnp.einsum('...nd,...kd->...nk', vectors, centres, precision='highest')
  return jnp.sum(centres * centres, axis=-1)[..., None, :] - 2 * dots


def _plus_plus(noise: jax.Array, sample: jax.Array) -> jax.Array:
  """K rows, each far from those before, at random.

  Args:
    noise: float32[k, S], Gumbel noise, which makes an argmax a draw.
    sample: float32[S, D].

  Returns:
    float32[k, D].
  """
  # All products at once: after that, a step is a row of a small matrix.
  dots = jnp.matmul(sample, sample.T, precision='highest')
  square = jnp.diagonal(dots)

  def step(best, noise):
    # Where all distances are 0, the largest of -inf is the first row.
    row = jnp.argmax(jnp.log(best) + noise)
    distance = jnp.maximum(square + square[row] - 2 * dots[row], 0)
    return jnp.minimum(best, distance).at[row].set(0), row

  # At first all rows are equally far from the centres there are: none.
  best = jnp.full(sample.shape[0], jnp.finfo(sample.dtype).max)
  _, rows = jax.lax.scan(step, best, noise)
  return sample[rows]


@functools.partial(jax.jit, static_argnames='iterations')
def _lloyd(noise, vectors, start, *, iterations):
  """Centres float32[k, D] of float32[N, D]; `start` int[S] for k-means++."""
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
  """The centres after so many steps, or after one that changes no label."""
  return jax.lax.while_loop(
    lambda state: (state[0] < iterations) & state[1], step, state
  )[3]


def _fill_empty(labels, counts, distance):
  """Gives each empty cluster one of the vectors farthest from their centres."""
  k = counts.shape[0]
  _, rows = jax.lax.top_k(distance, k)  # no more clusters than vectors
  rank = jnp.cumsum(counts == 0) - 1
  empty = jnp.where(counts == 0, jnp.arange(k), 0)
  target = jnp.where(counts == 0, rows[rank], labels.shape[0])
  return labels.at[target].set(empty.astype(labels.dtype), mode='drop')


@functools.partial(jax.jit, static_argnames='iterations')
def _lloyd_groups(noise, vectors, rows, owners, start, *, iterations):
  """Centres float32[G, k, D] and labels int32[blocks, BLOCK]."""
  groups, k, _ = noise.shape
  blocks = vectors[jnp.maximum(rows, 0)]
  where = rows >= 0
  flat = blocks.reshape(-1, blocks.shape[-1])
  square = jnp.sum(blocks * blocks, axis=-1)
  columns = jnp.swapaxes(blocks, 1, 2)  # as a CPU multiplies blocks quickest

  def assign(centres):
    own = centres[owners]
    dots = jnp.einsum('bkd,bdn->bkn', own, columns, precision='highest')
    scores = jnp.sum(own * own, axis=-1)[..., None] - 2 * dots
    labels = jnp.argmin(scores, axis=1).astype(jnp.int32)
    return labels, jnp.min(scores, axis=1)

  def step(state):
    i, _, old, centres = state
    labels, least = assign(centres)
    # Rows of padding go to a cluster past the last, which is dropped.
    place = jnp.where(where, owners[:, None] * k + labels, groups * k).ravel()
    counts = jnp.zeros(groups * k + 1).at[place].add(1)[:-1].reshape(groups, k)
    # The first empty cluster of a group moves to the group's farthest vector.
    distance = jnp.where(where, least + square, -1)
    far = jax.ops.segment_max(distance.max(axis=1), owners, groups)
    hit = distance == far[owners][:, None]
    number = jnp.arange(hit.size).reshape(hit.shape)
    number = jnp.where(hit & where, number, hit.size).min(axis=1)
    row = jax.ops.segment_min(number, owners, groups)
    fill = (counts == 0).any(axis=1) & (far > 0)
    empty = jnp.arange(groups) * k + jnp.argmin(counts, axis=1)
    row = jnp.where(fill & (row < hit.size), row, hit.size)
    place = place.at[row].set(empty.astype(place.dtype), mode='drop')
    counts = jnp.zeros(groups * k + 1).at[place].add(1)[:-1]
    sums = jax.ops.segment_sum(flat, place, groups * k + 1)[:-1]
    means = (sums / jnp.maximum(counts, 1)[:, None]).reshape(centres.shape)
    full = (counts > 0).reshape(groups, k, 1)
    centres = jnp.where(full, means, centres)
    return i + 1, (place != old).any(), place, centres

  centres = jax.vmap(_plus_plus)(noise, vectors[start])
  place = jnp.full(flat.shape[0], -1, jnp.int32)
  state = 0, jnp.bool_(True), place, centres
  centres = _repeat(step, state, iterations)
  return centres, assign(centres)[0]
