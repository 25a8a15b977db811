"""Measures of index, ranker and reader on each question of a split."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from rag_jax import (
  answers,
  baseline_runs,
  compiled,
  forward,
  judging,
  measures,
  objective,
  readers,
  summaries,
  trec,
  types,
)
from rag_jax import system as systems
from rag_jax.data import citations
from rag_jax.ops import summary_metrics
from rag_jax.readers import base

DEPTHS = (1, 10, 100)  # k of Hits@k, as far as the beam reaches
ANSWER_DEPTHS = (1, 5, 20, 100)  # k of has-answer@k, as far
RECALL = 100  # k of Recall@k, for rankings of at least this depth
SUPPORT = 'gold in support'  # if a question has several gold documents
INDEX, RANKED = 'generative index', judging.RANKED
ANSWERS, FROM_GOLD = judging.ANSWERS, 'answers from gold documents'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
  """Measures of one split, per question.

  Attributes:
    split: name of the split.
    questions: n questions.
    values: (system, measure) -> float[n]; NaN if a question has no value.
    runs: system -> its ranking for each question.
    answers: n answers of the system.
    judged: the same answers beside the gold ones; None without a reader.
  """

  split: str
  questions: Sequence[types.Question]
  values: measures.Values
  runs: dict[str, trec.Run]
  answers: Sequence[answers.Answer]
  judged: judging.Judged | None = None


def measure(
  system: systems.System,
  split: str,
  questions: Sequence[types.Question],
  own_scores: dict[str, float],
  claims: Sequence[types.Claim] = (),
) -> Measured:
  """Measures of each question.

  Args:
    system: the trained system.
    split: name of the split.
    questions: n questions.
    own_scores: id -> score, in place of the calibrator's.
    claims: what the documents state; empty = unknown.
  """
  reads = system.config.trains_with(objective.READER_LOSSES)
  system = dataclasses.replace(system, has_reader=reads)
  found, judged = _judged(system, split, questions, own_scores)
  runs = {
    INDEX: decoded(found.candidates),
    RANKED: trec.Run(
      rows=np.asarray(found.documents),
      scores=np.asarray(found.scores),
      where=np.asarray(found.documents) >= 0,
    ),
  }
  runs, values = retrieval(system, questions, runs)
  values[INDEX, 'valid docids'] = measures.valid_docids(
    found.candidates, len(system.documents)
  )
  golds = gold_rows(system, questions)
  if (golds >= 0).sum(1).max(initial=0) > 1:
    values[RANKED, SUPPORT] = measures.gold_in_support(
      np.asarray(found.documents), np.asarray(found.weights), golds
    )
  if system.config.train.evaluate_exact:
    values[INDEX, 'beam regret'] = run(system, compiled.regret, questions)
  given = answer(system, questions, found, judged)
  if judged is not None:
    values |= _read(system, questions, found, given, claims)
    values |= judging.values(judged, given)
  return Measured(
    split=split,
    questions=questions,
    values=values,
    runs=runs,
    answers=given,
    judged=judged,
  )


def _judged(
  system: systems.System,
  split: str,
  questions: Sequence[types.Question],
  own_scores: dict[str, float],
) -> tuple[forward.Answer, judging.Judged | None]:
  """Answers as arrays, and beside the gold ones; None without a reader."""
  if not system.has_reader:
    return run(system, compiled.answer, questions), None
  found, evidence = run(
    system, compiled.answer_with_evidence, questions, targets=True
  )
  judged = judging.judge(system, questions, found, evidence)
  if split == system.config.data.calibration_split and own_scores:
    own = [
      own_scores.get(question.id, score)
      for question, score in zip(questions, judged.scores, strict=True)
    ]
    judged = judged.with_scores(np.asarray(own))
  return found, judged


def _read(
  system: systems.System,
  questions: Sequence[types.Question],
  found: forward.Answer,
  given: Sequence[answers.Answer],
  claims: Sequence[types.Claim],
) -> measures.Values:
  """Measures of the texts that a trained reader answers."""
  texts = [None if answer.abstained else answer.text for answer in given]
  values = of_answers(ANSWERS, system, questions, texts)
  if system.config.reader.citations:
    unread = _unread(system, questions)
    values |= summaries.measure(
      system, questions, found, given, unread, claims, name=ANSWERS
    )
  if readers.make(system.config.reader).load is not None:
    values |= _from_gold(system, questions)
  return values


def _unread(
  system: systems.System, questions: Sequence[types.Question]
) -> list[str]:
  """What the reader writes without a document, without citations."""
  tokens = run(system, compiled.answer_unread, questions)
  texts = [citations.decode(system.tokenizer, row) for row in tokens]
  return [summary_metrics.plain(text) for text in texts]


def answer(
  system: systems.System,
  questions: Sequence[types.Question],
  found: forward.Answer,
  judged: judging.Judged | None,
) -> list[answers.Answer]:
  """The answers to questions, with the scores that they were judged by."""
  scores: list[float | None] = [None] * len(questions)
  if judged is not None and judged.calibrated:
    scores = judged.scores.tolist()
  return [
    system.answer(question.text, found, row, score=scores[row])
    for row, question in enumerate(questions)
  ]


def decoded(candidates: types.Candidates) -> trec.Run:
  """The ranking of the beam search as a run."""
  return trec.Run(
    rows=np.asarray(candidates.documents),
    scores=np.asarray(candidates.scores),
    where=np.asarray(candidates.where),
  )


def run(
  system: systems.System,
  function: compiled.Function,
  questions: Sequence[types.Question],
  *,
  gold: np.ndarray | None = None,
  targets: bool = False,
):
  """`System.run` in batches of `train.eval_batch_size`."""
  size = system.config.train.eval_batch_size
  return system.run(
    function, questions, gold=gold, targets=targets, batch_size=size
  )


def gold_rows(
  system: systems.System, questions: Sequence[types.Question]
) -> np.ndarray:
  """Rows of all gold documents, int32[n, G], -1 = none.

  G is a power of two, so that splits share a compiled function.
  """
  gold, _ = measures.gold(questions, system.rows)
  width = 1 << (gold.shape[1] - 1).bit_length()
  return np.pad(gold, ((0, 0), (0, width - gold.shape[1])), constant_values=-1)


def _from_gold(
  system: systems.System, questions: Sequence[types.Question]
) -> measures.Values:
  """Measures of answers that the reader gives from the gold documents."""
  gold = gold_rows(system, questions)
  read = run(system, compiled.answer_from_gold, questions, gold=gold)
  texts = [
    None if system.abstains(read, row) else system.text(read, row)[0]
    for row in range(len(questions))
  ]
  values = of_answers(FROM_GOLD, system, questions, texts)
  without = [not question.document_ids for question in questions]
  for value in values.values():
    value[without] = np.nan
  return values


def retrieval(
  system: systems.System,
  questions: Sequence[types.Question],
  runs: dict[str, trec.Run],
) -> tuple[dict[str, trec.Run], measures.Values]:
  """The rankings of documents, and their measures at depths that they reach.

  In a corpus of passages, the score of a document is that of its best passage.
  If the gold documents of a question with answers are unknown, the documents
  are also searched for an answer.
  """
  groups = trec.groups(system.documents)
  gold, grades = measures.gold(questions, system.rows, groups)
  widest = max(10, system.config.search.beam_size)
  values: measures.Values = {}
  searched = any(
    not q.document_ids and (q.answers or q.answer_patterns) for q in questions
  )
  by_document = {
    name: trec.by_document(ranked, groups, depth=baseline_runs.DEPTH)
    for name, ranked in runs.items()
  }
  for name, ranked in by_document.items():
    deep = ranked.rows.shape[1] >= min(RECALL, len(system.rows))
    found: dict[str, np.ndarray] = {}
    if (gold >= 0).any():  # compiled for each number of questions
      found = measures.retrieval(
        ranked,
        gold,
        grades,
        depths=[k for k in DEPTHS if k <= widest],
        recall=RECALL if deep else 0,
      )
    if searched:
      found |= measures.has_answer(
        runs[name],
        questions,
        system.documents,
        depths=[k for k in ANSWER_DEPTHS if k <= widest],
      )
    values |= {(name, measure): value for measure, value in found.items()}
  return by_document, values


def of_answers(
  name: str,
  system: systems.System,
  questions: Sequence[types.Question],
  texts: Sequence[str | None],
) -> measures.Values:
  """Measures of answers, under the name of a row of the results."""
  reader = system.config.reader
  if reader.citations:
    questions, texts = summaries.plain(questions, texts)
  found = measures.answers(
    questions,
    texts,
    written=not readers.make(reader).points,
    may_abstain=(
      reader.abstention_threshold < base.NEVER
      or system.calibrator is not None
      or reader.citations
    ),
  )
  return {(name, measure): value for measure, value in found.items()}
