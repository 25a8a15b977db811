"""Facts with questions that need two documents, and a second search.

  python launch.py --config=experiments/facts_pairs.py
  python launch.py --config=experiments/facts_pairs.py:one_search
  python launch.py --config=experiments/facts_pairs.py:answer_only

A small corpus that shows the second search: benchmarks/second_search.py.
"""

from experiments import quickstart
from rag_jax import config

VARIANTS = ('', 'one_search', 'answer_only')


def get_config(variant=''):
  """Returns the experiment, with one search, or without gold documents."""
  if variant not in VARIANTS:
    raise ValueError(
      f'the variant must be one of {", ".join(VARIANTS[1:])} or nothing, got '
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
  values.stages.joint.steps = 1000
  values.stages.joint.renamed = 0.7
  values.stages.joint.renamed_numbers = False  # years have an order
  values.pseudo_queries.keyword_rate = 0.5  # as the words of a second search
  index = {'steps': 1000, 'losses': {'indexing': 1.0}, 'learning_rate': 2e-3}
  joint = values.stages.joint.to_dict()
  with values.unlocked():
    values.stages = config.stages(index=index, joint=joint)
  if variant == 'answer_only':
    losses = values.stages.joint.losses
    values.reader.null_document = False  # trained with gold documents
    losses.docid = losses.ranking = losses.relevance = 0.0
    losses.null_document = 0.0
    losses.posterior = losses.docid_posterior = 1.0
    values.stages.joint.candidates = 'beam'
  return values
