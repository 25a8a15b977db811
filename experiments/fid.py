"""Facts with a fusion-in-decoder reader, trained from scratch.

  python launch.py --config=experiments/fid.py

Results: docs/results.md.
"""

from experiments import quickstart


def get_config():
  values = quickstart.get_config()
  values.name = 'fid'
  values.reader.kind = 'fid'
  return values
