"""Scripts that are written without spaces between words.

Chinese, Japanese, Thai, Lao, Khmer and Burmese text has no mark between words,
so its words cannot be found by their form alone. Search takes pairs of
neighbouring characters instead, and measures of answers take single ones.
"""

import functools
from typing import Any

_SCRIPTS = ('Han', 'Hiragana', 'Katakana', 'Thai', 'Lao', 'Khmer', 'Myanmar')
# Script extensions, so that marks which several scripts share are among them.
UNSPACED = r'[\w&&[' + ''.join(rf'\p{{scx={s}}}' for s in _SCRIPTS) + ']]'


def characters(run: str) -> list[str]:
  """The characters of a text as a reader sees them, with their marks.

  Example:
    >>> characters('ที่น')  # Thai: the marks stay
    ['ที่', 'น']
  """
  return compiled(r'\X').findall(run)


def space(text: str) -> str:
  """Puts spaces around each character of a script without spaces.

  Example:
    >>> space('in 北京, 2008').split()
    ['in', '北', '京', ',', '2008']
  """
  if text.isascii():
    return text
  runs = compiled(rf'(?V1){UNSPACED}+')
  return runs.sub(lambda run: f' {" ".join(characters(run[0]))} ', text)


@functools.cache
def compiled(pattern: str) -> Any:
  """A pattern of `regex`, which is imported when a text needs it."""
  import regex

  return regex.compile(pattern)
