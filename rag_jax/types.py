"""Shared data structures: text on the host, arrays on the device.

Names of axes in this project: B queries, K candidates, L codes of a docid, V
values of a code, N documents, D width, Q / P / A tokens of a query, a passage
and an answer, M answers of a question. A mask is called `where`; True = real.
Token 0 is padding in every token array.
"""

import dataclasses
import typing
from typing import Any, TypeVar

import jax
import numpy as np

Array = jax.Array | np.ndarray  # on the device, or still on the host

PAD = 0  # token id of padding, in every token array

T = TypeVar('T')


def static(**options: Any) -> Any:
  """A field of a `struct` that is no array but part of what is compiled."""
  return dataclasses.field(metadata={'static': True}, **options)


@typing.dataclass_transform(
  frozen_default=True, field_specifiers=(static, dataclasses.field)
)
def struct(cls: type[T]) -> type[T]:
  """A frozen dataclass of arrays that is a pytree, by JAX alone.

  Change a field with `dataclasses.replace`.

  Example:
    >>> @struct
    ... class Point:
    ...   x: jax.Array
    ...   name: str = static(default='')
    >>> jax.tree.map(lambda x: x + 1, Point(1, name='a'))
    Point(x=2, name='a')
  """
  frozen = dataclasses.dataclass(frozen=True)(cls)
  fields = {
    field.name: field.metadata.get('static', False)
    for field in dataclasses.fields(frozen)  # type: ignore[arg-type]
  }
  return jax.tree_util.register_dataclass(
    frozen,
    data_fields=[name for name, is_static in fields.items() if not is_static],
    meta_fields=[name for name, is_static in fields.items() if is_static],
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Document:
  """A document as text, on the host.

  Attributes:
    id: id in the data; unique in a corpus.
    title: its title, or ""; not blank if the text is.
    text: its body, or "" if the document is only a title.
    summary: a reference summary, or "" if the data has none.
    parent: id of the document that this passage is a part of; "" = of none.
    questions: questions that it answers, further keys of it in BM25 and in the
      lexicon. They are no text of the document.
  """

  id: str
  title: str = ''
  text: str
  summary: str = ''
  parent: str = ''
  questions: tuple[str, ...] = ()

  @property
  def source(self) -> str:
    """Id of the whole document: that of the parent, or its own."""
    return self.parent or self.id


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim:
  """A fact that an answer of several sentences may state.

  Attributes:
    text: the short answer inside it, such as a cell of a table.
    document_id: id of the document that states it; '' = unknown.
    statements: the sentences that state it; empty = any that holds `text`.
  """

  text: str
  document_id: str = ''
  statements: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
  """A question as text, on the host.

  Attributes:
    id: id in the data; unique in a split.
    text: the question.
    answers: acceptable answers; empty if unknown. The mark [n] after a sentence
      cites number n of `document_ids`, from 1.
    document_ids: ids of the gold documents; empty if unknown.
    grades: relevance grade of each gold document, above 0; empty = all 1.
    answerable: False if the data marks the question as unanswerable.
    answer_patterns: regular expressions that an answer may match, beside or
      instead of `answers`; they are used for measures, not for training.
    kind: kind of an unanswerable question, if the data distinguishes kinds.
    claims: what a full answer of several sentences states; empty if unknown.
  """

  id: str
  text: str
  answers: tuple[str, ...] = ()
  document_ids: tuple[str, ...] = ()
  answerable: bool = True
  grades: tuple[int, ...] = ()
  answer_patterns: tuple[str, ...] = ()
  kind: str = ''
  claims: tuple[Claim, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
  """Documents and questions of a data set.

  Attributes:
    documents: the corpus, in file order.
    splits: name of split -> questions.
    notes: warnings from loading the data, one sentence each with a count;
      printed before training.
    claims: what the documents state, if the data lists all of it; support of a
      sentence is then known exactly.
  """

  documents: tuple[Document, ...]
  splits: dict[str, tuple[Question, ...]]
  notes: tuple[str, ...] = ()
  claims: tuple[Claim, ...] = ()


@struct
class Candidates:
  """Retrieved documents of each query, best first."""

  documents: jax.Array  # int32[B, K], rows in the corpus; 0 where not real
  codes: jax.Array  # int32[B, K, L], docids
  scores: jax.Array  # float32[B, K], nats; -1e9 where not real
  where: jax.Array  # bool[B, K], True = a distinct document, not deleted


@struct
class Batch:
  """A batch of tokenised questions."""

  query: jax.Array  # int32[B, Q]
  answers: jax.Array  # int32[B, M, A]
  gold: jax.Array  # int32[B, G], rows of gold documents; -1 = none
  where: jax.Array  # bool[B], False = padding of an incomplete batch
  words: jax.Array | None = None  # int32[B, W], words for BM25, if it is used
  answerable: jax.Array | None = None  # bool[B]; None = all are
  negative: jax.Array | None = None  # int32[B], row of hard negative; -1 = none
  # Tokens of the reader, if it has another tokenizer; None = the same tokens.
  reader_query: jax.Array | None = None  # int32[B, Q']
  reader_answers: jax.Array | None = None  # int32[B, M, A']

  @property
  def read_query(self) -> jax.Array:
    """The question in the reader's tokens."""
    return self.query if self.reader_query is None else self.reader_query

  @property
  def read_answers(self) -> jax.Array:
    """The answers in the reader's tokens."""
    return self.answers if self.reader_answers is None else self.reader_answers
