"""Generated questions in a run: keys, pseudo-queries, additions, results."""

import dataclasses
import gzip
import json

import numpy as np
import pytest

import rag_jax
from rag_jax import baseline_runs, generated, same_data, store
from rag_jax import config as configs
from rag_jax import workdir as workdirs
from rag_jax.data import words
from rag_jax.generation import corpus_questions

GREEN = ('what is verdant and meows?', 'which feline is like grass?')


@pytest.fixture(scope='module')
def values(tiny_values, tmp_path_factory):
  """An experiment with questions about one document, from a file."""
  path = tmp_path_factory.mktemp('given') / 'questions.jsonl'
  path.write_text(json.dumps({'id': 'green-cat', 'questions': GREEN}) + '\n')
  return tiny_values | {
    'data': tiny_values['data'] | {'lexicon': True, 'question_keys': True},
    'id_decoder': tiny_values['id_decoder'] | {'num_layers': 0},
    'search': tiny_values['search']
    | {'lexical_weight': 5.0, 'scoring': 'absolute'},
    'ranker': {'lexical_weight': 5.0},
    'generator': {'path': str(path)},
    'stages': {},
  }


def test_keys_are_words_of_the_lexicon_and_no_text(trained_run, values):
  workdir, prepared, system = trained_run
  row = system.rows['green-cat']
  document = system.documents[row]
  assert document.questions == GREEN
  assert document.text == prepared.dataset.documents[row].text
  assert prepared.dataset.documents[row].questions == ()
  assert 'verdant' in system.vocabulary.ids
  assert words.document_texts([document])[0].endswith(GREEN[1])
  assert store.load_documents(workdir)[row] == document
  # The tokens that readers and docids are made of are those without keys.
  plain = configs.build(
    values | {'data': values['data'] | {'question_keys': False}}
  )
  other = workdirs.open(plain, workdir.parent / 'plain')
  np.testing.assert_array_equal(other.index.tokens, prepared.index.tokens)
  np.testing.assert_array_equal(other.index.codes, prepared.index.codes)
  assert other.index.generated is None
  assert 'verdant' not in other.system.vocabulary.ids


def test_a_question_key_finds_its_document(trained_run):
  _, _, system = trained_run
  [found] = system.search(['Which verdant one meows?'])
  assert found[0].document.id == 'green-cat'


def test_pseudo_queries_are_the_tokens_of_the_questions(
  values, tiny_values, tmp_path
):
  queries = tiny_values['pseudo_queries'] | {'generated_rate': 0.5}
  config = configs.build(
    tiny_values | {'generator': values['generator'], 'pseudo_queries': queries}
  )
  prepared = workdirs.open(config, tmp_path / 'run')
  tokens, counts = prepared.index.generated
  row = prepared.system.rows['green-cat']
  assert int(counts.sum()) == int(counts[row]) == 2
  tokenizer = prepared.system.tokenizer
  for own, text in zip(np.asarray(tokens[row]), GREEN, strict=True):
    assert own[own != 0].tolist() == tokenizer.encode(text).ids
  assert all(not d.questions for d in prepared.system.documents)
  again = workdirs.open(config, tmp_path / 'run')
  np.testing.assert_array_equal(again.index.generated[0], tokens)


def test_a_loaded_run_has_its_keys(trained_run):
  workdir, _, system = trained_run
  loaded = rag_jax.load(workdir)
  assert loaded.documents == system.documents
  [found] = loaded.search(['Which verdant one meows?'])
  assert found[0].document.id == 'green-cat'
  for writes in (False, True):
    used = workdirs.open(loaded.config, workdir, writes=writes)
    assert used.system.documents == system.documents
  same_data.check(loaded.config, used.dataset, workdir)


def test_baselines_have_a_row_with_keys(trained_run):
  _, prepared, system = trained_run
  question = dataclasses.replace(
    prepared.dataset.splits['dev'][0],
    text='verdant',
    document_ids=('green-cat',),
  )
  ranked = baseline_runs.Baselines(
    system, prepared.dataset, prepared.pretrained
  ).search([question])
  row = system.rows['green-cat']
  assert ranked[baseline_runs.KEYED].rows[0, 0] == row
  assert (ranked['BM25'].rows[0] == -1).all()


def test_added_documents_are_found_by_their_questions(trained_run, monkeypatch):
  _, _, system = trained_run
  system = dataclasses.replace(system, workdir=None)
  new = {'id': 'gnu', 'title': 'gnu', 'text': 'The gnu lives here.'}
  plain = system.add([new])
  keyed = system.add([new | {'questions': ['who is shaggy?']}])
  asked = ['shaggy']
  assert keyed.search(asked)[0][0].document.id == 'gnu'
  assert not plain.search(asked) or plain.search(asked)[0][0].document.id != (
    'gnu'
  )


def test_a_generator_in_the_workdir_writes_keys_of_additions(
  trained_run, monkeypatch, tmp_path, capsys
):
  _, _, system = trained_run
  new = [rag_jax.types.Document(id='gnu', text='The gnu lives here.')]
  arguments = system.config, tmp_path, system.tokenizer, system.documents, new
  assert generated.add_keys(*arguments) == new
  assert 'no question generator' in capsys.readouterr().err

  class Fake:
    config, data = system.config.generator, system.config.data

    def write(self, documents):
      return [['which gnu lives?'] for _ in documents]

  (tmp_path / corpus_questions.MODEL).touch()
  monkeypatch.setattr(generated.generator, 'load', lambda *args: Fake())
  [keyed] = generated.add_keys(*arguments)
  assert keyed == dataclasses.replace(new[0], questions=('which gnu lives?',))
  off = dataclasses.replace(system.config.data, question_keys=False)
  config = dataclasses.replace(system.config, data=off)
  assert generated.add_keys(config, *arguments[1:]) == new


@pytest.mark.parametrize('questions', ['who?', [''], [3], [' ']])
def test_questions_of_a_document_must_be_texts(questions):
  with pytest.raises(ValueError, match='questions of a document must be'):
    rag_jax.corpus.as_documents([{'text': 'a', 'questions': questions}])


def test_documents_without_questions_are_stored_as_before(trained_run):
  documents = (rag_jax.types.Document(id='a', text='A cat.'),)
  packed = store.pack_documents(documents)
  assert store.unpack_documents(packed) == documents
  assert 'questions' not in gzip.decompress(packed).decode()
  keyed = (dataclasses.replace(documents[0], questions=('who?',)),)
  assert store.unpack_documents(store.pack_documents(keyed)) == keyed
