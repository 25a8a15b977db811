"""A fusion-in-decoder reader from nothing: it writes its answers.

  python launch.py --config=experiments/fid.py

docs/results.md has its results on facts.
"""

from experiments import quickstart


def get_config():
  values = quickstart.get_config()
  values.name = 'fid'
  values.reader.kind = 'fid'
  return values
