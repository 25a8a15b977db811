"""Facts with a fusion-in-decoder reader, trained from scratch.

  python launch.py --config=experiments/fid.py

Results: docs/results.md.
"""

from experiments import quickstart


def get_config():
  values = quickstart.get_config()
  values.name = 'fid'
  values.reader.kind = 'fid'
  values.reader.null_document = False  # needs relevance of passages
  values.stages.joint.losses.relevance = 0.0
  values.stages.joint.losses.null_document = 0.0
  values.stages.joint.steps = 700
  return values
