"""Few labels: most questions come with answers, but without documents.

200 training questions keep their gold documents: search and reader start with
these, each alone. Then all learn from all questions, and of most of them from
nothing but the answer.
"""

from rag_jax import config


def get_config():
  values = config.default()
  values.name = 'few_labels'
  values.data.vocab_size = 16_000
  values.data.max_document_tokens = 160
  values.data.max_query_tokens = 20
  values.data.labelled_questions = 200
  values.docid.branching = 32
  values.docid.leaf_size = 32
  values.search.beam_size = 32
  values.search.read_size = 2
  values.reader.num_layers = 1
  values.reader.num_heads = 2
  values.loss.distillation = 1.0
  values.loss.docid_distillation = 1.0
  values.train.steps = 500
  values.train.search_steps = 100
  values.train.reader_steps = 100
  values.train.reader_batch_size = 32
  values.train.batch_size = 16
  values.train.learning_rate = 2e-3
  return values
