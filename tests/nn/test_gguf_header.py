"""Damaged and hostile GGUF files: one line each, at once."""

import re
import struct

import numpy as np
import pytest

from rag_jax.nn import gguf_file, gguf_header

gguf = pytest.importorskip('gguf', reason='the package gguf is not installed')


def refused(path, words):
  """Reading fails with one line that names the file, the fault and a remedy."""
  with pytest.raises(ValueError, match=re.escape(words)) as caught:
    gguf_file.read(path)
  message = str(caught.value)
  assert repr(str(path)) in message and '\n' not in message
  assert re.search(r'\. (Download|Convert|Give) ', message)


def text(value):
  return struct.pack('<Q', len(value)) + value.encode()


def header(tensors, fields):
  return b'GGUF' + struct.pack('<IQQ', 3, tensors, fields)


ARCHITECTURE = text('general.architecture') + struct.pack('<I', 8)
ARCHITECTURE += text('llama')
FIELD, TENSOR = (
  header(0, 1) + text('a'),
  header(1, 1) + ARCHITECTURE + text('t'),
)
HEADERS = {
  'empty': (b'', 'ends within its header'),
  'another format': (b'GGML' + bytes(40), "begins with b'GGML'"),
  'another version': (header(0, 0).replace(b'\3', b'\t', 1), 'version 9'),
  'cut': (header(1, 1)[:15], 'ends within its header'),
  'fields': (header(0, 2**62), 'fields, the limit is'),
  'tensors': (header(2**62, 0), 'tensors, the limit is'),
  'a key': (header(0, 1) + struct.pack('<Q', 2**63), 'more than there are'),
  'an array': (FIELD + struct.pack('<IIQ', 9, 0, 2**60), 'values, the limit'),
  'a 10 GB array': (
    FIELD + struct.pack('<IIQ', 9, 12, 1_250_000),
    '10,000,000 bytes more than there are',
  ),
  'a text': (FIELD + struct.pack('<IQ', 8, 2**60), 'more than there are'),
  'a type': (FIELD + struct.pack('<I', 99), 'unknown type 99'),
  'arrays in arrays': (
    FIELD + struct.pack('<I', 9) + struct.pack('<IQ', 9, 1) * 9999,
    'unknown type 9',
  ),
  'dimensions': (TENSOR + struct.pack('<I', 2**31), 'dimensions of a tensor'),
  'a 10 GB tensor': (
    TENSOR + struct.pack('<IQIQ', 1, 2_500_000_000, 0, 0),
    'cannot be read',
  ),
}


@pytest.mark.parametrize('data, words', HEADERS.values(), ids=list(HEADERS))
def test_a_wrong_header_is_refused(tmp_path, data, words):
  path = tmp_path / 'model.gguf'
  path.write_bytes(data)
  refused(path, words)


def write(path, **changes):
  """A small GGUF file; what is None is left out."""
  values = {
    'heads': 2,
    'layers': 1,
    'tokens': ['a', 'b', 'ab'],
    'merges': ['a b'],
    'embedding': np.zeros((3, 8), np.float32),
    'query': np.zeros((8, 8), np.float32),
  } | changes
  writer = gguf.GGUFWriter(path, 'llama')
  writer.add_embedding_length(8)
  writer.add_block_count(values['layers'])
  writer.add_feed_forward_length(8)
  writer.add_layer_norm_rms_eps(1e-5)
  writer.add_tokenizer_model('gpt2')
  writer.add_tokenizer_pre('gpt-2')
  for name, add in {
    'heads': writer.add_head_count,
    'tokens': writer.add_token_list,
    'merges': writer.add_token_merges,
    'embedding': lambda x: writer.add_tensor('token_embd.weight', x),
    'query': lambda x: writer.add_tensor('blk.0.attn_q.weight', x),
  }.items():
    if values[name] is not None:
      add(values[name])
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return path


FIELDS = {
  'no heads': ({'heads': None}, 'attention.head_count, got none'),
  'zero heads': ({'heads': 0}, 'attention.head_count, got 0'),
  'many layers': ({'layers': 2**31 - 1}, 'layers, got 2 tensors'),
  'no tokens': ({'tokens': None}, 'tokenizer.ggml.tokens, got None'),
  'no merges': ({'merges': None}, 'tokenizer.ggml.merges, got None'),
  'an unknown merge': ({'merges': ['x y']}, 'does not fit together'),
  'a merge of three': ({'merges': ['a b c']}, 'does not fit together'),
  'no embedding': ({'embedding': None}, 'token_embd.weight, got none'),
  'a flat embedding': (
    {'embedding': np.zeros(3, np.float32)},
    'token_embd.weight, got (3,)',
  ),
  'a wrong query matrix': (
    {'query': np.zeros((7, 8), np.float32)},
    'does not fit together',
  ),
}


@pytest.mark.parametrize('changes, words', FIELDS.values(), ids=list(FIELDS))
def test_fields_that_are_missing_or_wrong_are_named(tmp_path, changes, words):
  refused(write(tmp_path / 'model.gguf', **changes), words)


def test_every_cut_and_many_flipped_bytes_raise_nothing_but_one_line(tmp_path):
  path = write(tmp_path / 'model.gguf')
  whole = path.read_bytes()
  rng = np.random.default_rng(0)
  damaged = [whole[:end] for end in range(0, len(whole), 16)]
  for _ in range(100):
    data = bytearray(whole)
    data[rng.integers(len(data))] = rng.integers(256)
    damaged.append(bytes(data))
  refusals = 0
  for data in damaged:
    path.write_bytes(data)
    try:
      gguf_file.read(path)
    except ValueError as error:
      refusals += 1
      assert '\n' not in str(error)
  assert refusals > len(damaged) / 3


def test_the_header_of_an_intact_file_passes(tmp_path):
  path = write(tmp_path / 'model.gguf')
  gguf_header.check(path)
  assert gguf_file.read(path).config.vocab_size == 3
