"""Readers of tables, KILT, HotpotQA, FiD, TREC, SMART, MedQuAD and others."""

import gzip
import json
import sys
import tarfile
import types as python_types

import pytest

from rag_jax import types
from rag_jax.data import formats
from rag_jax.data.sources import base


def write(path, text):
  path.parent.mkdir(parents=True, exist_ok=True)
  data = text if isinstance(text, bytes) else text.encode()
  path.write_bytes(data)
  return path


def lines(*records):
  return ''.join(json.dumps(record) + '\n' for record in records)


def every(dataset):
  return [q for split in dataset.splits.values() for q in split]


def refused(path, *parts, **options):
  with pytest.raises(ValueError) as caught:
    formats.load(path, **options)
  message = str(caught.value)
  assert '\n' not in message
  for part in parts:
    assert part in message, message


DOCUMENTS = [
  {'id': 'd1', 'title': 'Leone', 'text': 'The leone is money.'},
  {'id': 'd2', 'title': 'Bonn', 'text': 'Bonn is on the "Rhine", here.'},
]
QUESTION = {'question': 'where?', 'answers': ['Rhine'], 'document_ids': ['d2']}
EXPECTED = types.Question(
  id='1', text='where?', answers=('Rhine',), document_ids=('d2',)
)


def quoted(cells):
  return ','.join('"' + str(cell).replace('"', '""') + '"' for cell in cells)


def parquet(path, rows):
  pa = pytest.importorskip('pyarrow')
  from pyarrow import parquet as pq

  path.parent.mkdir(parents=True, exist_ok=True)
  pq.write_table(pa.Table.from_pylist(rows), path)


@pytest.mark.parametrize(
  'kind', ['jsonl', 'csv', 'tsv', 'parquet', 'jsonl.zst']
)
def test_documents_and_questions_in_any_table(tmp_path, kind):
  documents, questions = (
    tmp_path / f'{name}.{kind}' for name in ('documents', 'questions-dev')
  )
  if kind == 'parquet':
    parquet(documents, DOCUMENTS)
    parquet(questions, [QUESTION])
  elif kind.startswith('jsonl'):
    texts = lines(*DOCUMENTS), lines(QUESTION)
    if kind == 'jsonl.zst':
      zstandard = pytest.importorskip('zstandard')
      texts = [zstandard.compress(text.encode()) for text in texts]
    write(documents, texts[0])
    write(questions, texts[1])
  else:
    comma = ',' if kind == 'csv' else '\t'
    rows = [list(DOCUMENTS[0]), *(row.values() for row in DOCUMENTS)]
    text = '\r\n'.join(quoted(row).replace('","', f'"{comma}"') for row in rows)
    write(documents, '\ufeff' + text)
    row = ['where?', "['Rhine']", 'd2']
    cells = quoted(row).replace('","', f'"{comma}"')
    write(questions, comma.join(QUESTION) + '\n' + cells)
  dataset = formats.load(tmp_path)
  assert [vars(d) | {'summary': ''} for d in dataset.documents] == [
    vars(types.Document(**own)) for own in DOCUMENTS
  ]
  assert dataset.splits == {'dev': (EXPECTED,)}
  assert dataset.notes == ()


def test_a_damaged_zst(tmp_path):
  zstandard = pytest.importorskip('zstandard')
  data = zstandard.compress(lines(*DOCUMENTS).encode() * 50)
  path = write(tmp_path / 'documents.jsonl.zst', data[:-9])
  refused(tmp_path, 'documents.jsonl.zst', 'truncated or damaged .zst')
  path.write_bytes(data + data)  # two frames are one file
  refused(tmp_path, "document id 'd1' occurs twice")
  path.write_bytes(zstandard.compress(b' ' * (2**26 + 2**20)))
  refused(tmp_path, '100 times its size', 'unzstd')
  refused(tmp_path, 'data.max_file_gib', max_file_gib=0.01)


def test_names_of_fields_by_flag(tmp_path):
  rows = [
    {'doc_id': 1, 'headline': 'Bonn', 'body': 'On the Rhine.'},
    {'doc_id': 2, 'headline': '', 'body': 'Elsewhere.'},
  ]
  write(tmp_path / 'documents.jsonl', lines(*rows))
  asked = {'q': 'where?', 'a': 'Rhine', 'gold': 1, 'qid': 'x'}
  write(tmp_path / 'questions-dev.jsonl', lines(asked))
  names = 'id=doc_id, title=headline,text=body,question=q,answers=a,'
  names += 'document_ids=gold,question_id=qid'
  dataset = formats.load(tmp_path, fields=names)
  assert dataset.documents[0] == types.Document(
    id='1', title='Bonn', text='On the Rhine.'
  )
  assert every(dataset) == [
    types.Question(
      id='x', text='where?', answers=('Rhine',), document_ids=('1',)
    )
  ]
  refused(tmp_path, 'text=bdy', 'doc_id, headline, body', fields='text=bdy')
  refused(tmp_path, "did you mean 'text'", fields='tekst=body')
  refused(tmp_path, 'data.fields', "got 'text'", fields='text')
  refused(tmp_path, "got 'text=b'", fields='text=a,text=b')
  (tmp_path / 'questions-dev.jsonl').unlink()
  numbered = formats.load(tmp_path, fields='id=,text=body')
  assert [d.id for d in numbered.documents] == ['1', '2']


def test_one_file_of_documents_alone(tmp_path):
  path = write(tmp_path / 'own.csv', 'id,text\n7,Seven.\n8,Eight.\n')
  dataset = formats.load(path)
  assert [(d.id, d.text) for d in dataset.documents] == [
    ('7', 'Seven.'),
    ('8', 'Eight.'),
  ]
  assert dataset.splits == {}


@pytest.mark.parametrize(
  'text, part',
  [
    ('id,text\n1,a,b\n', 'line 2 must have 2 fields (id, text), got 3'),
    ('id,text\n1,"a\n2,b\n', 'no valid row'),
    ('id,id\n1,2\n', 'name each column once'),
    ('id,text\n1,caf\xe9'.encode('latin1'), 'not UTF-8'),
    ('number,content\n1,a\n', 'has neither text nor title'),
  ],
)
def test_faults_of_csv(tmp_path, text, part):
  write(tmp_path / 'documents.csv', text)
  names = 'id=number' if 'number' in str(text) else ''
  refused(tmp_path, 'documents.csv', part, fields=names)


def test_ms_marco(tmp_path):
  write(tmp_path / 'collection.tsv', '0\tA "cat sleeps\n1\tA dog.\n')
  write(tmp_path / 'queries.train.tsv', '9\twho sleeps\n')
  write(tmp_path / 'queries.dev.small.tsv', '5\twho barks\n6\tno gold\n')
  write(tmp_path / 'qrels.train.tsv', '9\t0\t0\t1\n')
  write(tmp_path / 'qrels.dev.small.tsv', '5\t0\t1\t1\n')
  dataset = formats.load(tmp_path)
  assert dataset.documents[0].text == 'A "cat sleeps'
  assert {
    name: [(q.id, q.document_ids) for q in own]
    for name, own in dataset.splits.items()
  } == {'train': [('9', ('0',))], 'dev.small': [('5', ('1',))]}


def test_passages_and_questions_of_dpr(tmp_path):
  text = 'id\ttext\ttitle\n1\t"Said ""no"" in 1969."\tMoon\n2\tElse.\tSun\n'
  write(tmp_path / 'psgs_w100.tsv', text)
  write(tmp_path / 'nq-test.qa.csv', "when\t['1969', 'in 69']\n")
  dataset = formats.load(tmp_path)
  assert dataset.documents[0].text == 'Said "no" in 1969.'
  assert dataset.splits['nq-test'][0].answers == ('1969', 'in 69')
  assert '1 of 1 questions in nq-test have no gold document.' in dataset.notes


TOPICS = """<top>
<num> Number: 301
<title> Cats &amp; dogs
<desc> Description:
Not read.
</top>
<top><num>302</num><title>Owls</title></top>
"""


def test_trec_topics_and_qrels(tmp_path):
  write(tmp_path / 'documents.jsonl', lines(*DOCUMENTS))
  write(tmp_path / 'topics.test.txt', TOPICS)
  write(tmp_path / 'qrels.test.txt', '301 0 d1 2\n301 0 d9 0\n302 0 d2 -1\n')
  dataset = formats.load(tmp_path)
  first, second = dataset.splits['test']
  assert (first.text, first.document_ids, first.grades) == (
    'Cats & dogs',
    ('d1',),
    (2,),
  )
  assert (second.id, second.document_ids) == ('302', ())
  assert 'titles are read' in dataset.notes[0]
  write(tmp_path / 'qrels.test.txt', '301 0 d9 1\n309 0 d1 1\n')
  refused(tmp_path, 'line 1', "document 'd9'", 'on_dangling=skip')
  dataset = formats.load(tmp_path, on_dangling='skip')
  assert [q.document_ids for q in dataset.splits['test']] == [()]
  assert dataset.notes[1:3] == tuple(
    f'1 references to {what}s that are not in the data are skipped '
    '(--config.data.on_dangling=skip).'
    for what in ('document', 'question')
  )
  write(tmp_path / 'topics.test.txt', '<top><num>1</top>')
  refused(tmp_path, 'topics.test.txt', 'must have a <num> and a <title>')


def test_dangling_references_of_beir_and_json_lines(tmp_path):
  write(tmp_path / 'a/corpus.jsonl', lines({'_id': 'd', 'text': 'x'}))
  write(tmp_path / 'a/queries.jsonl', lines({'_id': 'q', 'text': 'x'}))
  write(tmp_path / 'a/qrels/dev.tsv', 'q\td\t1\nq\tz\t1\ny\td\t1\nq\tw\t0\n')
  write(tmp_path / 'b/documents.jsonl', lines(*DOCUMENTS))
  asked = QUESTION | {'document_ids': ['d1', 'z']}
  write(tmp_path / 'b/questions-dev.jsonl', lines(asked))
  for name, kept in (('a', 'd'), ('b', 'd1')):
    refused(tmp_path / name, "document 'z'", 'on_dangling=skip')
    dataset = formats.load(tmp_path / name, on_dangling='skip')
    assert every(dataset)[0].document_ids == (kept,)
    assert '1 references to documents that are not' in dataset.notes[0]
  refused(tmp_path / 'a', "must be 'error' or 'skip'", on_dangling='drop')


KNOWLEDGE = {
  'wikipedia_id': '5',
  'wikipedia_title': 'Cat',
  'text': ['Cat\n', 'A cat sleeps.\n'],
}
OUTPUT = [
  {'answer': 'sleeps', 'provenance': [{'wikipedia_id': '5', 'title': 'Cat'}]},
  {'answer': 1969},
]


def test_kilt(tmp_path):
  write(
    tmp_path / 'kilt_knowledgesource.json',
    lines(KNOWLEDGE, KNOWLEDGE | {'wikipedia_id': '6'}),
  )
  asked = {'id': 'k', 'input': 'what does it do?', 'output': OUTPUT}
  write(tmp_path / 'nq-dev-kilt.jsonl', lines(asked))
  dataset = formats.load(tmp_path)
  assert dataset.documents[0] == types.Document(
    id='5', title='Cat', text='Cat\n\nA cat sleeps.'
  )
  assert dataset.splits['dev'] == (
    types.Question(
      id='k',
      text='what does it do?',
      answers=('sleeps', '1969'),
      document_ids=('5',),
    ),
  )
  wrong = [{'provenance': [{'wikipedia_id': '7'}]}]
  write(tmp_path / 'nq-dev-kilt.jsonl', lines(asked | {'output': wrong}))
  refused(tmp_path, "document '7'", 'kilt_knowledgesource.json')
  assert not every(formats.load(tmp_path, on_dangling='skip'))[0].document_ids
  refused(tmp_path / 'nq-dev-kilt.jsonl', 'kilt_knowledge', format='kilt')
  refused(tmp_path / 'nq-dev-kilt.jsonl', 'Add kilt_knowledgesource.json')


HOTPOT = {
  '_id': '5',
  'question': 'which?',
  'answer': 'yes',
  'supporting_facts': [['Cat', 0], ['Cat', 1]],
  'context': [['Cat', ['A cat', ' sleeps.']], ['Dog', ['It barks.']]],
}


def test_hotpotqa(tmp_path):
  rows = HOTPOT | {
    'supporting_facts': {'title': ['Dog'], 'sent_id': [0]},
    'context': {'title': ['Dog'], 'sentences': [['It barks.']]},
    '_id': '6',
  }
  path = write(tmp_path / 'hotpot_dev.json', json.dumps([HOTPOT, rows]))
  dataset = formats.load(path)
  assert [(d.title, d.text) for d in dataset.documents] == [
    ('Cat', 'A cat sleeps.'),
    ('Dog', 'It barks.'),
  ]
  found = {q.id: q for q in every(dataset)}
  assert found['5'].document_ids == ('Cat#0',) and found['5'].answers == (
    'yes',
  )
  assert found['6'].document_ids == ('Dog#1',)
  lost = HOTPOT | {'supporting_facts': [['Owl', 0]]}
  write(path, json.dumps([lost]))
  refused(path, "document 'Owl'")
  write(path, json.dumps([HOTPOT | {'context': ['Cat']}]))
  refused(path, "'context' must be a list of pairs")


def test_fid(tmp_path):
  contexts = [{'id': '1', 'title': 'Cat', 'text': 'A cat.', 'score': '9.5'}]
  asked = {'question': 'who?', 'answers': ['cat', 'a'], 'ctxs': contexts}
  dataset = formats.load(
    write(tmp_path / 'x.json', json.dumps([asked | {'target': 'a'}]))
  )
  assert dataset.documents == (
    types.Document(id='1', title='Cat', text='A cat.'),
  )
  assert every(dataset)[0].answers == ('a', 'cat')
  assert every(dataset)[0].document_ids == ()
  refused(tmp_path / 'x.json', "field 'positive_ctxs'", format='dpr')
  path = write(tmp_path / 'y.json', json.dumps([{'query': 'x', 'docs': []}]))
  refused(path, 'positive_ctxs (DPR), ctxs (FiD)', 'it has query, docs')


ROW = {
  'id': '5',
  'title': 'Super_Bowl',
  'context': 'It was in 1969.',
  'question': 'when?',
  'answers': {'text': ['1969'], 'answer_start': [10]},
}


@pytest.mark.parametrize('kind', ['json', 'jsonl', 'parquet'])
def test_squad_rows(tmp_path, kind):
  lost = ROW | {'id': '6', 'answers': {'text': [], 'answer_start': []}}
  for name in ('train-00000-of-00002', 'train-00001-of-00002', 'validation'):
    rows = (
      [ROW | {'id': name}, lost]
      if name == 'validation'
      else [ROW | {'id': name}]
    )
    path = tmp_path / f'{name}.{kind}'
    if kind == 'parquet':
      parquet(path, rows)
    else:
      write(path, json.dumps(rows) if kind == 'json' else lines(*rows))
  (tmp_path / 'README.md').write_text('# Not a document')
  dataset = formats.load(tmp_path)
  assert [(d.title, d.text) for d in dataset.documents] == [
    ('Super Bowl', 'It was in 1969.')
  ]
  assert [len(dataset.splits[x]) for x in ('train', 'validation')] == [2, 2]
  first, second = dataset.splits['validation']
  assert first.answers == ('1969',) and first.document_ids
  assert not second.answerable and not second.document_ids


def test_questions_without_documents_are_refused(tmp_path):
  path = write(tmp_path / 'x.jsonl', lines({'question': 'a', 'answers': ['b']}))
  refused(path, 'questions without documents', 'question, answers')


def test_numbers_as_answers_as_they_are_written(tmp_path):
  write(tmp_path / 'documents.jsonl', lines(*DOCUMENTS))
  text = (
    '{"question": "q", "answers": [1969, 2.50, "x"], "document_ids": ["d1"]}'
  )
  write(tmp_path / 'questions-dev.jsonl', text)
  assert every(formats.load(tmp_path))[0].answers == ('1969', '2.50', 'x')
  write(tmp_path / 'questions-dev.jsonl', text.replace('1969', 'true'))
  refused(tmp_path, "'answers' must be text, got True")


def test_regular_expressions_as_answers(tmp_path):
  write(tmp_path / 'documents.jsonl', lines(*DOCUMENTS))
  asked = QUESTION | {'answers': ['R.*e'], 'answer_patterns': ['mon[ei]y']}
  write(tmp_path / 'questions-dev.jsonl', lines(asked))
  [question] = every(formats.load(tmp_path, answer_patterns=True))
  assert question.answers == ()
  assert question.answer_patterns == ('mon[ei]y', 'R.*e')
  [question] = every(formats.load(tmp_path))
  assert question.answers == ('R.*e',)
  asked['answer_patterns'] = ['(']
  write(tmp_path / 'questions-dev.jsonl', lines(asked))
  refused(tmp_path, "answer pattern '('", 'no regular expression')


CRAN = """.I 1
.T
wings in
air .
.A
brown
.W
wings fly .
.I 2
.T
only a title
.I 3
.W
"""
QUERIES = '.I 001\n.W\nwhat flies\n.I 004\n.W\nwhat is a title\n'


def test_smart(tmp_path):
  write(tmp_path / 'cran.all.gz', gzip.compress(CRAN.encode()))
  write(tmp_path / 'cran.qry', QUERIES)
  write(tmp_path / 'cranqrel', '1 1 2\n1 2 -1\n2 2 4\n')
  write(tmp_path / 'cranqrel.readme', 'Here you find.')
  refused(tmp_path, "document '3' has no text")
  dataset = formats.load(tmp_path, on_empty='skip')
  assert dataset.documents == (
    types.Document(id='1', title='wings in air .', text='wings fly .'),
    types.Document(id='2', title='only a title', text=''),
  )
  assert [
    (q.id, q.text, q.document_ids, q.grades) for q in dataset.splits['test']
  ] == [
    ('1', 'what flies', ('1',), (3,)),
    ('2', 'what is a title', ('2',), ()),
  ]
  notes = ' '.join(dataset.notes)
  for part in ('not .A.', '5 minus the grade', 'in the order', 'only a title'):
    assert part in notes
  # CACM has no grades, and TREC's files have a 0 before the document.
  for text, grades in (('4 1 0 0\n', ()), ('4 0 1 3\n', (3,))):
    write(tmp_path / 'cranqrel', text)
    questions = formats.load(tmp_path, on_empty='skip').splits['test']
    assert [(q.id, q.document_ids) for q in questions] == [
      ('1', ()),
      ('4', ('1',)),
    ]
    assert questions[1].grades == grades
  write(tmp_path / 'cranqrel', '1 9 1\n')
  refused(tmp_path, "document '9'", 'cran.all.gz', on_empty='skip')
  write(tmp_path / 'other', CRAN)
  refused(tmp_path, 'must hold one SMART file of documents')


MEDQUAD = """<?xml version="1.0" encoding="UTF-8"?>
<Document id="1" source="S"><Focus>Flu</Focus><QAPairs>
<QAPair pid="1"><Question qid="1-1">What is flu?</Question>
<Answer>An illness &amp;
    fever.</Answer></QAPair>
<QAPair pid="2"><Question>How?</Question><Answer></Answer></QAPair>
</QAPairs></Document>"""


@pytest.mark.parametrize('packed', [False, True])
def test_medquad(tmp_path, packed):
  folder = tmp_path / 'data'
  write(folder / '1_QA/0001.xml', MEDQUAD)
  write(folder / 'readme.txt', 'About.')
  path = folder
  if packed:
    path = tmp_path / 'medquad.tar.gz'
    with tarfile.open(path, 'w:gz') as archive:
      archive.add(folder / '1_QA', '1_QA')
  dataset = formats.load(path)
  assert dataset.documents == (
    types.Document(id='1_QA/0001', title='Flu', text='An illness & fever.'),
  )
  assert every(dataset) == [
    types.Question(
      id='1_QA/0001-1',
      text='What is flu?',
      answers=('An illness & fever.',),
      document_ids=('1_QA/0001',),
    )
  ]
  assert dataset.notes[0].startswith('0 files and 1 questions without')
  if not packed:
    write(folder / '1_QA/0002.xml', '<Document>')
    refused(folder, '0002.xml', 'not valid XML', format='medquad')


class Stub:
  """A dataset of ir_datasets."""

  def __init__(self, queries=(), qrels=()):
    self.queries, self.qrels = queries, qrels

  def docs_iter(self):
    row = python_types.SimpleNamespace
    yield row(doc_id='a', title='Cat', text='sleeps')
    yield row(doc_id='b', default_text=lambda: 'a dog')

  def queries_iter(self):
    for name, text in self.queries:
      yield python_types.SimpleNamespace(query_id=name, text=text)

  def qrels_iter(self):
    for name, document, grade in self.qrels:
      yield python_types.SimpleNamespace(
        query_id=name, doc_id=document, relevance=grade
      )

  def has_queries(self):
    return bool(self.queries)

  def has_qrels(self):
    return bool(self.qrels)


def test_ir_datasets(monkeypatch):
  known = {
    'cats': Stub(),
    'cats/dev': Stub([('1', 'who')], [('1', 'a', 2), ('1', 'b', 0)]),
    'cats/all': Stub([('1', 'who')]),
  }
  module = python_types.ModuleType('ir_datasets')
  module.load, module.registry = known.__getitem__, known
  monkeypatch.setitem(sys.modules, 'ir_datasets', module)
  dataset = formats.load('ir_datasets:cats')
  assert [(d.title, d.text) for d in dataset.documents] == [
    ('Cat', 'sleeps'),
    ('', 'a dog'),
  ]
  assert dataset.splits == {
    'dev': (
      types.Question(id='1', text='who', document_ids=('a',), grades=(2,)),
    )
  }
  assert list(formats.load('ir_datasets:cats/all').splits) == ['test']
  refused('ir_datasets:dogs', "'ir_datasets:dogs' cannot be loaded")
  known['cats/dev'].qrels = [('1', 'z', 1)]
  refused('ir_datasets:cats', "document 'z'")
  monkeypatch.setitem(sys.modules, 'ir_datasets', None)
  refused('ir_datasets:cats', "pip install 'rag_jax[ir-datasets]'")


def test_a_format_of_other_code(monkeypatch, tmp_path):
  monkeypatch.setattr(formats, 'READERS', dict(formats.READERS))

  def read(path, options):
    return base.Content(
      documents=[types.Document(id='1', text=path.read_text())]
    )

  formats.register('own', read)
  path = write(tmp_path / 'x.own', 'Cats.')
  assert formats.load(path, format='own').documents[0].text == 'Cats.'
  for taken in ('own', 'beir', 'facts', 'auto', 3):
    with pytest.raises(ValueError, match='Pass another name'):
      formats.register(taken, read)


@pytest.mark.parametrize(
  'library, name, data',
  [
    ('pyarrow', 'documents.parquet', b'x'),
    ('zstandard', 'documents.jsonl.zst', b'x'),
    ('markdown_it', 'a.md', b'x'),
    ('bs4', 'a.html', b'x'),
    ('pypdf', 'a.pdf', b'x'),
  ],
)
def test_a_missing_library_names_its_extra(
  tmp_path, monkeypatch, library, name, data
):
  monkeypatch.setitem(sys.modules, library, None)
  write(tmp_path / name, data)
  refused(tmp_path, name, "pip install 'rag_jax[", 'pip install ')
