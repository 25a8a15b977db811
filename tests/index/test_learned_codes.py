import numpy as np
import pytest

from rag_jax.index import codebooks, learned, rq_vae


def skewed(count=600, width=16):
  """Unit vectors in clusters of very different sizes and spreads."""
  rng = np.random.default_rng(0)
  share = 1 / np.arange(1, 13)
  cluster = rng.choice(12, size=count, p=share / share.sum())
  rows = rng.normal(size=(12, width))[cluster] * 1.5
  rows += rng.normal(size=(count, width))
  rows /= np.linalg.norm(rows, axis=1, keepdims=True)
  return rows.astype(np.float32)


def entropy(codes, size):
  total = 0.0
  for level in codes.T:
    share = np.bincount(level, minlength=size) / len(level)
    total -= (share[share > 0] * np.log(share[share > 0])).sum()
  return total / codes.shape[1]


def mean_rank_of_gold(centres, codes, queries):
  """Mean rank of each query's gold document by the score of its codes."""
  summed = sum(c[k] for c, k in zip(centres, codes.T, strict=True))
  scores = queries @ summed.T
  return (scores > np.diagonal(scores)[:, None]).sum(axis=1).mean()


def test_learned_codes_are_more_balanced_and_rank_no_worse():
  vectors = skewed()
  rng = np.random.default_rng(9)
  queries = vectors + 0.5 * rng.normal(size=vectors.shape) / 4
  before, codes_before = codebooks.residual_kmeans(vectors, 3, 8)
  after = learned.fit(before, vectors, steps=300, batch_size=128)
  codes_after = codebooks.encode_residual(after, vectors)
  assert entropy(codes_after, 8) > entropy(codes_before, 8)
  assert mean_rank_of_gold(after, codes_after, queries) <= mean_rank_of_gold(
    before, codes_before, queries
  )


def test_the_gold_documents_of_queries_change_the_codebooks():
  vectors = skewed(100)
  before, _ = codebooks.residual_kmeans(vectors, 2, 4)
  rows = np.arange(20)
  some = learned.fit(before, vectors, (vectors[rows], rows), steps=20)
  others = learned.fit(before, vectors, (vectors[rows], rows + 20), steps=20)
  assert np.abs(some - others).max() > 1e-3


@pytest.mark.parametrize(
  'queries, words',
  [
    ((np.ones((2, 3)), np.array([0, 1])), r'queries must be float\[Q, 16\]'),
    ((np.ones((2, 16)), np.array([0, 100])), 'from 0 to 99, got 100'),
  ],
)
def test_errors_of_queries(queries, words):
  centres = np.zeros((2, 4, 16), np.float32)
  with pytest.raises(ValueError, match=words):
    learned.fit(centres, skewed(100), queries, steps=1)


def test_sinkhorn_uses_all_codes_equally():
  logits = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)
  assignment = np.asarray(learned.sinkhorn(logits, iterations=50))
  np.testing.assert_allclose(assignment.sum(axis=1), 1, rtol=1e-4)
  np.testing.assert_allclose(assignment.sum(axis=0), 8, rtol=1e-3)
  # The assignment is exp(logits) up to factors of rows and of columns.
  rest = np.log(assignment) - logits
  rest -= rest.mean(axis=0) + rest.mean(axis=1, keepdims=True) - rest.mean()
  np.testing.assert_allclose(rest, 0, atol=1e-3)


def test_rq_vae_learns_to_reconstruct_and_uses_its_codes():
  vectors = skewed()
  sizes = {'num_levels': 3, 'num_codes': 8, 'hidden_dims': (32,), 'latent': 8}
  errors = []
  for steps in (0, 300):
    fitted = rq_vae.fit(vectors, steps=steps, **sizes)
    codes = rq_vae.encode(fitted, vectors)
    rebuilt = rq_vae.decode(fitted, codes) * np.std(vectors)
    errors.append(((vectors - rebuilt) ** 2).sum() / (vectors**2).sum())
  assert errors[1] < 0.6 < errors[0]
  for level in codes.T:
    assert len(np.unique(level)) >= 6
  # The codes again, in NumPy.
  hidden = vectors @ fitted['encoder_0'][:-1] + fitted['encoder_0'][-1]
  residual = np.maximum(hidden, 0) @ fitted['encoder_1'][:-1]
  residual += fitted['encoder_1'][-1]
  for level, centres in enumerate(fitted['centres']):
    distance = ((residual[:, None] - centres) ** 2).sum(axis=-1)
    assert (distance.argmin(axis=1) == codes[:, level]).mean() > 0.99
    residual -= centres[codes[:, level]]
