r"""Zero-shot search with every docid scheme, on vectors from any encoder.

python benchmarks/zero_shot.py --data=FOLDER --split=dev \\
  --documents=documents.npy --questions=questions.npy

FOLDER is a dataset that rag_jax reads (see README). The .npy files hold float32
vectors of unit length: one row per document in corpus order, and one row per
question of the split. Printed: statistics of each scheme and Hits@k.
"""

import argparse

import numpy as np

from rag_jax.data import formats
from rag_jax.index import docids, statistics


def main():
  parser = argparse.ArgumentParser()
  for name in ('data', 'documents', 'questions'):
    parser.add_argument(f'--{name}', required=True)
  parser.add_argument('--split', default='dev')
  parser.add_argument('--beam', type=int, default=50)
  parser.add_argument('--codebook_size', type=int, default=256)
  parser.add_argument('--levels', type=int, default=4)
  flags = parser.parse_args()
  dataset = formats.load(flags.data)
  vectors = np.load(flags.documents)
  queries = np.load(flags.questions)
  questions = dataset.splits[flags.split]
  for name, array, items in (
    ('documents', vectors, dataset.documents),
    ('questions', queries, questions),
  ):
    if len(array) != len(items):
      raise SystemExit(
        f'error: --{name} must hold {len(items)} vectors, got {len(array)}.'
      )
  rows = {document.id: i for i, document in enumerate(dataset.documents)}
  most = max(len(q.document_ids) for q in questions)
  gold = np.full((len(questions), most), -1)
  for i, question in enumerate(questions):
    gold[i, : len(question.document_ids)] = [
      rows[name] for name in question.document_ids
    ]
  order = np.argsort(-(queries @ vectors.T), axis=1)[:, : flags.beam]
  hit = ((order[:, :, None] == gold[:, None]) & (gold >= 0)[:, None]).any(-1)
  shares = [f'Hits@{k} {hit[:, :k].any(1).mean():.3f}' for k in (1, 10, 50)]
  print('exact inner product: ' + '  '.join(shares))
  configs = [
    docids.DocidConfig(
      scheme=name,
      codebook_size=flags.codebook_size,
      num_levels=flags.levels,
    )
    for name in docids.SCHEMES
  ]
  found = statistics.compare(
    vectors,
    queries,
    gold,
    configs,
    titles=[document.title for document in dataset.documents],
    beam_size=flags.beam,
  )
  print(statistics.table(found))


if __name__ == '__main__':
  main()
