"""Saves and loads a live index with further arrays, such as its node table."""

import dataclasses
import json
import os
from typing import Any

import numpy as np

from rag_jax.index import docids, further
from rag_jax.index import index as indexes
from rag_jax.index import live as live_indexes
from rag_jax.ops import docid_layout


def save(
  live: live_indexes.LiveIndex,
  path: str | os.PathLike[str],
  extra: dict[str, np.ndarray] | None = None,
) -> None:
  """Writes a live index to a .npz file, atomically, with its checksum.

  Args:
    live: the index.
    path: the file; an existing one is replaced.
    extra: further arrays by any names, such as the node table.

  Raises:
    ValueError: if the dtype of an extra array cannot be stored.
  """
  for name, array in (extra or {}).items():
    dtype = np.asarray(array).dtype
    if dtype.kind not in 'biufcU':
      raise ValueError(
        f'extra[{name!r}] must be an array of numbers, bool or str, got '
        f'{dtype}. Convert it, for example bfloat16 to float32.'
      )
  metadata = {
    'config': dataclasses.asdict(live.config),
    'capacity': dataclasses.asdict(live.capacity),
  }
  arrays = {
    'tokens': np.asarray(live.index.tokens),
    'codes': live.codes,
    'alive': live.alive,
    'rows': np.concatenate([np.zeros(0, np.int32), *live.rows]),
    'about': np.asarray(json.dumps(metadata)),
  }
  arrays |= indexes.grouped('quantiser', live.quantiser)
  arrays |= indexes.grouped('further', further.to_arrays(live.further))
  indexes.write(path, arrays | indexes.grouped('extra', extra or {}))


def load(
  path: str | os.PathLike[str], config: docids.DocidConfig | None = None
) -> tuple[live_indexes.LiveIndex, dict[str, np.ndarray]]:
  """Reads what `save` wrote.

  Args:
    path: the file.
    config: the docid configuration that the file must have; None accepts any.

  Returns:
    The index, and the extra arrays by their names.

  Raises:
    ValueError: if the file is damaged or has another docid configuration.
  """
  names = ('tokens', 'codes', 'alive', 'rows', 'about')
  arrays = indexes.read(path, names)
  try:
    metadata = json.loads(str(arrays['about']))
    hidden_dims = tuple(metadata['config'].pop('hidden_dims'))
    stored = docids.DocidConfig(hidden_dims=hidden_dims, **metadata['config'])
    capacity = _capacity(metadata['capacity'])
  except (ValueError, TypeError, KeyError, RecursionError) as error:
    raise ValueError(
      f'index file {str(path)!r} must hold the docid configuration of this '
      f'version, got {str(arrays["about"])[:60]!r}. Use another --workdir, or '
      'build the index again.'
    ) from error
  if config is not None and config != stored:
    ours, theirs = dataclasses.asdict(config), dataclasses.asdict(stored)
    name = next(name for name in ours if ours[name] != theirs[name])
    raise ValueError(
      f'index file {str(path)!r} was made with docid.{name}={theirs[name]!r}, '
      f'got {ours[name]!r}. Set --config.docid.{name}={theirs[name]}, or build '
      'a new index.'
    )
  live = live_indexes.assemble(
    arrays['tokens'],
    arrays['codes'],
    arrays['alive'],
    stored,
    indexes.group('quantiser', arrays),
    capacity,
    arrays['rows'],
    further.from_arrays(indexes.group('further', arrays)),
  )
  return live, indexes.group('extra', arrays)


def _capacity(values: dict[str, Any]) -> docid_layout.Capacity:
  sizes: dict[str, Any] = {
    name: tuple(value) if isinstance(value, list) else value
    for name, value in values.items()
  }
  return docid_layout.Capacity(**sizes)
