"""MedQuAD: sentences of the documents found answer questions about health.

  python launch.py --config=experiments/medquad.py --config.data.path=PATH

PATH is the archive of MedQuAD, or other data with long answers. The search is
BM25 over docids, which is not trained; the reader that selects sentences is.
Results: docs/results.md.
"""

from experiments import zero_shot
from rag_jax import config


def get_config():
  values = zero_shot.get_config()
  values.name = 'medquad'
  values.data.max_document_tokens = 1024
  values.data.max_answers = 1
  values.data.max_answer_tokens = 1024  # of 98% of the references
  values.data.title_weight = 3
  values.search.update(beam_size=16, read_size=2)
  values.ranker.update(vector_weight=0.0, lexical_weight=1.0)
  values.reader.update(kind='sentences', citations=True, num_layers=1)
  values.reader.max_answer_tokens = 512
  values.reader.threshold = 0.3
  values.train.eval_batch_size = 32
  values.stages = config.stages(
    read={
      'steps': 600,
      'batch_size': 16,
      'learning_rate': 2e-3,
      'trains': {'reader': 1.0, 'ranker': 1.0},
      'losses': {'answer': 0.1},
    }
  )
  return values
