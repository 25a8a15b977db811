"""The few structs that cross rooms: text on the host, arrays on the device.

Shapes use one alphabet throughout the project: B queries, K candidates, L codes
in a docid, V values a code can take, N documents, D width, Q / P / A tokens of
a query, a passage and an answer, M answers of one question. A mask is called
`where`; True means real. Token 0 is padding, so a token array is its own mask.
"""

import dataclasses

import flax.struct
import jax
import numpy as np

Array = jax.Array | np.ndarray  # on the device, or still on the host

PAD = 0  # token id of padding, in every token array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Document:
  """A document as text, on the host.

  Attributes:
    id: the name the user's files give it; unique in a corpus.
    title: its title, or "".
    text: its body; never blank.
    summary: a reference summary, or "" if the data has none.
  """

  id: str
  title: str = ''
  text: str
  summary: str = ''


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
  """A question as text, on the host.

  Attributes:
    id: the name the user's files give it; unique in a split.
    text: the question.
    answers: acceptable answers; empty if the data has none.
    document_ids: ids of the documents that answer it; empty if unknown.
    grades: how relevant each of these is, above 0; empty if all count as 1.
    answerable: False if the data says that nothing answers it.
  """

  id: str
  text: str
  answers: tuple[str, ...] = ()
  document_ids: tuple[str, ...] = ()
  answerable: bool = True
  grades: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
  """Documents and questions, as every reader in `rag_jax.data` returns them.

  Attributes:
    documents: the corpus, in file order.
    splits: questions by the name of their split.
    notes: what the reader met and kept going over, one sentence each, with
      its count; shown to the user before training.
  """

  documents: tuple[Document, ...]
  splits: dict[str, tuple[Question, ...]]
  notes: tuple[str, ...] = ()


@flax.struct.dataclass
class Candidates:
  """A few documents a query, best first, as search returns them."""

  documents: jax.Array  # int32[B, K], row in the corpus; 0 where not real
  codes: jax.Array  # int32[B, K, L], the docid that was decoded
  scores: jax.Array  # float32[B, K], nats; -1e9 where not real
  where: jax.Array  # bool[B, K], True = a real, living, distinct document


@flax.struct.dataclass
class Batch:
  """Tokenised questions, as the pipeline feeds them to a step."""

  query: jax.Array  # int32[B, Q]
  answers: jax.Array  # int32[B, M, A], extractive and sequence targets
  gold: jax.Array  # int32[B, G], rows of gold documents; -1 where there is none
  where: jax.Array  # bool[B], False = padding of an incomplete batch
  words: jax.Array | None = None  # int32[B, W], for a lexicon if there is one
  answerable: jax.Array | None = None  # bool[B]; None = all are
  negative: jax.Array | None = None  # int32[B], a hard negative; -1 = none
  # In the tokens of a reader that has its own; None = as above.
  reader_query: jax.Array | None = None  # int32[B, Q']
  reader_answers: jax.Array | None = None  # int32[B, M, A']

  @property
  def read_query(self) -> jax.Array:
    """The question as the reader reads it."""
    return self.query if self.reader_query is None else self.reader_query

  @property
  def read_answers(self) -> jax.Array:
    """The answers as the reader points at or writes them."""
    return self.answers if self.reader_answers is None else self.reader_answers
