"""The quickstart: facts, from a fresh clone to a table.

python launch.py
"""

from rag_jax import config


def get_config():
  values = config.default()
  values.train.steps = 600
  return values
