import dataclasses
import json

import pytest

from rag_jax import baselines, types
from rag_jax.data import formats, pipeline
from rag_jax.generation import corpus_questions, generator, settings

CONFIG = settings.GeneratorConfig(steps=1, samples=3, round_trip=2)


@pytest.fixture
def material(tiny_folder):
  dataset = formats.load(str(tiny_folder))
  data = pipeline.DataConfig(vocab_size=320, max_document_tokens=24)
  return dataset, data, pipeline.train_tokenizer(dataset, data)


@pytest.fixture
def fake(monkeypatch, tmp_path):
  """A generator that writes known questions, and counts its documents."""
  written = []

  class Fake:
    config = CONFIG

    def __init__(self, data):
      self.data = data

    def write(self, documents):
      written.extend(d.id for d in documents)
      return [
        [f'which {d.title}?', 'which red cat?', 'nonsense'] for d in documents
      ]

  monkeypatch.setattr(generator, 'save', lambda model, path: path.touch())
  monkeypatch.setattr(
    generator, 'train', lambda config, data, *args, report: Fake(data)
  )
  monkeypatch.setattr(generator, 'load', lambda config, data, *args: Fake(data))
  return written


def make(material, folder, config=CONFIG, seed=0):
  dataset, data, tokenizer = material
  return corpus_questions.make(
    config,
    data,
    seed,
    tokenizer,
    dataset.documents,
    dataset.splits['train'],
    folder,
  )


def test_only_questions_that_find_their_document_are_kept(
  material, fake, tmp_path, capsys
):
  found = make(material, tmp_path)
  documents = material[0].documents
  assert list(found) == [d.id for d in documents]
  index = baselines.bm25_index(documents)
  for row, document in enumerate(documents):
    drawn = [f'which {document.title}?', 'which red cat?', 'nonsense']
    ranked, _ = baselines.bm25_search(index, drawn, k=2)
    kept = [t for t, r in zip(drawn, ranked, strict=True) if row in r]
    assert list(found[document.id]) == kept
  total = sum(map(len, found.values()))
  assert (
    f'{total} of 144 generated questions are kept' in capsys.readouterr().err
  )
  assert len(fake) == 48


def test_a_stopped_run_goes_on_with_missing_documents(
  material, fake, tmp_path, monkeypatch
):
  monkeypatch.setattr(corpus_questions, 'SAVE', 10)
  whole = make(material, tmp_path)
  path = tmp_path / corpus_questions.QUESTIONS
  text = path.read_text()
  lines = text.splitlines(keepends=True)
  path.write_text(''.join(lines[:21]))
  fake.clear()
  assert make(material, tmp_path) == whole
  assert len(fake) == 28  # the other 20 are in the file
  assert path.read_text() == text
  fake.clear()
  assert make(material, tmp_path) == whole
  assert fake == []


def test_other_settings_data_or_seeds_are_refused(material, fake, tmp_path):
  make(material, tmp_path)
  other = dataclasses.replace(CONFIG, top_k=3)
  with pytest.raises(ValueError, match="another value of 'settings'"):
    make(material, tmp_path, other)
  with pytest.raises(ValueError, match="another value of 'seed'"):
    make(material, tmp_path, seed=1)
  dataset, data, tokenizer = material
  changed = dataclasses.replace(dataset.documents[0], text='Other.')
  dataset = dataclasses.replace(
    dataset, documents=(changed, *dataset.documents[1:])
  )
  with pytest.raises(ValueError, match="another value of 'documents'"):
    make((dataset, data, tokenizer), tmp_path)


def test_a_file_takes_the_place_of_the_model(material, fake, tmp_path, capsys):
  given = tmp_path / 'given.jsonl'
  row = {'id': 'red-cat', 'questions': ['what is crimson?']}
  given.write_text(json.dumps(row) + '\n')
  run = tmp_path / 'run'
  run.mkdir()
  config = dataclasses.replace(CONFIG, path=str(given))
  found = make(material, run, config)
  assert found['red-cat'] == ('what is crimson?',)
  assert sum(map(len, found.values())) == 1 and len(found) == 48
  assert '47 of 48 documents have none' in capsys.readouterr().err
  assert fake == []
  given.rename(tmp_path / 'elsewhere.jsonl')
  assert make(material, run, config) == found
  given.write_text(json.dumps(row | {'id': 'nobody'}) + '\n')
  with pytest.raises(ValueError, match='another value of'):
    make(material, run, config)
  (run / corpus_questions.QUESTIONS).unlink()
  with pytest.raises(ValueError, match="'nobody' that is no document"):
    make(material, run, config)
  with pytest.raises(ValueError, match='is no file. Set --config.generator'):
    make(material, run, dataclasses.replace(CONFIG, path='missing'))


def test_keys_of_new_documents_compete_with_the_old_ones(material, fake):
  dataset, data, _ = material
  fake_model = generator.load(CONFIG, data)
  corpus = dataset.documents
  new = [
    types.Document(id='n', title='pink gnu', text='It lives here.'),
    types.Document(id='m', text='A blue gnu.', questions=('mine?',)),
  ]
  first, second = corpus_questions.add_keys(fake_model, corpus, new)
  assert first.questions == ('which pink gnu?',)
  assert second == new[1]
  assert fake == ['n']
