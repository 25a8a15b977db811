"""The output table of the ID decoder after a change of the documents."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rag_jax import config as configs
from rag_jax import corpus, model
from rag_jax.components import query_encoder
from rag_jax.index import growth, node_table, slot_change
from rag_jax.index import index as indexes
from rag_jax.index import live as live_indexes


def moved(
  config: configs.Config,
  before: live_indexes.LiveIndex | indexes.Index,
  after: live_indexes.LiveIndex,
  params: model.Params,
) -> tuple[live_indexes.LiveIndex, model.Params]:
  """The index, and parameters with the decoder's rows in its layout."""
  decoder = params['id_decoder']
  table: Any
  if config.id_decoder.output != 'node_table':
    table = growth.widen(decoder['table'], after)
  elif config.id_decoder.shares_rows:
    after = with_slots(config, after)
    table = slot_change.move(decoder['table'], before, after)
    decoder = decoder | slot_change.widened(decoder, after.index)
  else:
    table = growth.move(decoder['table'], before, after)
  return after, params | {'id_decoder': decoder | {'table': table}}


def with_slots(
  config: configs.Config, live: live_indexes.LiveIndex, rows: int = 0
) -> live_indexes.LiveIndex:
  """The index with the nodes that have a row, of a table with so many rows."""
  index = corpus.with_slots(config, live.index)
  if index.slots is None:
    return live
  count = slot_change.room(index.slots.count, rows)
  slots = dataclasses.replace(index.slots, count=count)
  return dataclasses.replace(
    live, index=dataclasses.replace(index, slots=slots)
  )


def update(
  config: configs.Config,
  params: model.Params,
  before: live_indexes.LiveIndex,
  after: live_indexes.LiveIndex,
  change: node_table.Change,
  vectors: np.ndarray | None,
) -> tuple[live_indexes.LiveIndex, model.Params]:
  """The index after a change, and parameters with its node table."""
  if config.id_decoder.output != 'node_table':
    return after, params
  decoder = params['id_decoder']
  unit = query_encoder.is_unit(config.query_encoder)
  if config.id_decoder.shares_rows:
    after = with_slots(config, after, len(decoder['table']))
    table = slot_change.update(
      decoder, before.index, after.index, change, vectors, unit=unit
    )
  else:
    table = node_table.update(decoder['table'], change, vectors, unit=unit)
  return after, params | {'id_decoder': decoder | {'table': table}}


def to_arrays(params: model.Params) -> dict[str, np.ndarray]:
  """What documents change in the parameters, by name, for a file."""
  table = params['id_decoder']['table']
  tables = table if isinstance(table, (tuple, list)) else (table,)
  found = {f'table_{i}': np.asarray(part) for i, part in enumerate(tables)}
  books = params['id_decoder'].get('codebook', {})
  return found | indexes.grouped('codebook', books)


def from_arrays(
  config: configs.Config,
  arrays: dict[str, np.ndarray],
  live: live_indexes.LiveIndex,
  params: model.Params,
) -> tuple[live_indexes.LiveIndex, model.Params]:
  """The index, and parameters with what `to_arrays` gave."""
  books = indexes.group('codebook', arrays)
  count = len(arrays) - len(books)
  tables = [jnp.asarray(arrays[f'table_{i}']) for i in range(count)]
  decoder = params['id_decoder']
  if books:
    decoder = decoder | {'codebook': jax.tree.map(jnp.asarray, books)}
  many = isinstance(decoder['table'], (tuple, list))
  table = type(decoder['table'])(tables) if many else tables[0]
  live = with_slots(config, live, len(tables[0]))
  return live, params | {'id_decoder': decoder | {'table': table}}
