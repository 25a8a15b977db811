"""Blocks of a corpus on disk, and which of them a process of a job array makes.

A block has a fixed number of documents, so that no file depends on how many
processes there are: process i of n makes the blocks i, i + n, i + 2 n, ... A
file appears when it is whole. What is made is left as it is, so that a process
that is started again makes what is missing.

WORKDIR/corpus/
  about.json                the corpus: its files, documents and blocks
  documents-B.array_record  documents
  ids-B.npy                 uint64[n, 1], a hash of each id
  tokens-B.npy              uint16 or int32[n, P]
  inputs-B.npy              uint16 or int32[n, T], for a published encoder
  words-B.npz               words of each document, for the lexicon
  vectors-B.npy             float32[n, D]; the last file of a block
  frequencies.npz           token weights of the first documents
  start.npz                 the quantiser of a sample
  sums-B.npz                sums of the vectors of each code
  quantiser.npz             the quantiser
  codes-B.npy               uint8, uint16 or int32[n, L - 1]
"""

import dataclasses
import hashlib
import json
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from rag_jax import files
from rag_jax.data.sources import array_records

BLOCK = 16_384  # documents of a block, by default
FOLDER = 'corpus'
ABOUT = 'about.json'
_ENDINGS = {'documents': array_records.SUFFIX, 'words': '.npz', 'sums': '.npz'}
# What each step writes for a block.
STEPS = {
  'documents': 'encode',
  'ids': 'encode',
  'tokens': 'encode',
  'inputs': 'encode',
  'words': 'encode',
  'vectors': 'encode',
  'sums': 'fit',
  'codes': 'assign',
}


@dataclasses.dataclass(frozen=True)
class Shard:
  """Process `number` of `count`, from 0."""

  number: int = 0
  count: int = 1

  def own(self, blocks: int) -> range:
    """The blocks that this process makes, of so many."""
    return range(self.number, blocks, self.count)

  def __str__(self) -> str:
    """As in the flag."""
    return f'{self.number}/{self.count}'


def shard(text: str) -> Shard:
  """Reads the flag `--shard`, such as '0/4' for the first of four processes.

  Raises:
    ValueError: if it is no such text, or the number is out of range.

  Example:
    >>> list(shard('1/4').own(10))
    [1, 5, 9]
  """
  found = re.fullmatch(r'(\d{1,9})/(\d{1,9})', text.strip())
  if not found:
    raise ValueError(
      f'--shard must be NUMBER/COUNT, such as 0/4, got {text!r}. Set '
      '--shard=0/1 for one process.'
    )
  number, count = int(found[1]), int(found[2])
  if number >= count:
    last = f'0/{count} to {count - 1}/{count}' if count else '0/1'
    raise ValueError(
      f'--shard counts from 0: it must be {last}, got {text!r}. With SLURM, '
      'set --array=0-N for N + 1 processes.'
    )
  return Shard(number, count)


@dataclasses.dataclass(frozen=True)
class About:
  """The corpus that all blocks together are.

  Attributes:
    documents: number of documents.
    block: documents of a block.
    files: name -> bytes and CRC-32 of each file of the corpus.
  """

  documents: int
  block: int
  files: dict[str, list[int]]

  @property
  def blocks(self) -> int:
    """Number of blocks."""
    return -(-self.documents // self.block)

  def size(self, number: int) -> int:
    """Documents of a block."""
    return min(self.block, self.documents - number * self.block)


def hash_of(name: str) -> int:
  """A hash of an id, 64 bits, the same in every process."""
  digest = hashlib.blake2b(name.encode('utf-8', 'surrogatepass'), digest_size=8)
  return int.from_bytes(digest.digest(), 'little')


class Folder:
  """The files of the blocks of a workdir."""

  def __init__(self, workdir: pathlib.Path):
    """The folder need not exist."""
    self.workdir = workdir
    self.path = workdir / FOLDER

  def file(self, kind: str, block: int) -> pathlib.Path:
    """The path of a file of a block."""
    return self.path / f'{kind}-{block:06d}{_ENDINGS.get(kind, ".npy")}'

  def has(self, kind: str, block: int) -> bool:
    """Whether a file of a block is made."""
    return self.file(kind, block).exists()

  def save(self, kind: str, block: int, array: np.ndarray) -> None:
    """Writes one array of a block."""
    with (
      files.creating(self.file(kind, block)) as partial,
      partial.open('wb') as file,
    ):
      np.save(file, np.ascontiguousarray(array))

  def save_all(
    self, path: pathlib.Path, arrays: dict[str, np.ndarray]
  ) -> dict[str, np.ndarray]:
    """Writes arrays, unless the file is there; returns those of the file."""
    if not path.exists():
      with files.creating(path) as partial, partial.open('wb') as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    return self.load_all(path)

  def load(self, kind: str, block: int) -> np.ndarray:
    """One array of a block, on disk until it is read."""
    path = self.file(kind, block)
    try:
      return np.load(path, mmap_mode='r')
    except (ValueError, EOFError) as error:
      raise self.damaged(path, error) from error

  def load_all(self, path: pathlib.Path) -> dict[str, np.ndarray]:
    """All arrays of a file."""
    try:
      with np.load(path) as stored:
        return {name: stored[name] for name in stored.files}
    except Exception as error:  # NumPy and zipfile raise many types
      if isinstance(error, OSError) and not path.exists():
        raise
      raise self.damaged(path, error) from error

  def damaged(self, path: pathlib.Path, error: Exception) -> ValueError:
    """The error that a file of a block is damaged."""
    return ValueError(
      f'{str(path)!r} is damaged ({type(error).__name__}). Delete it, and run '
      'the same steps of rag-jax corpus again, which make it again.'
    )

  def need(self, kind: str, blocks: range) -> None:
    """Raises a ValueError that names the first missing file of a kind."""
    for block in blocks:
      if not self.has(kind, block):
        count = self.about().blocks
        raise ValueError(
          f'{str(self.file(kind, block))!r} is missing: block {block} of '
          f'{count} is not made yet. Run rag-jax corpus {STEPS[kind]} '
          f'--workdir={self.workdir} --shard={block}/{count}'
        )

  def about(self) -> About:
    """The corpus.

    Raises:
      ValueError: if no process has read the corpus to its end yet.
    """
    path = self.path / ABOUT
    if not path.exists():
      raise ValueError(
        f'{str(path)!r} is missing: no process has read the corpus to its end. '
        f'Run rag-jax corpus encode --workdir={self.workdir} --shard=0/1'
      )
    try:
      return About(**json.loads(path.read_text(encoding='utf-8')))
    except (ValueError, TypeError) as error:
      raise self.damaged(path, error) from error

  def write_about(self, about: About) -> None:
    """Writes the corpus; raises a ValueError if it is another one."""
    path = self.path / ABOUT
    if not path.exists():
      text = json.dumps(dataclasses.asdict(about), indent=2) + '\n'
      with files.creating(path) as partial:
        partial.write_text(text, encoding='utf-8')
    self.check(about.files, about.block, about.documents)

  def check(
    self, summary: dict[str, Any], block: int, documents: int | None = None
  ) -> None:
    """Raises a ValueError if the blocks are those of another corpus."""
    if not (self.path / ABOUT).exists():
      return
    was = self.about()
    if was.block != block:
      raise ValueError(
        f'--block must stay {was.block}, as in {str(self.path)!r}, got '
        f'{block}. Set --block={was.block}, or another --workdir.'
      )
    if was.files != summary or documents not in (None, was.documents):
      raise ValueError(
        f'the corpus is not that of the blocks in {str(self.path)!r}: its '
        'files have changed. Use another --workdir, or the original files.'
      )

  def rows(self, kind: str, about: About) -> Iterator[np.ndarray]:
    """Yields the array of each block, one in memory at a time."""
    for block in range(about.blocks):
      array = np.asarray(self.load(kind, block))
      if len(array) != about.size(block):
        raise self.damaged(self.file(kind, block), ValueError())
      yield array
