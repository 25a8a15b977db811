"""Steps of a job array: encode documents, fit a quantiser, assign codes.

Each makes the files of the blocks that a process owns and that are not there
yet (`blocks`). `pack` joins them. The files are the same for any number of
processes, and however often one of them was stopped: encoding and codes depend
on a block alone, and sums are added in the order of the blocks.
"""

import contextlib
import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tokenizers as hf_tokenizers
import tqdm

from rag_jax import config as configs
from rag_jax import (
  corpus,
  files,
  host_memory,
  lock,
  model,
  pretrained,
  store,
  types,
)
from rag_jax.components import query_encoder
from rag_jax.data import pipeline, stream, tokenizers, words
from rag_jax.data.sources import array_records, base
from rag_jax.index import codebooks, docids, encoding
from rag_jax.offline import blocks
from rag_jax.ops import docid_order

# Documents that a tokenizer, token weights and a quantiser are made from. A
# tree needs more of them than codebooks: a few in each leaf.
SAMPLE = 65_536
TREE_SAMPLE = 262_144
REFINED = ('residual_kmeans', 'product_quantisation')
# Schemes whose docids depend on all titles, or on the number of documents.
_UNSUPPORTED = ('title', 'string')


@dataclasses.dataclass(frozen=True)
class Job:
  """What the steps of one workdir share."""

  config: configs.Config
  folder: blocks.Folder
  block: int

  @property
  def corpus(self) -> pathlib.Path:
    """The folder of the corpus."""
    return pathlib.Path(self.config.data.path).expanduser()

  def documents(self) -> Iterator[types.Document]:
    """All documents, one at a time."""
    options = base.Options(**self.config.data.reading)
    return stream.documents(self.corpus, options)


def open_job(
  config: configs.Config, workdir: pathlib.Path, *, block: int = 0
) -> Job:
  """Claims a workdir for an experiment; all processes may do so at once.

  Args:
    config: the experiment.
    workdir: folder of the run.
    block: documents of a block; 0 = as in the workdir, else `blocks.BLOCK`.

  Raises:
    ValueError: if the workdir has another experiment or cannot be written, or
      the experiment cannot be indexed in blocks.
  """
  if block < 0:
    raise ValueError(
      f'--block must be at least 1, got {block}. Set --block={blocks.BLOCK}.'
    )
  if config.docid.scheme in _UNSUPPORTED:
    raise ValueError(
      f'docid.scheme={config.docid.scheme} needs the whole corpus at once. Set '
      '--config.docid.scheme=hierarchical_kmeans or residual_kmeans.'
    )
  if config.docid.further:
    raise ValueError(
      f'docid.further={config.docid.further} needs questions or crops of the '
      'whole corpus at once. Set --config.docid.further=0, or index it by '
      'rag-jax train.'
    )
  if not pathlib.Path(config.data.path).expanduser().is_dir():
    raise ValueError(
      f'data.path must be a folder with a corpus, got {config.data.path!r}. '
      f'Set --config.data.path to a folder with one of '
      f'{", ".join(stream.NAMES)}.'
    )
  config = pretrained.complete(config)
  folder = blocks.Folder(workdir)
  try:
    with lock.hold(workdir, wait=60):
      store.claim(workdir, config, resumes=True)
      folder.path.mkdir(exist_ok=True)
  except OSError as error:
    raise lock.unwritable(workdir, error) from error
  if not block:
    made = (folder.path / blocks.ABOUT).exists()
    block = folder.about().block if made else blocks.BLOCK
  return Job(config, folder, block)


@contextlib.contextmanager
def writing(job: Job) -> Iterator[None]:
  """Turns an error of the disk into one line."""
  try:
    yield
  except OSError as error:
    raise lock.unwritable(job.folder.workdir, error) from error


def encode(job: Job, shard: blocks.Shard) -> str:
  """Tokenises and encodes the documents of this process.

  Returns:
    What was done, in one line.
  """
  summary = stream.summary(job.corpus)
  job.folder.check(summary, job.block)
  done = 0
  with writing(job):
    if (job.folder.path / blocks.ABOUT).exists():
      about = job.folder.about()
      if all(job.folder.has('vectors', b) for b in shard.own(about.blocks)):
        return _said('encode', shard, about, 0)
    run = _encoder(job)
    count = 0
    with tqdm.tqdm(unit='document', desc='encode', miniters=1000) as progress:
      for number in itertools.count():
        part = list(itertools.islice(run.documents, job.block))
        if not part:
          break
        is_own = number % shard.count == shard.number
        if is_own and not job.folder.has('vectors', number):
          _encode_block(job, run, number, part)
          host_memory.release()  # else freed pieces of all blocks add up
          done += 1
        count += len(part)
        progress.update(len(part))
    if not count:
      raise ValueError(
        f'data.path {job.config.data.path!r} has an empty corpus. Set '
        '--config.data.path to data with documents.'
      )
    about = blocks.About(count, job.block, summary)
    job.folder.write_about(about)
  return _said('encode', shard, about, done)


def _said(
  step: str, shard: blocks.Shard, about: blocks.About, done: int
) -> str:
  own = len(shard.own(about.blocks))
  return (
    f'{step} {shard}: {done} of {own} blocks made now, {own - done} before; '
    f'{about.documents:,} documents in {about.blocks} blocks'
  )


@dataclasses.dataclass(frozen=True)
class _Encoder:
  """How the documents of a block become arrays."""

  documents: Iterator[types.Document]
  tokenizer: hf_tokenizers.Tokenizer
  params: Any  # of the query encoder
  published: bool

  @functools.cached_property
  def token_type(self) -> type:
    """The smallest type that holds all tokens."""
    return docid_order.code_type(
      max(self.tokenizer.get_vocab().values(), default=0) + 1
    )


def _encoder(job: Job) -> _Encoder:
  """Tokenizer and encoder: published, or made from the first documents.

  The first process to make them writes them.
  """
  config, documents = job.config, job.documents()
  path = job.folder.workdir / store.TOKENIZER
  frequencies = job.folder.path / 'frequencies.npz'
  weights, _ = pretrained.load(config)
  params, published = weights.query_encoder, weights.query_encoder is not None
  first: list[types.Document] = []
  if not path.exists() or not (published or frequencies.exists()):
    first = list(itertools.islice(documents, SAMPLE))
  if not path.exists():
    dataset = types.Dataset(documents=tuple(first), splits={})
    made = pretrained.tokenizer(config, dataset)
    with files.creating(path) as partial:
      tokenizers.save(made, partial)
  tokenizer = tokenizers.load(path)
  size = tokenizer.get_vocab_size()
  if not published:
    found: dict[str, np.ndarray] = {}
    if not frequencies.exists():
      encoded = pipeline.encode_documents(tokenizer, first, config.data)
      inverse = query_encoder.inverse_document_frequency(
        jnp.asarray(encoded.tokens), vocab_size=size
      )
      found = {'inverse': np.asarray(inverse)}
    found = job.folder.save_all(frequencies, found)
    params = model.initial_encoder(
      model.init_key(config.seed),
      config.model,
      size,
      jnp.asarray(found['inverse']),
    )
  return _Encoder(
    itertools.chain(first, documents), tokenizer, params, published
  )


def _encode_block(
  job: Job, run: _Encoder, number: int, documents: list[types.Document]
) -> None:
  """Writes the files of a block; that of its vectors is the last."""
  config, folder = job.config, job.folder
  array_records.write(folder.file('documents', number), documents)
  ids = [blocks.hash_of(document.id) for document in documents]
  folder.save('ids', number, np.asarray(ids, np.uint64)[:, None])
  encoded = pipeline.encode_documents(run.tokenizer, documents, config.data)
  if config.data.lexicon:
    texts = words.document_texts(
      documents, title_weight=config.data.title_weight
    )
    found = words.split(texts, language=config.data.language)
    folder.save_all(folder.file('words', number), _packed(found))
  if run.published:
    inputs = corpus.with_special_tokens(config, run.tokenizer, documents)
    folder.save('inputs', number, inputs.astype(run.token_type))
    vectors = encoding.encode_block(run.params, config.query_encoder, inputs)
  else:
    vectors = np.asarray(_embed(run.params, jnp.asarray(encoded.tokens)))
  folder.save('tokens', number, encoded.tokens.astype(run.token_type))
  folder.save('vectors', number, vectors)


# Compiled once: each block would compile its loops anew, and keep them.
_embed = jax.jit(query_encoder.embed_corpus)


def _packed(found: list[list[str]]) -> dict[str, np.ndarray]:
  """Words of documents: distinct ones in order, and their numbers."""
  distinct = sorted({word for row in found for word in row})
  ids = {word: number for number, word in enumerate(distinct)}
  return {
    'words': np.frombuffer('\n'.join(distinct).encode(), np.uint8),
    'numbers': np.asarray([ids[w] for row in found for w in row], np.int32),
    'lengths': np.asarray([len(row) for row in found], np.int32),
  }


def fit(job: Job, shard: blocks.Shard) -> str:
  """Fits the quantiser to a sample, and sums the vectors of each code.

  The sample has up to `SAMPLE` documents, `TREE_SAMPLE` for a tree, or
  `docid.train_rows` for each code if that is more. Where the corpus has more,
  the codebooks of the schemes in `REFINED` get one more Lloyd iteration, over
  all documents, by their sums.
  """
  about, folder = job.folder.about(), job.folder
  with writing(job):
    start = _start(job, about)
    if not _refines(job, about):
      return f'fit {shard}: the quantiser of {about.documents:,} documents'
    done = 0
    for block in shard.own(about.blocks):
      path = folder.file('sums', block)
      if not path.exists():
        folder.need('vectors', range(block, block + 1))
        sums = codebooks.sums(
          start['centres'],
          folder.load('vectors', block),
          job.config.docid.scheme,
        )
        folder.save_all(path, dict(zip(('sums', 'counts'), sums, strict=True)))
        done += 1
  return _said('fit', shard, about, done)


def _rows(job: Job, about: blocks.About) -> np.ndarray:
  """The documents that the quantiser is fitted to, by number."""
  config = job.config.docid
  least = SAMPLE if config.scheme in REFINED else TREE_SAMPLE
  most = max(least, config.train_rows * config.num_codes)
  if about.documents <= most:
    return np.arange(about.documents)
  rng = np.random.default_rng(job.config.seed)
  return np.sort(rng.choice(about.documents, most, replace=False))


def _refines(job: Job, about: blocks.About) -> bool:
  scheme = job.config.docid.scheme
  return scheme in REFINED and len(_rows(job, about)) < about.documents


def _start(job: Job, about: blocks.About) -> docids.Quantiser:
  """The quantiser of the sample; the first process to make it writes it."""
  path = job.folder.path / 'start.npz'
  if path.exists():
    return job.folder.load_all(path)
  job.folder.need('vectors', range(about.blocks))
  rows = _rows(job, about)
  parts = []
  for block in range(about.blocks):
    begin = block * about.block
    low, high = np.searchsorted(rows, [begin, begin + about.block])
    parts.append(job.folder.load('vectors', block)[rows[low:high] - begin])
  config = job.config.docid
  # A leaf of the tree has as many documents of the corpus as `leaf_size` says.
  share = len(rows) / about.documents
  leaf_size = max(round(config.leaf_size * share), 1)
  config = dataclasses.replace(config, leaf_size=leaf_size)
  vectors = np.concatenate(parts)
  _, quantiser = docids.fit(vectors, config, seed=job.config.seed)
  return job.folder.save_all(path, quantiser)


def assign(job: Job, shard: blocks.Shard) -> str:
  """Assigns codes to the documents of this process, by the quantiser."""
  about, folder = job.folder.about(), job.folder
  with writing(job):
    quantiser = load_quantiser(job, about)
    done = 0
    for block in shard.own(about.blocks):
      if not folder.has('codes', block):
        folder.need('vectors', range(block, block + 1))
        vectors = np.asarray(folder.load('vectors', block))
        codes = docids.encode(quantiser, vectors, job.config.docid)
        dtype = docid_order.code_type(int(codes.max(initial=0)) + 1)
        folder.save('codes', block, codes.astype(dtype))
        done += 1
  return _said('assign', shard, about, done)


def load_quantiser(job: Job, about: blocks.About) -> docids.Quantiser:
  """The quantiser: that of the sample, refined by the sums of all blocks."""
  folder = job.folder
  path = folder.path / 'quantiser.npz'
  if path.exists():
    return folder.load_all(path)
  start = folder.path / 'start.npz'
  if not start.exists():
    raise ValueError(
      f'{str(start)!r} is missing: no process has fitted the quantiser. Run '
      f'rag-jax corpus fit --workdir={folder.workdir} --shard=0/1'
    )
  quantiser = folder.load_all(start)
  if _refines(job, about):
    folder.need('sums', range(about.blocks))
    total = counts = np.zeros(())
    for block in range(about.blocks):
      own = folder.load_all(folder.file('sums', block))
      total, counts = total + own['sums'], counts + own['counts']
    means = total / np.maximum(counts, 1)[..., None]
    centres = np.where(counts[..., None] > 0, means, quantiser['centres'])
    quantiser = quantiser | {'centres': centres.astype(np.float32)}
  return folder.save_all(path, quantiser)
