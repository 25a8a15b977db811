"""Codebooks by residual quantisation and by product quantisation."""

import numpy as np
import scipy.sparse

from rag_jax.index import clustering


def residual_kmeans(
  vectors: np.ndarray,
  num_levels: int,
  num_codes: int,
  *,
  iterations: int = 15,
  train_rows: int = 256,
  seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
  """Residual quantisation: k-means on the residual of the previous level.

  Args:
    vectors: float32[N, D].
    num_levels: codes per document.
    num_codes: V, codebook size; min(V, N) codes are used.
    iterations: maximum number of Lloyd iterations of each k-means.
    train_rows: training vectors per centroid.
    seed: of k-means.

  Returns:
    Centroids float32[num_levels, V, D], and codes int32[N, num_levels], which
    need not be unique.

  Reference:
    Chen et al., Approximate Nearest Neighbor Search by Residual Vector
    Quantization, 2010.
  """
  residual = np.array(vectors, np.float32)
  centres, codes = [], []
  for level in range(num_levels):
    means, labels = clustering.kmeans(
      residual,
      num_codes,
      iterations=iterations,
      train_rows=train_rows,
      seed=seed + level,
    )
    residual -= means[labels]
    centres.append(means)
    codes.append(labels)
  return np.stack(centres), np.stack(codes, axis=1)


def encode_residual(centres: np.ndarray, vectors: np.ndarray) -> np.ndarray:
  """Nearest code of the residual at each level, int32[M, levels].

  Args:
    centres: float32[levels, V, D].
    vectors: float32[M, D].
  """
  residual = np.array(vectors, np.float32)
  codes = []
  for level in centres:
    codes.append(clustering.nearest(residual, level))
    residual -= level[codes[-1]]
  return np.stack(codes, axis=1)


def product_quantisation(
  vectors: np.ndarray,
  num_levels: int,
  num_codes: int,
  *,
  iterations: int = 15,
  train_rows: int = 256,
  seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
  """Product quantisation: k-means on each of `num_levels` slices of D.

  If D is not a multiple of `num_levels`, vectors are padded with zeros.

  Args:
    vectors: float32[N, D].
    num_levels: codes per document.
    num_codes: V, codebook size; min(V, N) codes are used.
    iterations: maximum number of Lloyd iterations of each k-means.
    train_rows: training vectors per centroid.
    seed: of k-means.

  Returns:
    Centroids float32[num_levels, V, ceil(D / num_levels)], and codes
    int32[N, num_levels], which need not be unique.

  Reference:
    Jegou et al., Product Quantization for Nearest Neighbor Search, 2011.
  """
  fitted = [
    clustering.kmeans(
      part,
      num_codes,
      iterations=iterations,
      train_rows=train_rows,
      seed=seed + level,
    )
    for level, part in enumerate(_slices(vectors, num_levels))
  ]
  return np.stack([f[0] for f in fitted]), np.stack([f[1] for f in fitted], 1)


def encode_product(centres: np.ndarray, vectors: np.ndarray) -> np.ndarray:
  """Nearest code of each slice, int32[M, levels].

  Args:
    centres: float32[levels, V, ceil(D / levels)].
    vectors: float32[M, D].
  """
  parts = _slices(vectors, len(centres))
  codes = [
    clustering.nearest(p, c) for p, c in zip(parts, centres, strict=True)
  ]
  return np.stack(codes, axis=1)


def sums(
  centres: np.ndarray, vectors: np.ndarray, scheme: str
) -> tuple[np.ndarray, np.ndarray]:
  """Sums and numbers of what each code stands for, for one Lloyd iteration.

  Sums of parts of a corpus add up to those of the corpus; divided by the
  numbers they are the next centroids.

  Args:
    centres: float32[levels, V, D'], of either codebook.
    vectors: float32[M, D].
    scheme: 'residual_kmeans' or 'product_quantisation'.

  Returns:
    float64[levels, V, D'], of residuals (with those of earlier levels by
    `centres`) or slices, and int64[levels, V].

  Example:
    >>> centres = np.array([[[0.0], [1.0]]], np.float32)
    >>> total, counts = sums(centres, np.array([[0.1], [0.9], [1.1]]),
    ...                      'product_quantisation')
    >>> (total / counts[..., None]).round(2).tolist(), counts.tolist()
    ([[[0.1], [1.0]]], [[1, 2]])
  """
  total = np.zeros(centres.shape, np.float64)
  counts = np.zeros(centres.shape[:2], np.int64)
  residual = np.array(vectors, np.float32)
  slices = _slices(residual, len(centres))
  for level, own in enumerate(centres):
    part = slices[level] if scheme == 'product_quantisation' else residual
    labels = clustering.nearest(part, own)
    ones = np.ones(len(labels))
    picks = scipy.sparse.csr_matrix(
      (ones, (labels, np.arange(len(labels)))), (len(own), len(labels))
    )
    total[level] = picks @ part.astype(np.float64)
    counts[level] = np.bincount(labels, minlength=len(own))
    if scheme == 'residual_kmeans':
      residual -= own[labels]
  return total, counts


def _slices(vectors: np.ndarray, count: int) -> list[np.ndarray]:
  padding = -vectors.shape[1] % count
  return np.split(np.pad(vectors, ((0, 0), (0, padding))), count, axis=1)
