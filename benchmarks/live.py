"""Times adding to and deleting from a live index that is searched.

python benchmarks/live.py [--documents=100000 --change=1000 --width=384]

Printed: median milliseconds of adding documents (as a copy, or in place by
buffer donation), of deleting half of them, and of updating the node table after
each; and how often the search was compiled. Runs with huge pages, as launch.py.
"""

import argparse
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from rag_jax import host_memory
from rag_jax.index import docids, live, node_table
from rag_jax.ops import beam
from rag_jax.ops import trie as tries


def step_fn(params, cache, frontier):
  table, query = params
  return jnp.einsum('bd,bkcd->bkc', query, table[frontier.children]), cache


def draw(count, width):
  """Draws tokens and unit vectors of documents in 500 topics."""
  rng = np.random.default_rng(0)
  centres = rng.normal(size=(500, width))
  vectors = centres[rng.integers(500, size=count)]
  vectors = (vectors + rng.normal(size=vectors.shape)).astype(np.float32)
  vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
  return rng.integers(1, 30_000, (count, 64)).astype(np.int32), vectors


def show(times):
  """Prints ms of the first and of later rounds, and Hits@1."""
  hits = statistics.mean(times.pop('hits'))
  for name, values in times.items():
    first, rest = values[0] * 1e3, statistics.median(values[1:]) * 1e3
    print(f'{name:<18} first {first:8.1f} ms, then {rest:6.1f} ms')
  print(f'Hits@1 of new documents with their vectors as queries: {hits:.3f}')


def node_vectors(index, vectors):
  """The node table, with capacity for twice the documents."""
  padded = np.zeros((2 * len(vectors), vectors.shape[1]), np.float32)
  padded[: len(vectors)] = vectors
  table = tries.sum_below(index.index.trie, jnp.asarray(padded))
  return table / jnp.maximum(jnp.linalg.norm(table, axis=1)[:, None], 1e-6)


def since(begin, arrays):
  """Seconds since `begin`, once the arrays are computed."""
  jax.block_until_ready(arrays)
  return time.perf_counter() - begin


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument('--documents', type=int, default=100_000)
  parser.add_argument('--change', type=int, default=1000)
  parser.add_argument('--width', type=int, default=384)
  parser.add_argument('--rounds', type=int, default=7)
  flags = parser.parse_args()
  count = flags.documents + flags.change * flags.rounds
  tokens, vectors = draw(count, flags.width)
  config = docids.DocidConfig(
    scheme='residual_kmeans', codebook_size=256, num_levels=3
  )
  start = flags.documents
  index = live.build(
    tokens[:start], vectors[:start], config, capacity=2 * start
  )
  table = node_vectors(index, vectors[:start])
  traced = []

  @jax.jit
  def search(table, trie, query):
    traced.append(None)
    return beam.search(
      (table, query),
      (),
      trie,
      step_fn=step_fn,
      batch_size=query.shape[0],
      beam_size=50,
      scoring='absolute',
    )

  names = ('add, copy', 'add, in place', 'table after add', 'delete')
  names += ('table after delete', 'hits')
  times = {name: [] for name in names}
  for turn in range(flags.rounds):
    rows = slice(start + turn * flags.change, start + (turn + 1) * flags.change)
    for name, donate in (('add, copy', False), ('add, in place', True)):
      begin = time.perf_counter()
      new = tokens[rows], vectors[rows]
      grown, change = live.add(index, *new, donate=donate)
      times[name].append(since(begin, grown.index))
    index = grown
    begin = time.perf_counter()
    table = node_table.update(table, change, vectors[rows], donate=True)
    times['table after add'].append(since(begin, table))
    query = jnp.asarray(vectors[rows][:32])
    found = np.asarray(search(table, index.index.trie, query).documents)
    hits = (found[:, 0] == change.documents[:32]).mean()
    times['hits'].append(hits)
    gone = change.documents[: flags.change // 2]
    begin = time.perf_counter()
    index, change = live.delete(index, gone)
    times['delete'].append(since(begin, index.index))
    begin = time.perf_counter()
    table = node_table.update(table, change, donate=True)
    times['table after delete'].append(since(begin, table))
    found = search(table, index.index.trie, query)
    assert not np.isin(np.asarray(found.documents), gone)[found.where].any()
  show(times)
  print(f'search compiled {len(traced)} times in {2 * flags.rounds} calls')


if __name__ == '__main__':
  host_memory.use_huge_pages()
  main()
