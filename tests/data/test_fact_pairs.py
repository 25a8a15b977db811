import collections
import re

import pytest

from rag_jax.data import fact_pairs, facts, formats, templates


@pytest.fixture(scope='module')
def dataset():
  return formats.load('facts_pairs')


@pytest.fixture(scope='module')
def documents(dataset):
  return {d.id: f'{d.title} . {d.text}' for d in dataset.documents}


@pytest.fixture(scope='module')
def rows():
  return {
    facts.document_id(kind, row): (kind, row)
    for kind in templates.OPENINGS
    for row in facts.read_table(kind)
  }


def pairs(questions):
  return [q for q in questions if len(q.document_ids) == 2]


def is_comparison(question):
  return question.id.endswith(('/first', '/last'))


def every(dataset):
  return [
    *pairs(dataset.splits['train']),
    *(q for name in fact_pairs.SPLITS for q in dataset.splits[name]),
  ]


def relation_of(question):
  """What a comparison compares: two documents, in any order, and a relation."""
  return frozenset(question.document_ids), question.id.split('/')[-2]


def occurs(words, text):
  """Whether the words are in the text in a row, in any case."""
  words, text = (re.findall(r'[^\W_]+', x.lower()) for x in (words, text))
  return f' {" ".join(words)} ' in f' {" ".join(text)} '


def test_it_extends_facts_without_changing_it(dataset):
  base = facts.load()
  assert dataset.documents == base.documents
  for name, questions in base.splits.items():
    assert dataset.splits[name][: len(questions)] == questions
    if name not in ('train', 'calibration'):
      assert len(dataset.splits[name]) == len(questions)
  kinds = collections.Counter(map(is_comparison, every(dataset)))
  assert kinds[True] > 2500 and kinds[False] > 1200
  for name in fact_pairs.SPLITS:
    assert len(dataset.splits[name]) >= 150
    assert {len(q.document_ids) for q in dataset.splits[name]} == {2}
  assert fact_pairs.load() == dataset


def test_comparisons_by_the_tables(dataset, rows):
  """The answer is recomputed from the question's own words."""
  answers = collections.Counter()
  for question in filter(is_comparison, every(dataset)):
    relation = question.id.split('/')[-2]
    years = {
      rows[name][1]['name']: int(rows[name][1][relation])
      for name in question.document_ids
    }
    assert len(set(years.values())) == 2
    later = bool(re.search(r'\b(last|later)\b', question.text))
    assert later != bool(re.search(r'\b(first|earlier)\b', question.text))
    [answer] = question.answers
    assert years[answer] == (max if later else min)(years.values())
    for name in question.document_ids:
      kind, row = rows[name]
      assert facts.entity_name(kind, row) in question.text or (
        facts.entity_name(kind, row)[1:] in question.text
      )
    answers[answer == rows[question.document_ids[0]][1]['name']] += 1
  assert 0.45 < answers[True] / sum(answers.values()) < 0.55


def test_bridges_by_the_tables(dataset, rows):
  for question in every(dataset):
    if is_comparison(question):
      continue
    first, second = (rows[name][1] for name in question.document_ids)
    *_, relation, target, _ = question.id.split('/')
    [answer] = question.answers
    assert answer == second[target]
    kinds = [name.split('/')[0] for name in question.document_ids]
    if relation == 'birth_state':
      assert first['birth_state'] == second['name']
    elif relation == 'neighbours':
      assert first['neighbours'] == second['name']
    elif relation == 'author':
      assert first['author'] == second['author'] and first != second
    else:
      year = first[relation]
      same = [
        row['name']
        for kind, row in rows.values()
        if kind == kinds[1]
        and any(
          row[column] == year
          for table, column in fact_pairs.COMPARISONS
          if table == kind and _asks(question.text, kind, column)
        )
      ]
      assert same == [second['name']]


def _asks(text, kind, column):
  words = {
    ('elements', 'year'): 'element discovered',
    ('states', 'year'): 'state admitted',
    ('presidents', 'born'): 'president born',
    ('presidents', 'took_office'): 'president who took office',
    ('books', 'year'): 'book published',
  }
  return words[kind, column] in text


def test_neither_document_is_enough(dataset, documents, rows):
  """One document does not decide: the other's value or the answer is absent."""
  for question in every(dataset):
    one, two = question.document_ids
    [answer] = question.answers
    assert one != two
    if is_comparison(question):
      relation = question.id.split('/')[-2]
      for own, other in ((one, two), (two, one)):
        assert occurs(rows[own][1][relation], documents[own])
        assert not occurs(rows[other][1][relation], documents[own])
      continue
    assert occurs(answer, documents[two]), question
    assert not occurs(answer, documents[one]), question
    assert not occurs(rows[one][1]['name'], documents[two])
    assert not occurs(rows[two][1]['name'], question.text)


def test_splits_are_held_out(dataset, rows):
  def years(questions):
    compared = [q for q in questions if is_comparison(q)]
    return {
      rows[n][1][relation_of(q)[1]] for q in compared for n in q.document_ids
    }

  train = pairs(dataset.splits['train'])
  assert years(dataset.splits['test_comparison']) <= years(train)
  compared = {n for q in train if is_comparison(q) for n in q.document_ids}
  begun = {q.document_ids[0] for q in train if not is_comparison(q)}
  for question in dataset.splits['test_comparison']:
    assert not compared & set(question.document_ids)
  for question in dataset.splits['test_bridge']:
    assert question.document_ids[0] not in begun
  known = {relation_of(q) for q in train if is_comparison(q)}
  held_out = pairs(dataset.splits['calibration'])
  assert min(collections.Counter(map(is_comparison, held_out)).values()) > 100
  for question in held_out:
    if is_comparison(question):
      assert relation_of(question) not in known
    else:
      assert question.document_ids[0] not in begun


def test_pairs_ask_only_what_facts_asks(dataset):
  """So that test_pair, test_entity and calibration remain tests."""
  base = facts.load()
  known = {q.id.rsplit('/', 2)[0] for q in base.splits['train'] if q.answerable}
  asked = {name.rsplit('/', 1)[0] for name in known}
  for question in pairs(dataset.splits['train']):
    if is_comparison(question):
      relation = question.id.split('/')[-2]
      assert {f'{n}/{relation}' for n in question.document_ids} <= known
      continue
    first, second = question.document_ids
    *_, relation, target, _ = question.id.split('/')
    assert {first, second} <= asked
    assert relation == 'neighbours' or f'{first}/{relation}' in known
    assert target == 'name' or f'{second}/{target}' in known


def test_wrong_path():
  with pytest.raises(ValueError, match="must be 'facts_pairs' with"):
    formats.load('facts', format='facts_pairs')
