"""The quickstart: trains from scratch on the embedded facts.

  python launch.py

Results: docs/results.md.
"""

from rag_jax import config


def get_config():
  values = config.default()
  values.data.max_document_tokens = 128
  values.pseudo_queries.max_tokens = 18
  values.search.beam_size = 24
  values.search.read_size = 2
  values.reader.num_layers = 1
  values.reader.num_heads = 2
  values.reader.null_document = True
  values.stages.joint.steps = 900
  values.stages.joint.learning_rate = 2e-3
  values.stages.joint.losses.relevance = 1.0
  values.stages.joint.losses.null_document = 1.0
  return values
