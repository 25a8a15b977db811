"""Written texts with citations, as they are given to the user."""

import re
from collections.abc import Sequence

from rag_jax import grounding, types
from rag_jax.data import words
from rag_jax.ops import summary_metrics

_PIECES = re.compile(r'\w+|[^\w\s]')
_CLOSING = frozenset('.,;:!?)]}%\'"')


def finish(
  text: str,
  documents: Sequence[types.Document],
  *,
  support: float = 0.0,
  language: str = 'english',
) -> tuple[str, tuple[types.Document, ...]]:
  """Drops sentences that their documents do not support; numbers the rest.

  A sentence that repeats an earlier one is dropped too, one that repeats words
  (`repeats`) unless it is in its document, and one without a citation.
  Sentences are spelt as in their documents, since tokens have no capitals, but
  without marks [n] there. Numbers are in the order of first citation.

  Args:
    text: sentences with marks, such as 'gold is a metal . [2]'.
    documents: documents 1, 2, ... of these marks.
    support: share of the words that must be in the documents
      (`grounding.supports`); 0 keeps every sentence with a citation.
    language: of the documents.

  Returns:
    The text, '' if nothing is left, and the documents that it cites.

  Example:
    >>> gold = types.Document(id='a', title='Gold', text='A metal, number 79.')
    >>> lead = types.Document(id='b', title='Lead', text='Another metal.')
    >>> written = 'gold is a metal . [2] gold is number 82 . [2] lead [9] gold'
    >>> text, sources = finish(written, [lead, gold], support=1.0)
    >>> text, [source.id for source in sources]
    ('Gold is a metal. [1]', ['a'])
  """
  numbers: dict[int, int] = {}  # number in the text -> number in the result
  kept: dict[str, str] = {}  # sentence -> with its citations
  for sentence in summary_metrics.parse(text):
    own = [n for n in sentence.citations if n <= len(documents)]
    sources = [documents[n - 1] for n in own]
    if not sources:
      continue
    spelt = spell(sentence.text, sources[0], language=language)
    spelt = summary_metrics.plain(spelt)  # marks of the document itself
    if spelt in kept:
      continue
    if repeats(spelt) and not grounding.contains(sources[0], spelt):
      continue
    if support and not grounding.supports(
      spelt, sources, share=support, language=language
    ):
      continue
    for n in own:
      numbers.setdefault(n, len(numbers) + 1)
    marks = ''.join(f'[{numbers[n]}]' for n in own)
    kept[spelt] = f'{spelt} {marks}'
  return ' '.join(kept.values()), tuple(documents[n - 1] for n in numbers)


def repeats(sentence: str) -> bool:
  """Whether a sentence has three words in a row twice, or two side by side.

  Example:
    >>> repeats('The code of India is in code of India is INR.')
    True
    >>> repeats('It is of Antigua and Barbuda and Barbuda.')
    True
    >>> repeats('The code of India is INR.')
    False

  Reference:
    Paulus et al., A Deep Reinforced Model for Abstractive Summarization, 2018
    (no trigram twice).
  """
  own = re.findall(r'\w+', sentence.lower())
  threes = list(zip(own, own[1:], own[2:], strict=False))
  if len(set(threes)) < len(threes):
    return True
  twos = list(zip(own, own[1:], strict=False))
  return any(one == two for one, two in zip(twos, twos[2:], strict=False))


def spell(
  sentence: str, document: types.Document, *, language: str = 'english'
) -> str:
  """A tokenised sentence with capitals and spaces as in a document.

  The longest runs of words that are in the document take its spelling, but for
  the capital of a stop word. The first letter is a capital.

  Example:
    >>> france = types.Document(id='a', text='In France, sites end in .fr.')
    >>> spell('the domain of france is . fr .', france)
    'The domain of France is .fr.'
  """
  source = f'{document.title}\n{document.text}'
  known = list(_PIECES.finditer(source))
  folded = [piece[0].lower() for piece in known]
  places: dict[str, list[int]] = {}
  for place, piece in enumerate(folded):
    places.setdefault(piece, []).append(place)
  pieces = _PIECES.findall(sentence)
  wanted = [piece.lower() for piece in pieces]
  parts: list[str] = []
  start = 0
  while start < len(pieces):
    runs = [
      (
        _common(wanted[start:], folded[place:]),
        known[place][0].islower(),
        -place,
      )
      for place in places.get(wanted[start], ())
    ]
    closes = pieces[start] in _CLOSING
    if not runs or (closes and max(runs)[0] == 1):
      tight, text, length = closes, pieces[start], 1
    else:
      length, _, place = max(runs)
      first = known[-place].start()
      text = source[first : known[-place + length - 1].end()]
      if not words.split([pieces[start]], language=language)[0]:
        text = text[:1].lower() + text[1:]
      spaced = first == 0 or source[first - 1].isspace()
      tight = not text[0].isalnum() and not spaced
    if parts and not tight:
      parts.append(' ')
    parts.append(text)
    start += length
  found = ''.join(parts).replace('\n', ' ')
  return found[:1].upper() + found[1:]


def _common(ours: Sequence[str], theirs: Sequence[str]) -> int:
  """Length of the common beginning of two sequences."""
  count = 0
  for one, other in zip(ours, theirs, strict=False):
    if one != other:
      break
    count += 1
  return count
