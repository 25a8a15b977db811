"""Vectors of folders equal those of sentence-transformers, and of all families.

The folders are small random checkpoints. Cosines differ from 1 by less than
2e-5, and so does each coordinate of a vector of unit length.
"""

import numpy as np
import pytest

from rag_jax import loading
from rag_jax.nn import encoders

REASON = "{0} is not installed: pip install '.[oracles]'"
torch = pytest.importorskip('torch', reason=REASON.format('PyTorch'))
theirs = pytest.importorskip(
  'sentence_transformers', reason=REASON.format('sentence-transformers')
)

TEXTS = ['red cat', 'is it blue owl dog? which one is it?', 'green query owl']
MODES = {
  'cls_token': 'cls',
  'max_tokens': 'max',
  'mean_tokens': 'mean',
  'mean_sqrt_len_tokens': 'mean_sqrt_length',
  'weightedmean_tokens': 'weighted_mean',
  'lasttoken': 'last_token',
}


def folder_of(mode='mean_tokens', more=('Normalize',), **files):
  kinds = ['Transformer', 'Pooling', *more]
  modules = [
    {
      'idx': i,
      'name': str(i),
      'path': f'{i}_{kind}' if i else '',
      'type': f'sentence_transformers.models.{kind}',
    }
    for i, kind in enumerate(kinds)
  ]
  pool = {'word_embedding_dimension': 8, f'pooling_mode_{mode}': True}
  pool |= {f'pooling_mode_{m}': m == mode for m in MODES}
  padding = {'pad_token': '[PAD]', 'tokenizer_class': 'PreTrainedTokenizerFast'}
  padding |= {'cls_token': '[CLS]', 'sep_token': '[SEP]'}
  found = {
    'modules.json': modules,
    '1_Pooling/config.json': pool,
    'tokenizer_config.json': padding,
    'sentence_bert_config.json': {'max_seq_length': 32},
  }
  return found | {f'{name}.json': values for name, values in files.items()}


def check(folder, label):
  system = loading.from_documents(TEXTS, encoder=folder)
  model = theirs.SentenceTransformer(folder, device='cpu')
  table = np.asarray(system.params['id_decoder']['table'])
  largest = 0.0
  for ours, expected in (
    (system.embed(TEXTS), model.encode_query(TEXTS)),
    (table[: len(TEXTS)], model.encode_document(TEXTS)),
  ):
    size = np.linalg.norm(expected, axis=1, keepdims=True)
    largest = max(largest, np.abs(ours / size - expected / size).max())
  print(f'{label}: {largest:.1e}')
  assert largest < 2e-5


@pytest.mark.parametrize('family', encoders.FAMILIES)
def test_families(write_encoder, tmp_path, family):
  check(write_encoder(tmp_path, family, said=folder_of()), family)


@pytest.mark.parametrize('mode', MODES)
def test_poolings_and_dot_products(write_encoder, tmp_path, mode):
  check(write_encoder(tmp_path, said=folder_of(mode, more=())), mode)


def test_prompts(write_encoder, tmp_path):
  prompts = {'prompts': {'query': 'query: ', 'document': 'passage: '}}
  files = folder_of(config_sentence_transformers=prompts)
  check(write_encoder(tmp_path, 'xlm-roberta', said=files), 'prompts')
