"""The fusion-in-decoder reader: facts, answers written token by token."""

from experiments import quickstart


def get_config():
  values = quickstart.get_config()
  values.name = 'fusion'
  values.reader.kind = 'fusion'
  return values
