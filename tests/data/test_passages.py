"""Passages of long documents: cutting, gold passages, measures by document."""

import json

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from rag_jax import measures, trec, types
from rag_jax.data import assemble, formats, passages
from rag_jax.data.sources import base

WORDS = st.text(st.sampled_from('ab.,!\n \t漢字กขค่é\u0301。'), max_size=200)


def pieces(text, **sizes):
  return [text[a:b] for a, b in passages.cut(text, **sizes)]


@hypothesis.given(WORDS, st.integers(1, 9), st.integers(0, 8))
@hypothesis.settings(max_examples=200, deadline=None)
def test_no_character_is_lost(text, words, overlap):
  spans = passages.cut(text, words=words, overlap=min(overlap, words - 1))
  shown = {i for i, c in enumerate(text) if not c.isspace()}
  assert shown == {i for a, b in spans for i in range(a, b)} & shown
  assert all(a < b for a, b in spans)
  assert spans == sorted(spans) and len(set(spans)) == len(spans)
  for a, b in spans:
    assert len(passages.cut(text[a:b], words=words, overlap=0)) == 1


def test_neighbours_share_the_overlap_and_have_the_size():
  text = ' '.join(f'w{i}' for i in range(100))
  found = [piece.split() for piece in pieces(text, words=30, overlap=10)]
  assert [len(piece) for piece in found] == [30, 30, 30, 30, 20]
  for before, after in zip(found, found[1:], strict=False):
    assert before[-10:] == after[:10]


def test_a_passage_ends_at_a_paragraph_or_else_a_sentence_or_a_line():
  text = 'A b c. D e f\n\ng h i. J k l m n'
  assert pieces(text, words=10, overlap=0)[0] == 'A b c. D e f'
  assert pieces('A b c d. E f g h i', words=6, overlap=0)[0] == 'A b c d.'
  assert pieces('a b c d\ne f g h i', words=6, overlap=0)[0] == 'a b c d'
  assert pieces('a b.c d e f g h i', words=6, overlap=0)[0] == 'a b.c d e f g'
  # Not before half of the words, so that passages are not too short.
  assert pieces('A. b c d e f g h', words=6, overlap=0)[0] == 'A. b c d e f'


def test_scripts_without_spaces_are_cut_at_characters_or_sentences():
  chinese = '今天天气很好。我们去公园。' * 4
  found = pieces(chinese, words=15, overlap=0)
  assert ''.join(found) == chinese and found[0] == '今天天气很好。我们去公园。'
  thai = 'ประเทศไทยมีกรุงเทพมหานครเป็นเมืองหลวง' * 8
  found = pieces(thai, words=20, overlap=0)
  assert ''.join(found) == thai and 2 < len(found) < 10
  assert max(map(len, pieces('x' * 1000, words=2, overlap=0))) == 80


def folder(path, documents, questions):
  for name, rows in (('documents', documents), ('questions-dev', questions)):
    text = ''.join(json.dumps(row) + '\n' for row in rows)
    (path / f'{name}.jsonl').write_text(text)
  return path


LONG = 'Cats sleep all day. Dogs bark at night. Owls hunt mice in the dark.'


@pytest.fixture
def animals(tmp_path):
  documents = [
    {'id': 'long', 'title': 'Animals', 'text': LONG},
    {'id': 'short', 'text': 'Fish swim.'},
  ]

  def load(questions, **options):
    rows = [
      {'id': str(i), 'question': 'q'} | q for i, q in enumerate(questions)
    ]
    path = folder(tmp_path, documents, rows)
    return formats.load(path, passage_words=6, passage_overlap=0, **options)

  return load


def test_gold_passages_are_those_that_hold_an_answer(animals):
  dataset = animals(
    [
      {'answers': ['bark', 'mice'], 'document_ids': ['long']},
      {'answers': ['Animals'], 'document_ids': ['long', 'short']},
      {'answer_patterns': ['h.nt'], 'document_ids': ['long']},
      {'answers': ['night. Owls hunt mice in'], 'document_ids': ['long']},
      {'document_ids': ['short']},
    ]
  )
  ids = [(d.id, d.parent, d.title) for d in dataset.documents]
  assert ids == [
    ('long#1', 'long', 'Animals'),
    ('long#2', 'long', 'Animals'),
    ('long#3', 'long', 'Animals'),
    ('short', '', ''),
  ]
  assert ' '.join(d.text for d in dataset.documents[:3]) == LONG
  assert [q.document_ids for q in dataset.splits['dev']] == [
    ('long#2', 'long#3'),
    ('long#1', 'long#2', 'long#3', 'short'),  # only its title holds the answer
    ('long#3',),
    ('long#3',),  # the answer is cut; this passage has most of it
    ('short',),
  ]
  assert dataset.notes[0].startswith('2 documents are cut into 4 passages')
  assert (
    '1 of 5 questions in dev have a gold document of which no'
    in (dataset.notes[1])
  )


def test_grades_and_whole_documents_stay(animals):
  [question] = animals([{'document_ids': ['long']}]).splits['dev']
  assert question.document_ids == ('long#1', 'long#2', 'long#3')
  whole = types.Document(id='a', text='One two three.')
  assert assemble.cut([whole], {}, words=5, overlap=0) == [whole]


def test_ids_of_passages_are_unique():
  documents = [
    types.Document(id='a#1', text='Other.'),
    types.Document(id='a', text='One two. Three four.'),
  ]
  found = assemble.cut(documents, {}, words=2, overlap=0)
  assert [d.id for d in found] == ['a#1', 'a#1_', 'a#2']


def test_sections_are_cut_apart_and_give_the_titles():
  document = types.Document(id='a', title='T', text='whole')
  sections = {
    'a': (base.Section('T > One', 'x y z'), base.Section('T > Two', ''))
  }
  one, two, title = assemble.cut([document], sections, words=2, overlap=0)
  assert (one.title, one.text, two.text) == ('T > One', 'x y', 'z')
  assert (title.title, title.text) == ('T > Two', '')


@pytest.mark.parametrize(
  'options, part',
  [
    ({'passage_words': 5, 'passage_overlap': 5}, 'got 5 and 5'),
    ({'passage_words': 0, 'passage_overlap': 3}, 'got 3 and 0'),
    ({'passage_words': -2}, 'passage_words must be at least -1'),
    ({'passage_overlap': 7}, 'got 7 and 0'),
  ],
)
def test_sizes_out_of_range(options, part, tmp_path):
  path = folder(tmp_path, [{'id': 'a', 'text': 'b'}], [])
  with pytest.raises(ValueError, match=part):
    formats.load(path, **options)


def ranking(*rows):
  rows = np.asarray(rows)
  scores = np.broadcast_to(-np.arange(rows.shape[1], dtype=float), rows.shape)
  return trec.Run(rows=rows, scores=scores, where=rows >= 0)


DOCUMENTS = [
  types.Document(id='a#1', text='It was in 1969.', parent='a'),
  types.Document(id='a#2', text='no', parent='a'),
  types.Document(id='b', text='no'),
  types.Document(id='c#1', text='no', parent='c'),
  types.Document(id='c#2', text='July 20', parent='c'),
  None,
]


def test_a_document_counts_at_its_best_passage():
  groups = trec.groups(DOCUMENTS)
  assert groups.tolist() == [0, 0, 2, 3, 3, 5]
  found = trec.by_document(ranking([4, 1, 3, 0, 2], [1, -1, 0, 2, -1]), groups)
  assert found.rows.tolist() == [[3, 0, 2, -1, -1], [0, 2, -1, -1, -1]]
  assert found.scores[0, :3].tolist() == [0, -1, -4]
  assert found.scores[1, :2].tolist() == [0, -3]
  cut = trec.by_document(ranking([4, 1, 3, 0, 2]), groups, depth=2)
  assert cut.rows.tolist() == [[3, 0]]
  question = types.Question(
    id='q', text='?', document_ids=('c#1', 'c#2', 'b'), grades=(2, 2, 1)
  )
  rows = {d.id: i for i, d in enumerate(DOCUMENTS) if d}
  gold, grades = measures.gold([question], rows, groups)
  assert gold.tolist() == [[3, -1, 2]]
  values = measures.retrieval(
    ranking([0, 3, 2]), gold, grades, depths=(1,), recall=3
  )
  best = 2 / 1 + 1 / np.log2(3)
  expected = (2 / np.log2(3) + 1 / np.log2(4)) / best
  assert values['nDCG@10'][0] == pytest.approx(expected)
  assert values['Recall@3'][0] == 1 and values['Hits@1'][0] == 0


def test_run_and_qrels_files_name_documents():
  question = types.Question(
    id='q', text='?', document_ids=('c#1', 'c#2', 'b'), grades=(2, 2, 1)
  )
  lines = list(trec.qrels_lines([question], DOCUMENTS))
  assert lines == ['q 0 c 2\n', 'q 0 b 1\n']
  groups = trec.groups(DOCUMENTS)
  run = trec.by_document(ranking([4, 1, 3, 0, 2]), groups)
  lines = trec.run_lines(run, [question], DOCUMENTS, tag='t')
  assert [line.split()[2] for line in lines] == ['c', 'a', 'b']


def test_has_answer_is_that_of_dpr():
  questions = [
    types.Question(id='1', text='?', answers=('july  20',)),
    types.Question(id='2', text='?', answer_patterns=('19[67]9',)),
    types.Question(id='3', text='?', answers=('196',)),  # no whole word
    types.Question(id='4', text='?'),
  ]
  run = ranking(*[[2, 0, 4]] * 4)
  found = measures.has_answer(run, questions, DOCUMENTS, depths=(1, 2, 3))
  assert {name: value.tolist()[:3] for name, value in found.items()} == {
    'has-answer@1': [0, 0, 0],
    'has-answer@2': [0, 1, 0],
    'has-answer@3': [1, 1, 0],
  }
  assert all(np.isnan(value[3]) for value in found.values())


def test_a_pattern_is_an_exact_match():
  asked = types.Question(id='1', text='?', answer_patterns=('Jul(y)? 20',))
  both = types.Question(
    id='2', text='?', answers=('1969',), answer_patterns=('x',)
  )
  found = measures.answers(
    [asked, asked, both], ['july 20, 1969', 'no', '1969']
  )
  assert found['EM'].tolist() == [1, 0, 1]
  assert np.isnan(found['F1'][:2]).all() and found['F1'][2] == 1
