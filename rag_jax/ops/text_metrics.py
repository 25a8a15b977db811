"""Measures of answers and summaries, on text: floats from 0 to 1."""

import collections
import re
import string
from collections.abc import Sequence

_ARTICLES = re.compile(r'\b(a|an|the)\b')
_PUNCTUATION = frozenset(string.punctuation)
_WORDS = re.compile('[a-z0-9]+')


def normalise(text: str) -> str:
  """SQuAD's normal form: lower case, no punctuation, no articles."""
  text = ''.join(c for c in text.lower() if c not in _PUNCTUATION)
  return ' '.join(_ARTICLES.sub(' ', text).split())


def exact_match(prediction: str, answers: Sequence[str]) -> float:
  """1.0 if the prediction is one of the answers in normal form.

  Example:
    >>> exact_match('The Beatles.', ['Beatles'])
    1.0

  Reference:
    Rajpurkar et al., SQuAD: 100,000+ Questions for Machine Comprehension of
    Text, 2016.
  """
  own = normalise(prediction)
  return float(any(own == normalise(answer) for answer in answers))


def f1(prediction: str, answers: Sequence[str]) -> float:
  """The best harmonic mean of word precision and recall over the answers.

  Example:
    >>> f1('New York City', ['New York'])
    0.8
  """
  return max((_overlap(prediction, answer) for answer in answers), default=0.0)


def _overlap(prediction: str, answer: str) -> float:
  ours, theirs = normalise(prediction).split(), normalise(answer).split()
  if not ours or not theirs:
    return float(ours == theirs)
  counts = collections.Counter(ours) & collections.Counter(theirs)
  common = sum(counts.values())
  return 2 * common / (len(ours) + len(theirs))


def rouge(
  prediction: str, reference: str, *, kind: str | int = 'L'
) -> dict[str, float]:
  """Overlap of a summary with its reference: precision, recall and F1.

  Args:
    prediction: what was written.
    reference: what should have been.
    kind: 1 or 2 for words or pairs of words, 'L' for the longest common
      subsequence of words.

  Returns:
    'precision', 'recall' and 'f1'.

  Raises:
    ValueError: if there is no such kind.

  Example:
    >>> rouge('the cat sat', 'the black cat', kind=1)['recall'].__round__(3)
    0.667

  Reference:
    Lin, ROUGE: A Package for Automatic Evaluation of Summaries, 2004. Words
    are those of the package rouge-score without stemming: lower case, a to z
    and digits.
  """
  ours = _WORDS.findall(prediction.lower())
  theirs = _WORDS.findall(reference.lower())
  if str(kind).upper() == 'L':
    common, sizes = _longest_common(ours, theirs), (len(ours), len(theirs))
  elif kind in (1, 2):
    own, wanted = _grams(ours, int(kind)), _grams(theirs, int(kind))
    common, sizes = (own & wanted).total(), (own.total(), wanted.total())
  else:
    raise ValueError(f"kind must be 1, 2 or 'L', got {kind!r}. Pass one.")
  precision = common / sizes[0] if sizes[0] else 0.0
  recall = common / sizes[1] if sizes[1] else 0.0
  total = precision + recall
  harmonic = 2 * precision * recall / total if total else 0.0
  return {'precision': precision, 'recall': recall, 'f1': harmonic}


def _grams(words: Sequence[str], size: int) -> collections.Counter:
  return collections.Counter(
    zip(*(words[i:] for i in range(size)), strict=False)
  )


def _longest_common(ours: Sequence[str], theirs: Sequence[str]) -> int:
  """Length of the longest common subsequence, row by row."""
  row = [0] * (len(theirs) + 1)
  for word in ours:
    diagonal = 0
    for j, other in enumerate(theirs):
      above = row[j + 1]
      row[j + 1] = diagonal + 1 if word == other else max(above, row[j])
      diagonal = above
  return row[-1]
