"""Any corpus with questions: a BEIR folder, SQuAD, DPR or JSON lines.

  python launch.py --config=experiments/beir.py --config.data.path=PATH

Everything is trained from nothing; experiments/nq_minilm.py starts from
published weights. docs/results.md has results on two corpora.
"""

from rag_jax import config


def get_config():
  values = config.default()
  values.name = 'beir'
  values.data.path = ''  # set --config.data.path
  values.data.vocab_size = 16_000
  values.data.max_document_tokens = 160
  values.data.max_query_tokens = 20
  values.docid.branching = 32
  values.docid.leaf_size = 32
  values.search.beam_size = 32
  values.search.read_size = 2
  values.reader.num_layers = 1
  values.reader.num_heads = 2
  values.stages.joint.steps = 600
  values.stages.joint.learning_rate = 2e-3
  return values
