"""Encodes a corpus with a pretrained encoder and caches the vectors on disk.

Encoding is the slowest part of preparing a corpus. An interrupted run resumes.
The name of the cached file is a hash of the weights, of the pooling and of all
tokens, so a change of any encodes the corpus again. Runs may share the cache,
see `vector_cache`.
"""

import contextlib
import hashlib
import os
import pathlib
from typing import Any

import jax
import numpy as np
import tqdm

from rag_jax import types
from rag_jax.components import query_encoder
from rag_jax.index import vector_cache
from rag_jax.nn import encoders

BATCH = 32  # texts per step
STEP = 16  # lengths are padded to a multiple, to limit compilations


def encode(
  params: dict[str, Any],
  config: query_encoder.QueryEncoderConfig,
  tokens: np.ndarray,
  *,
  folder: str | os.PathLike[str],
) -> np.ndarray:
  """Encodes texts, or loads the vectors cached by an earlier call.

  Cached vectors with a wrong shape or checksum are encoded again, with a note.

  Args:
    params: parameters of the query encoder, with published weights.
    config: its configuration.
    tokens: int32[N, T], texts with their special tokens, 0 = padding.
    folder: the cache; created if missing.

  Returns:
    float32[N, D].

  Raises:
    ValueError: if the folder cannot be written.
  """
  key = _key(params, config, tokens)
  path = pathlib.Path(folder) / f'{key[:24]}.npy'
  shape = (len(tokens), query_encoder.vector_width(config))
  if path.exists():
    vectors = vector_cache.load(path, key, shape)
    if vectors is not None:
      return vectors
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(vector_cache.Partial(path)) as partial:
      vectors = _encode(params, config, tokens, partial)
      partial.publish(key, vectors)
  except OSError as error:
    raise ValueError(
      f'vectors of the documents cannot be written to {str(path.parent)!r} '
      f'({error.strerror}). Free some space there or set --workdir to a folder '
      'beside which files can be written, and run again: it goes on where it '
      'stopped.'
    ) from error
  return vectors


def _encode(params, config, tokens, partial):
  """Encodes all texts that `partial` does not hold yet."""
  lengths = (tokens != types.PAD).sum(axis=1)
  order = np.argsort(lengths, kind='stable')  # batches of similar length
  starts = range(0, len(tokens), BATCH)
  sizes = [min(BATCH, len(tokens) - first) for first in starts]
  size = query_encoder.vector_width(config)
  vectors = np.zeros((len(tokens), size), np.float32)
  start = 0
  for batch in partial.read(sizes, size):
    vectors[order[start : start + len(batch)]] = batch
    start += len(batch)

  @jax.jit
  def run(params, tokens):
    return query_encoder.apply(params, config, tokens).vector

  with tqdm.tqdm(
    total=len(tokens), initial=start, unit='text', desc='encode', miniters=BATCH
  ) as progress:
    for first in range(start, len(tokens), BATCH):
      rows = order[first : first + BATCH]
      width = -(-int(lengths[rows].max()) // STEP) * STEP
      batch = np.zeros((BATCH, min(width, tokens.shape[1])), np.int32)
      batch[: len(rows)] = tokens[rows, : batch.shape[1]]
      vectors[rows] = np.asarray(run(params, batch))[: len(rows)]
      partial.append(vectors[rows])
      progress.update(len(rows))
  return vectors


def _key(params, config, tokens) -> str:
  how = encoders.body(config), config.pooling, config.similarity, config.dense
  digest = hashlib.sha256(repr(how).encode())
  for leaf in jax.tree.leaves(params):
    digest.update(np.asarray(leaf).tobytes())
  digest.update(str(tokens.shape).encode())
  digest.update(tokens.tobytes())
  return digest.hexdigest()
