"""Tries out the patterns of a tokenizer before it is used.

A regular expression may need time that is exponential in the length of a text.
A process of its own tries the patterns of a file, so that it can be ended.
"""

import json
import re
import subprocess
import sys
from typing import Any

SECONDS = 8.0  # for texts that take a tokenizer a few milliseconds
_LENGTH = 3000  # characters of each text
_CHARACTERS = 'aA1_ \n\t.,-+\'"#<é中'
_PROGRAM = """
import json, sys
import tokenizers

file = json.load(sys.stdin)
tokenizer = tokenizers.Tokenizer.from_str(file['tokenizer'])
print('begin', flush=True)
for text in file['texts']:
  tokenizer.encode(text)
print('end')
"""


def check_patterns(text: str, known: frozenset[str] = frozenset()) -> None:
  """Raises a ValueError, without the name of the file, on a slow pattern.

  Args:
    text: a tokenizer.json.
    known: patterns that need no trial.

  Raises:
    ValueError: if the patterns fail or take too long on texts of few different
      characters.
  """
  patterns = {p for p in _patterns(json.loads(text)) if p not in known}
  if not patterns or not sys.executable:
    return
  given = json.dumps({'tokenizer': text, 'texts': _texts(patterns)})
  shown = max(patterns, key=len)[:60]
  try:
    found = subprocess.run(
      [sys.executable, '-c', _PROGRAM],
      input=given.encode(),
      capture_output=True,
      timeout=SECONDS,
      check=False,
    )
  except subprocess.TimeoutExpired as error:
    raise ValueError(
      f'a pattern such as {shown!r} takes longer than {SECONDS:g} s on a text '
      f'of {_LENGTH} characters'
    ) from error
  if found.stdout.split() == [b'begin']:
    raise ValueError(
      f'a pattern such as {shown!r} fails on a text of {_LENGTH} characters'
    )


def _patterns(value: Any) -> list[str]:
  """All regular expressions of a tokenizer.json."""
  if isinstance(value, list):
    return [found for item in value for found in _patterns(item)]
  if not isinstance(value, dict):
    return []
  own = [value['Regex']] if isinstance(value.get('Regex'), str) else []
  parts = (
    item for key, item in value.items() if key not in ('vocab', 'merges')
  )
  return own + [found for item in parts for found in _patterns(item)]


def _texts(patterns: set[str]) -> list[str]:
  """Texts that repeat what a pattern may repeat, and then end otherwise."""
  everything = ''.join(sorted(patterns))
  characters = dict.fromkeys(_CHARACTERS + everything)
  words = dict.fromkeys(re.findall(r'\w{2,8}', everything))
  units = [*list(characters)[:80], *list(words)[:20], 'ab', 'a ', 'a1', ' \n']
  return [
    (unit * (_LENGTH // len(unit)))[:_LENGTH] + end
    for unit in units
    for end in ('\x00', '!')
  ]
