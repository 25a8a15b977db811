"""Vectors of a whole corpus by a published encoder, made once and kept.

Encoding is the longest part of preparing a corpus. It goes on where it was
stopped, and its result is kept beside the workdirs, under a name that depends
on the weights and on every token, so that no vector of another text or another
model is ever taken for one's own.
"""

import hashlib
import json
import os
import pathlib
from typing import Any

import jax
import numpy as np
import tqdm

from rag_jax import types
from rag_jax.nn import bert

BATCH = 32  # texts a step
STEP = 16  # lengths are rounded up to a multiple, so that few are compiled
SAVE_EVERY = 32  # steps between two notes of how far it got


def encode(
  params: dict[str, Any],
  config: bert.BertConfig,
  tokens: np.ndarray,
  *,
  folder: str | os.PathLike[str],
) -> np.ndarray:
  """Encodes texts, or reads what an earlier call with the same input left.

  Args:
    params: weights, as `bert` takes them.
    config: their sizes.
    tokens: int32[N, T], texts in their special tokens, 0 = padding.
    folder: where vectors are kept; made if it is not there.

  Returns:
    float32[N, W], unit length.
  """
  name = _name(params, config, tokens)
  path = pathlib.Path(folder) / f'{name}.npy'
  if path.exists():
    return np.load(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  lengths = (tokens != types.PAD).sum(axis=1)
  order = np.argsort(lengths, kind='stable')  # texts of one length together
  partial, note = path.with_suffix('.partial.npy'), path.with_suffix('.json')
  shape = (len(tokens), config.width)
  start = _done(partial, note, shape)
  if not start:
    np.lib.format.open_memmap(partial, 'w+', np.float32, shape).flush()
  vectors = np.lib.format.open_memmap(partial, 'r+')

  @jax.jit
  def run(params, tokens):
    states = bert.apply(params, config, tokens)
    return bert.mean_pool(states, tokens != types.PAD)

  with tqdm.tqdm(
    total=len(tokens), initial=start, unit='text', desc='encode', miniters=BATCH
  ) as progress:
    for number, first in enumerate(range(start, len(tokens), BATCH), 1):
      rows = order[first : first + BATCH]
      width = -(-int(lengths[rows].max()) // STEP) * STEP
      part = np.zeros((BATCH, min(width, tokens.shape[1])), np.int32)
      part[: len(rows)] = tokens[rows, : part.shape[1]]
      vectors[rows] = np.asarray(run(params, part))[: len(rows)]
      progress.update(len(rows))
      if number % SAVE_EVERY == 0:
        vectors.flush()
        _write(note, {'done': first + len(rows)})
  vectors.flush()
  os.replace(partial, path)
  note.unlink(missing_ok=True)
  return np.load(path)


def _name(params, config, tokens) -> str:
  digest = hashlib.sha256(repr(config).encode())
  for leaf in jax.tree.leaves(params):
    digest.update(np.asarray(leaf).tobytes())
  digest.update(str(tokens.shape).encode())
  digest.update(tokens.tobytes())
  return digest.hexdigest()[:24]


def _done(
  partial: pathlib.Path, note: pathlib.Path, shape: tuple[int, int]
) -> int:
  """Texts that an earlier, stopped call has encoded."""
  try:
    done = int(json.loads(note.read_text(encoding='utf-8'))['done'])
    if np.load(partial, mmap_mode='r').shape == shape:
      return done
  except (OSError, ValueError, KeyError):
    pass
  return 0


def _write(note: pathlib.Path, values: dict[str, int]) -> None:
  fresh = note.with_suffix('.fresh')
  fresh.write_text(json.dumps(values), encoding='utf-8')
  os.replace(fresh, note)
