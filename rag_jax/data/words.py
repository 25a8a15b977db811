"""Whole-word ids for BM25 in any language, independent of the subword tokens.

Texts are normalised (Unicode NFKC) and case-folded, and split into words: runs
of letters with their marks, digits and underscores. Three kinds of words become
several terms or another one:

- A run of a script without spaces between words (Chinese, Japanese, Thai, Lao,
  Khmer, Burmese), or of Korean, whose particles are written without a space,
  becomes its pairs of neighbouring characters; a number or a Latin word beside
  it is a word, and counts as one character of a pair.
- An identifier such as get_config also gives its parts, get and config.
- Other words are reduced to their stems in the language of the texts, and its
  stop words are removed.
"""

import dataclasses
import functools
import re
import unicodedata
from collections.abc import Callable, Sequence

import numpy as np
import regex
import Stemmer

from rag_jax import types
from rag_jax.ops import checks, scripts

PAD = types.PAD
CHUNK = 65_536  # texts whose words are in memory at once
NONE = 'none'  # the language without stems and stop words
LANGUAGES = (NONE, *Stemmer.algorithms())

_WORD = regex.compile(r'\w+')
_ASCII_WORD = re.compile(r'\w+')  # the same words, in less time
_PAIRED = regex.compile(rf'(?V1)(?:{scripts.UNSPACED}|\p{{Hangul}})+')
# Languages with stop words -> the end of their name in `bm25s.stopwords`.
_STOP_WORDS = {
  'danish': 'DANISH',
  'dutch': 'DUTCH',
  'english': 'EN',
  'french': 'FRENCH',
  'german': 'GERMAN',
  'italian': 'ITALIAN',
  'norwegian': 'NORWEGIAN',
  'portuguese': 'PORTUGUESE',
  'russian': 'RUSSIAN',
  'spanish': 'SPANISH',
  'swedish': 'SWEDISH',
  'turkish': 'TURKISH',
}


@dataclasses.dataclass(frozen=True)
class Vocabulary:
  """The words of a corpus, numbered from 1 in alphabetical order."""

  ids: dict[str, int]
  stem: bool  # whether words are stemmed
  language: str = 'english'  # of the stemmer and the stop words
  # int[V], documents that have each word, if they have been counted
  counts: np.ndarray | None = dataclasses.field(default=None, compare=False)

  @property
  def size(self) -> int:
    """V, number of ids, including 0 for padding."""
    return len(self.ids) + 1


def check_language(language: str) -> None:
  """Raises a ValueError if there is no stemmer for a language."""
  if language not in LANGUAGES:
    raise ValueError(
      f'data.language must be one of {", ".join(LANGUAGES)}, got {language!r}. '
      f'Set --config.data.language={NONE}, which suits every language.'
    )


def build(
  texts: Sequence[str], *, stem: bool = True, language: str = 'english'
) -> Vocabulary:
  """Builds the vocabulary of a corpus; the order of texts does not matter.

  Args:
    texts: the result of `document_texts`.
    stem: whether to stem words.
    language: of the stemmer and the stop words, one of `LANGUAGES`.

  Returns:
    A vocabulary for `encode`.

  Example:
    >>> build(['The dogs sleep.', 'a sleeping cat']).ids
    {'cat': 1, 'dog': 2, 'sleep': 3}
  """
  found: set[str] = set()
  for first in range(0, len(texts), CHUNK):
    part = texts[first : first + CHUNK]
    found.update(*split(part, stem=stem, language=language))
  ids = {word: i + 1 for i, word in enumerate(sorted(found))}
  return Vocabulary(ids, stem, language)


def encode(
  vocabulary: Vocabulary,
  texts: Sequence[str],
  *,
  max_words: int | None = None,
) -> np.ndarray:
  """Converts texts to word ids, in order and with repetitions.

  Args:
    vocabulary: from `build`; unknown words are dropped.
    texts: n texts.
    max_words: maximum number of known words that are kept of a text; None = no
      maximum. Of a longer text the rarest words are kept, those with the
      largest weight in BM25; the first, if they have not been counted.

  Returns:
    int32[n, W], 0 = padding; W is the number of words of the longest text.

  Raises:
    ValueError: if `max_words` is below 1.

  Example:
    >>> vocabulary = build(['cats and dogs'])
    >>> encode(vocabulary, ['Dog eats dog', 'the cat']).tolist()
    [[2, 2], [1, 0]]
  """
  if max_words is not None and max_words < 1:
    raise ValueError(
      f'max_words must be at least 1, got {max_words}. Pass a larger one to '
      'words.encode.'
    )
  ids = vocabulary.ids
  rows = [
    _rarest(
      [ids[word] for word in text if word in ids], max_words, vocabulary.counts
    )
    for text in split(texts, stem=vocabulary.stem, language=vocabulary.language)
  ]
  width = max(map(len, rows), default=0)
  words = np.full((len(rows), max(width, 1)), PAD, np.int32)
  for padded, row in zip(words, rows, strict=True):
    padded[: len(row)] = row
  return words


def _rarest(
  row: list[int], max_words: int | None, counts: np.ndarray | None
) -> list[int]:
  """At most `max_words` words of a text, in their order."""
  if max_words is None or len(row) <= max_words:
    return row
  if counts is None:
    return row[:max_words]
  order = np.argsort(counts[row], kind='stable')[:max_words]
  return [row[place] for place in sorted(order)]


def document_texts(
  documents: Sequence[types.Document], *, title_weight: int = 1
) -> list[str]:
  """Returns the texts that BM25 indexes: title_weight x title, and text.

  The questions of a document follow its text (docT5query).

  Reference:
    Nogueira and Lin, From doc2query to docTTTTTquery, 2019.
  """
  return [
    ' '.join([f'{d.title} ' * title_weight + d.text, *d.questions])
    for d in documents
  ]


def split(
  texts: Sequence[str], *, stem: bool = True, language: str = 'english'
) -> list[list[str]]:
  """Splits texts into terms.

  Args:
    texts: n texts.
    stem: whether to stem words.
    language: of the stemmer and the stop words, one of `LANGUAGES`.

  Raises:
    ValueError: if there is no such language.

  Example:
    >>> split(['The dogs call get_config.', '北京市 2008'])
    [['dog', 'call', 'get_config', 'get', 'config'], ['北京', '京市', '2008']]

  Reference:
    Unicode Standard Annexes 15 (NFKC) and 29 (characters with their marks).
    Character bigrams: Nie et al., On the Use of Words and N-grams for Chinese
    Information Retrieval, 2000.
  """
  texts = checks.strings(texts, 'texts')
  terms = _Terms(language, stem)
  found = []
  for text in texts:
    if text.isascii():
      words = _ASCII_WORD.findall(text.lower())
    else:
      folded = unicodedata.normalize('NFKC', text).casefold()
      words = _WORD.findall(folded)
    found.append([term for word in words for term in terms[word]])
  return found


class _Terms(dict[str, tuple[str, ...]]):
  """Word -> its terms; remembers them."""

  def __init__(self, language: str, stem: bool):
    super().__init__()
    check_language(language)
    self._stop_words = _stop_words(language)
    self._stem: Callable[[str], str] | None = None
    if stem and language != NONE:
      self._stem = Stemmer.Stemmer(language).stemWord

  def __missing__(self, word: str) -> tuple[str, ...]:
    if not word.isascii() and _PAIRED.search(word):
      return self._pairs(word)  # mostly a whole clause, seldom seen again
    parts = [word]
    if '_' in word:
      parts += [part for part in word.split('_') if part]
    kept = [part for part in parts if part not in self._stop_words]
    if self._stem is not None:
      kept = [self._stem(part) for part in kept]
    self[word] = tuple(kept)
    return self[word]

  def _pairs(self, run: str) -> tuple[str, ...]:
    """Pairs of neighbouring characters, and the words among them."""
    units: list[str] = []
    terms: list[str] = []
    end = 0
    for found in (*_PAIRED.finditer(run), None):
      if between := run[end : found.start() if found else None]:
        terms += self[between]
        units.append(between)
      if found:
        units += scripts.characters(found[0])
        end = found.end()
    if len(units) == 1:
      return (run,)
    pairs = zip(units, units[1:], strict=False)
    return (*terms, *(first + second for first, second in pairs))


@functools.cache
def _stop_words(language: str) -> frozenset[str]:
  if language not in _STOP_WORDS:
    return frozenset()
  from bm25s import stopwords  # starts XLA, which must wait for other processes

  return frozenset(getattr(stopwords, f'STOPWORDS_{_STOP_WORDS[language]}'))
