"""Data without training questions is searched and measured all the same."""

import dataclasses
import json

import ir_measures
import numpy as np
import pytest

import rag_jax
from rag_jax import config as configs
from rag_jax import measures, train, types, workdir
from rag_jax.data import pipeline
from rag_jax.index import statistics


@pytest.fixture
def values(tiny_values):
  data = tiny_values['data'] | {'passage_words': 5, 'passage_overlap': 1}
  return tiny_values | {'data': data}


@pytest.fixture
def untrained(values):
  def make(path, **data):
    own = values | {'data': values['data'] | data | {'path': str(path)}}
    return dataclasses.replace(configs.build(own), stages=())

  return make


def folder_of(path, tiny_folder, questions):
  path.mkdir()
  for name, source in questions.items():
    (path / name).write_text((tiny_folder / source).read_text())
  return path


@pytest.mark.long
def test_only_a_test_split_of_passages(
  untrained, tiny_folder, tmp_path, capsys
):
  folder = folder_of(
    tmp_path / 'data',
    tiny_folder,
    {
      'documents.jsonl': 'documents.jsonl',
      'questions-test.jsonl': 'questions-dev.jsonl',
    },
  )
  run = tmp_path / 'run'
  results = train.run(untrained(folder), run)
  assert '48 documents are cut into 96' in capsys.readouterr().err
  found = {(r.system, r.metric): r.value for r in results if r.split == 'test'}
  qrels = list(ir_measures.read_trec_qrels(str(run / 'qrels-test.trec')))
  assert {q.doc_id for q in qrels} < {
    json.loads(line)['id']
    for line in (folder / 'documents.jsonl').read_text().splitlines()
  }
  for system, slug in (('BM25', 'BM25'), ('generative index',) * 2):
    path = run / f'run-test-{slug.replace(" ", "-")}.trec'
    ranked = list(ir_measures.read_trec_run(str(path)))
    wanted = {
      'nDCG@10': ir_measures.nDCG @ 10,
      'MAP': ir_measures.AP,
      'Hits@1': ir_measures.Success @ 1,
    }
    right = ir_measures.calc_aggregate(list(wanted.values()), qrels, ranked)
    for name, measure in wanted.items():
      assert found[system, name] == pytest.approx(right[measure], abs=1e-6)
  assert found['BM25', 'Hits@1'] > 0.5
  [answer] = rag_jax.load(run).ask(['How much does the red cat weigh?'])
  assert answer.abstained and answer.candidates[0].document.parent


@pytest.mark.long
def test_no_questions_at_all(untrained, tiny_folder, tmp_path, capsys):
  folder = folder_of(
    tmp_path / 'data', tiny_folder, {'documents.jsonl': 'documents.jsonl'}
  )
  assert train.run(untrained(folder), tmp_path / 'run') == []
  assert 'has no questions: nothing is trained' in capsys.readouterr().err
  assert rag_jax.load(tmp_path / 'run').search(['red cat'])[0]


def test_training_needs_training_questions(values, tiny_folder, tmp_path):
  folder = folder_of(
    tmp_path / 'data',
    tiny_folder,
    {
      'documents.jsonl': 'documents.jsonl',
      'questions-test.jsonl': 'questions-dev.jsonl',
    },
  )
  config = configs.build(
    values | {'data': values['data'] | {'path': str(folder)}}
  )
  with pytest.raises(ValueError, match="'train' to train on; there are test"):
    workdir.open(config, tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


QUESTION = types.Question(id='q', text='x')
DOCUMENT = types.Document(id='d', text='x')


@pytest.mark.parametrize(
  'splits, fields, wanted',
  [
    (['train', 'dev', 'test'], {}, ['dev', 'test']),
    (['test'], {}, ['test']),
    (['test'], {'train_split': 'test'}, ['test']),
    (['train', 'dev'], {'eval_splits': ('train',)}, ['train']),
    (['train', 'dev'], {'calibration_split': 'dev'}, ['dev']),
    (['train', 'cal', 'dev'], {'calibration_split': 'cal'}, ['dev']),
    ([], {}, []),
  ],
)
def test_the_splits_to_measure(splits, fields, wanted):
  dataset = types.Dataset(
    documents=(DOCUMENT,), splits={name: (QUESTION,) for name in splits}
  )
  config = pipeline.DataConfig(**fields)
  assert pipeline.check_splits(dataset, config) == wanted


def test_few_training_questions_and_measured_ones_are_noted(values):
  config = configs.build(values)
  dataset = types.Dataset(
    documents=(DOCUMENT,), splits={'train': (QUESTION,) * 14}
  )
  notes = ' '.join(workdir._split_notes(config, dataset, ['train']))
  assert '14 training questions teach a query encoder and a reader' in notes
  assert "split 'train' is measured, but also trained on" in notes
  many = {'train': (QUESTION,) * 200, 'dev': (QUESTION,)}
  dataset = types.Dataset(documents=(DOCUMENT,), splits=many)
  assert 'teach' not in ' '.join(workdir._split_notes(config, dataset, ['dev']))


def test_hits_of_schemes_count_documents():
  found = np.array([[0, 1, 2]])
  groups = np.array([0, 0, 2])
  gold, _ = measures.gold(
    [types.Question(id='q', text='x', document_ids=('b',))], {'b': 2}, groups
  )
  assert statistics._hits(found, gold, (2,), groups) == {2: 1.0}
  assert statistics._hits(found, gold, (2,), None) == {2: 0.0}
