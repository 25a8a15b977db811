"""Few labels: most questions come with answers, but without documents.

200 training questions keep their gold documents: search and reader start with
these, each alone. Then all learn from all questions, and of most of them from
nothing but the answer.

  python launch.py --config=experiments/few_labels.py
  python benchmarks/end_to_end.py --data=facts \
    --config=experiments/few_labels.py

The second trains it in three ways. Facts, 200 of 8,067 questions labelled, 600
questions of test_phrasing, three seeds, 44 min on two CPU cores shared with
other work. Hits@1 of the index / after the ranker, EM / F1; differences with
intervals over questions:
  each alone               .703 / .884   .789 / .802
  cut off                  .761 / .909   .791 / .808
  end to end               .930 / .963   .865 / .880
  end to end - each alone  after ranker .079 (.063-.094), EM .076 (.057-.096)
  end to end - cut off     after ranker .054 (.041-.067), EM .074 (.054-.092)
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
