import collections
import pathlib
import re

import pytest

from rag_jax import types
from rag_jax.data import facts, phrasings, templates

WORD = re.compile(r'\w+')


@pytest.fixture(scope='module')
def dataset():
  return facts.load()


@pytest.fixture(scope='module')
def documents(dataset):
  return {document.id: document for document in dataset.documents}


def answered(questions):
  """The questions that a document answers."""
  return [q for q in questions if q.answerable]


def pairs(questions):
  """The (document, relation) pairs of questions in both directions."""
  return {
    tuple(q.id.rsplit('/', 2)[0].rsplit('/', 1)) for q in answered(questions)
  }


def template(question):
  """(kind, relation, direction, phrasing number) of a question."""
  return (question.id.split('/')[0], *question.id.split('/')[2:])


def occurs(words, text):
  """Whether a text contains the words verbatim, as whole words."""
  return re.search(rf'(?<!\w){re.escape(words)}(?!\w)', text) is not None


def words_of(text):
  return set(WORD.findall(text.lower()))


def test_counts(dataset, documents):
  assert len(documents) == len(dataset.documents) >= 420
  kinds = collections.Counter(key.split('/')[0] for key in documents)
  assert (kinds['countries'], kinds['elements'], kinds['states']) == (
    193,
    118,
    50,
  )
  assert len(phrasings.QUESTIONS) >= 15
  assert 6000 <= len(answered(dataset.splits['train'])) <= 9000
  for name in ('test_phrasing', 'test_pair', 'test_entity'):
    assert 500 <= len(dataset.splits[name]) <= 700


def test_load_is_deterministic(dataset):
  assert facts.load() == dataset


def test_ids_are_unique_and_stable(dataset):
  questions = [q for split in dataset.splits.values() for q in split]
  assert len({q.id for q in questions}) == len(questions)
  assert len({q.text for q in questions}) == len(questions)
  rows = facts.read_table('elements')
  row = next(r for r in rows if r['name'] == 'Gold')
  possible = [
    q for _, some in facts.questions('elements', row, rows) for q in some
  ]
  assert (
    types.Question(
      id='elements/gold/symbol/reverse/0',
      text='Which element has the symbol Au?',
      answers=('Gold',),
      document_ids=('elements/gold',),
    )
    in possible
  )


def test_documents_have_the_documented_form(documents):
  words = [len(d.text.split()) for d in documents.values()]
  assert min(words) >= 50 and max(words) <= 120
  for document in documents.values():
    # Remove full stops that end no sentence: initials, U.S., St., Mrs. and
    # chemical symbols of one letter.
    text = re.sub(r'\b([A-Z]|St|Mrs|Mr)\.', r'\1', document.text)
    sentences = re.findall(r'\.(?: |$)', text)
    assert 4 <= len(sentences) <= 12, document.text
    assert 4 <= len(document.summary.split()) <= 30
    assert occurs(document.title.lower(), document.text.lower())
    assert '{' not in document.text + document.summary


def test_answers_occur_verbatim_as_whole_words(dataset, documents):
  for questions in dataset.splits.values():
    for question in answered(questions):
      (gold,) = question.document_ids
      (answer,) = question.answers
      assert occurs(answer, documents[gold].text), question


def test_answers_are_short(dataset):
  lengths = [
    len(question.answers[0].split())
    for questions in dataset.splits.values()
    for question in answered(questions)
  ]
  assert max(lengths) <= 6  # the longest titles of books
  assert sum(length <= 4 for length in lengths) >= 0.98 * len(lengths)


def test_answers_occur_at_different_positions(dataset, documents):
  """A reader must not learn a fixed position of a relation."""
  positions = collections.defaultdict(set)
  for question in dataset.splits['train']:
    if question.id.startswith('countries/') and '/forward/' in question.id:
      text = documents[question.document_ids[0]].text
      sentence = text[: text.index(question.answers[0])].count('. ')
      positions[question.id.split('/')[2]].add(sentence)
  assert len(positions) == 6
  assert all(len(found) >= 6 for found in positions.values())


def test_phrasings_are_held_out(dataset):
  train, test = dataset.splits['train'], dataset.splits['test_phrasing']
  trained = {template(q) for q in answered(train)}
  held_out = {template(q) for q in test}
  assert not trained & held_out
  for kind, relation, direction, number in held_out:
    forms = {'forward': phrasings.QUESTIONS, 'reverse': phrasings.REVERSED}
    last = len(forms[direction][kind, relation]) - 1
    assert int(number) in (last - 1, last)
  assert pairs(test) <= pairs(train)
  for name in ('test_pair', 'test_entity'):
    assert {template(q) for q in dataset.splits[name]} <= trained


def test_no_held_out_phrasing_is_in_train_for_another_kind():
  for forms in (phrasings.QUESTIONS, phrasings.REVERSED):
    trained = {text for texts in forms.values() for text in texts[:-2]}
    held_out = {text for texts in forms.values() for text in texts[-2:]}
    assert not trained & held_out
    assert all(len(set(texts)) >= 6 for texts in forms.values())


def test_pairs_are_held_out(dataset):
  train, test = dataset.splits['train'], dataset.splits['test_pair']
  assert not pairs(train) & pairs(test)
  trained = {document for document, _ in pairs(train)}
  assert {document for document, _ in pairs(test)} <= trained


def test_entities_are_held_out(dataset, documents):
  trained = {d for q in dataset.splits['train'] for d in q.document_ids}
  new = {d for q in dataset.splits['test_entity'] for d in q.document_ids}
  assert not trained & new
  held_out = {
    d for q in dataset.splits['calibration'] for d in q.document_ids
  } - trained
  assert not held_out & new
  assert trained | new | held_out == set(documents)
  share = len(held_out) / len(documents)
  assert share == pytest.approx(0.05, abs=0.01)
  for kind in templates.OPENINGS:
    of_kind = [d for d in documents if d.startswith(f'{kind}/')]
    share = sum(d in new for d in of_kind) / len(of_kind)
    assert share == pytest.approx(0.1, abs=0.03)


def test_every_word_of_held_out_phrasings_is_in_train(dataset):
  known = set()
  for question in dataset.splits['train']:
    known |= words_of(question.text)
  for forms in (phrasings.QUESTIONS, phrasings.REVERSED):
    for texts in forms.values():
      for text in texts[-2:]:
        assert words_of(re.sub(r'{\w}', '', text)) <= known, text
  # The entity names in test_phrasing occur in train too.
  for question in dataset.splits['test_phrasing']:
    assert words_of(question.text) <= known, question


def test_a_question_text_has_one_gold_document():
  """Over all possible questions, not only those in a split."""
  gold = collections.defaultdict(set)
  for kind in templates.OPENINGS:
    rows = facts.read_table(kind)
    for row in rows:
      for _, phrased in facts.questions(kind, row, rows):
        for question in phrased:
          gold[question.text].update(question.document_ids)
  assert {text: ids for text, ids in gold.items() if len(ids) > 1} == {}


def test_titles_and_names_are_unique_to_a_document(documents):
  titles = collections.Counter(d.title for d in documents.values())
  assert max(titles.values()) == 1
  names = collections.defaultdict(set)
  for kind in templates.OPENINGS:
    for row in facts.read_table(kind):
      names[row['name']].add(kind)
  for name, kinds in names.items():
    if len(kinds) > 1:
      assert all((kind, name) in templates.NAMES for kind in kinds)


def test_reverse_questions_have_one_answer():
  rows = facts.read_table('countries')
  row = next(r for r in rows if r['name'] == 'United States')
  found = dict(facts.questions('countries', row, rows))
  texts = [q.text for q in found['capital']]
  assert 'Which country has the capital Washington, D.C.?' in texts
  twin = dict(row, name='Twin')  # the same capital: no reverse question
  again = dict(facts.questions('countries', row, [*rows, twin]))
  assert all('/forward/' in q.id for q in again['capital'])


def test_neighbours_are_mutual():
  rows = facts.read_table('countries')
  borders = {
    row['name']: set(filter(None, row['neighbours'].split('; ')))
    for row in rows
  }
  for name, neighbours in borders.items():
    assert all(name in borders[other] for other in neighbours), name


def test_tables_are_consistent():
  for kind in templates.OPENINGS:
    rows = facts.read_table(kind)
    assert len({row['name'] for row in rows}) == len(rows)
    relations = {r for k, r in phrasings.QUESTIONS if k == kind}
    assert relations <= set(rows[0])
    for row in rows:
      assert None not in row and None not in row.values(), row
      assert all(v == v.strip() for v in row.values())
  numbers = [int(row['number']) for row in facts.read_table('elements')]
  assert numbers == list(range(1, 119))


@pytest.mark.long
def test_builder_round_trip(tmp_path: pathlib.Path, dataset):
  builder = facts.Facts(data_dir=tmp_path, file_format='array_record')
  builder.download_and_prepare()

  def read(split):
    return [
      {
        key: [v.decode() for v in value]
        if key in ('answers', 'document_ids')
        else bool(value)
        if key == 'answerable'
        else value.decode()
        for key, value in row.items()
      }
      for row in builder.as_data_source(split)
    ]

  documents = tuple(
    types.Document(
      id=row['id'],
      title=row['title'],
      text=row['text'],
      summary=row['summary'],
    )
    for row in read('documents')
  )
  splits = {
    name: tuple(
      types.Question(
        id=row['id'],
        text=row['text'],
        answers=tuple(row['answers']),
        document_ids=tuple(row['document_ids']),
        answerable=row['answerable'],
        kind=row['kind'],
      )
      for row in read(name)
    )
    for name in facts.SPLITS
  }
  assert types.Dataset(documents=documents, splits=splits) == dataset
