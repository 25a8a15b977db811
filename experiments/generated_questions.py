"""Search trained with and without questions that a model writes.

  python launch.py --config=experiments/generated_questions.py:both

The argument chooses what the loss `indexing` trains on: 'none', 'crops',
'generated' or 'both'. `--config.data.question_keys` also adds the questions to
the words of the documents. No reader is trained. Results: docs/results.md.
"""

from rag_jax import config

RATES = {'none': 0.0, 'crops': 0.0, 'generated': 1.0, 'both': 0.5}


def get_config(kind='both'):
  """Returns the experiment; `kind` is one of `RATES`."""
  values = config.default()
  values.name = f'generated_questions_{kind}'
  values.data.max_document_tokens = 128
  values.data.lexicon = True
  values.data.title_weight = 2
  values.generator.samples = 12
  values.pseudo_queries.max_tokens = 18
  values.pseudo_queries.generated_rate = RATES[kind]
  values.search.beam_size = 100
  values.train.report = False
  losses = {'docid': 1.0, 'ranking': 1.0, 'indexing': float(kind != 'none')}
  joint = {'steps': 600, 'learning_rate': 2e-3, 'losses': losses}
  joint['trains'] = {'query_encoder': 1.0, 'id_decoder': 1.0, 'ranker': 1.0}
  values.stages = config.stages(joint=joint)
  return values
