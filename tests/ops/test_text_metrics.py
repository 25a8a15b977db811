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


SUMMARIES = (
  ('the cat sat on the mat', 'a cat was on the mat'),
  ('', 'something'),
  ('one', ''),
  ('Paris is the capital of France.', 'The capital of France is Paris!'),
  ('b a b a b', 'a b a b a'),
)


@pytest.mark.parametrize('prediction, reference', SUMMARIES)
@pytest.mark.parametrize('kind', [1, 2, 'L'])
def test_rouge_against_the_package(prediction, reference, kind):
  rouge_scorer = pytest.importorskip(
    'rouge_score.rouge_scorer', reason='rouge-score is not installed'
  )
  theirs = rouge_scorer.RougeScorer([f'rouge{kind}'], use_stemmer=False)
  theirs = theirs.score(reference, prediction)[f'rouge{kind}']
  ours = text_metrics.rouge(prediction, reference, kind=kind)
  assert ours == pytest.approx(
    {
      'precision': theirs.precision,
      'recall': theirs.recall,
      'f1': theirs.fmeasure,
    }
  )


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


def test_an_unknown_rouge_is_refused():
  with pytest.raises(ValueError, match='1, 2 or .L., got 3'):
    text_metrics.rouge('a', 'b', kind=3)
