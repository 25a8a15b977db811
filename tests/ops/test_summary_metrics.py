"""Sentences, claims and citations, counted by hand."""

import math

import pytest

from rag_jax import types
from rag_jax.ops import summary_metrics

DOCUMENTS = [
  types.Document(id='a', text='A cat sleeps.'),
  types.Document(id='b', text='A dog barks.'),
  types.Document(id='c', text='A cat sleeps. A fish swims.'),
]


def holds(sentence, documents):
  return any(sentence in document.text for document in documents)


def scores(text, documents=DOCUMENTS):
  return summary_metrics.citation_scores(
    summary_metrics.parse(text), documents, holds
  )


@pytest.mark.parametrize(
  ('text', 'sentences'),
  [
    ('', []),
    ('[1]', []),
    ('One. [2]', [('One.', (2,))]),
    ('One. [2][1] Two [3]', [('One.', (2, 1)), ('Two', (3,))]),
    ('One. [2] [2]', [('One.', (2,))]),
    # A full stop inside a cited sentence does not end it.
    (
      'It is Washington, D.C. Yes. [1]',
      [('It is Washington, D.C. Yes.', (1,))],
    ),
    ('One. [1] Two. Three', [('One.', (1,)), ('Two.', ()), ('Three', ())]),
    (
      'At 5.2 m. all end. Or .fr!',
      [('At 5.2 m. all end.', ()), ('Or .fr!', ())],
    ),
  ],
)
def test_sentences_and_their_citations(text, sentences):
  found = [(s.text, s.citations) for s in summary_metrics.parse(text)]
  assert found == sentences


def test_claims_with_statements_must_be_stated_by_a_sentence():
  claim = types.Claim(text='79', statements=('The number is 79.', '79 it is.'))
  found = summary_metrics.claim_scores
  for text, right in (
    ('the number is 79 [1]', 1),
    ('79 it is. [1]', 1),
    ('The number is 79 or so. [1]', 0),
    ('A number. [1] is 79. [1]', 0),
  ):
    assert found(text, [claim])['claim recall'] == right
  both = found('The number is 79. [1] No. [2] 79 it is. [1]', [claim])
  assert both == {'claim recall': 1, 'claim precision': pytest.approx(2 / 3)}


def test_claims_without_statements_are_words_anywhere():
  claims = [
    types.Claim(text=text) for text in ('Au', 'the 79', 'gold mine', '')
  ]
  found = summary_metrics.claim_scores(
    'AU! A gold. [1] Mine of 79. [1]', claims
  )
  assert found['claim recall'] == 3 / 4  # a row of words may cross sentences
  assert found['claim precision'] == 1
  none = summary_metrics.claim_scores('Some text.', [])
  assert all(math.isnan(value) for value in none.values())
  empty = summary_metrics.claim_scores('', claims)
  assert empty['claim recall'] == 0 and math.isnan(empty['claim precision'])


def test_citations_as_in_alce():
  # Both support: neither is needed, but each supports alone.
  assert scores('A cat sleeps. [1][3]') == {
    'citation recall': 1,
    'citation precision': 1,
    'no support': 0,
  }
  # The second one is irrelevant.
  assert scores('A cat sleeps. [1][2]')['citation precision'] == 0.5
  # Wrong citation of a sentence that another document read supports.
  assert scores('A cat sleeps. [2] A cow eats. [2] A dog barks. [2]') == {
    'citation recall': pytest.approx(1 / 3),
    'citation precision': pytest.approx(1 / 3),
    'no support': pytest.approx(1 / 3),
  }
  # No citation, and one of a document that is not there.
  assert scores('A cat sleeps. [9]') == {
    'citation recall': 0,
    'citation precision': 0,
    'no support': 0,
  }
  bare = scores('A cat sleeps.')
  assert bare['citation recall'] == 0 and math.isnan(bare['citation precision'])
  assert all(math.isnan(value) for value in scores('').values())


def test_documents_that_support_a_sentence_only_together():
  def together(sentence, documents):
    return {'a', 'b'} <= {document.id for document in documents}

  found = summary_metrics.citation_scores(
    summary_metrics.parse('Both. [1][2] One. [1]'), DOCUMENTS, together
  )
  assert found['citation recall'] == 0.5
  assert found['citation precision'] == pytest.approx(2 / 3)
