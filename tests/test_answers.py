"""Answers as JSON."""

import json

from rag_jax import answers, types

DOCUMENT = types.Document(id='a', title='Cats', text='A cat sleeps.')


def candidate(**changes):
  values = {'codes': (3, 1), 'log_probability': -0.5, 'score': 2.0}
  values |= {'weight': 1.0} | changes
  return answers.Candidate(document=DOCUMENT, **values)


def answer(**changes):
  values = {'text': 'cat', 'probability': 0.5, 'abstained': False}
  values |= {'document': DOCUMENT, 'span': (2, 5)} | changes
  return answers.Answer(
    question='Who sleeps?', candidates=(candidate(),), **values
  )


def test_json_has_every_field():
  found = json.loads(json.dumps(answer().to_dict(), allow_nan=False))
  assert found == answer().to_dict()
  assert found['document']['text'][slice(*found['span'])] == found['answer']
  [own] = found['candidates']
  assert own['document'] == {'id': 'a', 'title': 'Cats', 'text': DOCUMENT.text}
  assert own['codes'] == [3, 1]


def test_json_without_texts():
  found = answer().to_dict(text=False)
  short = {'id': 'a', 'title': 'Cats'}
  assert found['document'] == found['candidates'][0]['document'] == short


def test_an_abstained_answer_has_null_document_and_span():
  found = answer(text='', abstained=True, document=None, span=None).to_dict()
  assert found['document'] is None and found['span'] is None
  assert (found['answer'], found['abstained']) == ('', True)


def test_non_finite_numbers_become_null():
  own = candidate(score=float('nan'), log_probability=float('-inf')).to_dict()
  assert own['score'] is None and own['log_probability'] is None
