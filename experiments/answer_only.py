"""Differentiable search: retrieval learned from answers alone.

No gold document is in any loss, no document indexes itself, and the lexical
signal of the ranker is off: what is learned of retrieval comes from the
reader's posterior over the documents that it read.

  python launch.py --config=experiments/answer_only.py
  python launch.py --config=experiments/answer_only.py \
    --workdir=runs/cut_off --config.loss.reader_trains_search=False

7 min 55 s on two CPU cores. Hits@1 on test_phrasing, untrained / trained / with
the reader's gradient cut off:
  generative index  .290 / .915 / .290
  after the ranker  .537 / .920 / .537
"""

from rag_jax import config


def get_config():
  values = config.default()
  values.name = 'answer_only'
  values.data.max_document_tokens = 128
  values.data.max_query_tokens = 18
  values.data.eval_splits = ('test_phrasing',)
  values.search.beam_size = 64
  values.search.read_size = 4
  values.search.join_gold = False
  values.ranker.lexical_weight = 0.0
  values.loss.docid = 0.0
  values.loss.ranking = 0.0
  values.loss.self_index = 0.0
  values.loss.distillation = 1.0
  values.loss.docid_distillation = 1.0
  values.reader.num_layers = 1
  values.reader.num_heads = 2
  values.train.steps = 800
  values.train.evaluate_every = 100
  values.train.batch_size = 32
  values.train.learning_rate = 2e-3
  return values
