"""Any corpus with questions: a BEIR folder, SQuAD, DPR or JSON lines.

  python launch.py --config=experiments/beir.py --config.data.path=PATH

3 min and 2.9 GB on two CPU cores, trained from nothing, without published
weights. Hits@1 of the generative index / after the ranker / of BM25, and EM:
  Natural Questions, dev, 8,096 paragraphs  .228 / .454 / .693, .077
  XQuAD, 118 questions, 240 paragraphs      .831 / .949 / .992, .025
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
  values.train.steps = 600
  values.train.batch_size = 32
  values.train.learning_rate = 2e-3
  return values
