import json
import shutil

import pytest

from rag_jax import compare_docids
from rag_jax import config as configs
from rag_jax.index import docids

SCHEMES = ('hierarchical_kmeans', 'residual_kmeans', 'title')


@pytest.mark.long
def test_every_scheme_is_measured_and_drawn(tiny_values, tmp_path, monkeypatch):
  monkeypatch.setattr(docids, 'SCHEMES', SCHEMES)  # all of them take a minute
  values = tiny_values | {
    'docid': {'branching': 8, 'codebook_size': 8, 'leaf_size': 8, 'steps': 2}
  }
  text = compare_docids.run(configs.build(values), tmp_path / 'out')
  rows = json.loads((tmp_path / 'out' / 'docids.json').read_text())
  assert {row['scheme'] for row in rows} == {*SCHEMES, 'ngram_keys'}
  for row in rows:
    assert row['scheme'] in text
    assert row['statistics']['documents'] == 48
    assert 0 <= row['hits']['1'] <= row['hits']['10'] <= row['hits']['50'] <= 1
  assert 'dev: 8 questions' in text


def test_no_gold_document_is_left_out_of_the_measures(
  tiny_values, tiny_folder, tmp_path, monkeypatch, capsys
):
  shutil.copytree(tiny_folder, tmp_path / 'data')
  path = tmp_path / 'data' / 'questions-dev.jsonl'
  question = json.loads(path.read_text().splitlines()[0])
  lines = (tiny_folder / 'documents.jsonl').read_text().splitlines()
  question['document_ids'] = [json.loads(line)['id'] for line in lines]
  question['question'] = 'Please, ' * 200 + question['question']
  path.write_text(json.dumps(question))
  monkeypatch.setattr(docids, 'SCHEMES', SCHEMES[:1])
  data = {'path': str(tmp_path / 'data'), 'max_gold': 1}
  values = tiny_values | {'data': tiny_values['data'] | data}
  compare_docids.run(configs.build(values), tmp_path / 'out')
  rows = json.loads((tmp_path / 'out' / 'docids.json').read_text())
  assert {row['hits']['1'] for row in rows} == {1.0}
  assert (
    '1 of 1 questions in dev cut after 512 tokens' in capsys.readouterr().err
  )


def test_questions_without_gold_documents_raise_an_error(
  tiny_values, tiny_folder, tmp_path
):
  folder = tmp_path / 'data'
  folder.mkdir()
  for name in ('documents', 'questions-train', 'questions-dev'):
    lines = (tiny_folder / f'{name}.jsonl').read_text().splitlines()
    records = [json.loads(line) for line in lines]
    for record in records:
      record.pop('document_ids', None)
    text = ''.join(json.dumps(record) + '\n' for record in records)
    (folder / f'{name}.jsonl').write_text(text)
  values = tiny_values | {'data': tiny_values['data'] | {'path': str(folder)}}
  with pytest.raises(ValueError, match="'dev' must have questions with gold"):
    compare_docids.run(configs.build(values), tmp_path / 'out')
  assert not (tmp_path / 'out').exists()
