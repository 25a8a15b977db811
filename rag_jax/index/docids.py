"""Docid schemes: vectors in, codes out; on the host, deterministic by seed.

`fit` assigns docids to a corpus and returns the quantiser; `encode` assigns
codes to new documents with that quantiser and leaves existing docids unchanged.
The last level of every docid makes it unique among documents that share all
earlier codes: `append_uniqueness` numbers the documents of a corpus,
`next_free` those that are added later.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from rag_jax.index import (
  codebooks,
  hierarchy,
  learned,
  ngram_ids,
  rq_vae,
  uniqueness,
)

SCHEMES = (
  'hierarchical_kmeans',
  'residual_kmeans',
  'product_quantisation',
  'rq_vae',
  'learned',
  'atomic',
  'string',
  'title',
  'random',
)
# Schemes with a quantiser that gives any text the codes of similar documents.
QUANTISED = SCHEMES[:5]
FURTHER_FROM = ('questions', 'crops')
append_uniqueness = uniqueness.append_uniqueness
next_free = uniqueness.next_free
Quantiser = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DocidConfig:
  """The docid scheme and its sizes."""

  # docid scheme, one of `rag_jax.index.docids.SCHEMES`
  scheme: str = 'hierarchical_kmeans'
  branching: int = 24  # hierarchical_kmeans: maximum children per node
  codebook_size: int = 24  # codebooks and random: codes per level
  leaf_size: int = 24  # hierarchical_kmeans: larger clusters are split
  max_depth: int = 12  # hierarchical_kmeans: maximum cluster levels
  # other schemes: codes (or title words) before the level for uniqueness
  num_levels: int = 3
  iterations: int = 15  # maximum Lloyd iterations of each k-means
  train_rows: int = 256  # training documents per k-means centroid
  steps: int = 1000  # rq_vae, learned: training steps
  batch_size: int = 256  # rq_vae, learned: documents per step
  learning_rate: float = 1e-3  # rq_vae, learned: Adam's learning rate
  # rq_vae: widths of the encoder's hidden layers
  hidden_dims: tuple[int, ...] = (512, 256, 128)
  latent: int = 32  # rq_vae: width of the codebook vectors
  further: int = 0  # maximum further docids per document
  # what they are made from: 'questions' that are generated, or 'crops'
  further_from: str = 'questions'

  def __post_init__(self) -> None:
    """Raises a ValueError on a value out of range."""
    if self.scheme not in SCHEMES:
      raise ValueError(
        f'docid.scheme must be one of {", ".join(SCHEMES)}, got '
        f'{self.scheme!r}. Set --config.docid.scheme.'
      )
    for name, least in (
      ('branching', 2),
      ('codebook_size', 2),
      ('leaf_size', 1),
      ('max_depth', 1),
      ('num_levels', 1),
      ('iterations', 1),
      ('train_rows', 1),
      ('steps', 0),
      ('batch_size', 2),
      ('latent', 1),
      ('further', 0),
    ):
      value = getattr(self, name)
      if value < least:
        raise ValueError(
          f'docid.{name} must be at least {least}, got {value}. '
          f'Set --config.docid.{name}.'
        )
    if self.further_from not in FURTHER_FROM:
      raise ValueError(
        f'docid.further_from must be one of {", ".join(FURTHER_FROM)}, got '
        f'{self.further_from!r}. Set --config.docid.further_from.'
      )
    if not self.learning_rate > 0:
      raise ValueError(
        f'docid.learning_rate must be positive, got {self.learning_rate}. '
        'Set --config.docid.learning_rate.'
      )

  @property
  def num_codes(self) -> int:
    """Maximum number of codes per level."""
    tree = self.scheme == 'hierarchical_kmeans'
    return self.branching if tree else self.codebook_size


def assign(
  vectors: np.ndarray,
  config: DocidConfig,
  *,
  seed: int = 0,
  titles: Sequence[str] | None = None,
) -> np.ndarray:
  """Assigns docids to a corpus: the codes of `fit`, int32[N, L].

  Example:
    >>> vectors = np.array([[0.0, 1.0], [0.1, 1.0], [1.0, 0.0]])
    >>> config = DocidConfig(branching=2, leaf_size=2)
    >>> assign(vectors, config).shape
    (3, 2)
  """
  return fit(vectors, config, seed=seed, titles=titles)[0]


def fit(
  vectors: np.ndarray,
  config: DocidConfig,
  *,
  seed: int = 0,
  titles: Sequence[str] | None = None,
  queries: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[np.ndarray, Quantiser]:
  """Assigns docids to a corpus and returns the quantiser.

  Args:
    vectors: float32[N, D], one per document.
    config: the scheme and its sizes.
    seed: random seed.
    titles: N titles, for the scheme 'title'.
    queries: for the scheme 'learned': query vectors float32[Q, D] and the rows
      int[Q] of their gold documents. None uses every document's own vector
      with added noise as its query.

  Returns:
    Docids int32[N, L], unique rows; and the quantiser, the arrays that
    `encode` needs. Save both.

  Raises:
    ValueError: if the vectors, titles or queries do not fit the scheme.

  Example:
    >>> config = DocidConfig(scheme='residual_kmeans', codebook_size=2)
    >>> codes, quantiser = fit(np.eye(4), config)
    >>> codes.shape, quantiser['centres'].shape
    ((4, 4), (3, 2, 4))
  """
  vectors = _check(vectors, config, titles)
  if not len(vectors):
    raise ValueError('vectors must not be empty, got 0 rows. Add documents.')
  count = len(vectors)
  quantiser: Quantiser = {}
  if config.scheme == 'atomic':
    return np.arange(count, dtype=np.int32)[:, None], quantiser
  if config.scheme == 'string':
    codes = ngram_ids.digits(np.arange(count), len(str(count - 1)))
    size = np.asarray([count, codes.shape[1]], np.int32)
    return codes, {'size': size}
  if config.scheme == 'random':
    rng = np.random.default_rng(seed)
    shape = (count, config.num_levels)
    codes = rng.integers(0, config.codebook_size, shape)
  elif config.scheme == 'title':
    quantiser = ngram_ids.fit_titles(titles or ())
    codes = ngram_ids.title_codes(quantiser, titles or (), config.num_levels)
  elif config.scheme == 'hierarchical_kmeans':
    codes, quantiser = hierarchy.fit(
      vectors,
      branching=config.branching,
      leaf_size=config.leaf_size,
      max_depth=config.max_depth,
      iterations=config.iterations,
      train_rows=config.train_rows,
      seed=seed,
    )
  elif config.scheme == 'product_quantisation':
    centres, codes = codebooks.product_quantisation(
      vectors,
      config.num_levels,
      config.codebook_size,
      iterations=config.iterations,
      train_rows=config.train_rows,
      seed=seed,
    )
    quantiser = {'centres': centres}
  elif config.scheme == 'rq_vae':
    quantiser = rq_vae.fit(
      vectors,
      num_levels=config.num_levels,
      num_codes=config.codebook_size,
      hidden_dims=config.hidden_dims,
      latent=config.latent,
      steps=config.steps,
      batch_size=config.batch_size,
      learning_rate=config.learning_rate,
      seed=seed,
    )
    codes = rq_vae.encode(quantiser, vectors)
  else:
    centres, codes = _fit_residual(vectors, config, queries, seed)
    quantiser = {'centres': centres}
  return append_uniqueness(codes), quantiser


def _fit_residual(
  vectors: np.ndarray,
  config: DocidConfig,
  queries: tuple[np.ndarray, np.ndarray] | None,
  seed: int,
) -> tuple[np.ndarray, np.ndarray]:
  """Centroids and codes of the schemes 'residual_kmeans' and 'learned'."""
  centres, codes = codebooks.residual_kmeans(
    vectors,
    config.num_levels,
    config.codebook_size,
    iterations=config.iterations,
    train_rows=config.train_rows,
    seed=seed,
  )
  if config.scheme == 'learned':
    centres = learned.fit(
      centres,
      vectors,
      queries,
      steps=config.steps,
      batch_size=config.batch_size,
      learning_rate=config.learning_rate,
      seed=seed,
    )
    codes = codebooks.encode_residual(centres, vectors)
  return centres, codes


def encode(
  quantiser: Quantiser,
  vectors: np.ndarray,
  config: DocidConfig,
  *,
  titles: Sequence[str] | None = None,
) -> np.ndarray:
  """Codes of new documents without the last level (see `next_free`).

  Args:
    quantiser: from `fit`.
    vectors: float32[M, D].
    config: the configuration given to `fit`.
    titles: M titles, for the scheme 'title'.

  Returns:
    int32[M, L - 1]. Documents of the fitted corpus get the codes that `fit`
    gave them, except by 'random' and 'string', where `fit` ignores the
    vectors.

  Example:
    >>> config = DocidConfig(branching=2, leaf_size=2)
    >>> codes, quantiser = fit(np.array([[0.0], [0.1], [1.0]]), config)
    >>> new = encode(quantiser, np.array([[0.9]]), config)
    >>> bool((new == codes[2, :-1]).all())
    True
  """
  vectors = _check(vectors, config, titles)
  if config.scheme == 'atomic':
    return np.zeros((len(vectors), 0), np.int32)
  if config.scheme == 'string':
    count, length = (int(n) for n in quantiser['size'])
    # The prefixes after those of the corpus, up to the largest of this length.
    numbers = (count + np.arange(len(vectors))) // 10
    numbers = np.minimum(numbers, 10 ** (length - 1) - 1)
    return ngram_ids.digits(numbers, length - 1)
  if config.scheme == 'random':
    return _hash(vectors, config)
  if config.scheme == 'title':
    return ngram_ids.title_codes(quantiser, titles or (), config.num_levels)
  if config.scheme == 'hierarchical_kmeans':
    return hierarchy.encode(quantiser, vectors)
  if config.scheme == 'product_quantisation':
    return codebooks.encode_product(quantiser['centres'], vectors)
  if config.scheme == 'rq_vae':
    return rq_vae.encode(quantiser, vectors)
  return codebooks.encode_residual(quantiser['centres'], vectors)


def _hash(vectors: np.ndarray, config: DocidConfig) -> np.ndarray:
  """Pseudo-random codes: a hash of the vector."""
  words = np.ascontiguousarray(vectors).view(np.uint32).astype(np.uint64)
  rng = np.random.default_rng(0)
  shape = (vectors.shape[1], config.num_levels)
  odd = rng.integers(0, 1 << 63, shape).astype(np.uint64) * 2 + 1
  mixed = (words @ odd) >> np.uint64(32)
  return (mixed % np.uint64(config.codebook_size)).astype(np.int32)


def _check(
  vectors: np.ndarray,
  config: DocidConfig,
  titles: Sequence[str] | None,
) -> np.ndarray:
  """Returns the vectors as float32; raises a ValueError if they are invalid."""
  vectors = np.asarray(vectors, np.float32)
  if vectors.ndim != 2:
    raise ValueError(
      f'vectors must have the shape [N, D], got {vectors.shape}. '
      'Give one row per document.'
    )
  bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
  if len(bad):
    raise ValueError(
      f'vectors must be finite, got {vectors[bad[0]]} in row {bad[0]}. '
      'Check the encoder that made them.'
    )
  if config.scheme == 'title' and (
    titles is None or len(titles) != len(vectors)
  ):
    got = None if titles is None else len(titles)
    raise ValueError(
      f'titles must be one per document ({len(vectors)}), got {got}. Pass '
      'titles, or set --config.docid.scheme.'
    )
  return vectors
