"""Tests for rag_jax.data.formats and rag_jax.data.text_io."""

import concurrent.futures
import gzip
import json
import os
import re

import pytest

from rag_jax import types
from rag_jax.data import formats

CORPUS = [
  {'_id': 'd1', 'title': 'Leone', 'text': 'The leone is money.'},
  {'_id': 'd2', 'title': 'Bonn', 'text': 'Bonn is on the Rhine.'},
  {'_id': 'd3', 'text': 'Nobody asks.'},
]
QUERIES = [
  {'_id': 'q1', 'text': 'what is leone', 'metadata': {'answers': ['money']}},
  {'_id': 'q2', 'text': 'where is bonn', 'metadata': {'answers': ['RHINE']}},
  {'_id': 'q3', 'text': 'unused'},
]
HEADER = 'query-id\tcorpus-id\tscore\n'


def _lines(records):
  return ''.join(json.dumps(record) + '\n' for record in records)


def _write(path, text):
  path.parent.mkdir(parents=True, exist_ok=True)
  data = text if isinstance(text, bytes) else text.encode('utf-8')
  path.write_bytes(gzip.compress(data) if path.suffix == '.gz' else data)
  return path


def _beir(folder, corpus=CORPUS, queries=QUERIES, zipped='', **qrels):
  _write(folder / f'corpus.jsonl{zipped}', _lines(corpus))
  _write(folder / f'queries.jsonl{zipped}', _lines(queries))
  for split, rows in (qrels or {'train': 'q1\td1\t1\nq2\td2\t1\n'}).items():
    _write(folder / 'qrels' / f'{split}.tsv{zipped}', HEADER + rows)
  return folder


def _fails(path, *parts, **options):
  """Loading raises a one-line error with all the parts and a remedy."""
  with pytest.raises(ValueError) as caught:
    formats.load(path, **options)
  message = str(caught.value)
  for part in parts:
    assert part in message, message
  assert '\n' not in message
  assert re.search(r'\. (Set|Add|Give|Write|Correct|Fetch|Convert) ', message)


def test_facts():
  dataset = formats.load('facts')
  assert len(dataset.documents) >= 400
  assert dataset == formats.load('facts', format='facts')


@pytest.mark.parametrize('zipped', ['', '.gz'])
@pytest.mark.parametrize('format', ['auto', 'beir'])
def test_beir(tmp_path, zipped, format):
  _beir(
    tmp_path,
    zipped=zipped,
    train='q2\td2\t1\nq1\td1\t1\n',
    dev='q1\td3\t1\r\nq1\td1\t2\r\nq1\td2\t0\r\n',
  )
  dataset = formats.load(tmp_path, format=format)
  assert dataset.documents == (
    types.Document(id='d1', title='Leone', text='The leone is money.'),
    types.Document(id='d2', title='Bonn', text='Bonn is on the Rhine.'),
    types.Document(id='d3', text='Nobody asks.'),
  )
  bonn = types.Question(
    id='q2', text='where is bonn', answers=('RHINE',), document_ids=('d2',)
  )
  assert list(dataset.splits) == ['dev', 'train']
  assert dataset.splits['train'][0] == bonn
  assert dataset.splits['dev'][0].document_ids == ('d1', 'd3')  # best first
  assert dataset.notes == ()


def test_beir_with_plain_and_gz_files_and_without_a_header(tmp_path):
  _beir(tmp_path, zipped='.gz')
  (tmp_path / 'queries.jsonl.gz').unlink()
  _write(tmp_path / 'queries.jsonl', '\ufeff' + _lines(QUERIES) + '\n\n')
  _write(tmp_path / 'qrels' / 'dev.tsv', 'q1\td1\t1\n')
  dataset = formats.load(str(tmp_path))
  assert {name: len(split) for name, split in dataset.splits.items()} == {
    'dev': 1,
    'train': 2,
  }


def test_notes_count_answers_that_occur_in_no_gold_document(tmp_path):
  queries = [
    ('q1', ['mo-ney', 'THE LEONE']),  # case and punctuation do not matter
    ('q2', ['gold']),
    ('q3', ['money', 'gold']),
    ('q4', []),
    ('q5', [' ']),
  ]
  records = [
    {'_id': name, 'text': 'x', 'metadata': {'answers': answers}}
    for name, answers in queries
  ]
  rows = ''.join(f'{name}\td1\t1\n' for name, _ in queries)
  dataset = formats.load(_beir(tmp_path, queries=records, dev=rows))
  assert len(dataset.splits['dev']) == 5
  assert dataset.splits['dev'][1].answers == ('gold',)
  assert dataset.notes == (
    '2 of 5 questions in dev have an answer that occurs in none of their gold '
    'documents; in 1 of them no answer does.',
    '2 of 5 questions in dev have no answer.',
  )


def test_an_answer_without_letters_is_matched_verbatim(tmp_path):
  corpus = [{'_id': 'd1', 'text': 'C++ costs 5 $'}]
  query = {'_id': 'q1', 'text': 'x', 'metadata': {'answers': ['++']}}
  rows = 'q1\td1\t1\n'
  assert not formats.load(
    _beir(tmp_path, corpus=corpus, queries=[query], dev=rows)
  ).notes
  query['metadata'] = {'answers': ['€']}
  folder = _beir(tmp_path, corpus=corpus, queries=[query], dev=rows)
  assert formats.load(folder).notes[0].startswith('1 of 1 questions in dev')


def test_notes_count_missing_texts_and_gold_documents(tmp_path):
  queries = [{'_id': 'q1', 'text': ' ', 'metadata': {'answers': ['money']}}]
  dataset = formats.load(_beir(tmp_path, queries=queries, dev='q1\td1\t0\n'))
  assert dataset.notes == (
    '1 of 1 questions in dev have no gold document.',
    '1 of 1 questions in dev have no text.',
  )


def test_missing_path(tmp_path):
  for path in (tmp_path / 'nowhere', '', 'fact'):
    _fails(path, repr(str(path)), 'does not exist', '--config.data.path')
  _fails('facts', "'facts'", 'does not exist', format='beir')


def test_unknown_names(tmp_path):
  _fails(
    'facts',
    'facts, facts_pairs, facts_summaries, beir, jsonl',
    "'biir'",
    format='biir',
  )
  _fails('facts', "data.on_empty must be 'error' or", 'drop', on_empty='drop')
  _fails(tmp_path, 'no known format', 'corpus.jsonl', 'documents.jsonl')
  path = _write(tmp_path / 'x.bin', 'a,b')
  _fails(path, 'no known format', 'x.bin')


def test_empty_corpus(tmp_path):
  folder = _beir(tmp_path, corpus=[], queries=[], dev='')
  _fails(folder, 'empty corpus', '--config.data.path')
  blank = [{'_id': 'd1', 'text': ' '}]
  folder = _beir(tmp_path, corpus=blank, queries=[], dev='')
  _fails(folder, 'empty corpus: 1 documents', on_empty='skip')


@pytest.mark.parametrize('blank', [{}, {'text': ''}, {'text': ' \n'}])
def test_document_without_text(tmp_path, blank):
  corpus = [*CORPUS[:2], {'_id': 'd3', 'title': ' ', **blank}]
  rows = 'q1\td1\t1\nq1\td3\t1\n'
  folder = _beir(tmp_path, corpus=corpus, dev=rows)
  _fails(folder, "document 'd3'", 'no text', '--config.data.on_empty=skip')
  dataset = formats.load(folder, on_empty='skip')
  assert [document.id for document in dataset.documents] == ['d1', 'd2']
  assert dataset.splits['dev'][0].document_ids == ('d1',)
  assert dataset.notes == (
    '1 of 3 documents have no text and are skipped.',
    '1 gold references to skipped documents removed.',
  )


def test_qrels_with_an_unknown_id(tmp_path):
  folder = _beir(tmp_path, dev='q1\td1\t1\nq1\td9\t1\n')
  _fails(folder, 'dev.tsv', 'line 3', "document 'd9'", 'corpus.jsonl')
  folder = _beir(tmp_path, dev='q9\td1\t1\n')
  _fails(folder, 'dev.tsv', 'line 2', "question 'q9'", 'queries.jsonl')


@pytest.mark.parametrize('row', ['q1 d1 1', 'q1\td1', 'q1\td1\tgood'])
def test_malformed_qrels(tmp_path, row):
  folder = _beir(tmp_path, dev=row + '\n')
  _fails(folder, 'dev.tsv', 'line 2', 'with tabs between', repr(row))


@pytest.mark.parametrize(
  'row', ['q1 d1 1', 'q1\td1', 'q1\td1\tone', 'x\td1\t?']
)
def test_a_malformed_first_line_of_qrels_is_no_header(tmp_path, row):
  folder = _beir(tmp_path)
  _write(folder / 'qrels' / 'train.tsv', f'{row}\nq1\td2\t1\n')
  _fails(folder, 'train.tsv', 'line 1', 'with tabs between', repr(row))


def test_a_score_that_contradicts_an_earlier_one(tmp_path):
  folder = _beir(tmp_path, dev='q1\td1\t1\nq1\td1\t1\n')
  assert formats.load(folder).splits['dev'][0].document_ids == ('d1',)
  folder = _beir(tmp_path, dev='q1\td1\t1\nq1\td1\t0\n')
  with pytest.raises(
    ValueError, match=r"line 3: .*'q1' and 'd1' was 1 .* got 0"
  ):
    formats.load(folder)


@pytest.mark.parametrize('score', ['0.5', 'inf', 'nan', '1e30', '1' * 10])
def test_grades_must_be_integers(tmp_path, score):
  folder = _beir(tmp_path, dev=f'q1\td1\t{score}\n')
  _fails(folder, 'dev.tsv', 'line 2', 'whole number', repr(score))


def test_grades_stay_with_their_documents(tmp_path):
  rows = 'q1\td3\t1\nq1\td1\t2.0\nq2\td1\t1\n'
  graded, plain = formats.load(_beir(tmp_path, dev=rows)).splits['dev']
  assert (graded.document_ids, graded.grades) == (('d1', 'd3'), (2, 1))
  assert (plain.document_ids, plain.grades) == (('d1',), ())  # all have grade 1
  corpus = [{'_id': 'd1', 'text': ' '}, *CORPUS[1:]]
  folder = _beir(tmp_path, corpus=corpus, dev='q1\td1\t2\nq1\td3\t3\n')
  [kept] = formats.load(folder, on_empty='skip').splits['dev']
  assert (kept.document_ids, kept.grades) == (('d3',), (3,))


def test_duplicate_ids(tmp_path):
  folder = _beir(tmp_path, corpus=[*CORPUS, CORPUS[0]])
  _fails(folder, 'corpus.jsonl', 'line 4', "document id 'd1' occurs twice")
  folder = _beir(tmp_path, queries=[*QUERIES, QUERIES[1]])
  _fails(folder, 'queries.jsonl', 'line 4', "question id 'q2' occurs twice")


@pytest.mark.parametrize('name', ['corpus.jsonl', 'queries.jsonl'])
def test_missing_file_in_a_folder(tmp_path, name):
  (_beir(tmp_path) / name).unlink()
  _fails(tmp_path, f'no {name} or {name}.gz', format='beir')


def test_missing_qrels(tmp_path):
  (_beir(tmp_path) / 'qrels' / 'train.tsv').unlink()
  dataset = formats.load(tmp_path)
  assert [q.id for q in dataset.splits['test']] == ['q1', 'q2', 'q3']
  assert not any(q.document_ids for q in dataset.splits['test'])
  assert 'no qrels/*.tsv, so no gold documents' in dataset.notes[0]
  (tmp_path / 'queries.jsonl').unlink()
  assert formats.load(tmp_path).splits == {}


@pytest.mark.parametrize('keep', [0.5, 0.99])
def test_truncated_gz(tmp_path, keep):
  _beir(tmp_path, zipped='.gz')
  path = tmp_path / 'corpus.jsonl.gz'
  data = path.read_bytes()
  path.write_bytes(data[: int(keep * len(data))])
  _fails(tmp_path, 'corpus.jsonl.gz', 'truncated or damaged .gz')


@pytest.mark.parametrize(
  'data', [b'plain text', b'\x1f\x8b\x08\x00' + b'x' * 30]
)
def test_damaged_gz(tmp_path, data):
  _beir(tmp_path)
  (tmp_path / 'corpus.jsonl').unlink()
  (tmp_path / 'corpus.jsonl.gz').write_bytes(data)
  _fails(tmp_path, 'corpus.jsonl.gz', 'truncated or damaged .gz')


@pytest.mark.parametrize('line', ['{"_id": "d2", ', '[' * 100_000, 'd2\ttext'])
def test_invalid_json_line(tmp_path, line):
  text = _lines(CORPUS[:1]) + line + '\n'
  _write(_beir(tmp_path) / 'corpus.jsonl', text)
  _fails(tmp_path, 'corpus.jsonl', 'line 2', 'not valid JSON')


def test_invalid_json_file(tmp_path):
  path = _write(tmp_path / 'squad.json', '{"data": [\n{"title": }\n]}')
  _fails(path, 'squad.json', 'line 2', 'not valid JSON')


@pytest.mark.parametrize(
  ('line', 'parts'),
  [
    ('7', ['must be a JSON object', 'got 7']),
    ('{"text": "x"}', ["'_id' must be an id", 'got nothing']),
    ('{"_id": "", "text": "x"}', ["'_id' must be an id", "got ''"]),
    ('{"_id": "d", "text": ["x"]}', ["'text' must be text", "['x']"]),
    ('{"_id": "d", "text": 3}', ["'text' must be text", 'got 3']),
  ],
)
def test_fields_of_another_type(tmp_path, line, parts):
  _write(_beir(tmp_path) / 'corpus.jsonl', line + '\n')
  _fails(tmp_path, 'corpus.jsonl', 'line 1', *parts)


@pytest.mark.parametrize('answers', ['money', 7, {'text': 'money'}])
def test_answers_of_another_type(tmp_path, answers):
  query = {'_id': 'q1', 'text': 'x', 'metadata': {'answers': answers}}
  folder = _beir(tmp_path, queries=[query], dev='q1\td1\t1\n')
  _fails(folder, 'queries.jsonl', 'line 1', "'answers' must be a list")


@pytest.mark.parametrize('value', ['{"answers": ["money"]}', ['a'], 3, True])
def test_metadata_of_another_type(tmp_path, value):
  query = {'_id': 'q1', 'text': 'x', 'metadata': value}
  folder = _beir(tmp_path, queries=[query], dev='q1\td1\t1\n')
  _fails(folder, 'queries.jsonl', 'line 1', "'metadata' must be an object")


INVISIBLE = [
  '\u200b\u200d',
  '\x00\x01',
  '\ufeff',
  '\u00ad \u2028',
  '\u3164',
  '\ud800',
]


@pytest.mark.parametrize('text', INVISIBLE, ids=ascii)
def test_text_that_shows_nothing_is_no_text(tmp_path, text):
  query = {'_id': 'q1', 'text': text, 'metadata': {'answers': ['a', text]}}
  corpus = [{'_id': 'd1', 'text': 'A.'}, {'_id': 'd2', 'text': text}]
  folder = _beir(tmp_path, corpus=corpus, queries=[query], dev='q1\td1\t1\n')
  _fails(folder, "document 'd2' has no text (1 of 2")
  dataset = formats.load(folder, on_empty='skip')
  assert dataset.splits['dev'][0].answers == ('a',)
  assert dataset.notes == (
    '1 of 2 documents have no text and are skipped.',
    '1 of 1 questions in dev have no text.',
  )


def test_an_id_that_shows_nothing(tmp_path):
  folder = _beir(tmp_path, corpus=[{'_id': '\u200b', 'text': 'x'}])
  _fails(folder, 'corpus.jsonl', 'line 1', "'_id' must be an id")


def test_a_question_without_its_field(tmp_path):
  folder = _beir(tmp_path, queries=[{'_id': 'q1'}], dev='q1\td1\t1\n')
  _fails(folder, 'queries.jsonl', 'line 1', "'text' must be text, got nothing")


def test_a_byte_order_mark_and_line_ends_of_windows(tmp_path):
  _beir(tmp_path)
  for path in [*tmp_path.glob('*.jsonl'), *tmp_path.glob('qrels/*.tsv')]:
    text = path.read_text().replace('\n', '\r\n')
    path.write_bytes(b'\xef\xbb\xbf' + text.encode())
  assert formats.load(tmp_path) == formats.load(_beir(tmp_path / 'plain'))


def test_facts_are_not_read_instead_of_a_path(tmp_path):
  folder = _beir(tmp_path)
  _fails(folder, "data.path must be 'facts'", 'data.format', format='facts')
  assert formats.load(folder, format='auto').documents  # the remedy


@pytest.mark.parametrize('name', ['corpus.jsonl', 'qrels/train.tsv'])
def test_a_pipe_is_refused_at_once(tmp_path, name):
  path = _beir(tmp_path) / name
  path.unlink()
  os.mkfifo(path)
  message = _refused(tmp_path)
  assert f'{str(path)!r} is not a regular file' in message


def test_a_device_is_refused_at_once():
  assert "'/dev/zero' is not a regular" in _refused('/dev/zero', format='squad')


def _refused(path, **options):
  """The message of a refusal, from a thread: reading a pipe would hang."""
  with concurrent.futures.ThreadPoolExecutor(1) as pool:
    error = pool.submit(formats.load, path, **options).exception(timeout=30)
  assert isinstance(error, ValueError) and '. Write its content' in str(error)
  return str(error)


def test_not_utf8(tmp_path):
  text = _lines(CORPUS[:1]).encode() + b'{"_id": "d2", "text": "caf\xe9"}\n'
  _write(_beir(tmp_path) / 'corpus.jsonl', text)
  _fails(tmp_path, 'corpus.jsonl', 'line 2', 'not UTF-8', '0xe9', 'iconv')


def test_any_script_and_lone_surrogates(tmp_path):
  text = 'Ελλάδα 日本語 العربية 🎉 a\u2028b\u0085c'
  corpus = [{'_id': 1, 'text': text}, {'_id': 2, 'text': 'half \ud83d'}]
  queries = [{'_id': 1, 'text': 'τι', 'metadata': {'answers': ['日本語']}}]
  folder = _beir(tmp_path, corpus=corpus, queries=queries, dev='1\t1\t1\n')
  dataset = formats.load(folder)
  assert [d.text for d in dataset.documents] == [text, 'half \ufffd']
  assert dataset.splits['dev'][0].document_ids == ('1',)
  assert dataset.notes == ()


def _squad_page(title, *paragraphs):
  return {
    'title': title,
    'paragraphs': [
      {'context': context, 'qas': qas} for context, qas in paragraphs
    ],
  }


def _qa(name, *answers, **more):
  texts = [{'text': text, 'answer_start': 0} for text in answers]
  return {'id': name, 'question': f'{name}?', 'answers': texts, **more}


@pytest.mark.parametrize('name', ['a.json', 'a.json.gz'])
@pytest.mark.parametrize('format', ['auto', 'squad'])
def test_squad(tmp_path, name, format):
  pages = [
    _squad_page(
      'Super_Bowl',
      ('It is played.', [_qa('q1', 'played', 'played', 'It')]),
      ('It is won.', [_qa('q2', is_impossible=True)]),
    ),
    _squad_page('Bonn', ('On the Rhine.', [_qa('q3', 'Elbe')])),
    _squad_page('Bonn', ('On the Rhine.', [_qa('q4', 'Rhine')])),
  ]
  path = _write(tmp_path / name, json.dumps({'version': '2', 'data': pages}))
  dataset = formats.load(path, format=format)
  assert [(d.title, d.text) for d in dataset.documents] == [
    ('Super Bowl', 'It is played.'),
    ('Super Bowl', 'It is won.'),
    ('Bonn', 'On the Rhine.'),
  ]
  assert set(dataset.splits) == {'train', 'dev'}
  found = {q.id: q for split in dataset.splits.values() for q in split}
  first, _, last = (document.id for document in dataset.documents)
  assert found['q1'] == types.Question(
    id='q1', text='q1?', answers=('played', 'It'), document_ids=(first,)
  )
  assert found['q2'].answers == found['q2'].document_ids == ()
  assert [name for name in found if not found[name].answerable] == ['q2']
  assert found['q3'].document_ids == found['q4'].document_ids == (last,)
  notes = ' '.join(dataset.notes)
  assert 'have an answer that occurs in none of their gold documents' in notes
  assert 'have no answer.' in notes
  assert 'have no gold document.' in notes


def test_a_single_file_is_split_nine_to_one_by_id(tmp_path):
  def load(count):
    qas = [_qa(f'question {i}', 'here') for i in range(count)]
    page = _squad_page('T', ('All is here.', qas))
    path = _write(tmp_path / 'x.json', json.dumps({'data': [page]}))
    splits = formats.load(path).splits
    return {name: {q.id for q in split} for name, split in splits.items()}

  small, large = load(1000), load(2000)
  assert 170 < len(large['dev']) < 230
  assert len(large['train']) + len(large['dev']) == 2000
  assert small['dev'] <= large['dev']
  assert small['train'] <= large['train']


def test_a_folder_of_squad_files_has_one_split_per_file(tmp_path):
  for name in ('train-v1.json.gz', 'dev.v1.json'):
    page = _squad_page('T', ('All is here.', [_qa('q1', 'here')]))
    _write(tmp_path / name, json.dumps({'data': [page]}))
  dataset = formats.load(tmp_path)
  assert len(dataset.documents) == 1
  assert sorted(dataset.splits) == ['dev', 'train']
  _write(tmp_path / 'train-v2.json', '{"data": []}')
  _fails(tmp_path, '3 files but 2 splits')


def test_squad_errors(tmp_path):
  def write(value):
    return _write(tmp_path / 'x.json', json.dumps(value))

  twice = _squad_page('T', ('here', [_qa('q', 'here'), _qa('q', 'here')]))
  _fails(write({'data': [twice]}), "question id 'q' occurs twice")
  blank = _squad_page('', (' ', [_qa('q', 'here')]))
  _fails(write({'data': [blank]}), "document 'passage#0' has no text")
  _fails(write({'data': []}), 'empty corpus')
  _fails(write({'days': []}), 'x.json', 'data (SQuAD)', 'ctxs (FiD)', 'days')
  _fails(write({'dat': []}), 'x.json', "'dat' is not read, but 'data' would be")
  _fails(write([1]), 'x.json', 'record 0', 'JSON object')
  _fails(write({'data': {}}), "'data' must be a list")
  bad = {'title': 'T', 'paragraphs': [{'context': 'c', 'qas': [{'id': None}]}]}
  _fails(write({'data': [bad]}), 'data[0].paragraphs[0]', "'id' must be an id")


@pytest.mark.parametrize('value', ['true', 'false', 0, 1, []])
def test_is_impossible_of_another_type(tmp_path, value):
  page = _squad_page(
    'T', ('It is here.', [_qa('q', 'here', is_impossible=value)])
  )
  path = _write(tmp_path / 'x.json', json.dumps({'data': [page]}))
  _fails(path, 'data[0].paragraphs[0]', 'must be true or false', repr(value))


def test_an_impossible_question_with_answers(tmp_path):
  page = _squad_page(
    'T', ('It is here.', [_qa('q', 'here', is_impossible=True)])
  )
  path = _write(tmp_path / 'x.json', json.dumps({'data': [page]}))
  with pytest.raises(
    ValueError, match='is_impossible must have no answers, got'
  ):
    formats.load(path)


@pytest.mark.parametrize(
  'old, new, part',
  [
    ('paragraphs', 'paragraph', "data[0]: field 'paragraphs' must be a list"),
    ('context', 'text', "paragraphs[0]: field 'context' must be text"),
    ('qas', 'qa', "paragraphs[0]: field 'qas' must be a list, got nothing"),
    ('question', 'query', "field 'question' must be text, got nothing"),
    ('"text"', '"txt"', "field 'text' must be text, got nothing"),
    ('answers', 'answer', "'answer' is not read, but 'answers' would be"),
    ('is_impossible', 'is_imposible', "but 'is_impossible' would be"),
  ],
)
def test_a_misspelt_field_of_squad(tmp_path, old, new, part):
  page = _squad_page(
    'T', ('It is here.', [_qa('q', 'here', is_impossible=None)])
  )
  text = json.dumps({'data': [page]})
  assert formats.load(_write(tmp_path / 'x.json', text)).documents
  _fails(_write(tmp_path / 'x.json', text.replace(old, new)), 'x.json', part)


def test_misspelt_fields_of_dpr_and_json_lines(tmp_path):
  record = {'question': 'q', 'positive_ctx': [_context('a')]}
  path = _write(tmp_path / 'x.json', json.dumps([record]))
  _fails(path, 'record 0', "'positive_ctx' is not read, but 'positive_ctxs'")
  question = {'id': 1, 'question': 'q', 'document_id': ['a']}
  folder = _json_lines(tmp_path, [{'id': 'a', 'text': 'A'}], dev=[question])
  _fails(folder, 'questions-dev.jsonl', 'line 1', "'document_ids' would be")
  documents = [{'id': 'a', 'Title': 'A', 'text': 'A'}]
  _fails(_json_lines(tmp_path, documents, dev=[]), 'line 1', "'title' would be")


def test_fields_that_are_not_read_are_fine_beside_those_that_are(tmp_path):
  corpus = [doc | {'title': 'T', 'titles': 1, 'url': 'x'} for doc in CORPUS]
  assert formats.load(_beir(tmp_path, corpus=corpus)).documents


def _context(text, **more):
  return {'title': 'T', 'text': text, **more}


@pytest.mark.parametrize('format', ['auto', 'dpr'])
def test_dpr(tmp_path, format):
  records = [
    {
      'question': 'where',
      'answers': ['here'],
      'positive_ctxs': [_context('It is here.', passage_id='p1')],
      'negative_ctxs': [_context('Never mind.')],
      'hard_negative_ctxs': [_context('Not there.', psg_id=7)],
    },
    {
      'question': 'what',
      'answers': ['mind', 'mend'],
      'positive_ctxs': [_context('Never mind.'), _context('It is here.')],
    },
  ]
  path = _write(tmp_path / 'dpr.json', json.dumps(records))
  dataset = formats.load(path, format=format)
  assert [(d.id, d.text) for d in dataset.documents] == [
    ('p1', 'It is here.'),
    ('T#1', 'Never mind.'),
    ('7', 'Not there.'),
  ]
  found = {q.text: q for split in dataset.splits.values() for q in split}
  assert found['where'].document_ids == ('p1',)
  assert found['what'].document_ids == ('T#1', 'p1')
  assert found['what'].answers == ('mind', 'mend')
  assert len(dataset.notes) == 1


def test_dpr_errors(tmp_path):
  def write(*records):
    return _write(tmp_path / 'x.json', json.dumps(records))

  same = [_context('a', passage_id='p'), _context('b', passage_id='p')]
  path = write({'question': 'q', 'positive_ctxs': same})
  _fails(path, "document id 'p' occurs twice")
  _fails(write({'question': 'q', 'positive_ctxs': 'x'}), 'record 0', 'a list')
  _fails(write(), 'empty corpus')


def _json_lines(folder, documents, **splits):
  _write(folder / 'documents.jsonl.gz', _lines(documents))
  for split, questions in splits.items():
    _write(folder / f'questions-{split}.jsonl', _lines(questions))
  return folder


@pytest.mark.parametrize('format', ['auto', 'jsonl'])
def test_json_lines(tmp_path, format):
  documents = [
    {'id': 'a', 'title': 'A', 'text': 'One.', 'summary': 'S'},
    {'id': 'b', 'text': 'Two.'},
  ]
  question = {'id': 1, 'question': 'q', 'answers': ['two']}
  _json_lines(
    tmp_path,
    documents,
    train=[{**question, 'document_ids': ['b']}],
    test_x=[question, {'id': 2, 'question': 'r', 'answerable': False}],
  )
  dataset = formats.load(tmp_path, format=format)
  assert dataset.documents[0] == types.Document(
    id='a', title='A', text='One.', summary='S'
  )
  assert dataset.splits['train'] == (
    types.Question(id='1', text='q', answers=('two',), document_ids=('b',)),
  )
  assert dataset.splits['test_x'][0].document_ids == ()
  assert [q.answerable for q in dataset.splits['test_x']] == [True, False]
  assert dataset.notes == (
    '1 of 2 questions in test_x have no answer.',
    '2 of 2 questions in test_x have no gold document.',
  )


def test_json_lines_errors(tmp_path):
  documents = [{'id': 'a', 'text': 'One.'}]
  assert formats.load(_json_lines(tmp_path, documents)).splits == {}
  question = {'id': 'q', 'question': 'q', 'document_ids': ['z']}
  _fails(
    _json_lines(tmp_path, documents, dev=[question]),
    'questions-dev.jsonl',
    'line 1',
    "document 'z'",
  )
  question['document_ids'] = ['a']
  _fails(
    _json_lines(tmp_path, documents, dev=[question] * 2),
    "question id 'q' occurs twice",
  )
  for wrong, part in (
    ({'answerable': 'no'}, "'no'"),
    ({'answerable': False, 'answers': ['One']}, "got ['One']"),
  ):
    _fails(_json_lines(tmp_path, documents, dev=[question | wrong]), part)


def test_beir_marks_unanswerable_questions(tmp_path):
  lost = {'_id': 'q2', 'text': 'who?', 'metadata': {'answerable': False}}
  folder = _beir(
    tmp_path, queries=[QUERIES[0], lost], train='q1\td1\t1\nq2\td1\t0\n'
  )
  questions = formats.load(folder).splits['train']
  assert [(q.answerable, q.document_ids) for q in questions] == [
    (True, ('d1',)),
    (False, ()),
  ]
