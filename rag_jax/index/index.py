"""The index: a trie and the documents' tokens, one pytree on the device.

Built once and saved beside the checkpoint. The rows that training moves (node
vectors, embeddings) are parameters and live in the checkpoint, so the index
itself never gets stale.
"""

import hashlib
import os
import pathlib
import zipfile
from collections.abc import Iterable, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from rag_jax import types
from rag_jax.index import docids
from rag_jax.ops import docid_order, lexical
from rag_jax.ops import trie as tries


@flax.struct.dataclass
class Index:
  """What a compiled step needs to know of the corpus."""

  trie: tries.Trie
  codes: jax.Array  # uint8, uint16 or int32[N, L], the docid of each document
  tokens: jax.Array  # int32[N, P], title and text of each document
  alive: jax.Array  # bool[N], False = must not be returned
  mean_length: jax.Array  # float32[], tokens a document on average
  lexicon: lexical.Lexicon | None = None  # words of documents, for BM25
  # bool[num_nodes], documents first: whether a node is, or is above, a document
  # that is gold in training.
  gold_nodes: jax.Array | None = None
  # int32[2], special tokens before and after a query.
  special_tokens: jax.Array | None = None
  # int32[N, P'], documents in the tokens of a reader that has its own.
  reader_tokens: jax.Array | None = None

  @property
  def passages(self) -> jax.Array:
    """The documents as the reader reads them."""
    return self.tokens if self.reader_tokens is None else self.reader_tokens


def build(
  tokens: np.ndarray,
  vectors: np.ndarray,
  config: docids.DocidConfig,
  *,
  seed: int = 0,
  titles: Sequence[str] | None = None,
) -> tuple[Index, docids.Quantiser]:
  """Names the documents and packs them.

  Args:
    tokens: int32[N, P], 0 = padding.
    vectors: float32[N, D], what the docids are clustered from.
    config: the docid scheme.
    seed: of the scheme.
    titles: N titles, for the scheme 'title'.

  Returns:
    The index, and what `docids.encode` names further documents by.

  Raises:
    ValueError: if the vectors or titles do not fit the scheme, or the tokens.

  Example:
    >>> tokens, vectors = np.ones((3, 5), np.int32), np.eye(3)
    >>> index, quantiser = build(
    ...   tokens, vectors, docids.DocidConfig(branching=2, leaf_size=2)
    ... )
    >>> index.codes.shape, quantiser['centres'].shape
    ((3, 2), (3, 3))
  """
  codes, quantiser = docids.fit(vectors, config, seed=seed, titles=titles)
  return from_codes(tokens, codes), quantiser


def from_codes(
  tokens: np.ndarray, codes: np.ndarray, *, alive: np.ndarray | None = None
) -> Index:
  """Packs documents that have their docids already.

  Args:
    tokens: int32[N, P], 0 = padding.
    codes: int[N, L].
    alive: bool[N], False leaves a document out of the trie; None takes all.
  """
  if len(tokens) != len(codes):
    raise ValueError(
      f'codes must have one row a document, got {len(codes)} for '
      f'{len(tokens)} documents. Assign docids to the same corpus.'
    )
  if alive is None:
    alive = np.ones(len(tokens), bool)
  lengths = (np.asarray(tokens) != types.PAD).sum(axis=1)
  dtype = docid_order.code_type(int(np.max(codes)) + 1)
  return Index(
    trie=tries.build(codes, where=alive),
    codes=jnp.asarray(np.asarray(codes).astype(dtype)),
    tokens=jnp.asarray(tokens),
    alive=jnp.asarray(alive),
    mean_length=jnp.float32(lengths[alive].mean()),
  )


def save(
  index: Index, quantiser: docids.Quantiser, path: str | os.PathLike[str]
) -> None:
  """Writes an index to a .npz file, atomically, with its checksum.

  Args:
    index: the documents and their docids.
    quantiser: what their docids were made by.
    path: the file; one that is there is replaced.
  """
  arrays = {
    'tokens': np.asarray(index.tokens),
    'codes': np.asarray(index.codes),
    'alive': np.asarray(index.alive),
  }
  write(path, arrays | grouped('quantiser', quantiser))


def load(path: str | os.PathLike[str]) -> tuple[Index, docids.Quantiser]:
  """Reads what `save` wrote.

  Returns:
    The index and the quantiser. The latter is empty in files of earlier
    versions, and for the schemes 'atomic' and 'random'.

  Raises:
    ValueError: if the file is missing or damaged.
  """
  arrays = read(path, ('tokens', 'codes', 'alive'))
  index = from_codes(arrays['tokens'], arrays['codes'], alive=arrays['alive'])
  return index, group('quantiser', arrays)


def grouped(name: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Arrays under names that start with that of their group."""
  return {f'{name}/{key}': np.asarray(x) for key, x in arrays.items()}


def group(name: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The arrays of a group by their own names: the inverse of `grouped`.

  Example:
    >>> arrays = grouped('extra', {'table': np.zeros(2)}) | {'codes': None}
    >>> sorted(arrays), list(group('extra', arrays))
    (['codes', 'extra/table'], ['table'])
  """
  start = f'{name}/'
  return {
    key.removeprefix(start): array
    for key, array in arrays.items()
    if key.startswith(start)
  }


def write(path: str | os.PathLike[str], arrays: dict[str, np.ndarray]) -> None:
  """Writes arrays to a .npz file, atomically, with their checksum."""
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_suffix('.partial.npz')
  everything: dict[str, Any] = arrays | {'checksum': _checksum(arrays)}
  np.savez_compressed(partial, **everything)
  os.replace(partial, path)


def read(
  path: str | os.PathLike[str], names: Iterable[str]
) -> dict[str, np.ndarray]:
  """Reads what `write` wrote; a damaged file is refused as a whole.

  Args:
    path: the file.
    names: arrays that must be there.

  Raises:
    ValueError: if the file is missing or damaged, or an array is missing.
  """
  remedy = 'Use another --workdir, or build it again.'
  try:
    with np.load(path) as stored:
      arrays = {name: stored[name] for name in stored.files}
    checksum = str(arrays.pop('checksum'))
  except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
    raise ValueError(
      f'index file {str(path)!r} cannot be read ({type(error).__name__}). '
      f'{remedy}'
    ) from error
  if checksum != _checksum(arrays):
    raise ValueError(
      f'index file {str(path)!r} is damaged: its checksum differs. {remedy}'
    )
  missing = sorted(set(names) - arrays.keys())
  if missing:
    raise ValueError(
      f'index file {str(path)!r} holds no {", ".join(missing)}: it is of '
      f'another kind. {remedy}'
    )
  return arrays


def _checksum(arrays: dict[str, np.ndarray]) -> str:
  digest = hashlib.sha256()
  for name in sorted(arrays):
    digest.update(name.encode())
    digest.update(str(arrays[name].shape).encode())
    digest.update(np.ascontiguousarray(arrays[name]).tobytes())
  return digest.hexdigest()
