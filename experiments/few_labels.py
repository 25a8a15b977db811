"""Facts with few labels: 200 training questions have gold documents.

The stages `search` and `read` train retrieval and reader separately on the
labelled questions. The stage `joint` trains all components end to end on all
questions, most of which have only answers.

  python launch.py --config=experiments/few_labels.py

Comparison with training each component alone: docs/results.md.
"""

from experiments import beir
from rag_jax import config

SEARCH = ('query_encoder', 'id_decoder', 'ranker')
GOLD = {'docid': 1.0, 'ranking': 1.0, 'indexing': 1.0}
TAUGHT = {'answer': 1.0, 'posterior': 1.0, 'docid_posterior': 1.0}


def get_config():
  values = beir.get_config()
  values.name = 'few_labels'
  values.data.path = 'facts'
  values.data.labelled_questions = 200
  search = {'steps': 100, 'batch_size': 64, 'losses': GOLD}
  search |= {'trains': dict.fromkeys(SEARCH, 1.0)}
  read = {'steps': 100, 'learning_rate': 3e-4, 'candidates': 'gold'}
  read |= {'losses': {'answer': 1.0}, 'trains': {'reader': 1.0}}
  joint = {'steps': 300, 'batch_size': 16, 'learning_rate': 2e-3}
  joint |= {'losses': GOLD | TAUGHT}
  values.stages = config.stages(search=search, read=read, joint=joint)
  return values
