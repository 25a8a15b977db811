"""What a node table in bfloat16 costs in Hits, of a trained workdir.

  python benchmarks/vector_type.py WORKDIR [--set=data.path=PATH]
    [--questions=200]

Each split is searched and ranked with `search.vector_type` float32 and bfloat16
on the same parameters. `first` and `ten` are the questions with a gold document
at rank 1 and among the first ten; `other` is the share of questions whose first
document differs.
"""

import argparse

import jax
import numpy as np

from rag_jax import compiled, evaluate, loading, measures, model, sweep
from rag_jax import config as configs
from rag_jax import workdir as workdirs


def main() -> None:
  parser = argparse.ArgumentParser()
  parser.add_argument('workdir')
  parser.add_argument('--set', action='append', default=[], help='FIELD=VALUE')
  parser.add_argument('--questions', type=int, default=0, help='0 = all')
  args = parser.parse_args()
  found: dict = {}
  print('split             type      questions  first    ten  other  table MB')
  for kind in model.VECTOR_TYPES:
    system = loading.load(args.workdir, vector_type=kind)
    values = configs.values(system.config)
    for text in args.set:
      values = sweep.changed(values, dict([text.split('=', 1)]))
    system = system.with_config(configs.build(values))
    dataset = workdirs.load_data(system.config)
    for split, questions in evaluate.splits(system, dataset):
      gold, _ = measures.gold(questions, system.rows)
      rows = np.flatnonzero((gold >= 0).any(1))[: args.questions or None]
      if not rows.size:
        continue
      ranked = system.run(compiled.rank, [questions[i] for i in rows])
      documents = np.asarray(ranked.documents)
      hits = (documents[:, :, None] == gold[rows][:, None]).any(2)
      first = found.setdefault(split, documents[:, 0])
      table = jax.tree.leaves(system.params['id_decoder']['table'])[0]
      print(
        f'{split:17} {kind:9} {len(rows):9} {hits[:, 0].mean():6.4f} '
        f'{hits[:, :10].any(1).mean():6.4f} '
        f'{(documents[:, 0] != first).mean():6.2%} {table.nbytes / 1e6:8.2f}',
        flush=True,
      )


if __name__ == '__main__':
  main()
