import types as python_types

import pytest
import tensorflow_datasets as tfds

from rag_jax import types
from rag_jax.data import formats


def _builder(monkeypatch, rows):
  """Fakes a prepared TFDS builder with the same rows in every split."""
  built = python_types.SimpleNamespace(
    is_prepared=lambda: True, as_data_source=lambda split: rows
  )
  monkeypatch.setattr(tfds, 'builder', lambda name, file_format: built)


def test_tfds_squad(monkeypatch):
  row = {
    'id': b'q1',
    'title': b'Super_Bowl',
    'context': 'Caf\u00e9 here.'.encode(),
    'question': b'where',
    'answers': {'text': [b'here', b'here'], 'answer_start': [5, 5]},
  }
  _builder(monkeypatch, [row])
  dataset = formats.load('tfds:squad')
  document = types.Document(
    id='Super Bowl#0', title='Super Bowl', text='Caf\u00e9 here.'
  )
  assert dataset.documents == (document,)
  assert sorted(dataset.splits) == ['train', 'validation']
  assert dataset.splits['validation'] == (
    types.Question(
      id='q1', text='where', answers=('here',), document_ids=(document.id,)
    ),
  )
  assert formats.load('squad', format='tfds') == dataset


def test_tfds_trivia_qa(monkeypatch):
  row = {
    'question_id': b'q1',
    'question': b'where',
    'answer': {'value': b'Rhine', 'aliases': [b'Rhine', b'Rhein']},
    'entity_pages': {'title': [b'Bonn'], 'wiki_context': [b'By the Rhine.']},
    'search_results': {
      'title': [b'Page', b'Empty'],
      'search_context': [b'Der Rhein.', b''],
    },
  }
  _builder(monkeypatch, [row])
  dataset = formats.load('tfds:trivia_qa')
  assert [d.text for d in dataset.documents] == ['By the Rhine.', 'Der Rhein.']
  question = dataset.splits['train'][0]
  assert question.answers == ('Rhine', 'Rhein')
  assert question.document_ids == ('Bonn#0', 'Page#1')
  assert dataset.notes == ()


def test_tfds_offline(monkeypatch):
  def refuse(*_, **__):
    raise ConnectionError('no route\nto host')

  monkeypatch.setattr(tfds, 'builder', refuse)
  with pytest.raises(ValueError, match='tfds:squad.*no route') as error:
    formats.load('tfds:squad')
  assert 'local SQuAD or DPR .json' in str(error.value)


@pytest.mark.parametrize(
  'name, words',
  [
    ('natural_questions_open', 'no documents.*--config.data.path'),
    ('imdb', "squad, trivia_qa, natural_questions_open.*'imdb'"),
  ],
)
def test_tfds_without_documents_or_unknown(name, words):
  with pytest.raises(ValueError, match=words):
    formats.load(f'tfds:{name}')
