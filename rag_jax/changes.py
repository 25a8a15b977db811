"""Adding and deleting documents: index, capacity and node table."""

import dataclasses
import pathlib
import zlib
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
import tokenizers as hf_tokenizers

from rag_jax import config as configs
from rag_jax import (
  console,
  corpus,
  further_keys,
  generated,
  lock,
  model,
  store,
  table_changes,
  types,
)
from rag_jax.components import query_encoder
from rag_jax.data import pipeline
from rag_jax.index import (
  docids,
  further,
  live_checks,
  live_store,
  node_table,
)
from rag_jax.index import index as indexes
from rag_jax.index import live as live_indexes

BATCH = 32  # documents encoded at a time
LOCK_WAIT = 10.0  # seconds to wait for another process that writes
MAX_RESIZES = 8  # per addition; each doubles the capacity

# Versions of each file that systems of this process were loaded from or saved
# to, so that a change by another process is never overwritten.
_known: dict[pathlib.Path, set[tuple[int, ...] | None]] = {}


@dataclasses.dataclass(frozen=True)
class New:
  """Documents to add."""

  documents: list[types.Document]
  tokens: np.ndarray  # int32[n, P]
  questions: list[tuple[str, ...]]  # about each, for further docids


def new_documents(
  config: configs.Config,
  workdir: pathlib.Path | None,
  tokenizer: hf_tokenizers.Tokenizer,
  documents: store.Documents,
  texts: corpus.Texts,
) -> New:
  """The documents to add, with generated keys if `data.question_keys`.

  It prints how many are truncated.

  Args:
    config: the experiment.
    workdir: folder with the question generator, if there is one.
    tokenizer: tokenizer of the documents.
    documents: the documents by row; None = an empty row.
    texts: what to add, see `System.add`.

  Raises:
    ValueError: if an id or a text is already in the system.
  """
  known = {d.id for d in documents if d is not None}
  new = corpus.as_documents(texts, start=len(known))
  twice = [d.id for d in new if d.id in known]
  if twice:
    raise ValueError(
      f'document {twice[0]!r} is in the system already. Delete it first, or '
      'change the id of the new one.'
    )
  keyed = generated.add_keys(config, workdir, tokenizer, documents, new)
  questions = [document.questions for document in keyed]
  new = keyed if config.data.question_keys else new
  encoded = pipeline.encode_documents(tokenizer, new, config.data)
  if note := pipeline.truncation_note(encoded, new, config.data):
    console.note(note)
  return New(new, encoded.tokens, questions)


def with_capacity(
  config: configs.Config,
  live: live_indexes.LiveIndex | None,
  index: indexes.Index,
  quantiser: docids.Quantiser,
  params: model.Params,
  count: int,
) -> tuple[live_indexes.LiveIndex, model.Params]:
  """A live index for at least `count` documents, and matching parameters.

  Args:
    config: the experiment.
    live: the current live index; None makes one from `index`.
    index: the current index.
    quantiser: the quantiser that assigns docids to new documents.
    params: parameters of the four components.
    count: number of documents after the change.

  Raises:
    ValueError: if the node table is rounded.
  """
  if config.search.vector_type != 'float32':
    raise ValueError(
      'documents can be added or deleted with search.vector_type=float32, got '
      f'{config.search.vector_type!r}. Load the workdir with '
      "loading.load(workdir, vector_type='float32')."
    )
  if live is not None:
    while count > len(live.alive):
      live, params = double_capacity(config, live, params)
    return live, params
  before = _without_derived_fields(index)
  capacity = max(count + 64, count * 5 // 4)
  live = live_indexes.from_index(
    before, quantiser, config.docid, capacity=capacity
  )
  return table_changes.moved(config, before, live, params)


def double_capacity(
  config: configs.Config, live: live_indexes.LiveIndex, params: model.Params
) -> tuple[live_indexes.LiveIndex, model.Params]:
  """The live index with twice the capacity, and matching parameters."""
  after = live_indexes.resize(live, 2 * len(live.alive))
  return table_changes.moved(config, live, after, params)


def add(
  config: configs.Config,
  tokenizer: hf_tokenizers.Tokenizer,
  live: live_indexes.LiveIndex,
  params: model.Params,
  new: New,
) -> tuple[live_indexes.LiveIndex, model.Params, np.ndarray]:
  """A live index with more documents, parameters that fit, and their rows.

  Args:
    config: the experiment.
    tokenizer: tokenizer of questions and documents.
    live: the index, with room for the documents.
    params: parameters of the four components.
    new: from `new_documents`.
  """
  own = vectors(config, tokenizer, params, new.documents, new.tokens)
  keys = _keys(config, tokenizer, live, params, new, own)
  titles = [document.title for document in new.documents]
  arguments = new.tokens, own, titles, keys
  before, live, params, change = _add(config, live, params, *arguments)
  if keys is not None:
    own = np.concatenate([own, keys[0][keys[1]]])
  live, params = table_changes.update(config, params, before, live, change, own)
  return live, params, change.documents[: len(new.documents)]


def _add(
  config: configs.Config,
  live: live_indexes.LiveIndex,
  params: model.Params,
  tokens: np.ndarray,
  vectors: np.ndarray,
  titles: Sequence[str],
  keys: tuple[np.ndarray, np.ndarray] | None,
  *,
  resizes: int = MAX_RESIZES,
) -> tuple[
  live_indexes.LiveIndex,
  live_indexes.LiveIndex,
  model.Params,
  node_table.Change,
]:
  """`live.add`; doubles the capacity while a level of the trie is full.

  Returns:
    The index before, which may have more capacity, and after; the parameters
    of the former; and the change.
  """
  try:
    after, change = live_indexes.add(
      live, tokens, vectors, titles=titles, keys=keys
    )
  except live_checks.NoRoom:
    if not resizes:
      raise
    live, params = double_capacity(config, live, params)
    arguments = (config, live, params, tokens, vectors, titles, keys)
    return _add(*arguments, resizes=resizes - 1)
  return live, after, params, change


def _keys(
  config: configs.Config,
  tokenizer: hf_tokenizers.Tokenizer,
  live: live_indexes.LiveIndex,
  params: model.Params,
  new: New,
  vectors: np.ndarray,
) -> tuple[np.ndarray, np.ndarray] | None:
  """The keys of new documents for `live.add`; None without further docids."""
  if live.further is None:
    return None
  tokens, owners = further_keys.of(config, tokenizer, new.questions, new.tokens)
  if not len(tokens):
    return None
  found = np.asarray(
    query_encoder.embed_corpus(params['query_encoder'], jnp.asarray(tokens))
  )
  own, keys = (
    docids.encode(live.quantiser, x, live.config) for x in (vectors, found)
  )
  most = len(live.further.where)
  chosen = further.choose(own, keys, owners, most=most)
  return found[np.maximum(chosen, 0)], chosen >= 0


def vectors(
  config: configs.Config,
  tokenizer: hf_tokenizers.Tokenizer,
  params: model.Params,
  documents: Sequence[types.Document],
  tokens: np.ndarray,
) -> np.ndarray:
  """Vectors float32[M, D] of new documents, by the current query encoder."""
  encoder = query_encoder.make(config.query_encoder)
  weights = params['query_encoder']
  if encoder.documents is not None:
    return np.asarray(query_encoder.embed_corpus(weights, jnp.asarray(tokens)))
  texts = jnp.asarray(corpus.with_special_tokens(config, tokenizer, documents))
  return np.concatenate(
    [
      np.asarray(encoder.apply(weights, texts[i : i + BATCH]).vector)
      for i in range(0, len(texts), BATCH)
    ]
  )


def _without_derived_fields(index: indexes.Index) -> indexes.Index:
  """The index without the fields that `corpus.complete` adds."""
  return dataclasses.replace(
    index,
    lexicon=None,
    gold_nodes=None,
    around_query=None,
    reader_tokens=None,
  )


def save(
  live: live_indexes.LiveIndex,
  documents: Sequence[types.Document | None],
  params: model.Params,
  path: pathlib.Path,
  checkpoint: str = '',
) -> None:
  """Writes a changed corpus and the decoder's table as one file, atomically.

  Args:
    live: the changed index.
    documents: its documents by row.
    params: parameters with the changed table.
    path: the file.
    checkpoint: identity of the checkpoint that all other parameters are from.

  Raises:
    ValueError: if another process writes into the workdir, or has changed its
      documents since they were loaded here, or if the file cannot be written.
  """
  packed = np.frombuffer(store.pack_documents(documents), np.uint8)
  extra = table_changes.to_arrays(params)
  extra |= {'documents': packed, 'checkpoint': np.asarray(checkpoint)}
  with lock.hold(path.parent, wait=LOCK_WAIT):
    known = _known.get(path.resolve())
    if known is not None and _version(path) not in known:
      raise ValueError(
        f'{str(path)!r} was changed by another process since it was loaded. '
        'Load the system again with rag_jax.load, and repeat the change.'
      )
    try:
      live_store.save(live, path, extra)
    except OSError as error:
      raise lock.unwritable(path.parent, error) from error
    remember(path)


def remember(path: pathlib.Path) -> None:
  """Remembers that this process knows the file as it is now."""
  _known.setdefault(path.resolve(), set()).add(_version(path))


def _version(path: pathlib.Path) -> tuple[int, ...] | None:
  """What tells apart two versions of a file; None if there is none."""
  try:
    found = path.stat()
  except FileNotFoundError:
    return None
  return found.st_mtime_ns, found.st_size, found.st_ino


def documents_and_codes(
  path: pathlib.Path,
) -> tuple[store.Documents, dict[str, np.ndarray]]:
  """The documents in a file of `save`, and its arrays, such as their docids.

  Raises:
    ValueError: if the file is damaged.
  """
  arrays = indexes.read(path, ['codes', 'extra/documents'])
  packed = arrays['extra/documents'].tobytes()
  return store.unpack_documents(packed), arrays


def load(
  config: configs.Config,
  path: pathlib.Path,
  params: model.Params,
  checkpoint: str = '',
) -> tuple[live_indexes.LiveIndex, store.Documents, model.Params]:
  """Reads a file of `save`, and puts its table into the parameters.

  Raises:
    ValueError: if the file is damaged, or was made with the parameters of
      another checkpoint.
  """
  try:
    live, extra = live_store.load(path)
    documents = store.unpack_documents(extra.pop('documents').tobytes())
    made = str(extra.pop('checkpoint'))
  except (ValueError, KeyError, TypeError, EOFError, zlib.error) as error:
    raise ValueError(
      f'{str(path)!r} is damaged. Delete it to go back to the documents of '
      'training, and add and delete documents again.'
    ) from error
  if made != checkpoint:
    raise ValueError(
      f'{str(path)!r} belongs to the checkpoint of {made}, but that of '
      f'{checkpoint} is the newest that is whole. Copy the former back, or '
      'move this file away to go back to the documents of training.'
    )
  live, params = table_changes.from_arrays(config, extra, live, params)
  return live, documents, params
