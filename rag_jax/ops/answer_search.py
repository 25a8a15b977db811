"""Whether a text holds an answer, as DrQA and DPR decide it."""

import functools
import re
import unicodedata
from collections.abc import Iterable

_FLAGS = re.IGNORECASE | re.UNICODE | re.MULTILINE


def words(text: str) -> str:
  r"""A text as words of DPR's `SimpleTokenizer`, lower case, with spaces.

  A word is a run of letters, digits and combining marks, or any other single
  character but separators and control characters; in Unicode's form NFD.

  Args:
    text: the text.

  Returns:
    The words with one space before, between and after them, so that an answer
    occurs in a document if its words occur in those of the document.

  Example:
    >>> words("Neil Armstrong's  step")
    " neil armstrong ' s step "
    >>> words('Armstrong') in words("Neil Armstrong's  step")
    True

  Reference:
    Karpukhin et al., Dense Passage Retrieval for Open-Domain Question
    Answering, 2020.
  """
  found = _tokens().findall(unicodedata.normalize('NFD', text).lower())
  return f' {" ".join(found)} ' if found else ''


def holds(text_words: str, answers_words: Iterable[str]) -> bool:
  """Whether a text holds one of the answers, all from `words`.

  Example:
    >>> holds(words('It was in 1969.'), [words('1969')])
    True
  """
  return any(own and own in text_words for own in answers_words)


@functools.lru_cache(maxsize=10_000)
def _compiled(pattern: str) -> re.Pattern[str]:
  return re.compile(unicodedata.normalize('NFD', pattern), _FLAGS)


def matches_pattern(pattern: str, text: str) -> bool:
  """Whether a regular expression matches anywhere in a text.

  Case is ignored, and ^ and $ match at each line, as in DrQA.

  Raises:
    re.error: if the pattern is no regular expression.

  Example:
    >>> matches_pattern('19(68|69)', 'It was in 1969.')
    True
  """
  text = unicodedata.normalize('NFD', text)
  return _compiled(pattern).search(text) is not None


def is_pattern(pattern: str, answer: str) -> bool:
  """Whether an answer begins with a match of a regular expression.

  DrQA counts an answer as an exact match in this way, and so do later works on
  CuratedTREC.

  Example:
    >>> is_pattern('Jul[y]? 20', 'July 20, 1969'), is_pattern('20', 'July 20')
    (True, False)

  Reference:
    Chen et al., Reading Wikipedia to Answer Open-Domain Questions, 2017.
  """
  answer = unicodedata.normalize('NFD', answer.strip())
  return _compiled(pattern).match(answer) is not None


@functools.cache
def _tokens() -> re.Pattern[str]:
  """Words or single visible characters; made once, from Unicode's classes."""
  marks, invisible = [], []
  # The planes with marks or invisible characters, but for private ones.
  for code in (*range(0x30000), *range(0xE0000, 0xE0200)):
    kind = unicodedata.category(chr(code))
    if kind[0] == 'M':
      marks.append(code)
    elif kind[0] in 'ZC' and kind != 'Cn':
      invisible.append(code)
  marked, hidden = _class(marks), _class(invisible)
  return re.compile(rf'(?:[^\W_]|[{marked}])+|[^{hidden}]')


def _class(codes: list[int]) -> str:
  """Code points as ranges of a character class."""
  ranges: list[list[int]] = []
  for code in codes:
    if ranges and ranges[-1][1] == code - 1:
      ranges[-1][1] = code
    else:
      ranges.append([code, code])
  return ''.join(f'\\U{a:08x}-\\U{b:08x}' for a, b in ranges)
