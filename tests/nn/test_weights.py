import json
import re
import struct

import ml_dtypes
import numpy as np
import pytest

from rag_jax.nn import bert, encoders, llama_config, t5, weights

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


@pytest.mark.parametrize(
  'text, words',
  [
    ('{', 'is damaged'),
    ('[' * 99_999, 'is damaged'),
    ('[]', 'must hold a JSON object, got []'),
    ('{}', 'must hold weight_map, the shard of each tensor, got None'),
    ('{"weight_map": ["a"]}', "the shard of each tensor, got ['a']"),
    ('{"weight_map": {}}', 'the shard of each tensor, got {}'),
    ('{"weight_map": {"a": 3}}', "in the same folder, got 3 for 'a'"),
    ('{"weight_map": {"a": "../b"}}', "in the same folder, got '../b'"),
    ('{"weight_map": {"a": "/dev/zero"}}', "got '/dev/zero' for 'a'"),
  ],
)
def test_a_damaged_index_of_shards_is_one_line(tmp_path, text, words):
  path = tmp_path / 'model.safetensors.index.json'
  path.write_text(text)
  with pytest.raises(ValueError, match=re.escape(words)) as caught:
    weights.read(tmp_path)
  message = str(caught.value)
  assert str(path) in message and '\n' not in message
  assert message.endswith(
    'Download it again, with all its shards if it has any.'
  )


def safetensors_file(path, header, data=b''):
  if not isinstance(header, bytes):
    header = json.dumps(header).encode()
  path.write_bytes(struct.pack('<Q', len(header)) + header + data)


def tensor(dtype, shape, size):
  return {'a': {'dtype': dtype, 'shape': shape, 'data_offsets': [0, size]}}


@pytest.mark.parametrize('dtype', ['F8_E4M3', 'F8_E8M0', 'F4', 'F6_E2M3'])
def test_a_dtype_that_numpy_lacks_is_named(tmp_path, dtype):
  path = tmp_path / 'model.safetensors'
  size = {'F4': 4, 'F6_E2M3': 6}.get(dtype, 8)
  safetensors_file(path, tensor(dtype, [8], size), bytes(size))
  words = f'must hold tensors of a dtype .*, got {dtype}. Give these weights in'
  with pytest.raises(ValueError, match=words):
    weights.read(tmp_path)


@pytest.mark.parametrize(
  'header, data',
  [
    (tensor('Z9', [4], 4), b'1234'),
    (tensor('F32', [2_500_000_000], 10**10), b''),
    (tensor('F32', [2**63, 2**63], 4), b'1234'),
    (tensor('F32', [-1], 4), b'1234'),
    ([], b''),
    (b'{"a":', b''),
    (b'{"a":' + b'[' * 99_999, b''),
  ],
)
def test_a_header_that_does_not_fit_its_file_is_damage(tmp_path, header, data):
  safetensors_file(tmp_path / 'model.safetensors', header, data)
  with pytest.raises(
    ValueError, match=r'model\.safetensors.* is damaged \('
  ) as e:
    weights.read(tmp_path)
  assert '\n' not in str(e.value)


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
  with pytest.raises(ValueError, match=r'1 not of a float dtype \(a int8\)'):
    weights.check({'a': np.ones(2, np.int8)}, {'a': (2,)})


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


def read_bert(folder):
  return encoders.read_config(folder)[0]


def test_the_config_json_of_a_bert(tmp_path):
  path = tmp_path / 'config.json'
  path.write_text(json.dumps(MINILM))
  assert read_bert(tmp_path) == bert.BertConfig()


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
  path.write_text(json.dumps({**MINILM, 'hidden_act': 'mish'}))
  with pytest.raises(ValueError, match="hidden_act .* got 'mish'. Give"):
    read_bert(tmp_path)
  path.write_text(json.dumps({'model_type': 't5', 'd_model': 8}))
  with pytest.raises(ValueError, match=r"without \['vocab_size', 'num_lay"):
    weights.t5_config(tmp_path)


LLAMA = {
  'model_type': 'llama',
  'hidden_act': 'silu',
  'vocab_size': 10,
  'hidden_size': 8,
  'num_hidden_layers': 1,
  'num_attention_heads': 2,
  'intermediate_size': 8,
  'rms_norm_eps': 1e-5,
}


@pytest.mark.parametrize(
  'read, value, words',
  [
    (read_bert, '{', 'is damaged'),
    (read_bert, '[' * 99_999, 'is damaged'),
    (read_bert, [], 'must hold a JSON object, got []'),
    (weights.t5_config, None, 'must hold a JSON object, got None'),
    (read_bert, MINILM | {'hidden_size': '384'}, "got '384'"),
    (read_bert, MINILM | {'hidden_size': True}, 'got True'),
    (read_bert, MINILM | {'hidden_size': 384.5}, 'got 384.5'),
    (read_bert, MINILM | {'num_hidden_layers': 10**12}, 'to 10000'),
    (
      read_bert,
      MINILM | {'layer_norm_eps': 'x'},
      'a positive number',
    ),
    (weights.t5_config, T5_SMALL | {'num_decoder_layers': 'x'}, "got 'x'"),
    (llama_config.read, LLAMA | {'num_attention_heads': 0}, 'from 1 to'),
    (llama_config.read, LLAMA | {'rope_parameters': [1]}, 'an object'),
    (llama_config.read, LLAMA | {'rope_theta': 'x'}, 'a positive number'),
    (llama_config.read, LLAMA | {'num_key_value_heads': 'a'}, "got 'a'"),
    (llama_config.read, LLAMA | {'tie_word_embeddings': 'no'}, 'or false'),
  ],
)
def test_a_damaged_config_json_is_one_line(tmp_path, read, value, words):
  path = tmp_path / 'config.json'
  path.write_text(value if isinstance(value, str) else json.dumps(value))
  with pytest.raises(ValueError, match=re.escape(words)) as caught:
    read(tmp_path)
  message = str(caught.value)
  assert str(path) in message and '\n' not in message
  assert re.search(r'\. (Download it|Correct it, or download)', message)
