"""`rag-jax corpus`: the same files for any number of processes."""

import dataclasses
import errno
import gzip
import hashlib
import json
import os
import pathlib

import numpy as np
import pytest

from rag_jax import config as configs
from rag_jax import corpus, files, store, types, workdir
from rag_jax.data import formats, pipeline, tokenizers
from rag_jax.data.sources import array_records
from rag_jax.index import codebooks, docids, lexicon_file
from rag_jax.index import index as indexes
from rag_jax.offline import blocks, run, steps
from rag_jax.ops import lexical, postings

BLOCK = 10


@pytest.fixture(scope='module')
def config(tiny_values):
  data = tiny_values['data'] | {'lexicon': True, 'pair_weight': 0.5}
  return configs.build(tiny_values | {'data': data})


def hashes(folder):
  return {
    str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
    for path in sorted(folder.rglob('*'))
    if path.is_file()
  }


def build(config, folder, count=1, *, block=BLOCK):
  for name in ('encode', 'fit', 'assign'):
    for number in reversed(range(count)):
      run.step(config, folder, [name], f'{number}/{count}', block)
  return run.step(config, folder, ['pack'])


@pytest.fixture(scope='module')
def packed(config, tmp_path_factory):
  folder = tmp_path_factory.mktemp('packed') / 'run'
  said = build(config, folder)
  assert said.startswith('48 documents, docids of ')
  return folder


def test_the_files_do_not_depend_on_the_number_of_processes(
  config, packed, tmp_path
):
  build(config, tmp_path / 'run', 3)
  assert hashes(tmp_path / 'run') == hashes(packed)


def test_a_process_that_was_killed_makes_what_is_missing(
  config, packed, tmp_path
):
  folder = tmp_path / 'run'
  for number in range(2):
    run.step(config, folder, ['encode'], f'{number}/2', BLOCK)
  own = blocks.Folder(folder)
  for block in (1, 4):
    own.file('vectors', block).unlink()
  own.file('tokens', 4).unlink()
  (own.path / 'tokens-000004.npy.0123.partial').write_bytes(b'half')
  times = {p.name: p.stat().st_mtime_ns for p in own.path.iterdir()}
  said = run.step(config, folder, ['encode'], '0/2')  # blocks 0, 2 and 4
  assert said.startswith('encode 0/2: 1 of 3 blocks made now, 2 before')
  said = run.step(config, folder, ['encode'], '1/2')
  assert said.startswith('encode 1/2: 1 of 2 blocks made now, 1 before')
  now = {p.name: p.stat().st_mtime_ns for p in own.path.iterdir()}
  made = {'vectors-000001.npy', 'vectors-000004.npy', 'tokens-000004.npy'}
  assert {name for name in now if now[name] != times.get(name)} == made
  for name in ('fit', 'assign', 'pack'):
    run.step(config, folder, [name])
  assert hashes(folder) == hashes(packed)


def test_the_index_is_that_of_the_whole_corpus_in_memory(config, packed):
  documents = formats.load(config.data.path).documents
  tokenizer = tokenizers.load(packed / store.TOKENIZER)
  tokens = pipeline.encode_documents(tokenizer, documents, config.data).tokens
  index, quantiser = indexes.load(packed / store.INDEX)
  assert np.array_equal(np.asarray(index.tokens), tokens)
  vectors = np.concatenate(
    [blocks.Folder(packed).load('vectors', block) for block in range(5)]
  )
  codes, whole = docids.fit(vectors, config.docid, seed=config.seed)
  assert np.array_equal(np.asarray(index.codes), codes)
  assert all(np.array_equal(quantiser[name], whole[name]) for name in whole)
  # Vectors: sums of embeddings, weighted by inverse document frequency.
  again = workdir.model.document_vectors(
    workdir.model.init_key(config.seed),
    config.model,
    tokens,
    vocab_size=tokenizer.get_vocab_size(),
  )
  np.testing.assert_allclose(vectors, np.asarray(again), atol=1e-6)


def test_a_run_reads_the_index_and_the_lexicon(config, packed, tmp_path):
  dataset = formats.load(config.data.path)
  weights = workdir.model.Pretrained()
  before = hashes(packed)
  found = workdir.prepare(config, dataset, weights, packed)
  assert {name: hashes(packed)[name] for name in before} == before
  tokenizer = found.system.tokenizer
  plain, vocabulary = corpus.complete(
    config, dataset.documents, tokenizer, found.index
  )
  ours = found.index.lexicon
  for name in ('first', 'documents', 'impacts'):
    own, other = getattr(ours, name), getattr(plain.lexicon, name)
    assert own.dtype == other.dtype and np.array_equal(own, other), name
  for name in ('num_documents', 'longest', 'first_pair'):
    assert getattr(ours, name) == getattr(plain.lexicon, name), name
  host, _ = corpus.complete(
    config,
    dataset.documents,
    tokenizer,
    found.index,
    workdir=packed,
    placed=False,
  )
  assert isinstance(host.lexicon.impacts, np.memmap)  # until a mesh divides it
  assert np.array_equal(host.lexicon.impacts, ours.impacts)
  assert found.system.vocabulary.ids == vocabulary.ids
  assert np.array_equal(found.system.vocabulary.counts, vocabulary.counts)


def test_a_lexicon_of_other_documents_or_settings_is_not_used(config, packed):
  folder = packed / lexicon_file.FOLDER
  documents = formats.load(config.data.path).documents
  checksum = json.loads((folder / 'about.json').read_text())['documents']
  about = corpus.about_lexicon(config, checksum)
  assert lexicon_file.load(folder, about, language='english')
  for other in ({'documents': checksum + 1}, {'bm25_b': 0.5}):
    assert not lexicon_file.load(folder, about | other, language='english')
  changed = [dataclasses.replace(documents[0], text='new'), *documents[1:]]
  tokenizer = tokenizers.load(packed / store.TOKENIZER)
  index, _ = indexes.load(packed / store.INDEX)
  _, words = corpus.complete(config, changed, tokenizer, index, workdir=packed)
  assert 'new' in words.ids  # made again


@pytest.mark.parametrize(
  'scheme', ['residual_kmeans', 'product_quantisation', 'atomic', 'random']
)
def test_other_schemes_in_shards(tiny_values, tmp_path, monkeypatch, scheme):
  monkeypatch.setattr(steps, 'SAMPLE', 16)
  docid = {'scheme': scheme, 'codebook_size': 4, 'train_rows': 4}
  config = configs.build(tiny_values | {'docid': docid})
  build(config, tmp_path / 'one')
  build(config, tmp_path / 'two', 2)
  assert hashes(tmp_path / 'one') == hashes(tmp_path / 'two')
  folder = blocks.Folder(tmp_path / 'one')
  assert folder.has('sums', 0) == (scheme in steps.REFINED)
  if scheme not in steps.REFINED:
    return
  # One Lloyd iteration over all 48 documents, from the quantiser of 16.
  vectors = np.concatenate([folder.load('vectors', b) for b in range(5)])
  start = folder.load_all(folder.path / 'start.npz')['centres']
  found = folder.load_all(folder.path / 'quantiser.npz')['centres']
  labels = docids.encode({'centres': start}, vectors, config.docid)
  width = -(-vectors.shape[1] // len(start))
  rest = vectors
  for level, centres in enumerate(start):
    part = rest
    if scheme == 'product_quantisation':
      part = np.pad(vectors, ((0, 0), (0, 3)))
      part = part[:, level * width : (level + 1) * width]
    for code in range(len(centres)):
      own = part[labels[:, level] == code]
      expected = own.mean(axis=0) if len(own) else centres[code]
      np.testing.assert_allclose(found[level, code], expected, atol=1e-5)
    if scheme == 'residual_kmeans':
      rest = rest - centres[labels[:, level]]


def test_sums_of_parts_are_sums_of_the_whole():
  rng = np.random.default_rng(0)
  vectors = rng.normal(size=(90, 6)).astype(np.float32)
  centres = rng.normal(size=(2, 5, 6)).astype(np.float32)
  whole = codebooks.sums(centres, vectors, 'residual_kmeans')
  parts = [
    codebooks.sums(centres, part, 'residual_kmeans')
    for part in np.split(vectors, 3)
  ]
  for one, others in zip(whole, zip(*parts, strict=True), strict=True):
    np.testing.assert_allclose(one, sum(others), atol=1e-12)
  assert whole[1].sum(axis=1).tolist() == [90, 90]


FILES = {
  'documents.jsonl': lambda d: json.dumps(
    {'id': d.id, 'title': d.title, 'text': d.text}
  ),
  'corpus.jsonl.gz': lambda d: json.dumps(
    {'_id': d.id, 'title': d.title, 'text': d.text}
  ),
  'collection.tsv': lambda d: f'{d.id}\t{d.title} {d.text}',
  'psgs_w100.tsv': lambda d: f'{d.id}\t"{d.text}"\t{d.title}',
}


@pytest.mark.parametrize('name', FILES)
def test_every_format_is_read_as_by_a_run(config, tmp_path, name):
  documents = formats.load(config.data.path).documents[:12]
  lines = [FILES[name](document) for document in documents]
  if name == 'psgs_w100.tsv':
    lines = ['id\ttext\ttitle', *lines]
  text = ''.join(line + '\n' for line in lines).encode()
  packs = gzip.compress if name.endswith('.gz') else bytes
  (tmp_path / name).write_bytes(packs(text))
  values = {'path': str(tmp_path), 'vocab_size': 320}
  config = configs.build({'data': values})
  job = steps.open_job(config, tmp_path / 'run')
  assert list(job.documents()) == list(formats.load(tmp_path).documents)


def test_array_records_in_and_out(config, packed, tmp_path):
  documents = formats.load(config.data.path).documents
  own = formats.load(packed / blocks.FOLDER)
  assert own.documents == documents
  values = dataclasses.replace(config.data, path=str(packed / blocks.FOLDER))
  again = dataclasses.replace(config, data=values)
  job = steps.open_job(again, tmp_path / 'run', block=20)
  assert list(job.documents()) == list(documents)
  path = tmp_path / 'a.array_record'
  array_records.write(path, documents[:2])
  path.write_bytes(path.read_bytes()[:-50])
  with pytest.raises(ValueError, match='cannot be read as ArrayRecord'):
    list(array_records.read_records(path))


def test_passages_are_cut_as_by_a_run(config, tmp_path):
  data = dataclasses.replace(config.data, passage_words=6)
  job = steps.open_job(dataclasses.replace(config, data=data), tmp_path / 'run')
  loaded = formats.load(config.data.path, passage_words=6)
  assert list(job.documents()) == list(loaded.documents)


def test_published_vectors_are_where_a_run_looks_for_them(
  config, tmp_path, monkeypatch
):
  from rag_jax import model, pretrained
  from rag_jax.components import query_encoder
  from rag_jax.index import encoding

  # A small encoder stands for a published one; rows of tokens differ in width.
  calls = []
  weights = model.Pretrained(query_encoder={'w': np.ones(2, np.float32)})

  def block(params, own, tokens):
    calls.append(len(tokens))
    sums = tokens.sum(axis=1, keepdims=True)
    return np.asarray(sums * np.ones(4), np.float32)

  monkeypatch.setattr(pretrained, 'load', lambda config: (weights, None))
  monkeypatch.setattr(encoding, 'encode_block', block)
  monkeypatch.setattr(query_encoder, 'vector_width', lambda config: 4)
  monkeypatch.setattr(encoding.encoders, 'body', lambda config: 'body')
  build(config, tmp_path / 'run')
  documents = formats.load(config.data.path).documents
  tokenizer = tokenizers.load(tmp_path / 'run' / store.TOKENIZER)
  tokens = corpus.with_special_tokens(config, tokenizer, documents)
  assert len(calls) == 5
  found = encoding.encode(
    weights.query_encoder,
    config.query_encoder,
    tokens,
    folder=tmp_path / 'vectors',
  )
  assert found[:, 0].tolist() == tokens.sum(axis=1).tolist()


def broken(tmp_path, lines, name='documents.jsonl', end='\n'):
  folder = tmp_path / 'data'
  folder.mkdir()
  (folder / name).write_text('\n'.join(lines) + end, encoding='utf-8')
  values = {'path': str(folder), 'vocab_size': 320}
  return configs.build({'data': values})


def test_bad_input_is_an_error_in_one_line(config, packed, tmp_path):
  for shard, problem in (
    ('4/4', 'must be 0/4 to 3/4'),
    ('0/0', 'must be 0/1'),
    ('1', 'must be NUMBER/COUNT'),
    ('-1/4', 'must be NUMBER/COUNT'),
  ):
    with pytest.raises(ValueError, match=problem) as error:
      run.step(config, packed, ['encode'], shard)
    assert '\n' not in str(error.value)
  for arguments in ([], ['index'], ['encode', 'fit']):
    with pytest.raises(ValueError, match='needs one step of encode, fit'):
      run.step(config, packed, arguments)
  with pytest.raises(ValueError, match='pack is one process'):
    run.step(config, packed, ['pack'], '0/2')
  with pytest.raises(ValueError, match='--block must stay 10'):
    run.step(config, packed, ['encode'], '0/1', 20)
  with pytest.raises(ValueError, match='--block must be at least 1'):
    run.step(config, packed, ['encode'], '0/1', -1)
  titles = dataclasses.replace(config.docid, scheme='title')
  with pytest.raises(ValueError, match='docid.scheme=title needs the whole'):
    run.step(dataclasses.replace(config, docid=titles), packed, ['encode'])
  with pytest.raises(ValueError, match='must be a folder'):
    run.step(configs.build({}), tmp_path / 'x', ['encode'])
  assert not (tmp_path / 'x').exists()


def test_pack_names_the_first_missing_file_and_its_command(config, tmp_path):
  folder = tmp_path / 'run'
  with pytest.raises(ValueError, match='rag-jax corpus encode --workdir'):
    run.step(config, folder, ['fit'])
  run.step(config, folder, ['encode'], '1/2', BLOCK)
  for name in ('fit', 'pack'):
    with pytest.raises(ValueError, match='block 0 of 5') as error:
      run.step(config, folder, [name])
    command = f'rag-jax corpus encode --workdir={folder} --shard=0/5'
    assert str(error.value).endswith(command)
  for block in (0, 2, 4):  # each names the next
    run.step(config, folder, ['encode'], f'{block}/5')
  with pytest.raises(ValueError, match='rag-jax corpus fit --workdir'):
    run.step(config, folder, ['assign'])
  run.step(config, folder, ['fit'])
  run.step(config, folder, ['assign'], '0/5')
  with pytest.raises(ValueError, match='corpus assign .*--shard=1/5'):
    run.step(config, folder, ['pack'])


def test_a_corpus_that_ends_in_the_middle_of_a_line(tmp_path):
  config = broken(tmp_path, ['1\tOne text.', '2\tAno'], 'collection.tsv', '')
  with pytest.raises(ValueError, match='ends in the middle of a line'):
    run.step(config, tmp_path / 'run', ['encode'])
  file = pathlib.Path(config.data.path) / 'collection.tsv'
  file.rename(file.with_suffix('.tsv.whole'))
  packed = gzip.compress(b'1\tOne text.\n2\tAno')
  (file.parent / 'collection.tsv.gz').write_bytes(packed)
  with pytest.raises(ValueError, match='ends in the middle of a line'):
    run.step(config, tmp_path / 'run', ['encode'])
  (file.parent / 'collection.tsv.gz').write_bytes(packed[:-10])
  with pytest.raises(ValueError, match='truncated or damaged .gz'):
    run.step(config, tmp_path / 'run', ['encode'])


def test_a_duplicate_id_and_a_changed_corpus(tmp_path):
  lines = [
    json.dumps({'id': name, 'text': f'Text {i}.'})
    for i, name in enumerate('abcdefgb')
  ]
  config = broken(tmp_path, lines)
  with pytest.raises(ValueError, match="document id 'b' occurs twice"):
    build(config, tmp_path / 'run', block=3)
  file = pathlib.Path(config.data.path) / 'documents.jsonl'
  file.write_text(file.read_text().replace('Text 3', 'Text 4'))
  with pytest.raises(ValueError, match='its files have changed'):
    run.step(config, tmp_path / 'run', ['encode'])


def test_equal_hashes_of_different_ids_are_no_duplicate(
  config, tmp_path, monkeypatch
):
  monkeypatch.setattr(blocks, 'hash_of', lambda name: len(name))
  assert build(config, tmp_path / 'run').startswith('48 documents')


def test_an_empty_document_is_refused_or_skipped(tmp_path):
  lines = [
    json.dumps({'id': n, 'text': t})
    for n, t in (('a', 'x'), ('b', 'y'), ('c', ' '))
  ]
  config = broken(tmp_path, lines)
  with pytest.raises(ValueError, match="'c' in .* has no text"):
    run.step(config, tmp_path / 'run', ['encode'])
  data = dataclasses.replace(config.data, on_empty='skip')
  config = dataclasses.replace(config, data=data)
  said = run.step(config, tmp_path / 'other', ['encode'])
  assert '2 documents' in said


def test_a_folder_that_cannot_be_written(config, tmp_path):
  folder = tmp_path / 'run'
  folder.mkdir()
  (folder / 'config.json').write_text(configs.to_json(config))
  (folder / blocks.FOLDER).write_text('a file')
  with pytest.raises(ValueError, match='cannot be written'):
    run.step(config, folder, ['encode'])


def test_a_damaged_block_is_named(config, tmp_path):
  build(config, tmp_path / 'run')
  path = blocks.Folder(tmp_path / 'run').file('codes', 2)
  path.write_bytes(path.read_bytes()[:40])
  with pytest.raises(ValueError, match='codes-000002.npy.*is damaged'):
    run.step(config, tmp_path / 'run', ['pack'])


def test_more_postings_than_32_bits_are_refused():
  most = 2**31 - 1 - lexical.WINDOW
  postings.check_postings(most)
  with pytest.raises(ValueError, match='at most 2,147,483,519 postings'):
    postings.check_postings(most + 1)
  counts = lexical.count(np.ones((3, 2), np.int32), vocab_size=2)
  wide = counts._replace(first=np.array([0, 0, 2**31]))
  with pytest.raises(ValueError, match='got 2,147,483,648'):
    lexical.weigh(wide)


def test_the_lexicon_is_refused_before_it_is_written(tmp_path, monkeypatch):
  monkeypatch.setattr(postings, 'WINDOW', 2**31 - 2)
  about = {'documents': 0}

  def own():
    yield ['a', 'b'], np.array([0, 1, 1]), np.array([2, 1])

  with pytest.raises(ValueError, match='at most 1 postings, got 3'):
    lexicon_file.write(
      tmp_path / 'lexicon', own, k1=1.2, b=0.75, pair_weight=0, about=about
    )
  assert not list((tmp_path / 'lexicon').iterdir())


def test_the_first_file_wins_and_an_error_leaves_none(tmp_path, monkeypatch):
  path = tmp_path / 'file'
  with files.creating(path) as one, files.creating(path) as two:
    two.write_text('two')
    one.write_text('one')
  assert path.read_text() == 'two'  # the inner one is done first
  with pytest.raises(OSError), files.creating(tmp_path / 'other') as partial:
    partial.write_text('half')
    raise OSError
  assert [own.name for own in tmp_path.iterdir()] == ['file']

  def no_links(*args):
    raise OSError(errno.EPERM, 'no links')

  monkeypatch.setattr(os, 'link', no_links)
  with files.creating(tmp_path / 'third') as partial:
    partial.write_text('third')
  assert (tmp_path / 'third').read_text() == 'third'


def test_documents_are_types(packed):
  records = array_records.read_records(
    blocks.Folder(packed).file('documents', 0)
  )
  _, record = next(records)
  assert types.Document(**record).id == 'red-cat'
