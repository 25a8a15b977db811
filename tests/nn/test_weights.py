import json
import re

import ml_dtypes
import numpy as np
import pytest

from rag_jax.nn import bert, t5, weights

ARRAYS = {
  'a': np.arange(6, dtype=np.float32).reshape(2, 3),
  'b': np.array([1, 2], np.int64),
}


def test_arrays_of_any_memory_layout_are_written(tmp_path):
  path = tmp_path / 'model.safetensors'
  weights.write(path, {**ARRAYS, 'transposed': ARRAYS['a'].T})
  state = weights.read(path)
  assert state['b'].dtype == np.int64
  np.testing.assert_array_equal(state['transposed'], ARRAYS['a'].T)
  np.testing.assert_array_equal(weights.read(tmp_path)['a'], ARRAYS['a'])
  assert [p.name for p in tmp_path.iterdir()] == ['model.safetensors']


@pytest.mark.parametrize('dtype', [np.float16, ml_dtypes.bfloat16])
def test_half_precision_becomes_float32(tmp_path, dtype):
  path = tmp_path / 'model.safetensors'
  weights.write(path, {'a': np.array([1.5, -3], dtype)})
  array = weights.read(path)['a']
  assert array.dtype == np.float32
  assert array.tolist() == [1.5, -3]


def write_shards(folder):
  names = {'a': 'one.safetensors', 'b': 'two.safetensors'}
  for name, file in names.items():
    weights.write(folder / file, {name: ARRAYS[name]})
  index = folder / 'model.safetensors.index.json'
  index.write_text(json.dumps({'metadata': {}, 'weight_map': names}))


def test_shards_are_merged(tmp_path):
  write_shards(tmp_path)
  state = weights.read(tmp_path)
  assert sorted(state) == ['a', 'b']
  np.testing.assert_array_equal(state['b'], ARRAYS['b'])


def test_missing_and_damaged_files_are_errors(tmp_path):
  write_shards(tmp_path)
  (tmp_path / 'two.safetensors').unlink()
  with pytest.raises(ValueError, match=r'two.safetensors.* does not exist'):
    weights.read(tmp_path)
  weights.write(tmp_path / 'two.safetensors', {'c': ARRAYS['a']})
  with pytest.raises(ValueError, match=r'must hold the 1 .* without 1 \(b;'):
    weights.read(tmp_path)
  path = tmp_path / 'one.safetensors'
  whole = path.read_bytes()
  for damaged in (b'', b'nothing', whole[:-4], whole[:30]):
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=r'one.safetensors.* is damaged'):
      weights.read(path)
  (tmp_path / 'model.safetensors.index.json').write_text('{}')
  with pytest.raises(ValueError, match='index.json.* is damaged'):
    weights.read(tmp_path)


def test_an_existing_file_is_not_overwritten(tmp_path):
  path = tmp_path / 'model.safetensors'
  weights.write(path, ARRAYS)
  with pytest.raises(ValueError, match='must be a new one, got .* exists. '):
    weights.write(path, {})
  assert sorted(weights.read(path)) == ['a', 'b']


def test_a_failed_write_leaves_nothing(tmp_path):
  with pytest.raises(Exception):  # noqa: B017, an error of safetensors
    weights.write(tmp_path / 'x', {'a': np.array(['text'])})
  assert not list(tmp_path.iterdir())


def test_check_lists_all_mismatches():
  state = {'a': np.ones((2, 3)), 'b': np.ones(2), 'x': np.ones(1)}
  shapes = {'a': (3, 2), 'b': (2,), 'c': (1,), 'd': (1,), 'e': (), 'f': ()}
  words = (
    'weights must be the 6 tensors of the model, got 4 missing (c; d; e; ...),'
    ' 1 unexpected (x), 1 of the wrong shape (a (2, 3), not (3, 2)). '
  )
  with pytest.raises(ValueError, match=re.escape(words)):
    weights.check(state, shapes)
  weights.check(state, {'a': (2, 3), 'b': (2,)}, ignore=['x'])


MINILM = {
  'model_type': 'bert',
  'hidden_act': 'gelu',
  'hidden_size': 384,
  'intermediate_size': 1536,
  'layer_norm_eps': 1e-12,
  'max_position_embeddings': 512,
  'num_attention_heads': 12,
  'num_hidden_layers': 6,
  'type_vocab_size': 2,
  'vocab_size': 30522,
}
T5_SMALL = {
  'model_type': 't5',
  'd_ff': 2048,
  'd_kv': 64,
  'd_model': 512,
  'layer_norm_epsilon': 1e-06,
  'num_heads': 8,
  'num_layers': 6,
  'relative_attention_num_buckets': 32,
  'vocab_size': 32128,
}
# Fields as in files of 2019, of 2021 and of transformers 5.
VERSIONS = [
  ({}, t5.T5Config()),
  (
    {
      'feed_forward_proj': 'gated-gelu',
      'tie_word_embeddings': False,
      'num_decoder_layers': 8,
      'relative_attention_max_distance': 64,
    },
    t5.T5Config(gated=True, tied=False, num_decoder_layers=8, max_distance=64),
  ),
  (
    {'tie_word_embeddings': True, 'scale_decoder_outputs': False},
    t5.T5Config(tied=False),
  ),
  ({'feed_forward_proj': 'gated-gelu'}, t5.T5Config(gated=True)),
]


def test_bert_config_reads_config_json(tmp_path):
  path = tmp_path / 'config.json'
  path.write_text(json.dumps(MINILM))
  assert weights.bert_config(tmp_path) == bert.BertConfig()


@pytest.mark.parametrize('more, expected', VERSIONS)
def test_t5_config_reads_config_json(tmp_path, more, expected):
  (tmp_path / 'config.json').write_text(json.dumps({**T5_SMALL, **more}))
  assert weights.t5_config(tmp_path) == expected


def test_unsupported_models_are_errors(tmp_path):
  with pytest.raises(ValueError, match='config.json.* does not exist'):
    weights.t5_config(tmp_path)
  path = tmp_path / 'config.json'
  path.write_text(json.dumps(MINILM))
  with pytest.raises(ValueError, match="model_type .* 'mt5'.*, got 'bert'. "):
    weights.t5_config(tmp_path)
  path.write_text(json.dumps({**MINILM, 'hidden_act': 'gelu_new'}))
  with pytest.raises(ValueError, match="hidden_act .* got 'gelu_new'. Give"):
    weights.bert_config(tmp_path)
  path.write_text(json.dumps({'model_type': 't5', 'd_model': 8}))
  with pytest.raises(ValueError, match=r"without \['vocab_size', 'num_lay"):
    weights.t5_config(tmp_path)
  path.write_text('{')
  with pytest.raises(ValueError, match='config.json.* is damaged'):
    weights.t5_config(tmp_path)
