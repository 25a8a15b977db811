"""Joins the blocks of a corpus into the files that a run reads.

tokenizer.json is there already. index.npz has the tokens, docids and quantiser;
lexicon/ the postings of BM25; ../vectors/ the vectors of a published encoder.
"""

import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from rag_jax import corpus, pretrained, store
from rag_jax.data import text_io
from rag_jax.data.sources import array_records
from rag_jax.index import (
  docids,
  encoding,
  lexicon_file,
  statistics,
  streamed,
  vector_cache,
)
from rag_jax.index import index as indexes
from rag_jax.offline import blocks, steps
from rag_jax.ops import docid_order


def pack(job: steps.Job) -> str:
  """Writes index.npz, the lexicon and the cached vectors of a workdir.

  One process does it. Codes and hashes of ids are in memory, some 60 bytes a
  document where the nodes of the trie are counted; tokens, vectors and postings
  are written block by block.

  Returns:
    What the index holds, one fact a line.

  Raises:
    ValueError: if a block is missing, naming the command that makes it; if two
      documents have the same id; or if there are too many postings.
  """
  folder, about = job.folder, job.folder.about()
  needed = ['documents', 'ids', 'tokens', 'vectors', 'codes']
  if job.config.data.lexicon:
    needed.append('words')
  for kind in needed:
    folder.need(kind, range(about.blocks))
  _check_ids(job, about)
  codes = docids.append_uniqueness(_codes(job, about))
  codes = codes.astype(docid_order.code_type(int(codes.max()) + 1))
  with steps.writing(job):
    _write_index(job, about, codes)
    lines = _facts(about, codes)
    if job.config.data.lexicon:
      lines.append(f'lexicon: {_write_lexicon(job, about):,} postings')
    if _write_vectors(job, about):
      lines.append(f'vectors: {_vectors(job)}')
    for left in folder.path.glob('*.partial'):  # of processes that were killed
      left.unlink(missing_ok=True)
  return '\n'.join(lines)


def _codes(job: steps.Job, about: blocks.About) -> np.ndarray:
  """The codes of all documents, in the smallest type."""
  return np.concatenate(list(job.folder.rows('codes', about)))


def _facts(about: blocks.About, codes: np.ndarray) -> list[str]:
  found = statistics.describe(codes)
  return [
    f'{about.documents:,} documents, docids of {codes.shape[1]} codes',
    f'trie: {found.num_nodes:,} nodes, {found.trie_memory:,} bytes',
  ]


def _check_ids(job: steps.Job, about: blocks.About) -> None:
  """Raises a ValueError if two documents have the same id."""
  hashes = np.concatenate(list(job.folder.rows('ids', about)))[:, 0]
  ordered = np.sort(hashes)
  same = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
  for value in same:  # nearly always the same id
    rows = np.flatnonzero(hashes == value)[:2]
    one, other = (_document(job, about, row) for row in rows)
    if one['id'] == other['id']:
      raise text_io.duplicate(
        'document', one['id'], f'data.path {job.config.data.path!r}'
      )


def _document(job: steps.Job, about: blocks.About, row: int) -> dict[str, Any]:
  block, place = divmod(int(row), about.block)
  path = job.folder.file('documents', block)
  for number, (_, record) in enumerate(array_records.read_records(path)):
    if number == place:
      return record
  raise job.folder.damaged(path, ValueError())


def _write_index(
  job: steps.Job, about: blocks.About, codes: np.ndarray
) -> None:
  """Writes index.npz, as `index.save` does."""
  first = job.folder.load('tokens', 0)
  quantiser = steps.load_quantiser(job, about)
  arrays = {
    'tokens': streamed.Array(
      (about.documents, first.shape[1]),
      first.dtype,
      lambda: job.folder.rows('tokens', about),
    ),
    'codes': streamed.whole(codes),
    'alive': streamed.whole(np.ones(about.documents, bool)),
  }
  for name, array in indexes.grouped('quantiser', quantiser).items():
    arrays[name] = streamed.whole(array)
  streamed.write(job.folder.workdir / store.INDEX, arrays)


def _write_lexicon(job: steps.Job, about: blocks.About) -> int:
  """Writes the lexicon; returns its number of postings."""
  folder, data = job.folder, job.config.data

  def own() -> Iterator[tuple[list[str], np.ndarray, np.ndarray]]:
    for block in range(about.blocks):
      arrays = folder.load_all(folder.file('words', block))
      text = arrays['words'].tobytes().decode()
      yield (
        text.split('\n') if text else [],
        arrays['numbers'],
        arrays['lengths'],
      )

  checksum = 0
  for block in range(about.blocks):
    records = array_records.read_records(folder.file('documents', block))
    for _, record in records:
      fields = (record.get(name, '') for name in ('id', 'title', 'text'))
      checksum = corpus.add_to_checksum(checksum, *fields)
  return lexicon_file.write(
    folder.workdir / lexicon_file.FOLDER,
    own,
    k1=data.bm25_k1,
    b=data.bm25_b,
    pair_weight=data.pair_weight,
    about=corpus.about_lexicon(job.config, checksum),
  )


def _vectors(job: steps.Job) -> pathlib.Path:
  """The folder of cached vectors of runs beside this one."""
  return job.folder.workdir.parent / 'vectors'


def _write_vectors(job: steps.Job, about: blocks.About) -> bool:
  """Writes the vectors where a run looks for those of a published encoder."""
  weights, _ = pretrained.load(job.config)
  if weights.query_encoder is None:
    return False
  folder, config = job.folder, job.config.query_encoder
  folder.need('inputs', range(about.blocks))
  width = max(
    folder.load('inputs', block).shape[1] for block in range(about.blocks)
  )
  shape = about.documents, width
  digest = encoding.digest_of(weights.query_encoder, config, shape)
  for own in folder.rows('inputs', about):
    more = ((0, 0), (0, width - own.shape[1]))
    digest.update(np.pad(own, more).astype(np.int32).tobytes())
  key = digest.hexdigest()
  vectors = folder.load('vectors', 0)
  vector_cache.write(
    encoding.cached(_vectors(job), key),
    key,
    (about.documents, vectors.shape[1]),
    folder.rows('vectors', about),
  )
  return True
