"""What a question gets from a system, as plain Python values."""

import dataclasses

from rag_jax import types


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
  """A document that was decoded and ranked.

  Attributes:
    document: the document.
    codes: its docid.
    log_probability: of the docid, nats, as the ID decoder scores it.
    score: the ranker's, nats.
    weight: its share of the answer, 0 to 1; all candidates' sum to 1.
  """

  document: types.Document
  codes: tuple[int, ...]
  log_probability: float
  score: float
  weight: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
  """The answer to one question.

  Attributes:
    question: what was asked.
    text: the answer; '' if the system abstained or has no trained reader.
    probability: of the answer, 0 to 1, given also where it was withheld.
    abstained: whether no answer is given.
    document: the document that the answer is from; of a reader that mixes
      documents, the one with the largest weight; None without a reader.
    span: first character of the answer in `document.text`, and the one past
      its last; None if it was written, or stands in the title.
    candidates: the documents, largest weight first.
  """

  question: str
  text: str
  probability: float
  abstained: bool
  document: types.Document | None
  span: tuple[int, int] | None
  candidates: tuple[Candidate, ...]
