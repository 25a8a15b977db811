"""The sentence on each question, for every way to lose the gold document."""

import json

import pytest

from rag_jax.page import reasons

KNOWN = {f'd{row}': row for row in range(5)}
TITLES = {f'd{row}': title for row, title in enumerate('ABCDE')}


@pytest.fixture(scope='module')
def lines(two_runs):
  text = (two_runs[0] / 'answers-dev.jsonl').read_text()
  return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope='module')
def paths(two_runs):
  text = (two_runs[0] / 'docid-paths-dev.jsonl').read_text()
  return [json.loads(line)['paths'] for line in text.splitlines()]


def why(line, paths=(), scoring='log_softmax', known=KNOWN):
  return reasons.why(line, paths, TITLES, scoring=scoring, known=known)


def test_every_fate_and_outcome(lines):
  found = [(reasons.outcome(x), reasons.fate(x, KNOWN)) for x in lines]
  assert found == [
    ('right', 'read'),
    ('wrong', 'read wrongly'),
    ('wrong', 'not chosen'),
    ('wrong', 'not retrieved'),
    ('right', 'read'),
    ('abstained', 'read'),
    ('right', 'read'),
    ('wrong', 'none'),
  ]


def test_without_a_reader_the_first_document_decides(lines):
  for place, expected in ((0, 'right'), (2, 'wrong')):
    measures = {'after ranker': lines[place]['measures']['after ranker']}
    line = lines[place] | {'abstained': True, 'measures': measures}
    assert reasons.outcome(line) == expected


def test_to_abstain_is_right_without_an_answer(lines):
  assert reasons.outcome(lines[5] | {'answerable': False}) == 'right'


def test_what_is_read_has_a_weight():
  assert reasons.was_read({'weight': 0.1})
  assert reasons.was_read({'weight': 0.1, 'read': True})
  assert not reasons.was_read({'weight': 0.1, 'read': False})
  assert not reasons.was_read({'weight': 0.0, 'read': True})


def test_not_retrieved_names_the_level_that_costs_most(lines, paths):
  text = why(lines[3], paths[3])
  assert text == (
    'The search did not find the gold document "D": at level 1 of its docid, '
    'code 1 has probability 0.14, code 0 probability 0.82. Its score is -2.70; '
    'the lowest of the documents found has -2.50.'
  )
  assert why(lines[3]) == 'The search did not find the gold document "D".'
  assert 'score -2.00, code 0 score -0.20' in why(
    lines[3], paths[3], scoring='absolute'
  )


def test_an_error_of_the_search_names_the_beam(lines, paths):
  line = json.loads(json.dumps(lines[3]))
  line['candidates'][-1]['log_probability'] = -5.0
  assert why(line, paths[3]).endswith(
    'Its score -2.70 is above -5.00, the lowest of the documents found: a '
    'larger search.beam_size would find it.'
  )


def test_not_chosen_names_what_the_ranker_weighs(lines):
  own = {'parts': {'docid': -1.0, 'vector': 2.0, 'lexical': 0.5}}
  other = {'parts': {'docid': -0.5, 'vector': 1.0, 'lexical': 2.5}}
  paths = [own | {'document': 'd1'}, other | {'document': 'd0'}]
  assert why(lines[2], paths) == (
    'The search found the gold document "B", but the ranker puts it at 2, with '
    'score 1.00 against 2.00 of "A": words -2.00, docid -0.50, vector +1.00.'
  )


def test_other_sentences(lines):
  assert why(lines[1]) == (
    'The reader read the gold document "B" (weight 1.00), but answered "2" '
    'from it.'
  )
  assert why(lines[0]) == (
    'The gold document "A" has the largest weight (weight 1.00), and the '
    'answer is right.'
  )
  assert why(lines[5]).endswith('the system abstained at confidence 0.45.')
  assert why(lines[7]) == 'The data name no gold document for this question.'
  none = {'answerable': False}
  assert why(lines[5] | none).endswith(
    'the system abstained at confidence 0.45.'
  )
  assert why(lines[4] | none) == (
    'The question has no answer, but the system answered "4" from "E" at '
    'confidence 0.55.'
  )
  gone = {'d0': 0}
  assert why(lines[3], known=gone) == (
    'The gold document "D" is not in the index.'
  )
