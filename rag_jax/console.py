"""Notes on the terminal: what the user should know and is no error."""

import sys


def note(text: str) -> None:
  """Prints a note to standard error."""
  print(f'note: {text}', file=sys.stderr, flush=True)
