"""Cuts long documents into overlapping passages."""

import re
import unicodedata

_LONGEST = 40  # characters of a word; longer runs are cut
# Scripts without spaces between words: of Chinese and Japanese each character
# is a word, of Thai, Lao, Khmer and Burmese four characters are about one.
_CJK = '\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff'
_THAI = '\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff'
_WORD = re.compile(
  rf'[{_CJK}]|[{_THAI}]{{1,4}}|[^\s{_CJK}{_THAI}]{{1,{_LONGEST}}}'
)
# Ends of words after which a passage may end: of a sentence, of a line, of a
# paragraph. 'e.g.com' goes on without white space, Chinese sentences may not.
_SENTENCE = re.compile(
  r'[.!?…]["\')\]»”’]*(?=\s|$)|[。！？｡؟۔।॥።]+[」』”’）)"\']*'
)
_LINE = re.compile(r'[^\S\n]*\n')
_PARAGRAPH = re.compile(r'[^\S\n]*\n[^\S\n]*\n')


def cut(text: str, *, words: int, overlap: int) -> list[tuple[int, int]]:
  r"""Cuts a text into passages, at the ends of paragraphs or sentences.

  A passage has at most `words` words, and at least half as many but for the
  last one. It ends at the last paragraph within that range, or else at the last
  sentence or else at the last line; without any of them it has `words` words.
  The next passage begins `overlap` words before the end. Words are separated by
  white space; a character of Chinese or Japanese, and four of Thai, are a word.

  Args:
    text: the text.
    words: maximum words of a passage, at least 1.
    overlap: words that a passage shares with the one before, below `words`.

  Returns:
    Start and end (exclusive) of each passage in `text`, in characters. They
    cover all words of the text.

  Example:
    >>> text = 'Cats sleep all day. Dogs bark at night. Owls hunt.'
    >>> [text[a:b] for a, b in cut(text, words=6, overlap=0)]
    ['Cats sleep all day.', 'Dogs bark at night. Owls hunt.']
  """
  spans = _words(text)
  ends = _boundaries(text, spans)
  found, start = [], 0
  while start < len(spans):
    stop = min(start + words, len(spans))
    if stop < len(spans):
      # A passage must be longer than the overlap, or there is no end.
      least = start + max((words + 1) // 2, overlap + 1)
      stop = max(range(least, stop + 1), key=lambda i: (ends[i - 1], i))
    found.append((spans[start][0], spans[stop - 1][1]))
    if stop == len(spans):
      break
    start = stop - overlap
  return found


def _words(text: str) -> list[tuple[int, int]]:
  """Start and end of each word; a combining mark stays with its letter."""
  found = [match.span() for match in _WORD.finditer(text)]
  if text.isascii():
    return found
  whole: list[tuple[int, int]] = []
  for start, end in found:
    while whole and whole[-1][1] == start < end:
      if not unicodedata.combining(text[start]):
        break
      start += 1
      whole[-1] = whole[-1][0], start
    if start < end:
      whole.append((start, end))
  return whole


def _boundaries(text: str, spans: list[tuple[int, int]]) -> list[int]:
  """How well a passage may end after each word, 0 to 3."""
  rank: dict[int, int] = {}
  rank |= dict.fromkeys((m.start() for m in _LINE.finditer(text)), 1)
  rank |= dict.fromkeys((m.end() for m in _SENTENCE.finditer(text)), 2)
  rank |= dict.fromkeys((m.start() for m in _PARAGRAPH.finditer(text)), 3)
  return [rank.get(end, 0) for _, end in spans]
