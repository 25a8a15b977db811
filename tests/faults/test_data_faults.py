"""Hostile data files: each is refused within seconds and little memory."""

import gzip
import io
import json
import os
import re
import subprocess
import sys
import zipfile
import zlib

import numpy as np
import pytest

from rag_jax.data import formats, text_files, tokenizer_checks, tokenizers
from rag_jax.index import index as indexes

GIB = 2**30
SECONDS, BYTES = 60, 1 * GIB  # a busy machine is slower than one that is idle
# Runs code with a limit of memory beyond what the imports take, and prints the
# message of its ValueError.
PROGRAM = """
import resource, sys
from rag_jax.data import formats, tokenizers
from rag_jax.index import index
size = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + {limit}, size + {limit}))
try:
  {code}
except ValueError as error:
  print(error)
"""


def refused(code, words):
  """Code raises a ValueError, in little time and memory, in one line."""
  found = subprocess.run(
    [sys.executable, '-c', PROGRAM.format(code=code, limit=BYTES)],
    capture_output=True,
    text=True,
    timeout=SECONDS,
    check=False,
  )
  assert re.search(words, found.stdout), (found.stdout, found.stderr)
  assert found.stdout.count('\n') == 1


def zeros(path, size):
  """A .gz of spaces."""
  stream = zlib.compressobj(9, zlib.DEFLATED, 31)
  piece = b' ' * 2**24
  with path.open('wb') as file:
    for _ in range(-(-size // len(piece))):
      file.write(stream.compress(piece))
    file.write(stream.flush())
  return path


def test_a_gz_that_unpacks_to_gigabytes(tmp_path):
  path = zeros(tmp_path / 'x.json.gz', 2 * GIB)
  assert path.stat().st_size < 2**22
  refused(f'formats.load({str(path)!r})', r'100 times its size.* gunzip if it')


def test_a_gz_above_the_limit_is_refused_by_samples(tmp_path, monkeypatch):
  """Long before all of it is unpacked; a sound file of one size is read."""
  unpacked = 2**24
  line = json.dumps({'id': 'a', 'text': os.urandom(2**12).hex() * 64}) + '\n'
  text = line * (unpacked // len(line))
  path = tmp_path / 'documents.jsonl.gz'
  path.write_bytes(gzip.compress(text.encode(), 1))
  monkeypatch.setattr(text_files, '_SAMPLE', 2**20)
  monkeypatch.setattr(text_files, '_MIN_BOMB', 2**30)
  counted = []
  sizes = text_files._gzip_sizes

  def count(own):
    for packed, size in sizes(own):
      counted.append(size)
      yield packed, size

  monkeypatch.setattr(text_files, '_gzip_sizes', count)
  with pytest.raises(ValueError, match=r'unpacked \(about 0 GiB\), the limit'):
    list(text_files.read_json_lines(path, unpacked / 2 / GIB))
  assert counted[-1] < 2**23
  assert list(text_files.read_json_lines(path, 1.05 * unpacked / GIB))


def test_a_field_that_occurs_twice(tmp_path):
  path = tmp_path / 'documents.jsonl'
  path.write_text('{"id": "a", "text": "one", "text": "two"}\n')
  with pytest.raises(ValueError, match="line 1 .*field 'text' occurs twice"):
    formats.load(tmp_path)


def test_many_small_members_of_a_gz_count_together(tmp_path):
  member = gzip.compress(b' ' * 2**20)
  path = tmp_path / 'x.json.gz'
  path.write_bytes(member * 2048)
  refused(f'formats.load({str(path)!r})', '100 times its size')


def test_a_plain_file_above_the_limit(tmp_path):
  path = tmp_path / 'x.json'
  with path.open('wb') as file:
    file.truncate(10 * GIB)  # takes no space
  refused(
    f'formats.load({str(path)!r})',
    r'more than 8 GiB, the limit .* Set --config\.data\.max_file_gib to a',
  )


@pytest.mark.parametrize('name', ['documents.jsonl', 'documents.jsonl.gz'])
def test_the_limit_can_be_set(tmp_path, name):
  text = b''.join(
    json.dumps({'id': i, 'text': os.urandom(300).hex()}).encode() + b'\n'
    for i in range(100)
  )
  data = gzip.compress(text) if name.endswith('gz') else text
  (tmp_path / name).write_bytes(data)
  (tmp_path / 'questions-dev.jsonl').write_text('')
  with pytest.raises(ValueError, match=r'limit data\.max_file_gib\. Set'):
    formats.load(tmp_path, max_file_gib=(len(text) - 1) / GIB)
  dataset = formats.load(tmp_path, max_file_gib=len(text) / GIB)
  assert len(dataset.documents) == 100


def test_a_small_file_may_be_packed_well(tmp_path):
  (tmp_path / 'questions-dev.jsonl').write_text('')
  line = json.dumps({'id': 'a', 'text': 'a' * 2**20}).encode()
  path = tmp_path / 'documents.jsonl.gz'
  path.write_bytes(gzip.compress(line))
  assert len(line) > text_files._MAX_RATIO * path.stat().st_size
  assert len(formats.load(tmp_path).documents) == 1


def npz(path, shape, size):
  """An .npz whose array declares a shape and holds this many zeros."""
  header = io.BytesIO()
  np.lib.format.write_array_header_1_0(
    header, {'descr': '<f4', 'fortran_order': False, 'shape': shape}
  )
  with (
    zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as file,
    file.open('tokens.npy', 'w', force_zip64=True) as stream,
  ):
    stream.write(header.getvalue())
    for _ in range(0, size, 2**24):
      stream.write(bytes(2**24))
  return path


def test_an_index_that_declares_gigabytes(tmp_path):
  path = npz(tmp_path / 'index.npz', (2_500_000_000,), 0)
  words = (
    r"index\.npz' cannot be read .*10,000,000,000 bytes\).* build the index"
  )
  refused(f'index.read({str(path)!r}, ())', words)


def test_an_index_that_unpacks_to_gigabytes(tmp_path):
  path = npz(tmp_path / 'index.npz', (GIB // 2,), 2 * GIB)
  assert path.stat().st_size < 2**22
  refused(f'index.read({str(path)!r}, ())', r'declares 2,147,483,776 bytes in')


def test_an_index_of_padding_is_written_so_that_it_is_read(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(indexes, '_MIN_BOMB', 2**20)
  arrays = {'tokens': np.zeros((2**20, 2), np.int32)}
  indexes.write(tmp_path / 'index.npz', arrays)
  found = indexes.read(tmp_path / 'index.npz', ('tokens',))
  np.testing.assert_array_equal(found['tokens'], arrays['tokens'])
  np.savez_compressed(tmp_path / 'packed.npz', **arrays)
  with pytest.raises(ValueError, match='declares 8,388,736 bytes in'):
    indexes.read(tmp_path / 'packed.npz', ('tokens',))


def tokenizer_file(path, pattern):
  split = {'type': 'Split', 'behavior': 'Isolated', 'invert': False}
  padding = {'id': 0, 'content': '[PAD]', 'special': True, 'normalized': False}
  padding |= {'single_word': False, 'lstrip': False, 'rstrip': False}
  model = {'type': 'BPE', 'vocab': {'[PAD]': 0, 'a': 1}, 'merges': []}
  value = {
    'version': '1.0',
    'pre_tokenizer': split | {'pattern': {'Regex': pattern}},
    'model': model | {'unk_token': 'a'},
    'added_tokens': [padding],
  }
  path.write_text(json.dumps(value))
  return path


GPT2 = r"'s|'t| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


@pytest.mark.parametrize('pattern', ['(a+)+$', r'(?:x+x+)+y', r'(\w+\s?)+$'])
def test_a_catastrophic_pattern_of_a_tokenizer(tmp_path, capfd, pattern):
  path = tokenizer_file(tmp_path / 'tokenizer.json', pattern)
  with pytest.raises(ValueError, match='a pattern such as .* fails') as caught:
    tokenizers.load_published(path)
  message = str(caught.value)
  assert repr(str(path)) in message and repr(pattern) in message
  assert '. Give the tokenizer.json' in message and '\n' not in message
  assert capfd.readouterr().err == ''  # nothing of what the trial wrote


def test_a_slow_pattern_of_a_tokenizer(tmp_path, monkeypatch):
  monkeypatch.setattr(tokenizer_checks, 'SECONDS', 0.01)
  path = tokenizer_file(tmp_path / 'tokenizer.json', GPT2)
  with pytest.raises(ValueError, match=r'takes longer than 0\.01 s on a text'):
    tokenizers.load_published(path)


def test_a_usual_pattern_of_a_tokenizer(tmp_path):
  path = tokenizer_file(tmp_path / 'tokenizer.json', GPT2)
  assert tokenizers.load_published(path).encode('a').ids == [1]


def test_a_pattern_that_fails_later_is_one_line(tmp_path, monkeypatch):
  monkeypatch.setattr(tokenizer_checks, 'check_patterns', lambda *_: None)
  path = tokenizer_file(tmp_path / 'tokenizer.json', '(a+)+$')
  tokenizer = tokenizers.load_published(path)
  with pytest.raises(ValueError, match=r'gave up on a text .* Give the token'):
    tokenizers.encode(tokenizer, ['a' * 60 + '!'], max_tokens=8)
