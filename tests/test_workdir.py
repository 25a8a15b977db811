import dataclasses
import functools
import json

import jax
import numpy as np
import pytest

from rag_jax import compiled, evaluate, model, per_question, states, store
from rag_jax import config as configs
from rag_jax import workdir as workdirs
from rag_jax.data import formats, numbers


def write_corpus(folder, documents, questions):
  folder.mkdir(exist_ok=True)
  for name, rows in (
    ('documents.jsonl', documents),
    ('questions-train.jsonl', questions),
    ('questions-dev.jsonl', questions),
  ):
    text = ''.join(json.dumps(row, ensure_ascii=False) + '\n' for row in rows)
    (folder / name).write_text(text, encoding='utf-8')
  return str(folder)


def config_with(tiny_values, **data):
  values = tiny_values | {'data': tiny_values['data'] | data}
  return configs.build(values)


def untrained(config, prepared):
  """A system with initial parameters."""
  init = functools.partial(
    model.init, config=config.model, vocab_size=prepared.vocab_size
  )
  return prepared.trained(
    jax.jit(init)(model.init_key(config.seed), index=prepared.index)
  )


def test_a_workdir_is_built_once_and_then_loaded(tiny_values, tmp_path):
  config = configs.build(tiny_values)
  made = workdirs.open(config, tmp_path / 'run')
  assert store.load_documents(tmp_path / 'run') == made.dataset.documents
  stamp = (tmp_path / 'run' / 'index.npz').stat().st_mtime_ns
  loaded = workdirs.open(config, tmp_path / 'run')
  assert (tmp_path / 'run' / 'index.npz').stat().st_mtime_ns == stamp
  assert loaded.system.tokenizer.to_str() == made.system.tokenizer.to_str()
  np.testing.assert_array_equal(loaded.index.tokens, made.index.tokens)
  np.testing.assert_array_equal(loaded.index.codes, made.index.codes)


def test_changed_data_raises_an_error(tiny_values, tiny_folder, tmp_path):
  config = configs.build(tiny_values)
  workdirs.open(config, tmp_path / 'run')
  dataset = formats.load(tiny_folder)
  changed = dataclasses.replace(dataset.documents[0], text='Something else.')
  documents = (changed, *dataset.documents[1:])
  dataset = dataclasses.replace(dataset, documents=documents)
  with pytest.raises(ValueError, match='holds other documents'):
    workdirs.prepare(config, dataset, model.Pretrained(), tmp_path / 'run')


def test_truncated_documents_are_counted(tiny_values, tmp_path, capsys):
  words = ' '.join(f'word{i % 50}' for i in range(100_000))
  documents = [
    {'id': 'long', 'text': words},
    {'id': 'short', 'text': 'A cat.'},
  ]
  questions = [{'id': '1', 'question': 'Who?', 'answers': ['cat']}]
  path = write_corpus(tmp_path / 'data', documents, questions)
  config = config_with(tiny_values, path=path)
  prepared = workdirs.open(config, tmp_path / 'run')
  assert prepared.index.tokens.shape == (2, 24)
  assert int((prepared.index.tokens[0] > 0).sum()) == 24
  notes = capsys.readouterr().err
  assert 'note: 1 of 2 documents are truncated to 24 tokens' in notes
  assert 'beam_size is 6, but there are only 2 documents' in notes


@pytest.mark.long
def test_a_beam_wider_than_the_corpus_returns_real_documents(
  tiny_values, tmp_path
):
  documents = [{'id': str(i), 'text': f'Cat {i} sleeps.'} for i in range(2)]
  questions = [
    {
      'id': '1',
      'question': 'Who sleeps?',
      'answers': ['cat'],
      'document_ids': ['1'],
    }
  ]
  path = write_corpus(tmp_path / 'data', documents, questions)
  config = config_with(tiny_values, path=path)
  prepared = workdirs.open(config, tmp_path / 'run')
  results = evaluate.measure(
    untrained(config, prepared), prepared.dataset, prepared.pretrained
  )
  values = {(r.system, r.metric): r.value for r in results}
  assert values['generative index', 'valid docids'] == 1.0
  assert values['after ranker', 'Hits@10'] == 1.0


def test_a_reader_that_compares_starts_with_the_order_of_numbers(
  tiny_values, tmp_path
):
  texts = ['Ada was born in 1815.', 'Alan was born in 1912.']
  documents = [{'id': str(i), 'text': text} for i, text in enumerate(texts)]
  asked = {
    'id': '1',
    'question': 'Who was born first?',
    'answers': ['Ada'],
    'document_ids': ['0', '1'],
  }
  path = write_corpus(tmp_path / 'data', documents, [asked])
  reader = tiny_values['reader'] | {'shared_softmax': True}
  values = tiny_values | {'reader': reader}
  config = config_with(values, path=path)
  prepared = workdirs.open(config, tmp_path / 'run')
  state, _ = states.restore(config, prepared, tmp_path / 'none')
  order = 8 * numbers.order(prepared.system.tokenizer)
  assert (order != 0).any()
  np.testing.assert_array_equal(state.params['reader']['value'], order)


def test_answers_in_any_script(tiny_values, tmp_path):
  texts = {
    'zh': ('巴黎是法国的首都。', '法国的首都是哪里？', '巴黎'),
    'ar': ('القاهرة هي عاصمة مصر.', 'ما هي عاصمة مصر؟', 'القاهرة'),
    'hi': ('दिल्ली भारत की राजधानी है।', 'भारत की राजधानी?', 'दिल्ली'),
    'emoji': ('The 🐻 eats 🍯 daily.', 'What does the 🐻 eat?', '🍯'),
    'cafe': ('Le café est près de la Seine.', 'Où est le café ?', 'Seine'),
  }
  documents = [{'id': n, 'text': t[0]} for n, t in texts.items()]
  questions = [
    {
      'id': name,
      'question': text[1],
      'answers': [text[2]],
      'document_ids': [name],
    }
    for name, text in texts.items()
  ]
  path = write_corpus(tmp_path / 'data', documents, questions)
  config = config_with(tiny_values, path=path, max_document_tokens=64)
  prepared = workdirs.open(config, tmp_path / 'run')
  asked = prepared.dataset.splits['dev']
  system = untrained(config, prepared)
  found = per_question.run(system, compiled.answer, asked)
  for row in range(len(asked)):
    answer, _ = system.text(found, row)
    source = prepared.dataset.documents[int(found.read[row])].text
    assert answer and answer in source


@pytest.mark.parametrize('wrong', ['data', 'version'])
def test_errors_are_raised_before_anything_is_written(
  tiny_values, tmp_path, wrong
):
  config = configs.build(tiny_values)
  workdir = tmp_path / 'run'
  if wrong == 'data':
    config = config_with(tiny_values, train_split='tune')
    message = "no questions in split 'tune'"
  else:
    workdir.mkdir()
    (workdir / 'config.json').write_text('{"loss": {"answer": 1.0}}')
    message = 'of another version, with loss.answer=1.0'
  before = list(tmp_path.rglob('*'))
  with pytest.raises(ValueError, match=message):
    workdirs.open(config, workdir)
  assert list(tmp_path.rglob('*')) == before
