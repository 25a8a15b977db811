"""The index: a trie and the documents' tokens, one pytree on the device.

It is built once and saved with the checkpoint. Trained values (node vectors,
embeddings) are parameters in the checkpoint, so training never invalidates the
index.
"""

import dataclasses
import math
import os
import pathlib
import zipfile
from collections.abc import Iterable, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from rag_jax import files
from rag_jax.index import docids, streamed
from rag_jax.index import further as further_docids
from rag_jax.ops import docid_order, lexical, node_slots, token_table
from rag_jax.ops import trie as tries

# Tokens are packed to a tenth of their size, what is made to fill a memory to
# a thousandth. The first number of bytes is always fine.
_MIN_BOMB, _MAX_RATIO = 2**28, 100


@flax.struct.dataclass
class Index:
  """The arrays of the corpus for compiled functions."""

  trie: tries.Trie  # its leaves are the docids of documents, see `further`
  codes: jax.Array  # uint8, uint16 or int32[N, L], the docid of each document
  # int32[N, P], title and text of each document; a table reads like an array
  tokens: token_table.Table
  alive: jax.Array  # bool[N], False = deleted, never returned
  mean_length: jax.Array  # float32[], mean number of tokens per document
  lexicon: lexical.Lexicon | None = None  # postings of the words, for BM25
  # bool[num_nodes], documents first: the node is a gold document of a training
  # question, or an ancestor of one.
  gold_nodes: jax.Array | None = None
  # int32[b] and int32[a], tokens before and after a query: special tokens, and
  # those of a prompt.
  around_query: tuple[jax.Array, jax.Array] | None = None
  # int32[N, S, T] and int32[N], generated questions about each document, for
  # the loss 'indexing', and their number.
  generated: tuple[jax.Array, jax.Array] | None = None
  # bool[V], tokens that `stages.STAGE.renamed` exchanges.
  rare: jax.Array | None = None
  # int32[N, P'], documents in the reader's vocabulary, if it has another one.
  reader_tokens: token_table.Table | None = None
  # further docids of documents, None = each has one
  further: further_docids.Further | None = None
  # nodes with a row in the node table; None = each has one
  slots: node_slots.Slots | None = None

  @property
  def docids_each(self) -> int:
    """F + 1, docids that a document can have."""
    return 1 + (0 if self.further is None else len(self.further.where))

  @property
  def table_rows(self) -> int:
    """Rows of the node table."""
    return self.trie.num_nodes if self.slots is None else self.slots.count

  @property
  def passages(self) -> token_table.Table:
    """The documents in the tokens of the reader."""
    return self.tokens if self.reader_tokens is None else self.reader_tokens


def build(
  tokens: np.ndarray,
  vectors: np.ndarray,
  config: docids.DocidConfig,
  *,
  seed: int = 0,
  titles: Sequence[str] | None = None,
  placed: bool = True,
) -> tuple[Index, docids.Quantiser]:
  """Assigns docids to the documents and builds the index.

  Args:
    tokens: int32[N, P], 0 = padding.
    vectors: float32[N, D], input of the docid scheme.
    config: the docid scheme.
    seed: of the docid scheme.
    titles: N titles, for the scheme 'title'.
    placed: see `from_codes`.

  Returns:
    The index, and the quantiser for `docids.encode`.

  Raises:
    ValueError: if the vectors or titles do not fit the scheme or the tokens.

  Example:
    >>> tokens, vectors = np.ones((3, 5), np.int32), np.eye(3)
    >>> index, quantiser = build(
    ...   tokens, vectors, docids.DocidConfig(branching=2, leaf_size=2)
    ... )
    >>> index.codes.shape, quantiser['centres'].shape
    ((3, 2), (3, 3))
  """
  codes, quantiser = docids.fit(vectors, config, seed=seed, titles=titles)
  return from_codes(tokens, codes, placed=placed), quantiser


def from_codes(
  tokens: np.ndarray,
  codes: np.ndarray,
  *,
  alive: np.ndarray | None = None,
  on_host: bool = False,
  further: further_docids.Further | None = None,
  placed: bool = True,
) -> Index:
  """Builds the index of documents with given docids.

  Args:
    tokens: int[N, P], 0 = padding; of a smaller type, they stay in it.
    codes: int[N, L], the docids.
    alive: bool[N], False excludes a document from the trie; None includes all.
    on_host: whether tokens stay on the host, see `token_table.OnHost`.
    further: further docids of the documents; None = none.
    placed: whether tokens and docids are put on the default device; if not,
      they are arrays of the host, for `placement.place_index`.

  Raises:
    ValueError: if `codes` does not have one row per document.
  """
  if len(tokens) != len(codes):
    raise ValueError(
      f'codes must have one row per document, got {len(codes)} for '
      f'{len(tokens)} documents. Assign docids to the same corpus.'
    )
  if alive is None:
    alive = np.ones(len(tokens), bool)
  tokens = np.asanyarray(tokens)
  table = token_table.make(tokens, on_host=on_host, placed=placed)
  lengths = token_table.lengths(table)
  dtype = docid_order.code_type(int(np.max(codes)) + 1)
  place: Any = jnp.asarray if placed else np.asarray
  return Index(
    trie=_trie(np.asarray(codes), alive, further),
    codes=place(np.asarray(codes).astype(dtype)),
    tokens=table,
    alive=jnp.asarray(alive),
    mean_length=jnp.float32(lengths[alive].mean()),
    further=jax.tree.map(jnp.asarray, further),
  )


def with_further(index: Index, further: further_docids.Further) -> Index:
  """The index with further docids of its documents.

  Args:
    index: the index; its documents keep their docids.
    further: from `further.build`.
  """
  trie = _trie(np.asarray(index.codes), np.asarray(index.alive), further)
  return dataclasses.replace(
    index, trie=trie, further=jax.tree.map(jnp.asarray, further)
  )


def _trie(
  codes: np.ndarray,
  alive: np.ndarray,
  further: further_docids.Further | None,
) -> tries.Trie:
  """The trie over all docids of the documents."""
  return tries.build(
    further_docids.leaf_codes(codes, further),
    where=further_docids.leaf_where(alive, further),
  )


def save(
  index: Index, quantiser: docids.Quantiser, path: str | os.PathLike[str]
) -> None:
  """Writes an index to a .npz file, atomically, with its checksum.

  Args:
    index: the index.
    quantiser: the quantiser of its docids.
    path: the file; an existing one is replaced.
  """
  arrays = {
    'tokens': np.asarray(index.tokens),
    'codes': np.asarray(index.codes),
    'alive': np.asarray(index.alive),
  }
  arrays |= grouped('further', further_docids.to_arrays(index.further))
  write(path, arrays | grouped('quantiser', quantiser))


def load(
  path: str | os.PathLike[str], *, on_host: bool = False, placed: bool = True
) -> tuple[Index, docids.Quantiser]:
  """Reads what `save` wrote.

  Args:
    path: the file.
    on_host: whether tokens stay on the host: in a file beside `path` that is
      memory-mapped, and written if it is not there.
    placed: see `from_codes`.

  Returns:
    The index and the quantiser. The quantiser is empty for the schemes 'atomic'
    and 'random', and in files of earlier versions.

  Raises:
    ValueError: if the file is missing or damaged.
  """
  names = ('tokens', 'codes', 'alive')
  if on_host:
    arrays = streamed.read(path, names, mapped='tokens')
  else:
    arrays = read(path, names)
  index = from_codes(
    arrays['tokens'],
    arrays['codes'],
    alive=arrays['alive'],
    on_host=on_host,
    placed=placed,
    further=further_docids.from_arrays(group('further', arrays)),
  )
  return index, group('quantiser', arrays)


def grouped(name: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Prefixes the names of arrays with the name of their group."""
  return {f'{name}/{key}': np.asarray(x) for key, x in arrays.items()}


def group(name: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The arrays of a group without the prefix: the inverse of `grouped`.

  Example:
    >>> arrays = grouped('extra', {'table': np.zeros(2)}) | {'codes': None}
    >>> sorted(arrays), list(group('extra', arrays))
    (['codes', 'extra/table'], ['table'])
  """
  prefix = f'{name}/'
  return {
    key.removeprefix(prefix): array
    for key, array in arrays.items()
    if key.startswith(prefix)
  }


def write(path: str | os.PathLike[str], arrays: dict[str, np.ndarray]) -> None:
  """Writes arrays to a .npz file, atomically, with their checksum."""
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  everything: dict[str, Any] = arrays | {
    'checksum': streamed.checksum_of(arrays)
  }
  with files.replacing(path) as partial:
    # NumPy adds .npz to the name of a path, but not to an open file.
    with partial.open('wb') as file:
      np.savez_compressed(file, **everything)
    try:
      _check_sizes(partial)
    except ValueError:  # nearly all padding, which `read` takes uncompressed
      with partial.open('wb') as file:
        np.savez(file, **everything)


def read(
  path: str | os.PathLike[str], names: Iterable[str]
) -> dict[str, np.ndarray]:
  """Reads what `write` wrote, after a check of the checksum.

  Args:
    path: the file.
    names: arrays that the file must hold.

  Raises:
    ValueError: if the file is missing or damaged, or an array is missing.
  """
  remedy = 'Use another --workdir, or build the index again.'
  try:
    _check_sizes(pathlib.Path(path))
    with np.load(path) as stored:
      arrays = {name: stored[name] for name in stored.files}
    checksum = str(arrays.pop('checksum'))
  except Exception as error:  # NumPy and zipfile raise many types
    reason = (str(error) or type(error).__name__).splitlines()[0]
    raise ValueError(
      f'index file {str(path)!r} cannot be read ({type(error).__name__}: '
      f'{reason[:200]}). {remedy}'
    ) from error
  if checksum != streamed.checksum_of(arrays):
    raise ValueError(
      f'index file {str(path)!r} is damaged: its checksum differs. {remedy}'
    )
  missing = sorted(set(names) - arrays.keys())
  if missing:
    raise ValueError(
      f'index file {str(path)!r} must hold the arrays {", ".join(missing)}, '
      f'got a file without them. {remedy}'
    )
  return arrays


def _check_sizes(path: pathlib.Path) -> None:
  """Raises a ValueError if a file declares more than an index would hold."""
  if not path.is_file():
    raise FileNotFoundError(f'{path.name} is not a file')
  with zipfile.ZipFile(path) as file:
    declared = 0
    for member in file.infolist():
      with file.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        read_header = {
          (1, 0): np.lib.format.read_array_header_1_0,
          (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, _, dtype = read_header(stream)
      size = math.prod(shape) * dtype.itemsize
      if size > member.file_size:
        raise ValueError(f'{member.filename} declares {size:,} bytes')
      declared += member.file_size
  packed = path.stat().st_size
  if declared > max(_MIN_BOMB, _MAX_RATIO * packed):
    raise ValueError(f'it declares {declared:,} bytes in {packed:,}')
