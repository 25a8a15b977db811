"""Encodes a corpus with a pretrained encoder and caches the vectors on disk.

Encoding is the slowest part of preparing a corpus. An interrupted run resumes.
The name of the cached file is a hash of the weights, of the pooling and of all
tokens, so a change of any encodes the corpus again. Runs may share the cache,
see `vector_cache`.
"""

import contextlib
import functools
import hashlib
import os
import pathlib
from collections.abc import Callable, Iterator
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
  path = cached(pathlib.Path(folder), key)
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


def encode_block(
  params: dict[str, Any],
  config: query_encoder.QueryEncoderConfig,
  tokens: np.ndarray,
) -> np.ndarray:
  """Encodes the texts of one block of a corpus; caches nothing.

  Args:
    params: parameters of the query encoder, with published weights.
    config: its configuration.
    tokens: int[N, T], texts with their special tokens, 0 = padding.

  Returns:
    float32[N, D].
  """
  vectors = np.zeros((len(tokens), query_encoder.vector_width(config)))
  vectors = vectors.astype(np.float32)
  run = _compiled(config)
  for rows, batch in _batches(run, params, tokens, _order(tokens), 0):
    vectors[rows] = batch
  return vectors


def _encode(params, config, tokens, partial):
  """Encodes all texts that `partial` does not hold yet."""
  order = _order(tokens)
  starts = range(0, len(tokens), BATCH)
  sizes = [min(BATCH, len(tokens) - first) for first in starts]
  size = query_encoder.vector_width(config)
  vectors = np.zeros((len(tokens), size), np.float32)
  start = 0
  for batch in partial.read(sizes, size):
    vectors[order[start : start + len(batch)]] = batch
    start += len(batch)
  with tqdm.tqdm(
    total=len(tokens), initial=start, unit='text', desc='encode', miniters=BATCH
  ) as progress:
    run = _compile(config)
    for rows, batch in _batches(run, params, tokens, order, start):
      vectors[rows] = batch
      partial.append(vectors[rows])
      progress.update(len(rows))
  return vectors


def _order(tokens: np.ndarray) -> np.ndarray:
  """Texts by length, so that those of a batch have a similar one."""
  return np.argsort((tokens != types.PAD).sum(axis=1), kind='stable')


def _batches(
  run: Callable[..., jax.Array],
  params: dict[str, Any],
  tokens: np.ndarray,
  order: np.ndarray,
  start: int,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields the rows and vectors of each batch, from place `start` on."""
  lengths = (tokens != types.PAD).sum(axis=1)
  for first in range(start, len(tokens), BATCH):
    rows = order[first : first + BATCH]
    width = -(-int(lengths[rows].max()) // STEP) * STEP
    batch = np.zeros((BATCH, min(width, tokens.shape[1])), np.int32)
    batch[: len(rows)] = tokens[rows, : batch.shape[1]]
    yield rows, np.asarray(run(params, batch))[: len(rows)]


def _compile(
  config: query_encoder.QueryEncoderConfig,
) -> Callable[..., jax.Array]:
  """(params, tokens) -> vectors."""

  @jax.jit
  def run(params, tokens):
    return query_encoder.apply(params, config, tokens).vector

  return run


_compiled = functools.cache(_compile)  # once for all blocks


def digest_of(
  params: dict[str, Any],
  config: query_encoder.QueryEncoderConfig,
  shape: tuple[int, ...],
) -> Any:
  """A SHA-256 of weights, pooling and the shape of the texts.

  With the bytes of the texts, int32 in order, it names the cached vectors.
  """
  how = encoders.body(config), config.pooling, config.similarity, config.dense
  digest = hashlib.sha256(repr(how).encode())
  for leaf in jax.tree.leaves(params):
    digest.update(np.asarray(leaf).tobytes())
  digest.update(str(shape).encode())
  return digest


def cached(folder: pathlib.Path, key: str) -> pathlib.Path:
  """The file of vectors with this key."""
  return folder / f'{key[:24]}.npy'


def _key(params, config, tokens) -> str:
  digest = digest_of(params, config, tokens.shape)
  digest.update(tokens.tobytes())
  return digest.hexdigest()
