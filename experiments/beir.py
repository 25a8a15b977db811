"""Any corpus with questions: a BEIR folder, SQuAD, DPR or JSON lines."""

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
  values.train.steps = 600
  values.train.batch_size = 32
  values.train.learning_rate = 2e-3
  return values
