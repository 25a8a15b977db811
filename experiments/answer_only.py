"""Differentiable search: retrieval learned from answers alone."""

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
