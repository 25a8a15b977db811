"""Answers and summaries, against other packages and by hand."""

import itertools

import numpy as np
import pytest

from rag_jax.ops import text_metrics


@pytest.mark.parametrize(
  ('prediction', 'answers', 'exact', 'f1'),
  [
    ('The Beatles.', ['Beatles'], 1, 1),
    ('an apple', ['pear', 'Apple!'], 1, 1),
    ('New York City', ['New York'], 0, 0.8),
    ('1,234', ['1234'], 1, 1),
    ('Paris', ['Rome'], 0, 0),
    ('', ['Rome'], 0, 0),
    ('the', ['a'], 1, 1),
    ('東京', ['東京'], 1, 1),
    ('cat cat', ['cat'], 0, 2 / 3),
  ],
)
def test_answers(prediction, answers, exact, f1):
  assert text_metrics.exact_match(prediction, answers) == exact
  assert text_metrics.f1(prediction, answers) == pytest.approx(f1)


def test_no_answers():
  assert text_metrics.exact_match('x', []) == text_metrics.f1('x', []) == 0
  assert text_metrics.rouge('x', []) == {'precision': 0, 'recall': 0, 'f1': 0}


@pytest.mark.parametrize(
  ('message', 'function'),
  [
    (
      r"answers must be a list of strings, got the string 'Paris'. "
      r"Pass \['Paris'\]",
      lambda: text_metrics.exact_match('Paris', 'Paris'),
    ),
    ("got the string 'Paris'", lambda: text_metrics.f1('Paris', 'Paris')),
    ('answers must hold .*got 5', lambda: text_metrics.f1('5', [5])),
    ('answers must be a list', lambda: text_metrics.exact_match('5', None)),
    (
      r"prediction must be a string, got \['a'\]",
      lambda: text_metrics.exact_match(['a'], ['a']),
    ),
    ('prediction must be', lambda: text_metrics.rouge(None, 'a')),
    ('reference must hold', lambda: text_metrics.rouge('a', ['a', None])),
    ('stem must be', lambda: text_metrics.rouge('a', 'a', stem='porter')),
    ('text must be a string', lambda: text_metrics.normalise(None)),
    ('1, 2 or .L., got 3', lambda: text_metrics.rouge('a', 'b', kind=3)),
    ('got None', lambda: text_metrics.rouge('a', 'b', kind=None)),
  ],
)
def test_mistakes_are_one_error_that_names_the_argument(message, function):
  with pytest.raises(ValueError, match=message):
    function()


SUMMARIES = (
  ('the cat sat on the mat', 'a cat was on the mat'),
  ('', 'something'),
  ('one', ''),
  ('Paris is the capital of France.', 'The capital of France is Paris!'),
  ('b a b a b', 'a b a b a'),
  ('A cat sat.\n\nDogs were barking', 'dogs barked\na cat is sitting\n'),
  ('x y\nx z', 'x y z\nx'),
)


def scorer(kind, **options):
  package = pytest.importorskip(
    'rouge_score.rouge_scorer', reason='rouge-score is not installed'
  )
  return package.RougeScorer([f'rouge{kind}'], **options)


def values(theirs, kind):
  theirs = theirs[f'rouge{kind}']
  return {
    'precision': theirs.precision,
    'recall': theirs.recall,
    'f1': theirs.fmeasure,
  }


@pytest.mark.parametrize('prediction, reference', SUMMARIES)
@pytest.mark.parametrize('kind', [1, 2, 'L', 'Lsum'])
@pytest.mark.parametrize('stem', [False, True])
def test_rouge_against_the_package(prediction, reference, kind, stem):
  theirs = scorer(kind, use_stemmer=stem).score(reference, prediction)
  ours = text_metrics.rouge(prediction, reference, kind=kind, stem=stem)
  assert ours == pytest.approx(values(theirs, kind))


@pytest.mark.parametrize('kind', [1, 2, 'L', 'Lsum'])
def test_the_best_of_several_references_counts(kind):
  references = [reference for _, reference in SUMMARIES]
  prediction = 'The capital\nof France was on the mat.'
  theirs = scorer(kind).score_multi(references, prediction)
  ours = text_metrics.rouge(prediction, references, kind=kind)
  assert ours == pytest.approx(values(theirs, kind))


def test_random_lines_against_the_package():
  rng = np.random.default_rng(0)
  theirs = scorer('Lsum')
  for _ in range(100):
    both = [
      '\n'.join(
        ' '.join(rng.choice(list('abcd'), rng.integers(0, 7)))
        for _ in range(rng.integers(0, 4))
      )
      for _ in range(2)
    ]
    ours = text_metrics.rouge(*both, kind='Lsum')
    assert ours == pytest.approx(values(theirs.score(both[1], both[0]), 'Lsum'))


def test_the_stemmer_of_the_package_gives_its_values():
  # NLTK stems trying and tries to tri; by Porter's own rules trying is try.
  texts = 'trying days always', 'tries day alway'
  theirs = values(scorer(1, use_stemmer=True).score(texts[1], texts[0]), 1)
  assert text_metrics.rouge(*texts, kind=1, stem=True) != theirs
  porter = pytest.importorskip('nltk.stem.porter').PorterStemmer()
  ours = text_metrics.rouge(*texts, kind=1, stem=porter.stem)
  assert ours == pytest.approx(theirs)


def test_rouge_l_is_the_longest_common_subsequence():
  rng = np.random.default_rng(0)
  for _ in range(20):
    ours, theirs = (rng.choice(list('abc'), 6).tolist() for _ in range(2))

    def is_in(part, whole):
      rest = iter(whole)
      return all(word in rest for word in part)

    longest = max(
      n
      for n in range(7)
      if any(is_in(part, theirs) for part in itertools.combinations(ours, n))
    )
    found = text_metrics.rouge(' '.join(ours), ' '.join(theirs))
    assert found['recall'] == pytest.approx(longest / 6)


def mlqa_f1(prediction, answer):
  """F1 over single characters and words, written after MLQA's script."""

  def units(text):
    found, word = [], ''
    for c in text.lower():
      if '\u4e00' <= c <= '\u9fff' or not c.isalnum():
        found, word = [*found, word, c], ''
      else:
        word += c
    return [x for x in [*found, word] if x.isalnum()]

  ours, theirs = units(prediction), units(answer)
  common = sum(min(ours.count(x), theirs.count(x)) for x in set(ours))
  return 2 * common / (len(ours) + len(theirs))


@pytest.mark.parametrize(
  ('prediction', 'answer'),
  [
    ('北京市。', '北京'),
    ('（2008年）', '2008年8月'),
    ('IBM公司', 'IBM'),
    ('上海', '北京'),
  ],
)
def test_chinese_answers_are_compared_by_character(prediction, answer):
  wanted = mlqa_f1(prediction, answer)
  assert text_metrics.f1(prediction, [answer]) == pytest.approx(wanted)


def test_punctuation_and_spaces_of_chinese_do_not_count():
  assert text_metrics.exact_match('「北京」！', ['北京']) == 1
  assert text_metrics.exact_match('“Ox”', ['Ox']) == 0  # as SQuAD
  assert text_metrics.f1('北 京', ['北京']) == 1


def test_rouge_counts_chinese_characters():
  found = text_metrics.rouge('北京奥运 2008', '北京 2008')
  assert found['precision'] == pytest.approx(3 / 5)
  assert found['recall'] == 1
