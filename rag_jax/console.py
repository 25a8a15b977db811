"""Notes on the terminal: what the user should know and is no error."""

import sys

from rag_jax import distributed


def note(text: str) -> None:
  """Prints a note to standard error; of several processes, the first does."""
  if not distributed.is_first():
    return
  print(f'note: {text}', file=sys.stderr, flush=True)
