"""The index trained with and without questions that a model writes.

  python launch.py --config=experiments/generated_questions.py:both

The argument chooses what the ID decoder is trained on, beside the training
questions: 'none', 'crops' of the documents, 'generated' questions, or 'both'.
Neither ranker nor reader is trained. What the questions change in BM25:
docs/results.md.
"""

from rag_jax import config

RATES = {'none': 0.0, 'crops': 0.0, 'generated': 1.0, 'both': 0.5}


def get_config(kind='both'):
  """Returns the experiment; `kind` is one of `RATES`."""
  if kind not in RATES:
    raise ValueError(
      f'the argument must be one of {", ".join(RATES)}, got {kind!r}. Set '
      '--config=generated_questions:both.'
    )
  values = config.default()
  values.name = f'generated_questions_{kind}'
  values.data.max_document_tokens = 128
  values.generator.samples = 12
  values.pseudo_queries.max_tokens = 18
  values.pseudo_queries.generated_rate = RATES[kind]
  values.search.beam_size = 24
  values.train.report = False
  stage = {'steps': 400, 'learning_rate': 2e-3, 'candidates': 'beam'}
  stage['losses'] = {'docid': 1.0, 'indexing': float(kind != 'none')}
  stage['trains'] = {'query_encoder': 1.0, 'id_decoder': 1.0}
  values.stages = config.stages(search=stage)
  return values
