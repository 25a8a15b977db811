"""Measures of answers and summaries, on text: floats from 0 to 1.

Of several answers or references the best counts. In scripts without spaces
between words (Chinese, Japanese, Thai, Lao, Khmer, Burmese) each character is a
word. A mistake in the arguments is a ValueError that names the argument, also a
string where a list is meant, whose letters would be compared one by one.
"""

import collections
import functools
import re
import string
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

from rag_jax.ops import checks, scripts

_ARTICLES = re.compile(r'\b(a|an|the)\b')
# Besides ASCII, that of Chinese and Japanese and its wide forms.
_WIDE = ''.join(chr(code) for code in (*range(0x3000, 0x3040), 0x30FB))
_PUNCTUATION = frozenset(
  string.punctuation
  + ''.join(c for c in _WIDE if unicodedata.category(c).startswith('P'))
  + ''.join(chr(ord(c) + 0xFEE0) for c in string.punctuation)
  + '\uff61\uff62\uff63\uff64\uff65'
)
_WORDS = re.compile('[a-z0-9]+')
_WORDS_OR_CHARACTERS = rf'(?V1)[a-z0-9]+|(?={scripts.UNSPACED})\X'


def normalise(text: str) -> str:
  """SQuAD's normal form: lower case, no punctuation, no articles.

  Punctuation is that of ASCII, as in SQuAD, and of Chinese and Japanese.

  Example:
    >>> normalise('The  Beatles!')
    'beatles'
  """
  text = _string('text', text)
  text = ''.join(c for c in text.lower() if c not in _PUNCTUATION)
  return ' '.join(_ARTICLES.sub(' ', text).split())


def exact_match(prediction: str, answers: Sequence[str]) -> float:
  """1.0 if the prediction is one of the answers in normal form.

  Args:
    prediction: what was answered.
    answers: the right answers; 0.0 where there is none.

  Raises:
    ValueError: if `answers` is a string, or holds anything but strings.

  Example:
    >>> exact_match('The Beatles.', ['Beatles'])
    1.0

  Reference:
    Rajpurkar et al., SQuAD: 100,000+ Questions for Machine Comprehension of
    Text, 2016.
  """
  own = normalise(_string('prediction', prediction))
  return float(
    any(own == normalise(x) for x in checks.strings(answers, 'answers'))
  )


def f1(prediction: str, answers: Sequence[str]) -> float:
  """The best harmonic mean of word precision and recall over the answers.

  Args:
    prediction: what was answered.
    answers: the right answers; 0.0 where there is none.

  Raises:
    ValueError: if `answers` is a string, or holds anything but strings.

  Example:
    >>> f1('New York City', ['New York'])
    0.8
    >>> f1('北京市', ['北京'])  # Beijing city, Beijing
    0.8

  Reference:
    Rajpurkar et al., SQuAD: 100,000+ Questions for Machine Comprehension of
    Text, 2016. Characters: Lewis et al., MLQA: Evaluating Cross-lingual
    Extractive Question Answering, 2020.
  """
  prediction = _string('prediction', prediction)
  values = [_overlap(prediction, x) for x in checks.strings(answers, 'answers')]
  return max(values, default=0.0)


def _overlap(prediction: str, answer: str) -> float:
  ours, theirs = (
    scripts.space(normalise(text)).split() for text in (prediction, answer)
  )
  if not ours or not theirs:
    return float(ours == theirs)
  counts = collections.Counter(ours) & collections.Counter(theirs)
  common = sum(counts.values())
  return 2 * common / (len(ours) + len(theirs))


def rouge(
  prediction: str,
  reference: str | Sequence[str],
  *,
  kind: str | int = 'L',
  stem: bool | Callable[[str], str] = False,
) -> dict[str, float]:
  """Overlap of a summary with its reference: precision, recall and F1.

  Args:
    prediction: what was written.
    reference: what should have been; of several the one of the best F1.
    kind: 1 or 2 for words or pairs of words, 'L' for the longest common
      subsequence of words, 'Lsum' for that of each sentence of the reference
      with all sentences of the prediction, sentences being lines.
    stem: whether words of more than 3 letters are cut to their stems, by
      Porter's algorithm; or a function that cuts them.

  Returns:
    'precision', 'recall' and 'f1'; 0 where there is no reference.

  Raises:
    ValueError: if there is no such kind, or the texts are no strings.

  Example:
    >>> rouge('the cat sat', 'the black cat', kind=1)['recall'].__round__(3)
    0.667
    >>> rouge('cats sleep', ['a dog', 'the cats slept'], stem=True)['precision']
    0.5

  Reference:
    Lin, ROUGE: A Package for Automatic Evaluation of Summaries, 2004. Words
    and values are those of the package rouge-score: lower case, a to z and
    digits; and single characters of scripts without spaces, which it drops.
    With stems they are too where its stemmer, NLTK's variant of Porter's
    algorithm, gives the same ones (of 100 English words about 98); pass
    `nltk.stem.porter.PorterStemmer().stem` to have its own.
  """
  prediction = _string('prediction', prediction)
  if isinstance(reference, str):
    reference = [reference]
  score, cut = _kind(kind), _stemmer(stem)
  scores = []
  for text in checks.strings(reference, 'reference'):
    common, ours, theirs = score(prediction, text, cut)
    precision = common / ours if ours else 0.0
    recall = common / theirs if theirs else 0.0
    total = precision + recall
    harmonic = 2 * precision * recall / total if total else 0.0
    scores.append({'precision': precision, 'recall': recall, 'f1': harmonic})
  none = {'precision': 0.0, 'recall': 0.0, 'f1': 0.0}
  return max(scores, key=lambda values: values['f1'], default=none)


def _kind(kind: str | int) -> Callable[..., tuple[int, int, int]]:
  """Units in common, of the prediction and of the reference, by kind."""
  if kind in (1, 2):
    return functools.partial(_common_grams, size=int(kind))
  if str(kind).upper() == 'L':
    return _common_subsequence
  if str(kind).upper() == 'LSUM':
    return _common_sentences
  raise ValueError(
    f"kind must be 'Lsum', 1, 2 or 'L', got {kind!r}. Pass one of them."
  )


def _common_grams(prediction, reference, stem, *, size):
  own = _grams(_words(prediction, stem), size)
  wanted = _grams(_words(reference, stem), size)
  return (own & wanted).total(), own.total(), wanted.total()


def _common_subsequence(prediction, reference, stem):
  ours, theirs = _words(prediction, stem), _words(reference, stem)
  return _longest_common(ours, theirs), len(ours), len(theirs)


def _common_sentences(prediction, reference, stem):
  """Words of the reference in a common subsequence with any sentence.

  A word counts as often as it occurs in both texts, and no more.
  """
  ours = [_words(line, stem) for line in prediction.split('\n')]
  theirs = [_words(line, stem) for line in reference.split('\n')]
  own = collections.Counter(word for line in ours for word in line)
  wanted = collections.Counter(word for line in theirs for word in line)
  left = own & wanted
  common = 0
  for line in theirs:
    places = set().union(*(_common_places(line, other) for other in ours))
    for place in sorted(places):
      if left[line[place]] > 0:
        left[line[place]] -= 1
        common += 1
  return common, own.total(), wanted.total()


def _common_places(words: Sequence[str], others: Sequence[str]) -> set[int]:
  """Places in `words` of a longest common subsequence with `others`.

  Of several the one that rouge-score takes: from the end, a word of `others`
  is passed over only if that alone keeps the length.
  """
  table = [[0] * (len(others) + 1)]
  for word in words:
    row = [0]
    for j, other in enumerate(others):
      last = table[-1]
      row.append(last[j] + 1 if word == other else max(last[j + 1], row[j]))
    table.append(row)
  places = set()
  i, j = len(words), len(others)
  while i and j:
    if words[i - 1] == others[j - 1]:
      i, j = i - 1, j - 1
      places.add(i)
    elif table[i][j - 1] > table[i - 1][j]:
      j -= 1
    else:
      i -= 1
  return places


def _words(text: str, stem: Callable[[str], str] | None) -> list[str]:
  """Words as rouge-score finds them, and single characters of other scripts.

  Short ones are their own stems.
  """
  text = text.lower()
  is_plain = text.isascii()
  pattern = _WORDS if is_plain else scripts.compiled(_WORDS_OR_CHARACTERS)
  words = pattern.findall(text)
  if stem is None:
    return words
  return [stem(word) if len(word) > 3 else word for word in words]


def _stemmer(stem: Any) -> Callable[[str], str] | None:
  if isinstance(stem, bool):
    return _porter() if stem else None
  if not callable(stem):
    raise ValueError(
      f'stem must be True, False or a function, got {stem!r}. Pass True for '
      "Porter's algorithm."
    )
  return stem


@functools.cache
def _porter() -> Callable[[str], str]:
  import Stemmer  # not needed by operators, which import this module too

  return Stemmer.Stemmer('porter').stemWord


def _string(name: str, value: Any) -> str:
  if not isinstance(value, str):
    raise ValueError(
      f'{name} must be a string, got {value!r}. Pass one text a call.'
    )
  return value


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
