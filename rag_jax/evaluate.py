"""Measuring: every split, every system, on the same questions."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from rag_jax import (
  answers,
  baseline_runs,
  compiled,
  measures,
  model,
  objective,
  readers,
  report,
  trec,
  types,
)
from rag_jax import system as systems
from rag_jax.data import pipeline
from rag_jax.readers import base

DEPTHS = (1, 10, 100)  # k of Hits@k; a search that is narrower has no more
RECALL = 100  # k of Recall@k, of rankings that are as deep
RESAMPLES = 100  # of the bootstrap of measures that are no mean
INDEX, RANKED = 'generative index', 'after ranker'
ANSWERS, FROM_GOLD = 'answers', 'answers from gold documents'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
  """One split, question by question.

  Attributes:
    split: its name.
    questions: n of them.
    values: float[n] for each system and measure, NaN where there is none.
    runs: what each system returned, by its name.
    answers: n answers of the system.
  """

  split: str
  questions: Sequence[types.Question]
  values: measures.Values
  runs: dict[str, trec.Run]
  answers: Sequence[answers.Answer]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
  """What was measured: numbers with intervals, and all that is behind them."""

  system: systems.System
  results: list[report.Result]
  splits: list[Measured]


def measure(
  system: systems.System,
  dataset: types.Dataset,
  pretrained: model.Pretrained,
  *,
  with_baselines: bool = True,
) -> list[report.Result]:
  """The results of `evaluate`."""
  return evaluate(
    system, dataset, pretrained, with_baselines=with_baselines
  ).results


def evaluate(
  system: systems.System,
  dataset: types.Dataset,
  pretrained: model.Pretrained,
  *,
  with_baselines: bool = True,
) -> Evaluation:
  """Measures the index, the ranker, the reader and baselines on each split.

  Args:
    system: what was trained.
    dataset: the questions.
    pretrained: published weights, for baselines that use them as published.
    with_baselines: whether those that do not learn are measured beside them.

  Returns:
    One `Result` a split, system and measure, with 95% bootstrap intervals, and
    what each system gave for each question. Where training has seen gold
    documents of some questions and not of others, or some have an answer and
    some have none, these are told apart in splits of their own.
  """
  others = None
  if with_baselines:
    others = baseline_runs.Baselines(system, dataset, pretrained)
  results, found = [], []
  for split, questions in splits(system, dataset):
    own, chance = _measured(system, split, questions)
    if others is not None:
      runs = others.search(questions)
      own = dataclasses.replace(
        own,
        runs=runs | own.runs,
        values=_retrieval(system, questions, runs) | own.values,
      )
    groups = _groups(system, dataset, split, questions)
    results += _summarise(groups, own.values)
    results += _calibration(own, chance)
    found.append(own)
  return Evaluation(system=system, results=results, splits=found)


def question_values(
  system: systems.System, questions: Sequence[types.Question]
) -> measures.Values:
  """What index, ranker and reader are worth on each question.

  Args:
    system: what was trained.
    questions: n of them.

  Returns:
    (system, measure) -> float[n], NaN where a question has no such value.
    Answers are left out where no stage has trained the reader.
  """
  return _measured(system, '', questions)[0].values


def _measured(
  system: systems.System, split: str, questions: Sequence[types.Question]
) -> tuple[Measured, np.ndarray]:
  """The system on each question, and the probabilities of its answers."""
  reads = system.config.trains_with(objective.READER_LOSSES)
  system = dataclasses.replace(system, has_reader=reads)
  found = run(system, compiled.answer, questions)
  runs = {
    INDEX: _decoded(found.candidates),
    RANKED: trec.Run(
      rows=found.documents, scores=found.scores, where=found.documents >= 0
    ),
  }
  values = _retrieval(system, questions, runs)
  values[INDEX, 'valid docids'] = measures.valid_docids(
    found.candidates, len(system.documents)
  )
  if system.config.train.evaluate_exact:
    values[INDEX, 'beam regret'] = run(system, compiled.regret, questions)
  given = [
    system.answer(question.text, found, row)
    for row, question in enumerate(questions)
  ]
  if reads:
    texts = [None if answer.abstained else answer.text for answer in given]
    values |= _answers(ANSWERS, system, questions, texts)
    if readers.make(system.config.reader).load is not None:
      values |= _from_gold(system, questions)
  own = Measured(
    split=split, questions=questions, values=values, runs=runs, answers=given
  )
  return own, np.exp(np.asarray(found.log_probability, np.float64))


def _decoded(candidates: types.Candidates) -> trec.Run:
  """The order in which a search has decoded documents."""
  return trec.Run(
    rows=np.asarray(candidates.documents),
    scores=np.asarray(candidates.scores),
    where=np.asarray(candidates.where),
  )


def measure_search(
  system: systems.System, dataset: types.Dataset
) -> list[report.Result]:
  """Measures the index alone, on each split; no document is read."""
  results = []
  for split, questions in splits(system, dataset):
    found = run(system, compiled.search, questions)
    values = _retrieval(system, questions, {INDEX: _decoded(found)})
    groups = _groups(system, dataset, split, questions)
    results += _summarise(groups, values)
  return results


def run(
  system: systems.System,
  function: compiled.Function,
  questions: Sequence[types.Question],
):
  """`System.run` in batches of `train.eval_batch_size`."""
  size = system.config.train.eval_batch_size
  return system.run(function, questions, batch_size=size)


def splits(
  system: systems.System, dataset: types.Dataset
) -> Iterator[tuple[str, Sequence[types.Question]]]:
  """The splits to measure, each with its name and the questions asked of it."""
  data = system.config.data
  for split in pipeline.check_splits(dataset, data):
    questions = dataset.splits[split]
    yield split, pipeline.spread(questions, data.eval_questions)


def _from_gold(
  system: systems.System, questions: Sequence[types.Question]
) -> measures.Values:
  """Answers that are read from the gold documents."""
  read = run(system, compiled.answer_from_gold, questions)
  texts = [
    None if system.abstains(read, row) else system.text(read, row)[0]
    for row in range(len(questions))
  ]
  own = _answers(FROM_GOLD, system, questions, texts)
  without = [not question.document_ids for question in questions]
  for value in own.values():  # without one there was nothing to read
    value[without] = np.nan
  return own


def _groups(
  system: systems.System,
  dataset: types.Dataset,
  split: str,
  questions: Sequence[types.Question],
) -> dict[str, np.ndarray]:
  """All questions of a split, and kinds of them where they mix; bool[n] each.

  Told apart are those whose gold documents were some of training's too, or were
  not, and those that have an answer or have none.
  """
  training = pipeline.train_questions(dataset, system.config.data)
  asked = {name for question in training for name in question.document_ids}
  known = np.asarray([bool(q.document_ids) for q in questions])
  seen = np.asarray([not asked.isdisjoint(q.document_ids) for q in questions])
  unseen = known & ~seen
  groups = {split: np.ones(len(questions), bool)}
  if seen.any() and unseen.any():
    groups |= {
      f'{split} / documents seen in training': seen,
      f'{split} / documents unseen in training': unseen,
    }
  answerable = np.asarray([question.answerable for question in questions])
  if answerable.any() and not answerable.all():
    groups |= {
      f'{split} / with an answer': answerable,
      f'{split} / without an answer': ~answerable,
    }
  return groups


def _summarise(
  groups: dict[str, np.ndarray], values: measures.Values
) -> list[report.Result]:
  """Means with intervals, of each group of questions."""
  results = []
  for name, group in groups.items():
    for (system, metric), own in values.items():
      counted = own[group & np.isfinite(own)]
      if counted.size:
        results.append(report.summarise(name, system, metric, counted))
  return results


def _retrieval(
  system: systems.System,
  questions: Sequence[types.Question],
  runs: dict[str, trec.Run],
) -> measures.Values:
  """Measures of each run, at the depths that the search or the run has."""
  gold, grades = measures.gold(questions, system.rows)
  widest = max(10, system.config.search.beam_size)
  values: measures.Values = {}
  for name, own in runs.items():
    deep = own.rows.shape[1] >= min(RECALL, len(system.rows))
    found = measures.retrieval(
      own,
      gold,
      grades,
      depths=[k for k in DEPTHS if k <= widest],
      recall=RECALL if deep else 0,
    )
    values |= {(name, measure): value for measure, value in found.items()}
  return values


def _answers(
  name: str,
  system: systems.System,
  questions: Sequence[types.Question],
  texts: Sequence[str | None],
) -> measures.Values:
  """Measures of answers, by the name of what gave them."""
  reader = system.config.reader
  found = measures.answers(
    questions,
    texts,
    written=not readers.make(reader).points,
    may_abstain=reader.abstention_threshold < base.NEVER,
  )
  return {(name, measure): value for measure, value in found.items()}


def _calibration(own: Measured, chance: np.ndarray) -> list[report.Result]:
  """How far to trust the probabilities of answers, over a whole split."""
  exact = own.values.get((ANSWERS, 'EM'), np.zeros(0))
  known = np.isfinite(exact)
  if not known.any():
    return []
  found = measures.calibration(
    chance[known], exact[known] > 0, resamples=RESAMPLES
  )
  return [
    report.Result(
      split=own.split,
      system=ANSWERS,
      metric=name,
      value=value,
      low=low,
      high=high,
      count=int(known.sum()),
    )
    for name, (value, low, high) in found.items()
  ]
