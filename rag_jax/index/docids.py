"""Docid schemes: vectors in, codes out; on the host, deterministic by seed.

Every scheme maps float32[N, D] vectors to int32[N, L] codes that are unique.
"""

import dataclasses

import numpy as np

SCHEMES = ('hierarchical_kmeans', 'residual_kmeans', 'atomic', 'random')


@dataclasses.dataclass(frozen=True, kw_only=True)
class DocidConfig:
  """How documents are named."""

  scheme: str = 'hierarchical_kmeans'  # one of SCHEMES
  branching: int = 24  # children a node, or codes a level
  leaf_size: int = 24  # hierarchical: a cluster this small is not split
  num_levels: int = 3  # residual and random: codes before the uniqueness token
  iterations: int = 15  # Lloyd iterations of each k-means

  def __post_init__(self) -> None:
    """Raises a ValueError on a value out of range."""
    if self.scheme not in SCHEMES:
      raise ValueError(
        f'docid.scheme must be one of {", ".join(SCHEMES)}, got '
        f'{self.scheme!r}. Set --config.docid.scheme.'
      )
    for name, least in (('branching', 2), ('leaf_size', 1), ('num_levels', 1)):
      value = getattr(self, name)
      if value < least:
        raise ValueError(
          f'docid.{name} must be at least {least}, got {value}. '
          f'Set --config.docid.{name}.'
        )


def assign(
  vectors: np.ndarray, config: DocidConfig, *, seed: int = 0
) -> np.ndarray:
  """Names documents by a scheme.

  Args:
    vectors: float32[N, D], one a document.
    config: the scheme and its sizes.
    seed: of k-means starts and random codes.

  Returns:
    int32[N, L], unique rows.

  Example:
    >>> vectors = np.array([[0.0, 1.0], [0.1, 1.0], [1.0, 0.0]])
    >>> config = DocidConfig(branching=2, leaf_size=2)
    >>> assign(vectors, config).shape
    (3, 2)
  """
  rng = np.random.default_rng(seed)
  vectors = np.asarray(vectors, np.float32)
  if config.scheme == 'atomic':
    return np.arange(len(vectors), dtype=np.int32)[:, None]
  if config.scheme == 'random':
    shape = (len(vectors), config.num_levels)
    codes = rng.integers(0, config.branching, shape).astype(np.int32)
    return append_uniqueness(codes)
  if config.scheme == 'residual_kmeans':
    return append_uniqueness(residual_kmeans(vectors, config, rng))
  return hierarchical_kmeans(vectors, config, rng)


def hierarchical_kmeans(
  vectors: np.ndarray, config: DocidConfig, rng: np.random.Generator
) -> np.ndarray:
  """Clusters recursively; a small cluster numbers its documents.

  A cluster that swallows everything (identical vectors) is split evenly, so
  the recursion ends on any input.

  Reference:
    Tay et al., Transformer Memory as a Differentiable Search Index, 2022.
  """
  codes: list[list[int]] = [[] for _ in range(len(vectors))]
  stack = [np.arange(len(vectors))]
  while stack:
    rows = stack.pop()
    if len(rows) <= config.leaf_size:
      labels = np.arange(len(rows))
    else:
      labels = kmeans(vectors[rows], config.branching, config, rng)[1]
      if (labels == labels[0]).all():
        labels = np.arange(len(rows)) % config.branching
      labels = np.unique(labels, return_inverse=True)[1]  # drop empty clusters
      stack.extend(rows[labels == c] for c in range(labels.max() + 1))
    for row, label in zip(rows, labels, strict=True):
      codes[row].append(int(label))
  length = max(map(len, codes))
  padded = [code + [0] * (length - len(code)) for code in codes]
  return np.asarray(padded, np.int32)


def residual_kmeans(
  vectors: np.ndarray, config: DocidConfig, rng: np.random.Generator
) -> np.ndarray:
  """Quantises the residual of the level before, level by level.

  Returns:
    int32[N, num_levels]; several documents may share a row.
  """
  residual = vectors.copy()
  codes = []
  for _ in range(config.num_levels):
    centres, labels = kmeans(residual, config.branching, config, rng)
    residual -= centres[labels]
    codes.append(labels)
  return np.stack(codes, axis=1).astype(np.int32)


def append_uniqueness(codes: np.ndarray) -> np.ndarray:
  """Appends a level that numbers the documents of one docid.

  Args:
    codes: int[N, L].

  Returns:
    int32[N, L + 1], unique rows; the last level is as wide as the largest
    bucket needs.

  Example:
    >>> append_uniqueness(np.array([[3, 1], [0, 2], [3, 1]])).tolist()
    [[3, 1, 0], [0, 2, 0], [3, 1, 1]]
  """
  order = np.lexsort(codes.T[::-1])
  ordered = codes[order]
  new = np.ones(len(codes), bool)
  new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
  index = np.arange(len(codes))
  number = index - np.maximum.accumulate(np.where(new, index, 0))
  last = np.empty(len(codes), np.int32)
  last[order] = number
  return np.concatenate([codes, last[:, None]], axis=1).astype(np.int32)


def kmeans(
  vectors: np.ndarray,
  num_clusters: int,
  config: DocidConfig,
  rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
  """Lloyd's algorithm from a k-means++ start.

  An empty cluster takes the vector that is farthest from its centre.

  Args:
    vectors: float32[N, D].
    num_clusters: k; at most N are used.
    config: for the number of iterations.
    rng: random generator.

  Returns:
    Centres float32[k, D] and labels int64[N].

  Reference:
    Arthur and Vassilvitskii, k-means++: the advantages of careful seeding,
    2007.
  """
  num_clusters = min(num_clusters, len(vectors))
  centres = vectors[_plus_plus(vectors, num_clusters, rng)]
  labels = np.zeros(len(vectors), np.int64)
  for _ in range(config.iterations):
    distances = _distances(vectors, centres)
    labels = distances.argmin(axis=1)
    counts = np.bincount(labels, minlength=num_clusters)
    empty = np.flatnonzero(counts == 0)
    if len(empty):
      own = distances[np.arange(len(vectors)), labels]
      labels[np.argsort(-own, kind='stable')[: len(empty)]] = empty
      counts = np.bincount(labels, minlength=num_clusters)
    totals = np.zeros_like(centres)
    np.add.at(totals, labels, vectors)
    full = counts > 0
    centres[full] = totals[full] / counts[full, None]
  return centres, labels


def _plus_plus(
  vectors: np.ndarray, num_clusters: int, rng: np.random.Generator
) -> np.ndarray:
  """Rows that start k-means: each far from those before, at random."""
  chosen = [int(rng.integers(len(vectors)))]
  nearest = _distances(vectors, vectors[chosen])[:, 0]
  while len(chosen) < num_clusters:
    total = nearest.sum()
    share = nearest / total if total > 0 else None
    chosen.append(int(rng.choice(len(vectors), p=share)))
    new = _distances(vectors, vectors[chosen[-1:]])[:, 0]
    nearest = np.minimum(nearest, new)
  return np.asarray(chosen)


def _distances(vectors: np.ndarray, centres: np.ndarray) -> np.ndarray:
  """Squared distances, float64[N, k] so that shares sum to one."""
  square = (vectors**2).sum(1)[:, None] + (centres**2).sum(1)
  return np.maximum(square - 2 * vectors @ centres.T, 0).astype(np.float64)
