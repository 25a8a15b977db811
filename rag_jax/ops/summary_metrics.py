"""Measures of answers of several sentences with citations, without a judge.

A mark [n] after a sentence cites document n of those given, from 1. Whether a
sentence is supported is asked of a function (sentence, documents) -> bool. A
mean over nothing is NaN: an empty text has no unsupported sentence, and cites
nothing wrongly.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Sequence

import numpy as np

from rag_jax import types
from rag_jax.ops import text_metrics

MARKS = re.compile(r'\s*\[(\d+)\]')
# No sentence ends after the titles of names: St. Louis, Dr. Watson.
TITLES = ('St', 'Mt', 'Mr', 'Ms', 'Dr', 'Mrs', 'Gen', 'Gov')
_ENDS = re.compile(
  ''.join(rf'(?<!\b{title}\.)' for title in TITLES)
  + r'(?<=[.!?])\s+(?=\W*[A-Z0-9])'
)

# (sentence, documents) -> whether they state it.
Supports = Callable[[str, Sequence[types.Document]], bool]


@dataclasses.dataclass(frozen=True)
class Sentence:
  """A sentence, and the numbers of the documents that it cites, from 1."""

  text: str
  citations: tuple[int, ...] = ()


def parse(text: str) -> list[Sentence]:
  """Splits a text into sentences with their citations.

  Marks end a sentence. A piece between marks is one sentence, as names contain
  full stops; a text without marks is split after each full stop, question mark
  or exclamation mark before a capital or a digit, but not after "St." and other
  titles of names. What follows the last mark is
  split likewise, and cites nothing.

  Args:
    text: the text, such as 'Gold is a metal. [1] It is soft. [1][2]'.

  Example:
    >>> parse('Gold is a metal. [1] It is soft. [1][2]')[1]
    Sentence(text='It is soft.', citations=(1, 2))
    >>> [sentence.text for sentence in parse('No. 5 is red. It is big.')]
    ['No.', '5 is red.', 'It is big.']
    >>> [sentence.text for sentence in parse('It is in St. Louis. It is big.')]
    ['It is in St. Louis.', 'It is big.']
  """
  found: list[Sentence] = []
  start = 0
  for mark in MARKS.finditer(text):
    piece = text[start : mark.start()].strip()
    start, number = mark.end(), int(mark[1])
    if piece:
      found.append(Sentence(piece, (number,)))
    elif found:
      cited = (*found[-1].citations, number)
      found[-1] = Sentence(found[-1].text, tuple(dict.fromkeys(cited)))
  rest = _ENDS.split(text[start:].strip())
  return found + [Sentence(piece.strip()) for piece in rest if piece.strip()]


def plain(text: str) -> str:
  """The text without its marks.

  Example:
    >>> plain('Gold is a metal. [1] It is soft. [1][2]')
    'Gold is a metal. It is soft.'
  """
  return MARKS.sub('', text).strip()


def states(sentence: str, claim: types.Claim) -> bool:
  """Whether a sentence states a claim.

  It does if it equals one of the claim's statements, or, without statements,
  if it has the words of `claim.text` in a row; case, punctuation and articles
  do not count.

  Example:
    >>> claim = types.Claim(text='79', statements=('It has 79 protons.',))
    >>> states('it has 79 protons', claim), states('It weighs 79 g.', claim)
    (True, False)
    >>> states('It weighs 79 g.', types.Claim(text='79'))
    True
  """
  own = text_metrics.normalise(sentence)
  if claim.statements:
    return own in _statements(claim)
  wanted = text_metrics.normalise(claim.text)
  return bool(wanted) and f' {wanted} ' in f' {own} '


@functools.lru_cache(maxsize=1 << 16)
def _statements(claim: types.Claim) -> frozenset[str]:
  return frozenset(map(text_metrics.normalise, claim.statements))


def claim_scores(text: str, claims: Sequence[types.Claim]) -> dict[str, float]:
  """Recall and precision of claims.

  Args:
    text: what was written, with or without marks.
    claims: what a full answer states. A claim without statements is found in
      the whole text, so that recall is then STR-EM of ALCE.

  Returns:
    'claim recall', the share of the claims that are stated; NaN if there are
    none. 'claim precision', the share of the sentences that state one of them;
    NaN without claims or sentences.

  Example:
    >>> wanted = [types.Claim(text='Au'), types.Claim(text='79')]
    >>> claim_scores('Its symbol is Au. [1] It is soft. [1]', wanted)
    {'claim recall': 0.5, 'claim precision': 0.5}

  Reference:
    Gao et al., Enabling Large Language Models to Generate Text with Citations,
    2023 (ALCE).
  """
  pieces = [sentence.text for sentence in parse(text)]
  whole = [plain(text)]
  stated = [
    any(
      states(piece, claim) for piece in (pieces if claim.statements else whole)
    )
    for claim in claims
  ]
  right = [any(states(piece, claim) for claim in claims) for piece in pieces]
  return {
    'claim recall': _mean(stated),
    'claim precision': _mean(right) if claims else np.nan,
  }


def citation_scores(
  sentences: Sequence[Sentence],
  documents: Sequence[types.Document],
  supports: Supports,
) -> dict[str, float]:
  """Recall and precision of citations, and unsupported sentences.

  Args:
    sentences: from `parse`; a number above `len(documents)` cites nothing.
    documents: documents 1, 2, ...
    supports: (sentence, documents) -> whether they state it together.

  Returns:
    'citation recall', the share of the sentences that their citations support
    together; 'citation precision', the share of the citations that support a
    sentence of recall 1 alone, or without which the others do not;
    'no support', the share of the sentences that all documents together do
    not support. NaN without sentences, or without citations.

  Example:
    >>> cat = types.Document(id='a', text='A cat sleeps.')
    >>> dog = types.Document(id='b', text='A dog barks.')
    >>> def contained(sentence, documents):
    ...   return any(sentence in document.text for document in documents)
    >>> found = parse('A cat sleeps. [1][2] A cow eats. [2]')
    >>> citation_scores(found, [cat, dog], contained)
    {'citation recall': 0.5, 'citation precision': 0.3333333333333333, \
'no support': 0.5}

  Reference:
    Gao et al., Enabling Large Language Models to Generate Text with Citations,
    2023 (ALCE), with another function in place of their model of entailment.
  """
  supported, precise, known = [], [], []
  for sentence in sentences:
    cited = [
      documents[n - 1] for n in sentence.citations if n <= len(documents)
    ]
    holds = bool(cited) and supports(sentence.text, cited)
    supported.append(holds)
    known.append(bool(documents) and supports(sentence.text, documents))
    for place, document in enumerate(cited):
      others = cited[:place] + cited[place + 1 :]
      alone = supports(sentence.text, [document])
      needed = not others or not supports(sentence.text, others)
      precise.append(holds and (alone or needed))
    precise += [False] * (len(sentence.citations) - len(cited))
  return {
    'citation recall': _mean(supported),
    'citation precision': _mean(precise),
    'no support': _mean([not own for own in known]),
  }


def _mean(values: Sequence[bool]) -> float:
  return float(np.mean(values)) if values else np.nan
