"""Answers of several sentences with citations, trained from scratch.

  python launch.py --config=experiments/facts_summaries.py

Measures and data: docs/howto/summaries.md.
"""

from experiments import quickstart


def get_config():
  values = quickstart.get_config()
  values.name = 'facts_summaries'
  values.data.path = 'facts_summaries'
  values.data.vocab_size = 3000
  values.data.max_document_tokens = 144
  values.data.max_answers = 1
  values.data.max_answer_tokens = 84  # of 99% of the references
  values.search.read_size = 3
  values.reader.kind = 'fid'
  values.reader.null_document = False  # needs relevance of passages
  values.reader.max_answer_tokens = 88
  values.reader.citations = True
  values.reader.support = 1.0
  values.stages.joint.losses.relevance = 0.0
  values.stages.joint.losses.null_document = 0.0
  values.stages.joint.losses.answer = 0.1  # nats of some 60 tokens
  values.stages.joint.read_size = 2
  values.stages.joint.without_gold = 0.15
  values.stages.joint.renamed = 0.6
  values.stages.joint.steps = 2200
  values.stages.joint.batch_size = 16
  values.pseudo_queries.batch_size = 32
  return values
