"""Documents that come and go: the index gets room, the node table follows."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import tokenizers as hf_tokenizers

from rag_jax import config as configs
from rag_jax import corpus, model, store, types
from rag_jax.components import query_encoder
from rag_jax.index import docids, growth, live_checks, live_store, node_table
from rag_jax.index import index as indexes
from rag_jax.index import live as live_indexes

BATCH = 32  # documents that are encoded at a time
MOST_RESIZES = 8  # for one addition; each doubles the room


def with_room(
  config: configs.Config,
  live: live_indexes.LiveIndex | None,
  index: indexes.Index,
  quantiser: docids.Quantiser,
  params: model.Params,
  count: int,
) -> tuple[live_indexes.LiveIndex, model.Params]:
  """A live index with room for `count` documents, and parameters that fit it.

  Args:
    config: the experiment.
    live: the live index so far, if there is one.
    index: the index so far.
    quantiser: what names further documents.
    params: of the four components.
    count: documents that there will be.
  """
  if live is not None:
    while count > len(live.alive):
      live, params = more_room(config, live, params)
    return live, params
  before = _bare(index)
  room = max(count + 64, count * 5 // 4)
  live = live_indexes.from_index(before, quantiser, config.docid, capacity=room)
  return live, _moved(config, before, live, params)


def more_room(
  config: configs.Config, live: live_indexes.LiveIndex, params: model.Params
) -> tuple[live_indexes.LiveIndex, model.Params]:
  """The live index with twice the room, and parameters that fit it."""
  after = live_indexes.resize(live, 2 * len(live.alive))
  return after, _moved(config, live, after, params)


def add(
  config: configs.Config,
  live: live_indexes.LiveIndex,
  params: model.Params,
  tokens: np.ndarray,
  vectors: np.ndarray,
  titles: Sequence[str],
  *,
  resizes: int = MOST_RESIZES,
) -> tuple[live_indexes.LiveIndex, model.Params, node_table.Change]:
  """`live.add`, with more room where a level of the trie is full."""
  try:
    after, change = live_indexes.add(live, tokens, vectors, titles=titles)
  except live_checks.NoRoom:
    if not resizes:
      raise
    live, params = more_room(config, live, params)
    given = (config, live, params, tokens, vectors, titles)
    return add(*given, resizes=resizes - 1)
  return after, params, change


def _moved(
  config: configs.Config,
  before: live_indexes.LiveIndex | indexes.Index,
  after: live_indexes.LiveIndex,
  params: model.Params,
) -> model.Params:
  """Parameters whose rows are where another index has its nodes."""
  decoder = params['id_decoder']
  table: Any
  if config.id_decoder.output == 'node_table':
    table = growth.move(decoder['table'], before, after)
  else:
    table = growth.widen(decoder['table'], after)
  return params | {'id_decoder': decoder | {'table': table}}


def follow(
  config: configs.Config,
  params: model.Params,
  change: node_table.Change,
  vectors: np.ndarray | None,
) -> model.Params:
  """Parameters whose node table has followed a change of the documents."""
  if config.id_decoder.output != 'node_table':
    return params
  decoder = params['id_decoder']
  table = node_table.update(decoder['table'], change, vectors)
  return params | {'id_decoder': decoder | {'table': table}}


def vectors(
  config: configs.Config,
  tokenizer: hf_tokenizers.Tokenizer,
  params: model.Params,
  documents: Sequence[types.Document],
  tokens: np.ndarray,
) -> np.ndarray:
  """Vectors float32[M, D] of new documents, by the encoder as it is now."""
  encoder = query_encoder.make(config.query_encoder)
  own = params['query_encoder']
  if encoder.documents is not None:
    return np.asarray(encoder.documents(own, jnp.asarray(tokens)))
  texts = corpus.with_special_tokens(config, tokenizer, documents)
  starts = range(0, len(texts), BATCH)
  return np.concatenate(
    [
      np.asarray(encoder.apply(own, jnp.asarray(texts[i : i + BATCH])).vector)
      for i in starts
    ]
  )


def _bare(index: indexes.Index) -> indexes.Index:
  """The index without what is derived from its documents."""
  return dataclasses.replace(
    index,
    lexicon=None,
    gold_nodes=None,
    special_tokens=None,
    reader_tokens=None,
  )


def save(
  live: live_indexes.LiveIndex,
  documents: Sequence[types.Document | None],
  params: model.Params,
  path: pathlib.Path,
) -> None:
  """Writes a changed corpus and its node table as one file, atomically."""
  table = params['id_decoder']['table']
  tables = table if isinstance(table, (tuple, list)) else (table,)
  packed = np.frombuffer(store.pack_documents(documents), np.uint8)
  extra = {f'table_{i}': np.asarray(own) for i, own in enumerate(tables)}
  live_store.save(live, path, extra | {'documents': packed})


def load(
  path: pathlib.Path, params: model.Params
) -> tuple[live_indexes.LiveIndex, store.Documents, model.Params]:
  """Reads what `save` wrote; parameters get its node table."""
  live, extra = live_store.load(path)
  documents = store.unpack_documents(extra.pop('documents').tobytes())
  tables = [jnp.asarray(extra[f'table_{i}']) for i in range(len(extra))]
  decoder = params['id_decoder']
  many = isinstance(decoder['table'], (tuple, list))
  table = type(decoder['table'])(tables) if many else tables[0]
  own = decoder | {'table': table}
  return live, documents, params | {'id_decoder': own}
