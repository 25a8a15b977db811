"""Whether answers rest on the documents that they cite, per question."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from rag_jax import types
from rag_jax.ops import text_metrics


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
  words = None
  if written:
    known = {word for text in texts for word in text.split()}
    each = [word in known for word in own.split()]
    words = float(np.mean(each)) if each else 0.0
  return Grounding(
    holds=cited is not None and _contains(_text(cited), own),
    changes=own != text_metrics.normalise(without),
    supported=any(_contains(text, own) for text in texts),
    words=words,
    without=without,
  )


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


def _text(document: types.Document) -> str:
  return text_metrics.normalise(f'{document.title} {document.text}')


def _contains(text: str, answer: str) -> bool:
  """Whether a normalised text contains the words of an answer in a row."""
  return bool(answer) and f' {answer} ' in f' {text} '
