"""Cases of rouge-score's own tests."""

import pytest

from rag_jax.ops import text_metrics

rouge_scorer = pytest.importorskip(
  'rouge_score.rouge_scorer',
  reason="rouge-score is not installed: pip install '.[oracles]'",
)

KINDS = (1, 2, 'L', 'Lsum')
# Reference, or several, and prediction.
CASES = {
  'one word': ('testing one two', 'testing'),
  'two words': ('testing one two', 'testing one'),
  'with a gap': ('testing one two', 'testing two'),
  'several references': (['first text', 'first something'], 'text first'),
  'empty prediction': ('testing one two', ''),
  'empty reference': ('', 'w1'),
  'no words': ('w1 w2 w3 w4 w5', '/'),
  'two lines': ('w1 w2 w3 w4 w5', 'w1 w2 w6 w7 w8\nw1 w3 w8 w9 w5'),
  'lines the other way round': (
    'First sentence.\nSecond Sentence.',
    'Second sentence.\nFirst Sentence.',
  ),
  'lines as one': (
    'First sentence. Second Sentence.',
    'Second sentence. First Sentence.',
  ),
  'spaces': ('one\n Two \nthree', 'one two three'),
  'stems': ('The runner was running home', 'runners run homes'),
  'stems that NLTK cuts otherwise': ('tries day alway', 'trying days always'),
}
OTHER_STEMS = ('stems that NLTK cuts otherwise', True)


@pytest.mark.parametrize(
  'kind, case, stem',
  [
    pytest.param(
      kind,
      case,
      stem,
      marks=[
        pytest.mark.xfail(
          strict=True, reason="NLTK's variant of Porter's algorithm"
        )
      ]
      if (case, stem) == OTHER_STEMS
      else [],
    )
    for kind in KINDS
    for case in CASES
    for stem in (False, True)
  ],
)
def test_cases(kind, case, stem):
  reference, prediction = CASES[case]
  scorer = rouge_scorer.RougeScorer([f'rouge{kind}'], use_stemmer=stem)
  score = scorer.score if isinstance(reference, str) else scorer.score_multi
  expected = score(reference, prediction)[f'rouge{kind}']
  found = text_metrics.rouge(prediction, reference, kind=kind, stem=stem)
  assert found == pytest.approx(
    {
      'precision': expected.precision,
      'recall': expected.recall,
      'f1': expected.fmeasure,
    }
  )


@pytest.mark.parametrize('kind', ['n', 0, 10])
def test_unknown_kinds_are_refused(kind):
  with pytest.raises(ValueError):
    rouge_scorer.RougeScorer([f'rouge{kind}']).score('testing', 'testing')
  with pytest.raises(ValueError, match='kind'):
    text_metrics.rouge('testing', 'testing', kind=kind)
