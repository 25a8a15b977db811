"""Measures of summaries of small documents, by hand."""

import types as namespaces

import numpy as np
import pytest

from rag_jax import answers, ask, grounding, replies, summaries, types

GOLD = types.Document(
  id='g', title='Gold', text='It is Au. It is soft. One. Two.'
)
LEAD = types.Document(id='l', title='Lead', text='It is Pb.')
CLAIMS = (
  types.Claim(
    text='Au', document_id='g', statements=('Gold is Au.', 'It is Au.')
  ),
  types.Claim(
    text='Pb', document_id='l', statements=('Lead is Pb.', 'It is Pb.')
  ),
)
ASKED = types.Question(
  id='q',
  text='Tell me about gold.',
  answers=('Gold is Au. [1]',),
  document_ids=('g',),
  claims=CLAIMS[:1],
)


def test_support_is_exact_with_claims_and_by_words_without():
  exact = summaries.supporter(CLAIMS, share=1.0, language='english')
  words = summaries.supporter((), share=1.0, language='english')
  for sentence, by_claims, by_words in (
    ('Gold is Au.', True, True),
    ('It is soft.', True, True),  # word for word
    ('Gold is soft.', False, True),
    ('Lead is Pb.', False, False),
  ):
    assert exact(sentence, [GOLD]) == by_claims
    assert words(sentence, [GOLD]) == by_words
  assert exact('Lead is Pb.', [GOLD, LEAD])


def test_of_text_against_the_reference_and_the_documents():
  exact = summaries.supporter(CLAIMS, share=1.0, language='english')
  text = 'Gold is Au. [1] Lead is Pb. [1] Tin is Sn. [2]'
  found = summaries.of_text(ASKED, text, [GOLD, LEAD], exact)
  assert found['claim recall'] == 1
  assert found['claim precision'] == pytest.approx(1 / 3)
  assert found['citation recall'] == pytest.approx(1 / 3)
  assert found['no support'] == pytest.approx(1 / 3)
  assert (found['sentences'], found['length']) == (3, 9)
  # 3 words of 9 written, of 3 wanted.
  assert found['ROUGE-1'] == pytest.approx(2 * (1 / 3) / (1 / 3 + 1))
  assert found['ROUGE-Lsum'] == pytest.approx(0.5)
  full = summaries.of_text(ASKED, 'Gold is Au. [1]', [GOLD], exact)
  assert full['ROUGE-2'] == full['citation precision'] == 1


def test_lead_is_three_sentences_that_cite_their_document():
  assert summaries.lead(GOLD) == 'It is Au. [1] It is soft. [1] One. [1]'


def test_marks_do_not_count_in_measures_of_the_text():
  asked, texts = summaries.plain([ASKED], ['Gold is Au. [1]', None])
  assert asked[0].answers == ('Gold is Au.',)
  assert texts == ['Gold is Au.', None]


def test_numbers_must_occur_and_titles_do_not_count():
  document = types.Document(
    id='a', title='Mount Doom', text='It was discovered in 1904, at 5 km.'
  )
  for sentence, share, right in (
    ('The discovery of Mount Doom was in 1904.', 1.0, True),
    ('The discovery of Mount Doom was in 1905.', 0.0, False),
    ('Mount Doom is a volcano, discovered then.', 1.0, False),
    ('Mount Doom is a volcano, discovered then.', 0.3, True),
    ('Mount Doom is a volcano.', 0.5, False),
    ('', 1.0, False),
  ):
    assert grounding.supports(sentence, [document], share=share) == right


def test_one_sentence_of_each_document_must_have_the_words():
  gold = types.Document(
    id='g', title='Gold', text='Its group is 11. Its period is 6. As St. Ives.'
  )
  lead = types.Document(id='l', title='Lead', text='The group is 14. Soft.')
  for sentence, documents, right in (
    ('Gold is in group 11.', [gold], True),
    ('Gold is in group 6.', [gold], False),
    ('Gold is in group 11 and period 6.', [gold], False),
    ('Gold is in group 11, Lead in 14.', [gold, lead], True),
    ('Gold is in group 11, Lead in 14.', [gold], False),
    ('Gold is as St. Ives.', [gold], True),
  ):
    assert grounding.supports(sentence, documents) == right, sentence


def test_answers_as_json_have_their_citations():
  given = answer('Gold is Au. [1]', (GOLD,))
  assert given.to_dict(text=False)['cited'] == [{'id': 'g', 'title': 'Gold'}]


@pytest.fixture
def system():
  """What the functions need of a system that read LEAD, then GOLD."""
  fields = {
    'search': namespaces.SimpleNamespace(read_size=2),
    'reader': namespaces.SimpleNamespace(support=1.0),
    'data': namespaces.SimpleNamespace(language='english'),
  }
  config = namespaces.SimpleNamespace(**fields)
  return namespaces.SimpleNamespace(config=config, documents=(GOLD, LEAD, GOLD))


FOUND = namespaces.SimpleNamespace(
  documents=np.array([[1, 0, 2], [1, -1, 2]]),
  weights=np.array([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]]),
)


def answer(text, cited):
  return answers.Answer(
    question='?',
    text=text,
    probability=0.5,
    abstained=not text,
    document=GOLD,
    span=None,
    candidates=(),
    cited=cited,
  )


def test_marks_are_of_the_documents_that_were_read(system):
  assert replies.read(system.config, FOUND, 0, system.documents) == [LEAD, GOLD]
  assert replies.read(system.config, FOUND, 1, system.documents) == [LEAD]
  of_weight = replies.read(
    system.config, FOUND, 0, system.documents, weighted=True
  )
  assert of_weight == [LEAD]
  text = 'gold is au . [2] lead is au . [1] lead is pb . [1]'
  found = replies.finished(system, text, FOUND, 0)
  assert found == ('Gold is Au. [1] Lead is Pb. [2]', (GOLD, LEAD))


def test_the_system_is_measured_beside_two_baselines(system):
  given = [
    answer('Gold is Au. [1] Lead is Au. [2]', (GOLD, LEAD)),
    answer('', ()),
  ]
  found = summaries.measure(
    system,
    [ASKED] * 2,
    FOUND,
    given,
    ['Gold is Au.', 'No.'],
    CLAIMS,
    name='own',
  )
  for name, measure, values in (
    ('own', 'claim recall', [1, 0]),
    ('own', 'citation recall', [0.5, np.nan]),
    ('own', 'no support', [0.5, np.nan]),
    ('own', 'sentences', [2, 0]),
    ('lead sentences', 'claim recall', [0, 0]),  # of lead, the first document
    ('lead sentences', 'citation precision', [1, 1]),
    ('without retrieval', 'claim recall', [1, 0]),
    ('without retrieval', 'ROUGE-2', [1, 0]),
  ):
    np.testing.assert_array_equal(found[name, measure], values, measure)
  assert ('without retrieval', 'citation recall') not in found


def test_ask_shows_the_documents_that_are_cited():
  shown = ask.show(answer('Gold is Au. [1]', (GOLD,))).splitlines()
  assert shown[1] == 'answer    Gold is Au. [1]   (probability 0.50)'
  assert shown[2] == '[1]       g  Gold'
  assert 'answer    none' in ask.show(answer('', ()))
