"""Builds, saves, loads and searches an index of random docids, in shards.

  python benchmarks/large_index.py --documents=100000,1000000,10000000,21000000

Documents have 64 random tokens and 4 random codes below 256. Shards of tokens
and codes are written block by block; the blocks are joined as `rag-jax corpus
pack` joins them; the index is loaded with its tokens on the host, and searched
by residual codes (inner products with random codebooks, a beam of 50). Each
phase runs in a process of its own. It prints seconds, bytes and the largest
resident memory, compares bytes with `rag-jax plan`, and compares documents
found with an exact search.
"""

import argparse
import json
import pathlib
import resource
import shutil
import subprocess
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np

from rag_jax import config as configs
from rag_jax import plan
from rag_jax.index import index as indexes
from rag_jax.index import streamed, uniqueness
from rag_jax.offline import blocks
from rag_jax.ops import beam, docid_order

TOKENS, CODES, LEVELS = 64, 256, 4
VOCABULARY, WIDTH = 30_000, 32
QUERIES, BEAM, EXACT = 32, 50, 4
PHASES = ('shards', 'save', 'load')


def memory():
  """Largest resident memory so far, GB."""
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def write_shards(folder, about):
  """Tokens and codes of each block, as `encode` and `assign` write them."""
  folder.path.mkdir(parents=True, exist_ok=True)
  for block in range(about.blocks):
    rng = np.random.default_rng(block)
    size = about.size(block)
    tokens = rng.integers(1, VOCABULARY, (size, TOKENS), dtype=np.uint16)
    codes = rng.integers(0, CODES, (size, LEVELS), dtype=np.uint8)
    folder.save('tokens', block, tokens)
    folder.save('codes', block, codes)


def save(folder, about, path):
  """Joins the blocks; returns the docids."""
  codes = np.concatenate(list(folder.rows('codes', about)))
  codes = uniqueness.append_uniqueness(codes)
  codes = codes.astype(docid_order.code_type(int(codes.max()) + 1))
  tokens = streamed.Array(
    (about.documents, TOKENS),
    np.dtype(np.uint16),
    lambda: folder.rows('tokens', about),
  )
  arrays = {
    'tokens': tokens,
    'codes': streamed.whole(codes),
    'alive': streamed.whole(np.ones(about.documents, bool)),
  }
  streamed.write(path, arrays)


def step_fn(products, cache, frontier):
  rows = jnp.arange(products.shape[0])[:, None, None]
  return products[rows, frontier.level, frontier.tokens], cache


def searcher(batch_size):
  @jax.jit
  def search(query, books, trie, tokens):
    products = jnp.einsum('bd,lvd->blv', query, books)
    found = beam.search(
      products,
      (),
      trie,
      step_fn=step_fn,
      batch_size=batch_size,
      beam_size=BEAM,
      scoring='inner_product',
    )
    # The tokens of the documents found, fetched as a reader would.
    return found.documents, found.scores, tokens[found.documents]

  return search


def exact(query, books, codes):
  """Row of the best document and its score, over all docids."""
  products = np.einsum('d,lvd->lv', query, books)
  best = -np.inf, -1
  for start in range(0, len(codes), 1 << 20):
    part = codes[start : start + (1 << 20)]
    scores = sum(products[n][part[:, n]] for n in range(part.shape[1]))
    row = int(scores.argmax())
    best = max(best, (float(scores[row]), start + row))
  return best


def search(index, batch_size, books, queries):
  """Milliseconds per batch, and documents and scores of all queries."""
  run = searcher(batch_size)
  batches = np.split(queries, len(queries) // batch_size)
  jax.block_until_ready(run(batches[0], books, index.trie, index.tokens))
  times, found = [], []
  for batch in batches:
    begin = time.perf_counter()
    out = jax.block_until_ready(run(batch, books, index.trie, index.tokens))
    times.append(time.perf_counter() - begin)
    found.append(out)
  documents, scores, tokens = (
    np.concatenate(part) for part in zip(*found, strict=True)
  )
  return 1e3 * float(np.median(times)), documents, scores, tokens


def phase(name, count, folder):
  """One phase, in a process of its own: its time, memory and sizes."""
  about = blocks.About(count, blocks.BLOCK, {})
  shards, path = blocks.Folder(folder), folder / 'index.npz'
  begin, row = time.perf_counter(), {}
  if name == 'shards':
    write_shards(shards, about)
    row['shards on disk GB'] = size_of(shards.path)
  elif name == 'save':
    save(shards, about, path)
    row['index.npz GB'] = round(path.stat().st_size / 1e9, 2)
  else:
    index, _ = indexes.load(path, on_host=True)
  row[f'{name} s'] = round(time.perf_counter() - begin, 1)
  if name == 'load':
    row |= measures(count, index)
  used = resource.getrusage(resource.RUSAGE_SELF)
  row[f'{name} CPU s'] = round(used.ru_utime + used.ru_stime, 1)
  row[f'{name} largest GB'] = round(memory(), 2)
  return row


def measures(count, index):
  """Bytes of the index, and its search."""
  row = {}
  sizes = {
    'trie': sum(x.nbytes for x in jax.tree.leaves(index.trie)),
    'docids': index.codes.nbytes + index.alive.nbytes,
    'tokens': index.tokens.host.array.nbytes,
    'nodes': index.trie.num_nodes,
  }
  for name in ('trie', 'docids', 'tokens'):
    row[f'{name} MB'] = round(sizes[name] / 1e6, 1)
  row['nodes'] = sizes['nodes']
  row['planned / measured'] = ratios(count, sizes)
  rng = np.random.default_rng(0)
  values = max(index.trie.num_values)
  books = rng.normal(size=(LEVELS + 1, values, WIDTH)).astype(np.float32)
  # As of residual quantisation, later codes count less; the last only tells
  # documents apart.
  books *= np.float32(0.5) ** np.arange(LEVELS + 1)[:, None, None]
  books[LEVELS] = 0
  queries = rng.normal(size=(QUERIES, WIDTH)).astype(np.float32)
  for batch_size in (1, QUERIES):
    time_ms, documents, scores, tokens = search(
      index, batch_size, jnp.asarray(books), queries
    )
    row[f'search of {batch_size} ms'] = round(time_ms, 1)
  assert (tokens == index.tokens.host.take(documents)).all()
  codes, hits = np.asarray(index.codes), 0
  for number in range(EXACT):
    best, row_of = exact(queries[number], books, codes)
    assert scores[number, 0] <= best + 1e-3
    hits += row_of == documents[number, 0]
  return row | {'best found': f'{hits} of {EXACT}'}


def ratios(count, sizes):
  """Bytes that the planner says, over those measured."""
  docid = {'scheme': 'random', 'codebook_size': CODES, 'num_levels': LEVELS}
  data = {'max_document_tokens': TOKENS, 'vocab_size': VOCABULARY}
  config = configs.build({'docid': docid, 'data': data})
  found = plan.parts(config, plan.size_of(config, count))
  planned = {part.name: part.device for part in found if part.name != 'tokens'}
  tokens = next(part.host for part in found if part.host)
  rows = planned['node table'] / (4 * config.query_encoder.width)
  return {
    'trie': round(planned['trie'] / sizes['trie'], 3),
    'docids': round(planned['docids'] / sizes['docids'], 3),
    'tokens': round(tokens / sizes['tokens'], 3),
    'nodes': round(rows / sizes['nodes'], 3),
  }


def size_of(folder):
  return round(sum(p.stat().st_size for p in folder.iterdir()) / 1e9, 2)


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument('--documents', default='100000,1000000')
  parser.add_argument('--phase', default='', help=argparse.SUPPRESS)
  parser.add_argument('--folder', default='', help=argparse.SUPPRESS)
  options = parser.parse_args()
  if options.phase:
    folder = pathlib.Path(options.folder)
    print(json.dumps(phase(options.phase, int(options.documents), folder)))
    return
  for number in options.documents.split(','):
    folder = tempfile.mkdtemp(prefix='large-index-')
    print(f'{int(number):,} documents', flush=True)
    try:
      for name in PHASES:
        done = subprocess.run(
          [
            *(sys.executable, __file__, f'--phase={name}'),
            *(f'--documents={number}', f'--folder={folder}'),
          ],
          check=True,
          stdout=subprocess.PIPE,
          text=True,
        )
        for key, value in json.loads(done.stdout).items():
          print(f'  {key:20} {value}', flush=True)
    finally:
      shutil.rmtree(folder)


if __name__ == '__main__':
  main()
