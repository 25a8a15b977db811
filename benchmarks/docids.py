"""Docid schemes compared with scikit-learn and faiss.

python -m pip install scikit-learn faiss-cpu   # each is skipped if absent
python benchmarks/docids.py [--vectors=PATH.npy] [--rounds=3] [--steps=1000]

First, k-means trees and residual quantisation compared with the other packages,
in interleaved rounds: seconds, ratio to ours, and relative reconstruction error
|x - x^|^2 / |x|^2. Then all schemes on the same vectors: seconds of the first
call (with compilation) and median of later calls; reconstruction error, if
the codes define a vector; documents that share their codes before the
uniqueness level; and per level the share of used codes and the entropy relative
to uniform use. Other load on the machine slows the other packages more than
ours: check the load that is printed first.
"""

import argparse
import importlib
import os
import statistics
import time

import numpy as np

from rag_jax.index import codebooks, docids, hierarchy, rq_vae

LEAF, TREES, BOOK, LEVELS, ITERATIONS = 100, (10, 24), 256, 3, 15


def draw(count=20_000, width=384, seed=0):
  """Unit vectors in clusters of clusters."""
  rng = np.random.default_rng(seed)
  rows = rng.normal(size=(24, width))[rng.integers(24, size=count)]
  rows += rng.normal(size=(600, width))[rng.integers(600, size=count)]
  rows += rng.normal(size=(count, width))
  rows /= np.linalg.norm(rows, axis=1, keepdims=True)
  return rows.astype(np.float32)


def optional(name):
  """A module, or None where it is not installed."""
  try:
    return importlib.import_module(name)
  except ImportError:
    print(f'{name} is not installed; its rows are skipped')
    return None


def timed(function, rounds):
  """Seconds of the first call, median of later calls, and the result."""
  seconds = []
  for _ in range(rounds + 1):
    start = time.perf_counter()
    result = function()
    seconds.append(time.perf_counter() - start)
  return seconds[0], statistics.median(seconds[1:]), result


def relative(vectors, rebuilt):
  return float(((vectors - rebuilt) ** 2).sum() / (vectors**2).sum())


def means_error(vectors, codes):
  """The error if each vector is replaced by the mean of its bucket."""
  _, bucket = np.unique(codes, axis=0, return_inverse=True)
  order = np.argsort(bucket, kind='stable')
  starts = np.searchsorted(bucket[order], np.arange(bucket.max() + 1))
  means = np.add.reduceat(vectors[order], starts)
  means /= np.bincount(bucket)[:, None]
  return relative(vectors, means[bucket])


def error_of(scheme, vectors, codes, quantiser):
  """The relative reconstruction error of a scheme, or None."""
  if scheme == 'hierarchical_kmeans':
    return means_error(vectors, codes)
  if scheme == 'rq_vae':
    rebuilt = rq_vae.decode(quantiser, codes)
    return relative(vectors, rebuilt * max(float(np.std(vectors)), 1e-6))
  if 'centres' not in quantiser:
    return None
  parts = [c[k] for c, k in zip(quantiser['centres'], codes.T, strict=True)]
  if scheme == 'product_quantisation':
    rebuilt = np.concatenate(parts, axis=1)[:, : vectors.shape[1]]
  else:
    rebuilt = sum(parts)
  return relative(vectors, rebuilt)


def use_of(codes, size):
  """Share of used codes and relative entropy, per level."""
  used, entropy = [], []
  for level in codes.T:
    share = np.bincount(level, minlength=size) / len(level)
    share = share[share > 0]
    used.append(f'{len(share) / max(size, level.max() + 1):.2f}')
    entropy.append(f'{-(share * np.log(share)).sum() / np.log(size):.2f}')
  return ' '.join(used), ' '.join(entropy)


def schemes(vectors, rounds, steps):
  titles = [f'{i % 997} {i % 31}' for i in range(len(vectors))]
  print('scheme                first s  then s  error  shared  use; entropy')
  for scheme in docids.SCHEMES:
    config = docids.DocidConfig(
      scheme=scheme, codebook_size=BOOK, num_levels=LEVELS, steps=steps
    )
    if scheme == 'hierarchical_kmeans':
      config = docids.DocidConfig(branching=24, leaf_size=LEAF)

    def run(config=config):
      return docids.fit(vectors, config, titles=titles)

    first, then, (codes, quantiser) = timed(run, rounds)
    base = codes[:, :-1]
    error = error_of(scheme, vectors, base, quantiser)
    error = '    -' if error is None else f'{error:.3f}'
    shared, use = '-', ('-', '-')
    if scheme not in ('atomic', 'string'):
      shared = len(base) - len(np.unique(base, axis=0))
      size = int(base.max()) + 1 if scheme == 'title' else config.num_codes
      use = use_of(base, size)
    print(
      f'{scheme:22}{first:7.2f}{then:8.2f}  {error}{shared:>8}  '
      f'{use[0]}; {use[1]}',
      flush=True,
    )


def grow(vectors, labels_of, branching):
  """Builds the tree with another k-means: leaf of each document."""
  leaves = np.zeros(len(vectors), np.int64)
  stack, count = [np.arange(len(vectors))], 0
  while stack:
    rows = stack.pop()
    if len(rows) <= LEAF:
      leaves[rows] = count
      count += 1
      continue
    labels = labels_of(vectors[rows], branching)
    parts = [rows[labels == c] for c in range(branching)]
    stack.extend(part for part in parts if len(part))
  return leaves[:, None]


def trees(vectors, rounds, faiss, cluster):
  def ours(branching):
    return hierarchy.fit(
      vectors,
      branching=branching,
      leaf_size=LEAF,
      max_depth=12,
      iterations=ITERATIONS,
    )[0]

  def by_faiss(rows, k):
    fitted = faiss.Kmeans(
      rows.shape[1], k, niter=ITERATIONS, seed=1, min_points_per_centroid=1
    )
    fitted.train(rows)
    return fitted.index.search(rows, 1)[1][:, 0]

  def by_sklearn(rows, k):
    fitted = cluster.KMeans(k, n_init=1, max_iter=ITERATIONS, random_state=0)
    return fitted.fit_predict(rows)

  for k in TREES:
    contenders = {'rag_jax': lambda k=k: ours(k)}
    if faiss:
      contenders['faiss'] = lambda k=k: grow(vectors, by_faiss, k)
    if cluster:
      contenders['sklearn'] = lambda k=k: grow(vectors, by_sklearn, k)
    table(f'tree, {k} children, leaf {LEAF}', contenders, vectors, rounds)


def residual(vectors, rounds, faiss):
  def ours():
    centres, codes = codebooks.residual_kmeans(
      vectors, LEVELS, BOOK, iterations=ITERATIONS
    )
    return sum(c[k] for c, k in zip(centres, codes.T, strict=True))

  def by_faiss():
    fitted = faiss.ResidualQuantizer(vectors.shape[1], LEVELS, 8)
    fitted.train(vectors)
    return fitted.decode(fitted.compute_codes(vectors))

  contenders = {'rag_jax': ours}
  if faiss:
    contenders['faiss default'] = by_faiss
  table(f'residual, {LEVELS} x {BOOK}', contenders, vectors, rounds)


def table(title, contenders, vectors, rounds):
  print(f'\n{title:28}first s  then s  / ours  error')
  seconds = {name: [] for name in contenders}
  results = {}
  for _ in range(rounds + 1):
    for name, run in contenders.items():
      start = time.perf_counter()
      results[name] = run()
      seconds[name].append(time.perf_counter() - start)
  then = {name: statistics.median(s[1:]) for name, s in seconds.items()}
  for name, result in results.items():
    if result.dtype.kind == 'f':
      error = relative(vectors, result)
    else:
      error = means_error(vectors, result)
    ratio = then[name] / then['rag_jax']
    print(
      f'{name:28}{seconds[name][0]:7.2f}{then[name]:8.2f}{ratio:8.2f}'
      f'{error:7.3f}',
      flush=True,
    )


def say_load():
  """Prints the load, which slows spinning threads most."""
  print(
    f'load {os.getloadavg()[0]:.2f} on {os.cpu_count()} cores; ratios are '
    'valid only if nothing else runs'
  )


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--vectors', help='float32[N, D] in a .npy file')
  parser.add_argument('--rounds', type=int, default=3)
  parser.add_argument('--steps', type=int, default=1000, help='training steps')
  options = parser.parse_args()
  vectors = np.load(options.vectors) if options.vectors else draw()
  print(f'{len(vectors)} vectors of width {vectors.shape[1]}')
  say_load()
  faiss, cluster = optional('faiss'), optional('sklearn.cluster')
  trees(vectors, options.rounds, faiss, cluster)
  residual(vectors, options.rounds, faiss)
  print()
  schemes(vectors, 1, options.steps)


if __name__ == '__main__':
  main()
