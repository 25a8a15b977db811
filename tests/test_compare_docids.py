import json

import pytest

from rag_jax import compare_docids
from rag_jax import config as configs
from rag_jax.index import docids

SCHEMES = ('hierarchical_kmeans', 'residual_kmeans', 'title')


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
