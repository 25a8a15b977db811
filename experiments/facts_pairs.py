"""Facts with questions that need two documents, and a second search.

  python launch.py --config=experiments/facts_pairs.py[:one_search|:answer_only]

A small corpus that shows the second search: benchmarks/second_search.py.
"""

from experiments import quickstart
from rag_jax import config


def get_config(variant=''):
  """Returns the experiment, with one search, or without gold documents."""
  if variant not in ('', 'one_search', 'answer_only'):
    raise ValueError(
      'the variant must be one of one_search, answer_only or nothing, got '
      f'{variant!r}. Set --config=experiments/facts_pairs.py:one_search.'
    )
  values = quickstart.get_config()
  values.name = 'facts_pairs' + (f'_{variant}' if variant else '')
  values.data.path = 'facts_pairs'
  if variant != 'one_search':
    values.search.hops = 2
    values.search.beam_size //= 2  # of each search
    values.search.hop_tokens = 6  # few: a name or a year
    values.stages.joint.hop_noise = 1.0
  values.search.read_size = 3
  values.reader.num_layers = 2  # the name of a subject attends to its year
  values.reader.shared_softmax = True  # compares spans of both documents
  values.pseudo_queries.keyword_rate = 0.5  # as the words of a second search
  joint = values.stages.joint.to_dict() | {'steps': 1500, 'renamed': 0.7}
  joint['renamed_numbers'] = False  # years have an order
  if variant == 'answer_only':
    values.reader.null_document = False  # trained with gold documents
    losses = ('answer', 'indexing', 'posterior', 'docid_posterior')
    joint |= {'candidates': 'beam', 'losses': dict.fromkeys(losses, 1.0)}
  index = {'steps': 1000, 'losses': {'indexing': 1.0}, 'learning_rate': 2e-3}
  values.stages = config.stages(index=index, joint=joint)
  return values
