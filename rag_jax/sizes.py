"""Sizes of the data and of published weights, for an estimate of memory."""

import dataclasses

import jax

from rag_jax import model, types
from rag_jax.data import batches, pipeline, widths

CHARACTERS = 3  # of a token, at least on average


@dataclasses.dataclass(frozen=True, kw_only=True)
class Corpus:
  """What the estimate needs to know of the data.

  Attributes:
    documents: number of documents.
    questions: number of questions of all splits.
    characters: number of characters of all texts, which bounds a vocabulary.
    question: estimated tokens of the longest question.
    gold: gold documents of a question, at most.
    encoder: parameters of a published query encoder; 0 = none.
    reader: parameters of a published reader; 0 = none.
  """

  documents: int
  questions: int
  characters: int
  question: int = widths.LEAST
  gold: int = 1
  encoder: int = 0
  reader: int = 0

  def question_tokens(self, data: pipeline.DataConfig) -> int:
    """Tokens of a question, at most."""
    return min(self.question, data.max_query_tokens or self.question)

  def gold_documents(self, data: pipeline.DataConfig) -> int:
    """Gold documents of a training question, at most."""
    return min(self.gold, data.max_gold or self.gold)


def of(dataset: types.Dataset, pretrained: model.Pretrained) -> Corpus:
  """The sizes of a corpus and of published weights."""
  questions = [q for split in dataset.splits.values() for q in split]
  longest = max((len(q.text) for q in questions), default=0)
  gold = max((len(q.document_ids) for q in questions), default=0)
  return Corpus(
    question=min(longest // CHARACTERS + 2, widths.LIMIT),
    gold=min(max(gold, 1), batches.MOST_GOLD),
    documents=len(dataset.documents),
    questions=len(questions),
    characters=sum(len(d.title) + len(d.text) for d in dataset.documents),
    encoder=_count(pretrained.query_encoder),
    reader=_count(pretrained.reader),
  )


def _count(params: model.Params | None) -> int:
  return sum(x.size for x in jax.tree.leaves(params))
