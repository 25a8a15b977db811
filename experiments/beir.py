"""Any dataset (BEIR folder, SQuAD, DPR or JSON lines), from scratch.

  python launch.py --config=experiments/beir.py --config.data.path=PATH

All components are randomly initialised; experiments/nq_minilm.py starts from
pretrained weights. Results on two datasets: docs/results.md.
"""

from rag_jax import config


def get_config():
  values = config.default()
  values.name = 'beir'
  values.data.path = ''  # set --config.data.path
  values.data.vocab_size = 16_000
  values.data.max_document_tokens = 160
  values.pseudo_queries.max_tokens = 20
  values.docid.branching = 32
  values.docid.leaf_size = 32
  values.search.beam_size = 32
  values.search.read_size = 2
  values.reader.num_layers = 1
  values.reader.num_heads = 2
  values.stages.joint.steps = 600
  values.stages.joint.learning_rate = 2e-3
  return values
