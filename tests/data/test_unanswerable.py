import re

import pytest

from rag_jax.data import facts, phrasings, unanswerable


@pytest.fixture(scope='module')
def dataset():
  return facts.load()


def asked(dataset, split):
  return [q for q in dataset.splits[split] if not q.answerable]


def test_each_split_has_its_kinds(dataset):
  for kind, split in zip(unanswerable.KINDS, unanswerable.SPLITS, strict=True):
    questions = dataset.splits[split]
    assert {q.kind for q in questions} == {kind}
    assert not any(q.answerable or q.answers for q in questions)
    assert not any(q.document_ids for q in questions)
    assert 100 <= len(questions) <= 120
  for split in ('train', 'calibration'):
    questions = asked(dataset, split)
    assert {q.kind for q in questions} == set(unanswerable.TRAINED)
  for split in facts.ANSWERED:
    assert not asked(dataset, split)
    assert not any(q.kind for q in dataset.splits[split])
  share = len(asked(dataset, 'train')) / len(dataset.splits['train'])
  assert 0.1 < share < 0.25


def test_things_and_relations_of_the_splits_are_disjoint():
  for name in ('unknown_things', 'unstated_relations'):
    rows = unanswerable.read_table(name)
    own = [
      (row['kind'], row['relation'], row.get('value', row.get('question')))
      for row in rows
    ]
    assert len(set(own)) == len(own)
    assert {row['split'] for row in rows} == set(unanswerable.COUNTS)
  relations = {}
  for row in unanswerable.read_table('unstated_relations'):
    key = row['kind'], row['relation']
    assert relations.setdefault(key, row['split']) == row['split']
  for kind in unanswerable._PARTS:
    names = [unanswerable.invented(s, kind) for s in unanswerable.COUNTS]
    assert len(set().union(*names)) == sum(len(set(some)) for some in names)


def test_unknown_things_are_no_entity_and_no_value():
  tables = {kind: facts.read_table(kind) for kind in unanswerable._PARTS}
  for row in unanswerable.read_table('unknown_things'):
    column = row['relation'] or 'name'
    known = {r[column] for r in tables[row['kind']]}
    assert row['value'] not in known, row
    if row['relation']:
      assert (row['kind'], row['relation']) in phrasings.REVERSED
  for kind, rows in tables.items():
    for split in unanswerable.COUNTS:
      names = unanswerable.invented(split, kind)
      assert not {r['name'] for r in rows} & set(names)


def test_no_question_has_an_answer_in_another_split(dataset):
  texts = {q.text for s in dataset.splits.values() for q in s if q.answerable}
  for split in dataset.splits:
    assert not texts & {q.text for q in asked(dataset, split)}


def test_unstated_relations_ask_about_entities_of_the_corpus(dataset):
  names = {
    facts.entity_name(kind, row)
    for kind in unanswerable._PARTS
    for row in facts.read_table(kind)
  }
  pattern = re.compile('|'.join(map(re.escape, sorted(names, key=len)[::-1])))
  for question in dataset.splits['test_unstated_relation']:
    assert re.search(pattern, question.text), question.text


def test_training_asks_only_about_entities_of_training(dataset):
  """Unseen entities stay unseen in questions without an answer."""
  venus = dict.fromkeys(('ordinal', 'type', 'namesake'), 'x')
  tables = dict.fromkeys(unanswerable._PARTS, ())
  tables |= {'planets': [venus | {'name': 'Venus', 'moon': ''}]}
  found = unanswerable.questions('train', tables, seed=0)['unstated_relation']
  assert all('Venus' in question.text for question in found)
  # The moon is not stated; the last phrasings are held out.
  moons = phrasings.QUESTIONS['planets', 'moon']
  asked = {q.text for q in found}
  assert not any(t.replace('{x}', 'Venus') in asked for t in moons[-2:])


def test_noise_has_letters_scripts_and_words(dataset):
  texts = [q.text for q in dataset.splits['test_noise']]
  assert 'Banana' in texts and 'Gold' in texts
  assert any(re.fullmatch('[A-Za-z ?]{15,}', text) for text in texts)
  assert sum(any(ord(c) > 0x370 for c in text) for text in texts) > 25
