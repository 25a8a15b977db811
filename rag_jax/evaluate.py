"""Evaluation of index, ranker, reader and baselines on the same questions."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from rag_jax import (
  baseline_runs,
  compiled,
  grounding,
  health,
  judging,
  measures,
  model,
  objective,
  parallel,
  per_question,
  report,
  trec,
  types,
)
from rag_jax import system as systems
from rag_jax.data import batches, pipeline

INDEX = per_question.INDEX
ANSWERS = judging.ANSWERS
REMOVED = 'gold documents removed'  # end of the name of such a split


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
  """Results with intervals, and the values of each question behind them.

  Attributes:
    system: the system, with the calibrator of this evaluation.
    results: all results.
    splits: values of each question, by split.
    warnings: what is wrong with the run, with remedies.
  """

  system: systems.System
  results: list[report.Result]
  splits: list[per_question.Measured]
  warnings: list[str]


def measure(
  system: systems.System,
  dataset: types.Dataset,
  pretrained: model.Pretrained,
  *,
  with_baselines: bool = True,
) -> list[report.Result]:
  """The results of `evaluate`, without the values of each question."""
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
  """Evaluates the index, the ranker, the reader and baselines on each split.

  Args:
    system: the trained system.
    dataset: the questions.
    pretrained: published weights before fine-tuning, for the dense baselines.
    with_baselines: whether to evaluate the baselines too.

  Returns:
    One `Result` per split, system and measure, with 95% bootstrap intervals,
    and the rankings and answers for each question. A split also gets results
    for two pairs of subsets, if both of a pair are non-empty: questions whose
    gold documents were seen or unseen in training, and questions with or
    without an answer.
  """
  system, own_scores = _calibrated(system, dataset)
  baselines = None
  if with_baselines:
    baselines = baseline_runs.Baselines(system, dataset, pretrained)
  results, found = [], []
  for split, questions in splits(system, dataset):
    measured = per_question.measure(
      system, split, questions, own_scores, dataset.claims
    )
    if baselines is not None and any(
      question.answerable for question in questions
    ):
      runs, values = per_question.retrieval(
        system, questions, baselines.search(questions)
      )
      measured = dataclasses.replace(
        measured, runs=runs | measured.runs, values=values | measured.values
      )
    subsets = _subsets(system, dataset, split, questions)
    results += _summarise(subsets, measured.values)
    if measured.judged is not None:
      results += judging.results(split, measured.judged, system.calibrator)
    if system.config.train.evaluate_without_gold:
      results += _without_gold(system, split, questions, measured)
    found.append(measured)
  more, warnings = _of_all(system, found)
  return Evaluation(
    system=system, results=results + more, splits=found, warnings=warnings
  )


def _calibrated(
  system: systems.System, dataset: types.Dataset
) -> tuple[systems.System, dict[str, float]]:
  """The system with a calibrator, and the scores of the questions behind it.

  It keeps the calibrator of its workdir if the data has no calibration split.
  """
  if not system.config.trains_with(objective.READER_LOSSES):
    return system, {}
  calibrator, scores = judging.calibrate(system, dataset)
  if calibrator is None:
    return system, {}
  return dataclasses.replace(system, calibrator=calibrator), scores


def _of_all(
  system: systems.System, found: Sequence[per_question.Measured]
) -> tuple[list[report.Result], list[str]]:
  """Rows over the questions of all splits, and warnings about the run."""
  parts = {own.split: own.judged for own in found if own.judged is not None}
  if not parts:
    return [], []
  results = judging.compared(parts)
  together = judging.together(list(parts.values()))
  name = next(iter(parts))
  if len(parts) > 1:
    name = judging.TOGETHER
    results += judging.results(name, together, system.calibrator)
    subsets = {name: np.ones(len(together.questions), bool)}
    subsets |= _by_answer(name, together.questions)
    keys = set.intersection(*(set(own.values) for own in found))
    results += _summarise(
      subsets,
      {
        key: np.concatenate([own.values[key] for own in found])
        for key in found[0].values
        if key in keys and key[0] in (ANSWERS, judging.GROUNDING)
      },
    )
  values, count = _health(system, together)
  results += [
    report.Result(
      split=name,
      system=health.SYSTEM,
      metric=metric,
      value=value,
      low=value,
      high=value,
      count=count,
    )
    for metric, value in values.items()
  ]
  changes = grounding.values(together.grounds)['changes']
  if np.isfinite(changes).any():
    values['changes'] = float(np.nanmean(changes))
  return results, health.warnings(values)


def _health(
  system: systems.System, together: judging.Judged
) -> tuple[dict[str, float], int]:
  """Numbers of `health`, over questions spread over all splits."""
  rows = np.flatnonzero(
    [bool(q.answers) and q.answerable for q in together.questions]
  )
  if not rows.size:
    return {}, 0
  gold, _ = measures.gold(together.questions, system.rows)
  values: dict[str, float] = {}
  known = rows[gold[rows, 0] >= 0]
  if known.size:
    first = np.asarray(together.found.documents)[known, 0]
    values['collapse'] = health.collapse(first, gold[known, 0])
  if system.config.search.scoring in health.PROBABILITIES:
    mass = np.exp(np.asarray(together.found.beam_mass)[rows])
    values['beam mass'] = float(mass.mean())
  chosen = np.asarray(pipeline.spread(rows.tolist(), health.QUESTIONS))
  size = min(system.config.stages[-1][1].batch_size, len(chosen))
  chosen = chosen[: len(chosen) // size * size]  # batches of equal shapes
  found = _gradients(system, [together.questions[i] for i in chosen], size)
  values |= health.measure(found, together.left_out[chosen])
  return {n: v for n, v in values.items() if np.isfinite(v)}, len(chosen)


def _gradients(
  system: systems.System, questions: Sequence[types.Question], size: int
) -> Any:
  """`examine.health` of questions, in batches of a size."""
  encoded = system.encode(questions)
  function = compiled.health(system.config.model)
  parts = []
  for start in range(0, len(questions), size):
    rows = np.arange(start, start + size)
    batch = batches.take(batches.keep(encoded, rows))
    parts.append(
      parallel.call_whole(function, system.params, batch, system.index)
    )
  return jax.tree.map(lambda *x: np.concatenate(x), *parts)


def _without_gold(
  system: systems.System,
  split: str,
  questions: Sequence[types.Question],
  measured: per_question.Measured,
) -> list[report.Result]:
  """Rows of the questions with gold documents, once these are removed."""
  if measured.judged is None:
    return []
  rows = [i for i, question in enumerate(questions) if question.document_ids]
  asked = [
    dataclasses.replace(questions[i], answerable=False, answers=())
    for i in rows
  ]
  if not asked:
    return []
  found = per_question.run(
    system,
    compiled.answer_without_gold,
    asked,
    gold=per_question.gold_rows(system, asked),
  )
  removed = judging.judge(system, asked, found)
  given = per_question.answer(system, asked, found, removed)
  name = f'{split} / {REMOVED}'
  texts = [None if answer.abstained else answer.text for answer in given]
  values = per_question.of_answers(ANSWERS, system, asked, texts)
  results = _summarise({name: np.ones(len(asked), bool)}, values)
  return results + judging.compared({split: measured.judged, name: removed})


def question_values(
  system: systems.System, questions: Sequence[types.Question]
) -> measures.Values:
  """Measures of index, ranker and reader on each question.

  Args:
    system: the trained system.
    questions: n questions.

  Returns:
    (system, measure) -> float[n]; NaN if a question has no value. Measures of
    answers are left out if no stage trains the reader.
  """
  return per_question.measure(system, '', questions, {}).values


def measure_search(
  system: systems.System, dataset: types.Dataset
) -> list[report.Result]:
  """Evaluates the search alone, on each split."""
  results = []
  for split, questions in splits(system, dataset):
    found = per_question.run(system, compiled.search, questions)
    _, values = per_question.retrieval(
      system, questions, {INDEX: per_question.decoded(found)}
    )
    subsets = _subsets(system, dataset, split, questions)
    results += _summarise(subsets, values)
  return results


def splits(
  system: systems.System, dataset: types.Dataset
) -> Iterator[tuple[str, Sequence[types.Question]]]:
  """Name and questions of each split to evaluate."""
  data = system.config.data
  for split in pipeline.check_splits(dataset, data):
    questions = dataset.splits[split]
    yield split, pipeline.spread(questions, data.eval_questions)


def _subsets(
  system: systems.System,
  dataset: types.Dataset,
  split: str,
  questions: Sequence[types.Question],
) -> dict[str, np.ndarray]:
  """Name -> bool[n]: the split itself, and the subsets of `evaluate`."""
  training: Sequence[types.Question] = ()
  if system.config.steps:
    training = pipeline.train_questions(dataset, system.config.data)
  groups = trec.groups(dataset.documents)
  rows = {document.id: i for i, document in enumerate(dataset.documents)}
  trained = set(measures.gold(training, rows, groups)[0].ravel().tolist()) - {
    -1
  }
  gold = measures.gold(questions, rows, groups)[0].tolist()
  known = np.asarray([bool(q.document_ids) for q in questions])
  seen = np.asarray([not trained.isdisjoint(own) for own in gold])
  unseen = known & ~seen
  subsets = {split: np.ones(len(questions), bool)}
  if seen.any() and unseen.any():
    subsets |= {
      f'{split} / documents seen in training': seen,
      f'{split} / documents unseen in training': unseen,
    }
  return subsets | _by_answer(split, questions)


def _by_answer(
  name: str, questions: Sequence[types.Question]
) -> dict[str, np.ndarray]:
  """Subsets with and without an answer, if there are both."""
  answerable = np.asarray([question.answerable for question in questions])
  if answerable.all() or not answerable.any():
    return {}
  return {
    f'{name} / with an answer': answerable,
    f'{name} / without an answer': ~answerable,
  }


def _summarise(
  subsets: dict[str, np.ndarray], values: measures.Values
) -> list[report.Result]:
  """Means with intervals, for each subset of the questions."""
  results = []
  for name, subset in subsets.items():
    for (system, metric), value in values.items():
      counted = value[subset & np.isfinite(value)]
      if counted.size:
        results.append(report.summarise(name, system, metric, counted))
  return results
