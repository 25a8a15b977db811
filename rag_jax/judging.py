"""Answers to questions with known answers: right or wrong, sure or not.

It fits the calibrator on the calibration split, and makes the rows of the
results about scores, certificates and grounding.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from rag_jax import (
  answers,
  calibration,
  compiled,
  confidence,
  forward,
  grounding,
  measures,
  readers,
  reliability,
  replies,
  report,
  summaries,
  types,
)
from rag_jax import system as systems
from rag_jax.data import pipeline, words

ANSWERS, RANKED = 'answers', 'after ranker'  # rows of the results
GROUNDING = 'grounding'
TOGETHER = 'all splits'  # rows over the questions of all splits


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judged:
  """The best answers to n questions, given or not.

  Attributes:
    questions: the questions.
    best: the best answers, also where the system abstained.
    right: whether each is right, bool[n]; False for an unanswerable question.
    known: whether the data says so, bool[n].
    scores: float64[n], the calibrated probability that the answer is right, or
      the reader's if there is no calibrator.
    calibrated: whether `scores` are calibrated.
    features: float64[n, F], of `confidence.FEATURES`.
    grounds: what each answer rests on; None without evidence.
    documents: int[n, R], rows of the documents read; -1 = none.
    left_out: float[n, R], as in `examine.Evidence`.
    weights: float[n, K], of the candidates.
    ranker_scores: float[n, K], -inf where there is no candidate.
    is_gold: bool[n, K], gold documents among them.
    found: the answers as arrays.
  """

  questions: Sequence[types.Question]
  best: list[str]
  right: np.ndarray
  known: np.ndarray
  scores: np.ndarray
  calibrated: bool
  features: np.ndarray
  grounds: list[grounding.Grounding | None]
  documents: np.ndarray
  left_out: np.ndarray
  weights: np.ndarray
  ranker_scores: np.ndarray
  is_gold: np.ndarray
  found: forward.Answer

  @property
  def answerable(self) -> np.ndarray:
    """Whether each question has an answer, bool[n]."""
    return np.asarray([q.answerable for q in self.questions], bool)

  def with_scores(self, scores: np.ndarray) -> 'Judged':
    """The same with other scores."""
    return dataclasses.replace(self, scores=scores, calibrated=True)


def judge(
  system: systems.System,
  questions: Sequence[types.Question],
  found: forward.Answer,
  evidence: Any = None,
  *,
  known: frozenset[str] = frozenset(),
) -> Judged:
  """Compares the best answers with the gold answers.

  Args:
    system: the system that answered.
    questions: n questions.
    found: its answers, on the host.
    evidence: `examine.Evidence` of the same questions, or None.
    known: words that are not new (`confidence.complete`); those of the
      calibrator replace them.
  """
  best = [system.text(found, row)[0] for row in range(len(questions))]
  cites = system.config.reader.citations
  if cites:
    best = [
      replies.finished(system, text, found, row)[0]
      for row, text in enumerate(best)
    ]
  asked = [dataclasses.replace(q, answerable=True) for q in questions]
  plain = summaries.plain(asked, best) if cites else (asked, best)
  exact = measures.answers(*plain)['EM']
  answerable = np.asarray([q.answerable for q in questions], bool)
  right = (np.nan_to_num(exact) > 0) & answerable
  own = system.calibrator
  features = confidence.complete(
    found.features,
    [question.text for question in questions],
    [
      replies.read(system.config, found, row, system.documents, weighted=True)
      for row in range(len(questions))
    ],
    known=known if own is None else own.known,
    language=system.config.data.language,
  )
  scores = np.exp(np.asarray(found.log_probability, np.float64))
  if own is not None:
    scores = own.logistic(features)
  where = np.asarray(found.documents) >= 0
  gold, _ = measures.gold(questions, system.rows)
  is_gold = (gold[:, None] == np.asarray(found.documents)[..., None]).any(-1)
  count = len(questions)
  grounds: list[grounding.Grounding | None] = [None] * count
  documents = np.full((count, 0), -1)
  left_out = np.zeros((count, 0))
  if evidence is not None:
    documents = np.asarray(evidence.documents)
    left_out = np.asarray(evidence.left_out, np.float64)
    grounds = [
      _ground(system, found, evidence, row, best[row]) for row in range(count)
    ]
  return Judged(
    questions=questions,
    best=best,
    right=right,
    known=np.isfinite(exact) | ~answerable,
    scores=scores,
    calibrated=own is not None,
    features=features,
    grounds=grounds,
    documents=documents,
    left_out=left_out,
    weights=np.asarray(found.weights),
    ranker_scores=np.where(where, np.asarray(found.scores), -np.inf),
    is_gold=is_gold & where,
    found=found,
  )


def _ground(
  system: systems.System,
  found: forward.Answer,
  evidence: Any,
  row: int,
  best: str,
) -> grounding.Grounding:
  without = dataclasses.replace(
    found,
    read=evidence.without_document,
    start=evidence.without.start,
    end=evidence.without.end,
    tokens=evidence.without.tokens,
  )
  read = [
    system.documents[int(document)]
    for document in evidence.documents[row]
    if document >= 0
  ]
  other = system.text(without, row)[0] if len(read) > 1 else ''
  return grounding.ground(
    best,
    other,
    system.documents[int(found.read[row])],
    [document for document in read if document is not None],
    written=not readers.make(system.config.reader).points,
  )


def calibrate(
  system: systems.System, dataset: types.Dataset
) -> tuple[calibration.Calibrator | None, dict[str, float]]:
  """Fits a calibrator on the calibration split, if the data has one.

  Args:
    system: a system with a trained reader.
    dataset: the questions.

  Returns:
    The calibrator or None, and the score of each calibration question by a
    model that was fitted without it: id -> score.

  Raises:
    ValueError: if the calibration split is that of training.
  """
  data = system.config.data
  name = data.calibration_split
  if name == data.train_split and system.config.steps:
    raise ValueError(
      'data.calibration_split must be held out from training, got the training '
      f'split {name!r}. Set --config.data.calibration_split.'
    )
  questions = pipeline.spread(dataset.splits.get(name, ()), data.eval_questions)
  if not questions:
    return None, {}
  size = system.config.train.eval_batch_size
  # The program that the evaluation compiles too.
  function = compiled.answer_with_evidence
  found, _ = system.run(function, questions, targets=True, batch_size=size)
  known = _trained_words(system, dataset)
  judged = judge(
    dataclasses.replace(system, calibrator=None), questions, found, known=known
  )
  rows = np.flatnonzero(judged.known)
  fitted = calibration.fit(
    confidence.FEATURES,
    judged.features[rows],
    judged.right[rows],
    chance=judged.scores[rows],
    scores=judged.ranker_scores[rows],
    is_gold=judged.is_gold[rows],
    split=name,
    known=known,
  )
  if fitted is None:
    return None, {}
  first, second = calibration.halves(len(rows))
  scores = np.zeros(len(rows))
  scores[first], scores[second] = fitted.ordering[0], fitted.testing[0]
  ids = [questions[row].id for row in rows.tolist()]
  return fitted, dict(zip(ids, scores.tolist(), strict=True))


def _trained_words(
  system: systems.System, dataset: types.Dataset
) -> frozenset[str]:
  """The words of the training questions that have an answer."""
  data = system.config.data
  if not system.config.steps:
    return frozenset()
  texts = [
    question.text
    for question in pipeline.train_questions(dataset, data)
    if question.answerable
  ]
  each = words.split(texts, language=data.language)
  return frozenset(word for text in each for word in text)


def values(judged: Judged, given: Sequence[answers.Answer]) -> measures.Values:
  """Measures of each question: refused, certified and grounding."""
  answerable = judged.answerable
  abstained = np.asarray([answer.abstained for answer in given], bool)
  found: measures.Values = {}
  if judged.calibrated:
    found[ANSWERS, 'refused'] = np.where(answerable, abstained, np.nan)
  if any(answer.certified is not None for answer in given):
    certified = np.asarray([bool(answer.certified) for answer in given])
    found[ANSWERS, 'certified'] = certified.astype(float)
    found[ANSWERS, 'certified risk'] = np.where(
      certified & judged.known, ~judged.right, np.nan
    )
  if any(grounds is not None for grounds in judged.grounds):
    for name, value in grounding.values(judged.grounds).items():
      found[GROUNDING, name] = value
  return found


def results(
  split: str, judged: Judged, calibrator: calibration.Calibrator | None
) -> list[report.Result]:
  """Rows of a split about scores of answers and weights of documents."""
  rows: list[report.Result] = []
  answerable, known = judged.answerable, judged.known
  if (known & answerable).any():
    found = reliability.of_answers(judged.scores[known], judged.right[known])
    rows += reliability.results(split, ANSWERS, found, int(known.sum()))
    if calibrator is not None:
      chance = np.exp(np.asarray(judged.found.log_probability, np.float64))
      both = {
        'ECE unscaled': chance,
        'ECE temperature': calibration.scaled(
          chance, calibrator.answer_temperature
        ),
      }
      raw = {
        name: reliability.of_answers(value[known], judged.right[known])['ECE']
        for name, value in both.items()
      }
      rows += reliability.results(split, ANSWERS, raw, int(known.sum()))
  if answerable.any() and not answerable.all():
    rows += _separation(split, judged.scores, answerable, len(answerable))
  has_gold = np.asarray([bool(q.document_ids) for q in judged.questions])
  if has_gold.any():
    is_gold = judged.is_gold[has_gold]
    weights = {'ECE': judged.weights[has_gold]}
    if calibrator is not None:
      logits = judged.ranker_scores[has_gold] / calibrator.document_temperature
      logits = np.exp(logits - logits.max(axis=1, keepdims=True))
      weights['ECE temperature'] = logits / logits.sum(axis=1, keepdims=True)
    found = {
      name: reliability.of_documents(value, is_gold)
      for name, value in weights.items()
    }
    rows += reliability.results(split, RANKED, found, int(has_gold.sum()))
  return rows


def _separation(
  split: str, scores: np.ndarray, answerable: np.ndarray, count: int
) -> list[report.Result]:
  """The row 'null AUROC' of a split with `count` questions."""
  found = {'null AUROC': reliability.separation(scores, answerable)}
  return reliability.results(split, ANSWERS, found, count)


def compared(parts: dict[str, Judged]) -> list[report.Result]:
  """Rows of splits without answerable questions, against those of the others.

  'null AUROC' is the chance that an answerable question of another split
  has a larger score.

  Args:
    parts: split -> its answers.
  """
  scores = [own.scores[own.answerable] for own in parts.values()]
  others = np.concatenate(scores) if scores else np.zeros(0)
  rows: list[report.Result] = []
  for split, own in parts.items():
    if others.size and not own.answerable.any():
      both = np.concatenate([others, own.scores])
      is_other = np.arange(len(both)) < len(others)
      rows += _separation(split, both, is_other, len(own.scores))
  return rows


def together(parts: Sequence[Judged]) -> Judged:
  """The answers to the questions of several splits as one."""

  def joined(name):
    return np.concatenate([getattr(part, name) for part in parts])

  first = parts[0]
  return dataclasses.replace(
    first,
    questions=[q for part in parts for q in part.questions],
    best=[text for part in parts for text in part.best],
    grounds=[grounds for part in parts for grounds in part.grounds],
    found=jax.tree.map(
      lambda *x: np.concatenate(x), *(part.found for part in parts)
    ),
    **{
      name: joined(name)
      for name in (
        *('right', 'known', 'scores', 'features', 'documents', 'left_out'),
        *('weights', 'ranker_scores', 'is_gold'),
      )
    },
  )
