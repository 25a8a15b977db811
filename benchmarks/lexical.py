"""BM25 on the device compared with bm25s: time and Hits@k.

python benchmarks/lexical.py --data=PATH [--title_weight=3] [--k1=1.6 --b=0.6]

PATH is a dataset that `formats.load` reads, with a split `dev`. Rounds of the
contenders are interleaved. Printed: median and minimum time per query without
tokenisation, and Hits@k. bm25s uses one core and XLA all cores, so on a machine
with other load compare the minimum times.
"""

import argparse
import statistics
import time

import jax
import numpy as np

from rag_jax import baselines
from rag_jax.data import formats, words
from rag_jax.ops import lexical

BATCH_SIZE = 32
DEPTHS = (1, 10, 100)


def contenders(index, lexicon, queries, query_words):
  """Name -> function that scores documents for a batch of queries."""
  score_all = jax.jit(lexical.score_all)
  score = jax.jit(lexical.score)
  rows = jax.lax.top_k(score_all(lexicon, query_words), DEPTHS[-1])[1]
  vocabulary = index.retriever.vocab_dict
  known = [
    [word for word in query if word in vocabulary]
    for query in words.split(queries, stem=index.stem)
  ]

  def bm25s():
    for query in known:
      if query:
        index.retriever.get_scores(query)

  return {
    'bm25s.get_scores': bm25s,
    'lexical.score_all': lambda: score_all(
      lexicon, query_words
    ).block_until_ready(),
    f'lexical.score of {DEPTHS[-1]}': lambda: score(
      lexicon, query_words, rows
    ).block_until_ready(),
  }


def measure(functions, *, rounds=50):
  """Median and minimum ms per query of each function, rounds interleaved."""
  times = {name: [] for name in functions}
  for turn in range(rounds + 1):
    for name, function in functions.items():
      start = time.perf_counter()
      function()
      if turn:  # the first round compiles
        times[name].append(1e3 * (time.perf_counter() - start) / BATCH_SIZE)
  return {
    name: (statistics.median(values), min(values))
    for name, values in times.items()
  }


def hits(rows, gold):
  """Hits@k in percent, of retrieved rows int[n, K] and gold int[n, G]."""
  found = (rows[:, :, None] == gold[:, None]).any(-1)
  return [f'{100 * found[:, :k].any(1).mean():.1f}' for k in DEPTHS]


def search(lexicon, query_words, k):
  """The top k documents by BM25, int32[n, k]."""

  @jax.jit
  def best(batch):
    return jax.lax.top_k(lexical.score_all(lexicon, batch), k)[1]

  padded = np.pad(query_words, ((0, -len(query_words) % BATCH_SIZE), (0, 0)))
  batches = padded.reshape(-1, BATCH_SIZE, query_words.shape[1])
  return np.concatenate([best(batch) for batch in batches])[: len(query_words)]


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument(
    '--data', required=True, help='a dataset with a split dev'
  )
  parser.add_argument('--title_weight', type=int, default=1)
  parser.add_argument('--k1', type=float, default=1.2)
  parser.add_argument('--b', type=float, default=0.75)
  parser.add_argument(
    '--questions', type=int, default=2000, help='maximum number of questions'
  )
  flags = parser.parse_args()
  dataset = formats.load(flags.data)
  questions = dataset.splits['dev'][: flags.questions]
  queries = [question.text for question in questions]
  rows = {document.id: i for i, document in enumerate(dataset.documents)}
  gold = np.array([[rows[q.document_ids[0]]] for q in questions])
  constants = {'k1': flags.k1, 'b': flags.b}
  index = baselines.bm25_index(
    dataset.documents, title_weight=flags.title_weight, **constants
  )
  texts = words.document_texts(
    dataset.documents, title_weight=flags.title_weight
  )
  vocabulary = words.build(texts)
  encoded = words.encode(vocabulary, texts)
  start = time.perf_counter()
  lexicon = lexical.build(encoded, vocab_size=vocabulary.size, **constants)
  seconds = time.perf_counter() - start
  query_words = words.encode(vocabulary, queries)
  size = sum(x.nbytes for x in jax.tree.leaves(lexicon))
  print(
    f'{len(texts)} documents, {vocabulary.size} words, built in {seconds:.2f} '
    f's, {size / len(texts):.0f} bytes per document'
  )
  functions = contenders(
    index, lexicon, queries[:BATCH_SIZE], query_words[:BATCH_SIZE]
  )
  for name, (median, least) in measure(functions).items():
    print(f'{name:22}{median:8.3f} ms per query, minimum {least:.3f}')
  theirs, _ = baselines.bm25_search(index, queries, k=DEPTHS[-1])
  print('Hits@1/10/100 of bm25s  ', ' / '.join(hits(theirs, gold)))
  ours = search(lexicon, query_words, DEPTHS[-1])
  print('Hits@1/10/100 of lexical', ' / '.join(hits(ours, gold)))


if __name__ == '__main__':
  main()
