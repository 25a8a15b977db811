import dataclasses
import json

import numpy as np
import pytest

from rag_jax import config as configs
from rag_jax import evaluate, rag, train
from rag_jax import workdir as workdirs
from rag_jax.data import formats


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
  import functools

  import jax

  init = functools.partial(
    rag.init, config=config.model, vocab_size=prepared.vocab_size
  )
  return jax.jit(init)(workdirs.init_key(config), index=prepared.index)


class TestClaim:
  def test_the_same_experiment_comes_back_in(self, tiny_values, tmp_path):
    config = configs.build(tiny_values)
    workdirs.claim(tmp_path / 'run', config)
    before = (tmp_path / 'run' / 'config.json').read_bytes()
    workdirs.claim(tmp_path / 'run', config)
    assert (tmp_path / 'run' / 'config.json').read_bytes() == before
    assert json.loads(before)['name'] == 'tiny'

  def test_fields_that_change_no_number_may_change(self, tiny_values, tmp_path):
    config = configs.build(tiny_values)
    workdirs.claim(tmp_path / 'run', config)
    quieter = dataclasses.replace(config.train, log_every=2)
    workdirs.claim(tmp_path / 'run', dataclasses.replace(config, train=quieter))

  def test_another_experiment_is_named(self, tiny_values, tmp_path):
    config = configs.build(tiny_values)
    workdirs.claim(tmp_path / 'run', config)
    other = dataclasses.replace(config, seed=1)
    with pytest.raises(ValueError, match='seed=0, got 1.*--config.seed=0'):
      workdirs.claim(tmp_path / 'run', other)

  def test_a_field_younger_than_the_experiment_is_at_its_default(
    self, tiny_values, tmp_path
  ):
    config = configs.build(tiny_values)
    workdirs.claim(tmp_path, config)
    path = tmp_path / 'config.json'
    stored = json.loads(path.read_text())
    del stored['reader']['null_document']
    path.write_text(json.dumps(stored))
    workdirs.claim(tmp_path, config)
    reader = dataclasses.replace(config.reader, null_document=True)
    other = dataclasses.replace(config, reader=reader)
    with pytest.raises(ValueError, match='null_document=False, got True'):
      workdirs.claim(tmp_path, other)

  def test_a_field_that_is_no_more_is_named(self, tiny_values, tmp_path):
    config = configs.build(tiny_values)
    workdirs.claim(tmp_path, config)
    path = tmp_path / 'config.json'
    stored = json.loads(path.read_text()) | {'phase': 3}
    path.write_text(json.dumps(stored))
    with pytest.raises(ValueError, match='another version, with phase=3'):
      workdirs.claim(tmp_path, config)

  def test_a_folder_of_somebody_else_is_left_alone(self, tiny_values, tmp_path):
    (tmp_path / 'thesis.tex').write_text('mine')
    with pytest.raises(ValueError, match='not of an experiment'):
      workdirs.claim(tmp_path, configs.build(tiny_values))
    assert [p.name for p in tmp_path.iterdir()] == ['thesis.tex']

  def test_a_file_is_no_folder(self, tiny_values, tmp_path):
    (tmp_path / 'run').write_text('mine')
    with pytest.raises(ValueError, match='is a file'):
      workdirs.claim(tmp_path / 'run', configs.build(tiny_values))

  @pytest.mark.parametrize('text', ['{', '[]', ''])
  def test_a_damaged_config_is_said_to_be(self, tiny_values, tmp_path, text):
    (tmp_path / 'config.json').write_text(text)
    with pytest.raises(ValueError, match='config.json.* is damaged'):
      workdirs.claim(tmp_path, configs.build(tiny_values))


class TestPrepare:
  def test_it_is_made_once_and_loaded_after(self, tiny_values, tmp_path):
    config = configs.build(tiny_values)
    made = workdirs.open(config, tmp_path / 'run')
    stamp = (tmp_path / 'run' / 'index.npz').stat().st_mtime_ns
    loaded = workdirs.open(config, tmp_path / 'run')
    assert (tmp_path / 'run' / 'index.npz').stat().st_mtime_ns == stamp
    assert loaded.tokenizer.to_str() == made.tokenizer.to_str()
    np.testing.assert_array_equal(loaded.index.tokens, made.index.tokens)
    np.testing.assert_array_equal(loaded.index.codes, made.index.codes)

  def test_data_that_changed_underneath_is_refused(
    self, tiny_values, tiny_folder, tmp_path
  ):
    config = configs.build(tiny_values)
    workdirs.open(config, tmp_path / 'run')
    dataset = formats.load(tiny_folder)
    changed = dataclasses.replace(dataset.documents[0], text='Something else.')
    documents = (changed, *dataset.documents[1:])
    dataset = dataclasses.replace(dataset, documents=documents)
    with pytest.raises(ValueError, match='holds other documents'):
      workdirs.prepare(config, dataset, rag.Pretrained(), tmp_path / 'run')

  def test_a_long_document_is_cut_and_counted(
    self, tiny_values, tmp_path, capsys
  ):
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
    assert 'note: 1 of 2 documents are cut after 24 tokens' in notes
    assert 'beam_size is 6, but there are only 2 documents' in notes

  def test_a_beam_wider_than_the_corpus_returns_real_documents(
    self, tiny_values, tmp_path
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
    results = evaluate.measure(untrained(config, prepared), config, prepared)
    values = {(r.system, r.metric): r.value for r in results}
    assert values['generative index', 'real documents'] == 1.0
    assert values['after ranker', 'Hits@10'] == 1.0

  def test_any_script_comes_through(self, tiny_values, tmp_path):
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
    params = untrained(config, prepared)
    found = evaluate.answer_all(params, config, prepared, asked)
    for row in range(len(asked)):
      answer = evaluate.answer_text(found, row, prepared, config)
      source = prepared.dataset.documents[int(found.read[row])].text
      assert answer in source


def test_check_devices_names_the_field(tiny_values):
  values = tiny_values | {'train': tiny_values['train'] | {'batch_size': 6}}
  with pytest.raises(ValueError, match='multiple of the 8 devices, got 6'):
    train.check_devices(configs.build(values))
