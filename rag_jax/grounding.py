"""Whether answers rest on the documents that they cite, per question."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from rag_jax import types
from rag_jax.data import words
from rag_jax.ops import summary_metrics, text_metrics


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grounding:
  """What one answer rests on.

  Attributes:
    holds: whether the cited document contains the answer; case, punctuation
      and articles do not count.
    changes: whether the answer is another one without the cited document.
    supported: whether any document read contains the answer.
    words: share of the answer's words that occur in the documents read; None
      for a span of a document.
    without: the answer without the cited document; '' = none.
  """

  holds: bool
  changes: bool
  supported: bool
  words: float | None
  without: str


def ground(
  answer: str,
  without: str,
  cited: types.Document | None,
  read: Sequence[types.Document],
  *,
  written: bool,
) -> Grounding:
  """Compares an answer with the documents that were read.

  Args:
    answer: the answer.
    without: the answer without the cited document.
    cited: the cited document.
    read: the documents read.
    written: whether the reader writes its answers.

  Example:
    >>> cat = types.Document(id='a', text='The cat sleeps.')
    >>> ground('a cat', 'a dog', cat, [cat], written=True)
    Grounding(holds=True, changes=True, supported=True, words=1.0, \
without='a dog')
  """
  own = text_metrics.normalise(answer)
  texts = [_text(document) for document in read]
  shares = None
  if written:
    known = {word for text in texts for word in text.split()}
    each = [word in known for word in own.split()]
    shares = float(np.mean(each)) if each else 0.0
  return Grounding(
    holds=cited is not None and _contains(_text(cited), own),
    changes=own != text_metrics.normalise(without),
    supported=any(_contains(text, own) for text in texts),
    words=shares,
    without=without,
  )


def supports(
  sentence: str,
  documents: Sequence[types.Document],
  *,
  share: float = 1.0,
  language: str = 'english',
) -> bool:
  """Whether documents state a sentence, by its words: a test without a model.

  It compares words without stop words, by their first five letters, so that
  `discovered` is in a text with `discovery`. One sentence of each document
  counts, the one with most of the words: a number or a name from elsewhere in
  a document says nothing about this sentence. Every number must occur. Of the
  other words that are in no title, at least `share` must. A sentence of title
  words alone says nothing, and is not supported.

  The test is necessary but not sufficient: it does not see who did what to
  whom.

  Args:
    sentence: the sentence.
    documents: the documents that it cites.
    share: from 0 to 1.
    language: of the stop words.

  Example:
    >>> gold = types.Document(
    ...   id='a', title='Gold', text='It has 79 protons. Its group is 11.')
    >>> supports('Gold has 79 protons.', [gold])
    True
    >>> supports('Gold has 80 protons.', [gold], share=0.5)
    False
    >>> supports('Lead has 79 protons.', [gold]), supports('Gold.', [gold])
    (False, False)
    >>> supports('Gold has 11 protons.', [gold])
    False

  Reference:
    Words cut after five letters: Can et al., Information Retrieval on Turkish
    Texts, 2008 (F5).
  """
  own = _keys(sentence, language)
  titles = _keys(' '.join(document.title for document in documents), language)
  numbers = {word for word in own if _is_number(word)}
  others = own - titles - numbers
  known = titles.union(
    *(_closest(document, numbers, others, language) for document in documents)
  )
  if not numbers <= known:
    return False
  found = len(others & known)
  return bool(others | numbers) and found >= share * len(others)


def _closest(
  document: types.Document,
  numbers: set[str],
  others: set[str],
  language: str,
) -> frozenset[str]:
  """Words of the sentence that has most of the numbers, then of the others."""
  return max(
    _sentences(document.text, language),
    key=lambda words: (len(numbers & words), len(others & words)),
    default=frozenset(),
  )


@functools.lru_cache(maxsize=4096)
def _sentences(text: str, language: str) -> tuple[frozenset[str], ...]:
  """The words of each sentence of a document, which many sentences cite."""
  parts = summary_metrics.parse(text)
  return tuple(frozenset(_keys(part.text, language)) for part in parts)


def _is_number(word: str) -> bool:
  """Whether a word has a digit, such as 1848 and 17th."""
  return any(c.isdigit() for c in word)


def _keys(text: str, language: str) -> set[str]:
  """The words of a text that count: five letters each, and whole numbers."""
  [terms] = words.split([text], stem=False, language=language)
  return {word if _is_number(word) else word[:5] for word in terms}


def values(
  found: Sequence[Grounding | None],
) -> dict[str, np.ndarray]:
  """Measures per question, float64[n]; NaN where there is no answer.

  'holds' and 'changes' are those of `Grounding`; 'unsupported' is 1 where no
  document read contains the answer; 'words' is left out if answers are spans.
  """

  def column(of):
    return np.asarray([np.nan if g is None else of(g) for g in found], float)

  measured = {
    'holds': column(lambda g: g.holds),
    'changes': column(lambda g: g.changes),
    'unsupported': column(lambda g: not g.supported),
  }
  if any(g is not None and g.words is not None for g in found):
    measured['words'] = column(lambda g: np.nan if g.words is None else g.words)
  return measured


def contains(document: types.Document, text: str) -> bool:
  """Whether a document has the words of a text in a row.

  Example:
    >>> contains(types.Document(id='a', text='The cat sleeps.'), 'a cat')
    True
  """
  return _contains(_text(document), text_metrics.normalise(text))


def _text(document: types.Document) -> str:
  return text_metrics.normalise(f'{document.title} {document.text}')


def _contains(text: str, answer: str) -> bool:
  """Whether a normalised text contains the words of an answer in a row."""
  return bool(answer) and f' {answer} ' in f' {text} '
