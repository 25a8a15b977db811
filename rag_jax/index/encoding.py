"""Encodes a corpus with a pretrained encoder and caches the vectors on disk.

Encoding is the slowest batch of preparing a corpus. An interrupted run resumes.
The name of the cached file is a hash of the weights and of all tokens, so a
change of either encodes the corpus again.
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

BATCH = 32  # texts per step
STEP = 16  # lengths are padded to a multiple, to limit compilations
SAVE_EVERY = 32  # steps between two saves of the progress


def encode(
  params: dict[str, Any],
  config: bert.BertConfig,
  tokens: np.ndarray,
  *,
  folder: str | os.PathLike[str],
) -> np.ndarray:
  """Encodes texts, or loads the vectors cached by an earlier call.

  Args:
    params: weights of the encoder, see `bert`.
    config: its configuration.
    tokens: int32[N, T], texts with their special tokens, 0 = padding.
    folder: the cache; created if missing.

  Returns:
    float32[N, W], mean-pooled and of unit length.
  """
  name = _name(params, config, tokens)
  path = pathlib.Path(folder) / f'{name}.npy'
  if path.exists():
    return np.load(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  lengths = (tokens != types.PAD).sum(axis=1)
  order = np.argsort(lengths, kind='stable')  # batches of similar length
  partial = path.with_suffix('.partial.npy')
  progress_file = path.with_suffix('.json')
  shape = (len(tokens), config.width)
  start = _done(partial, progress_file, shape)
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
      batch = np.zeros((BATCH, min(width, tokens.shape[1])), np.int32)
      batch[: len(rows)] = tokens[rows, : batch.shape[1]]
      vectors[rows] = np.asarray(run(params, batch))[: len(rows)]
      progress.update(len(rows))
      if number % SAVE_EVERY == 0:
        vectors.flush()
        _write(progress_file, {'done': first + len(rows)})
  vectors.flush()
  os.replace(partial, path)
  progress_file.unlink(missing_ok=True)
  return np.load(path)


def _name(params, config, tokens) -> str:
  digest = hashlib.sha256(repr(config).encode())
  for leaf in jax.tree.leaves(params):
    digest.update(np.asarray(leaf).tobytes())
  digest.update(str(tokens.shape).encode())
  digest.update(tokens.tobytes())
  return digest.hexdigest()[:24]


def _done(
  partial: pathlib.Path, progress_file: pathlib.Path, shape: tuple[int, int]
) -> int:
  """Number of texts that an interrupted call has encoded."""
  try:
    done = int(json.loads(progress_file.read_text(encoding='utf-8'))['done'])
    if np.load(partial, mmap_mode='r').shape == shape:
      return done
  except (OSError, ValueError, KeyError):
    pass
  return 0


def _write(progress_file: pathlib.Path, values: dict[str, int]) -> None:
  temporary = progress_file.with_suffix('.fresh')
  temporary.write_text(json.dumps(values), encoding='utf-8')
  os.replace(temporary, progress_file)
