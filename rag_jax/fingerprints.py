"""What tells apart the files of a workdir that its parameters belong to.

A checkpoint stores them, so that no file of another run is used with it.
"""

import pathlib
import zlib
from collections.abc import Sequence

import numpy as np
import tokenizers as hf_tokenizers

from rag_jax import checkpoint, store, types
from rag_jax.index import further
from rag_jax.index import index as indexes
from rag_jax.ops import token_table


def of_index(index: indexes.Index) -> int:
  """CRC-32 of the tokens and docids of an index, which parameters belong to."""
  codes = np.ascontiguousarray(index.codes, np.int32)
  checksum = zlib.crc32(f'{index.tokens.shape}{codes.shape}'.encode())
  for tokens in token_table.host_blocks(index.tokens):
    checksum = zlib.crc32(tokens.tobytes(), checksum)
  checksum = zlib.crc32(codes.tobytes(), checksum)
  if index.further is not None:
    leaves = further.leaf_codes(codes, index.further).astype(np.int32)
    where = np.asarray(index.further.where)
    checksum = zlib.crc32(leaves.tobytes() + where.tobytes(), checksum)
  return checksum


def _of_tokenizer(tokenizer: hf_tokenizers.Tokenizer | None) -> int:
  """CRC-32 of a tokenizer; 0 if there is none."""
  return 0 if tokenizer is None else zlib.crc32(tokenizer.to_str().encode())


def of(
  index: indexes.Index,
  tokenizer: hf_tokenizers.Tokenizer,
  reader_tokenizer: hf_tokenizers.Tokenizer | None,
  documents: Sequence[types.Document | None],
) -> dict[str, int]:
  """File -> CRC-32 of what it holds, which parameters belong to."""
  text = 0
  for document in documents:
    own = ('', '', '')  # an empty row
    if document is not None:
      own = (document.id, document.title, document.text)
    text = zlib.crc32('\0'.join(own).encode('utf-8', 'surrogatepass'), text)
  return {
    store.INDEX: of_index(index),
    store.TOKENIZER: _of_tokenizer(tokenizer),
    store.READER_TOKENIZER: _of_tokenizer(reader_tokenizer),
    store.DOCUMENTS: text,
  }


def check(
  workdir: pathlib.Path, values: dict[str, int], found: checkpoint.Loaded
) -> None:
  """Raises a ValueError if a checkpoint was made with another file.

  Args:
    workdir: folder of the run.
    values: from `of`, of the files there.
    found: the checkpoint.
  """
  made = found.notes.get('files', {})
  for name, value in values.items():
    if made.get(name, value) != value:
      raise ValueError(
        f'{str(workdir / name)!r} is not the file that the checkpoint of step '
        f'{found.step} was trained with. Copy the original file over it, or '
        'use another --workdir.'
      )
