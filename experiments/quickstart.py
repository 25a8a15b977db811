"""The quickstart: facts, from a fresh clone to a table.

  python launch.py

4 min 6 s on two CPU cores (AVX-512; jax 0.12), compilation included.
Hits@1 of the generative index / after the ranker / of BM25, and EM of the
answers:
  test_phrasing 1.000 / 1.000 / .930, .973
  test_pair      .927 /  .970 / .922, .927
  test_entity    .888 /  .947 / .898, .925
"""

from rag_jax import config


def get_config():
  values = config.default()
  values.data.max_document_tokens = 128
  values.data.max_query_tokens = 18
  values.search.beam_size = 24
  values.search.read_size = 2
  values.reader.num_layers = 1
  values.reader.num_heads = 2
  values.train.steps = 700
  values.train.batch_size = 32
  values.train.learning_rate = 2e-3
  return values
