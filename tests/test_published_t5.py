"""A published T5 reads with its own tokenizer; a published BERT searches."""

import dataclasses
import json
import pathlib
import shutil
import types

import jax
import numpy as np
import pytest

import rag_jax
from rag_jax import (
  compiled,
  corpus,
  export,
  per_question,
  pretrained,
  readers,
  train,
)
from rag_jax import config as configs
from rag_jax import types as data_types
from rag_jax import workdir as workdirs
from rag_jax.data import formats, pipeline


@pytest.fixture
def config(published_values, published_t5, tmp_path):
  folder = shutil.copytree(published_t5, tmp_path / 'published')
  own = {'kind': 't5', 'weights': str(folder), 'max_answer_tokens': 5}
  joint = {'steps': 2, 'batch_size': 8, 'learning_rate': 1e-3}
  joint |= {'losses': {'answer': 1.0}}
  ranker = {'operator': 'softmax', 'docid_weight': 0.1, 'vector_weight': 10.0}
  values = published_values | {'reader': own, 'stages': {'joint': joint}}
  values |= {'ranker': ranker}
  return pretrained.complete(configs.build(values))


def with_tokenizer(config, source):
  """The experiment with another tokenizer of the data."""
  data = dataclasses.replace(config.data, tokenizer=str(source))
  return dataclasses.replace(config, data=data)


def test_the_sizes_of_the_t5_are_filled_in(config):
  reader = config.reader
  sizes = reader.width, reader.num_layers, reader.num_heads, reader.mlp_dim
  assert sizes == (16, 1, 3, 16)
  assert pretrained.complete(config) == config


@pytest.mark.long
@pytest.mark.long
def test_the_answer_trains_search_and_reader(config, tmp_path):
  prepared = workdirs.open(config, tmp_path / 'run')
  before = prepared.pretrained
  system = train.fit(config, prepared, tmp_path / 'run')
  moved = jax.tree.map(
    lambda x, y: bool((x != y).any()),
    before.reader,
    system.params['reader']['t5'],
  )
  assert all(jax.tree.leaves(moved))
  trained = system.params['query_encoder']['bert']['block_1']
  start = before.query_encoder['bert']['block_1']['qkv']
  assert (start != trained['qkv']).any()
  lines = (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()
  for part in ('query_encoder', 'id_decoder'):  # the node table
    assert json.loads(lines[-1])[f'gradient_norm/{part}'] > 0
  questions = prepared.dataset.splits['dev']
  found = per_question.run(system, compiled.answer, questions)
  assert found.tokens.shape == (8, 5)
  assert (found.log_probability < 0).all()
  text, span = system.text(found, 0)
  assert isinstance(text, str) and span is None
  # The reader's tokens are those of its own tokenizer, of the same texts.
  own, index = system.reader_tokenizer, system.index
  document = system.documents[3]
  for tokenizer, tokens in (
    (system.tokenizer, index.tokens),
    (own, index.passages),
  ):
    ids = tokenizer.encode(
      pipeline.document_text(document), add_special_tokens=False
    ).ids[:24]
    assert tokens[3].tolist() == ids + [0] * (24 - len(ids))
  encoded = system.encode(questions)
  answer = np.asarray(encoded.reader_answers[0, 0])
  assert own.decode(answer[answer > 0].tolist()) == questions[0].answers[0]
  loaded = rag_jax.load(tmp_path / 'run')
  np.testing.assert_array_equal(loaded.index.passages, index.passages)
  again = loaded.encode(questions)
  np.testing.assert_array_equal(again.reader_query, encoded.reader_query)
  # The exported folder is published weights again.
  export.export(system, tmp_path / 'out')
  folder = str(tmp_path / 'out' / 'reader-t5')
  exported = dataclasses.replace(config.reader, weights=folder)
  params = readers.make(exported).load().params
  jax.tree.map(
    np.testing.assert_array_equal, params, system.params['reader']['t5']
  )
  assert json.loads(
    (tmp_path / 'out' / 'reader-t5' / 'tokenizer.json').read_text()
  )


def test_equal_tokenizers_share_their_tokens(config):
  assert pretrained.load(config)[1] is not None
  searching = dataclasses.replace(config.query_encoder, weights='')
  alone = dataclasses.replace(config, query_encoder=searching)
  same = with_tokenizer(alone, config.reader.weights)
  assert pretrained.load(same)[1] is None
  trained = with_tokenizer(alone, '')  # a tokenizer trained on the data
  assert pretrained.load(trained)[1] is not None


def test_documents_truncated_for_the_reader_are_counted(config, capsys):
  own = pretrained.load(config)[1]
  data = dataclasses.replace(config.data, max_document_tokens=3)
  short = dataclasses.replace(config, data=data)
  documents = [
    data_types.Document(id='a', text='red cat'),
    data_types.Document(id='b', text='red cat and a blue dog and an owl'),
  ]
  corpus.reader_passages(short, documents, own)
  assert not capsys.readouterr().err
  corpus.reader_passages(short, documents, own, notes=True)
  text = capsys.readouterr().err
  assert '1 of 2 documents are truncated to 3 tokens of the reader' in text


def test_a_tokenizer_larger_than_the_embedding_raises_an_error(
  config, tmp_path, write_tokenizer
):
  path = tmp_path / 'published' / 'tokenizer.json'
  texts = [' '.join(map(str, range(900)))]
  options = {'special': ['<pad>', '</s>'], 'template': ['</s>'], 'size': 400}
  write_tokenizer(path, texts, **options)
  with pytest.raises(ValueError, match='200 rows for the 4.. tokens of .*pub'):
    workdirs.open(config, tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


def test_weights_without_tokenizer_need_that_of_the_data(config, tmp_path):
  path = tmp_path / 'published' / 'tokenizer.json'
  path.rename(tmp_path / 'other.json')
  with pytest.raises(ValueError, match='end texts with </s>, token 1, .*None'):
    workdirs.open(config, tmp_path / 'run')
  searching = dataclasses.replace(config.query_encoder, weights='')
  alone = dataclasses.replace(config, query_encoder=searching)
  with pytest.raises(ValueError, match='must have a tokenizer.json or spiece'):
    pretrained.load(with_tokenizer(alone, ''))
  own = with_tokenizer(alone, tmp_path / 'other.json')
  assert pretrained.load(own)[1] is None


def test_a_bert_with_another_vocabulary_points_at_the_text(
  published_values, published_bert, tmp_path, write_tokenizer
):
  """Spans in its own tokens become characters of the document."""
  folder = tmp_path / 'reader'
  folder.mkdir()
  for name in ('config.json', 'model.safetensors'):
    content = (pathlib.Path(published_bert) / name).read_bytes()
    (folder / name).write_bytes(content)
  data = formats.load(published_values['data']['path'])
  texts = ['zzz qqq', *(d.text for d in data.documents)]
  template = ['[CLS]', '[SEP]']
  path = folder / 'tokenizer.json'
  write_tokenizer(path, texts, special=['[PAD]', *template], template=template)
  own = published_values['reader'] | {'weights': str(folder)}
  values = published_values | {'reader': own}
  config = configs.build(values)
  prepared = workdirs.open(config, tmp_path / 'run')
  system, dataset = prepared.system, prepared.dataset
  assert system.reader_tokenizer is not None
  question = dataset.splits['dev'][0]
  encoded = system.encode([question])
  row = system.rows[question.document_ids[0]]
  tokens = np.asarray(system.index.passages[row])
  answer = encoded.reader_answers[0, 0]
  answer = answer[answer > 0]
  starts = [
    i
    for i in range(len(tokens))
    if tokens[i : i + len(answer)].tolist() == answer.tolist()
  ]
  assert starts
  found = types.SimpleNamespace(
    read=[row], start=[starts[0]], end=[starts[0] + len(answer) - 1]
  )
  text, span = system.text(found, 0)
  assert text.lower() == question.answers[0].lower()
  begin, end = span
  assert system.documents[row].text[begin:end] == text
