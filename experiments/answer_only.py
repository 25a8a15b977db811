"""Facts: retrieval trained from answers alone, without gold documents.

The posterior over documents given the answer trains ranker and ID decoder. The
ranker's BM25 is off. The control `cut_off` has no gradient to the search.

  python launch.py --config=experiments/answer_only.py
  python launch.py --config=experiments/answer_only.py:cut_off

Results: docs/results.md.
"""

from rag_jax import config


def get_config(control=''):
  """Returns the experiment, or its control 'cut_off'."""
  if control not in ('', 'cut_off'):
    raise ValueError(
      f"the control must be 'cut_off' or nothing, got {control!r}. "
      'Set --config=experiments/answer_only.py:cut_off.'
    )
  values = config.default()
  values.name = 'answer_only'
  values.data.max_document_tokens = 128
  values.data.eval_splits = ('test_phrasing',)
  values.search.beam_size = 64
  values.search.read_size = 4
  values.ranker.lexical_weight = 0.0
  values.reader.num_layers = 1
  values.reader.num_heads = 2
  values.train.evaluate_every = 100
  losses = {'answer': 1.0, 'posterior': 1.0, 'docid_posterior': 1.0}
  fields = {'steps': 800, 'learning_rate': 2e-3, 'candidates': 'beam'}
  if control:
    values.name += f'_{control}'
    losses = {'answer': 1.0}
    fields['estimator'] = 'none'
  values.stages = config.stages(joint=fields | {'losses': losses})
  return values
