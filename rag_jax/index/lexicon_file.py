"""The lexicon of a workdir, which `rag-jax corpus pack` writes.

lexicon/about.json     the settings of BM25, and a checksum of the documents
lexicon/words.txt      the words, in the order of their numbers
lexicon/first.npy, documents.npy, impacts.npy   the arrays of `lexical.Lexicon`
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

from rag_jax import files
from rag_jax.data import words
from rag_jax.ops import lexical, postings

FOLDER = 'lexicon'
ABOUT = 'about.json'

# Starts an iterator over the blocks of a corpus: the words of each document,
# one after the other, and how many each has.
Blocks = Callable[[], Iterator[tuple[list[str], np.ndarray, np.ndarray]]]


def write(
  folder: pathlib.Path,
  blocks: Blocks,
  *,
  k1: float,
  b: float,
  pair_weight: float,
  about: dict[str, Any],
) -> int:
  """Writes the lexicon of a corpus that comes in blocks.

  The corpus is read three times: for the words, for the number of postings of
  each, and for the postings, which are written in their places on disk.

  Args:
    folder: WORKDIR/lexicon.
    blocks: the words of each block in order, sorted and distinct; int32[.], the
      numbers of the words of all its documents; int32[n], words of each.
    k1: as for `lexical.build`.
    b: as for `lexical.build`.
    pair_weight: as for `lexical.build`.
    about: what `load` compares; written last.

  Returns:
    The number of postings.

  Raises:
    ValueError: if there are too many postings for 32 bits.
  """
  folder.mkdir(parents=True, exist_ok=True)
  (folder / ABOUT).unlink(missing_ok=True)  # until all files are whole
  found: set[str] = set()
  for own, _, _ in blocks():
    found.update(own)
  vocabulary = sorted(found)
  ids = {word: number for number, word in enumerate(vocabulary, 1)}
  del found
  size = len(vocabulary) + 1
  paired = size + postings.PAIR_BUCKETS if pair_weight else size
  frequency = np.zeros(paired, np.int64)
  lengths = []
  for counts in _counts(blocks, ids, size, pair_weight):
    frequency += np.diff(counts.first)
    lengths.append(counts.lengths.astype(np.int32))
  postings.check_postings(int(frequency.sum()))
  longest = int(frequency.max())
  every = np.concatenate(lengths)
  _write_postings(
    folder,
    _counts(blocks, ids, size, pair_weight),
    frequency,
    postings.Weights(every, frequency, k1=k1, b=b),
    pair_weight if pair_weight else 1.0,
    size,
  )
  text = ''.join(word + '\n' for word in vocabulary)
  files.write(folder / 'words.txt', text)
  about = about | {
    'num_documents': len(every),
    'longest': longest,
    'first_pair': size if pair_weight else 0,
  }
  files.write(folder / ABOUT, json.dumps(about) + '\n')
  return int(frequency.sum())


def _counts(
  blocks: Blocks, ids: dict[str, int], size: int, pair_weight: float
) -> Iterator[postings.Counts]:
  """The counts of each block, by the numbers of all words."""
  for own, numbers, lengths in blocks():
    table = np.asarray([ids[word] for word in own], np.int32)
    padded = np.zeros((len(lengths), max(int(lengths.max(initial=0)), 1)))
    padded = padded.astype(np.int32)
    padded[np.arange(padded.shape[1]) < lengths[:, None]] = table[numbers]
    yield postings.count_with_pairs(
      padded, vocab_size=size, pair_weight=pair_weight
    )


def _write_postings(
  folder: pathlib.Path,
  counted: Iterator[postings.Counts],
  frequency: np.ndarray,
  weights: postings.Weights,
  pair_weight: float,
  first_pair: int,
) -> None:
  """Writes the postings of each block behind those of the blocks before."""
  first = np.concatenate([[0], np.cumsum(frequency)])
  total = int(first[-1]) + postings.WINDOW
  with (
    files.replacing(folder / 'documents.npy') as one,
    files.replacing(folder / 'impacts.npy') as two,
  ):
    documents = np.lib.format.open_memmap(one, 'w+', np.int32, (total,))
    impacts = np.lib.format.open_memmap(two, 'w+', np.float32, (total,))
    place = first[:-1].copy()
    before = 0
    for counts in counted:
      own = np.diff(counts.first)
      at = np.repeat(place - counts.first[:-1], own)
      at += np.arange(len(counts.documents))
      values = weights.impacts(counts, before).astype(np.float32)
      if first_pair:
        values[counts.first[first_pair] :] *= np.float32(pair_weight)
      documents[at] = counts.documents + before
      impacts[at] = values
      place += own
      before += len(counts.lengths)
    documents.flush()
    impacts.flush()
    del documents, impacts
  with files.replacing(folder / 'first.npy') as path, path.open('wb') as file:
    np.save(file, first.astype(np.int32))


def load(
  folder: pathlib.Path,
  about: dict[str, Any],
  *,
  language: str,
  placed: bool = True,
) -> tuple[lexical.Lexicon, words.Vocabulary] | None:
  """Reads a lexicon; None if there is none, or one of something else.

  Args:
    folder: WORKDIR/lexicon.
    about: what was given to `write`.
    language: of the words.
    placed: whether postings are put on the default device; if not, they stay in
      the memory-mapped files.
  """
  try:
    found = json.loads((folder / ABOUT).read_text(encoding='utf-8'))
    if {name: found.get(name) for name in about} != about:
      return None
    first = np.load(folder / 'first.npy')
    place: Any = jnp.asarray if placed else np.asanyarray
    lexicon = lexical.Lexicon(
      first=place(first),
      documents=place(np.load(folder / 'documents.npy', mmap_mode='r')),
      impacts=place(np.load(folder / 'impacts.npy', mmap_mode='r')),
      num_documents=found['num_documents'],
      longest=found['longest'],
      first_pair=found['first_pair'],
    )
    text = (folder / 'words.txt').read_text(encoding='utf-8')
  except FileNotFoundError:
    return None
  except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
    raise ValueError(
      f'{str(folder)!r} is damaged ({type(error).__name__}). Delete it, or run '
      'rag-jax corpus pack again.'
    ) from error
  every = text.split('\n')[:-1]
  ids = {word: number for number, word in enumerate(every, 1)}
  vocabulary = words.Vocabulary(ids, True, language)
  counts = np.diff(first)[: vocabulary.size]
  return lexicon, dataclasses.replace(vocabulary, counts=counts)
