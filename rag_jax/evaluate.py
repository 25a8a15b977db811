"""Evaluation of index, ranker, reader and baselines on the same questions."""

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

DEPTHS = (1, 10, 100)  # k of Hits@k, as far as the beam reaches
ANSWER_DEPTHS = (1, 5, 20, 100)  # k of has-answer@k, as far
RECALL = 100  # k of Recall@k, for rankings of at least this depth
RESAMPLES = 100  # bootstrap resamples for measures that are not means
INDEX, RANKED = 'generative index', 'after ranker'
ANSWERS, FROM_GOLD = 'answers', 'answers from gold documents'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
  """Measures of one split, per question.

  Attributes:
    split: name of the split.
    questions: n questions.
    values: (system, measure) -> float[n]; NaN if a question has no value.
    runs: system -> its ranking for each question.
    answers: n answers of the system.
  """

  split: str
  questions: Sequence[types.Question]
  values: measures.Values
  runs: dict[str, trec.Run]
  answers: Sequence[answers.Answer]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
  """Results with intervals, and the values of each question behind them."""

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
  baselines = None
  if with_baselines:
    baselines = baseline_runs.Baselines(system, dataset, pretrained)
  results, found = [], []
  for split, questions in splits(system, dataset):
    measured, probabilities = _measured(system, split, questions)
    if baselines is not None:
      runs, values = _retrieval(system, questions, baselines.search(questions))
      measured = dataclasses.replace(
        measured, runs=runs | measured.runs, values=values | measured.values
      )
    subsets = _subsets(system, dataset, split, questions)
    results += _summarise(subsets, measured.values)
    results += _calibration(measured, probabilities)
    found.append(measured)
  return Evaluation(system=system, results=results, splits=found)


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
  return _measured(system, '', questions)[0].values


def _measured(
  system: systems.System, split: str, questions: Sequence[types.Question]
) -> tuple[Measured, np.ndarray]:
  """Measures of each question, and the probabilities of the answers [n]."""
  reads = system.config.trains_with(objective.READER_LOSSES)
  system = dataclasses.replace(system, has_reader=reads)
  found = run(system, compiled.answer, questions)
  runs = {
    INDEX: _decoded(found.candidates),
    RANKED: trec.Run(
      rows=found.documents, scores=found.scores, where=found.documents >= 0
    ),
  }
  runs, values = _retrieval(system, questions, runs)
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
  measured = Measured(
    split=split, questions=questions, values=values, runs=runs, answers=given
  )
  return measured, np.exp(np.asarray(found.log_probability, np.float64))


def _decoded(candidates: types.Candidates) -> trec.Run:
  """The ranking of the beam search as a run."""
  return trec.Run(
    rows=np.asarray(candidates.documents),
    scores=np.asarray(candidates.scores),
    where=np.asarray(candidates.where),
  )


def measure_search(
  system: systems.System, dataset: types.Dataset
) -> list[report.Result]:
  """Evaluates the search alone, on each split."""
  results = []
  for split, questions in splits(system, dataset):
    found = run(system, compiled.search, questions)
    _, values = _retrieval(system, questions, {INDEX: _decoded(found)})
    subsets = _subsets(system, dataset, split, questions)
    results += _summarise(subsets, values)
  return results


def run(
  system: systems.System,
  function: compiled.Function,
  questions: Sequence[types.Question],
  *,
  gold: np.ndarray | None = None,
):
  """`System.run` in batches of `train.eval_batch_size`."""
  size = system.config.train.eval_batch_size
  return system.run(function, questions, gold=gold, batch_size=size)


def splits(
  system: systems.System, dataset: types.Dataset
) -> Iterator[tuple[str, Sequence[types.Question]]]:
  """Name and questions of each split to evaluate."""
  data = system.config.data
  for split in pipeline.check_splits(dataset, data):
    questions = dataset.splits[split]
    yield split, pipeline.spread(questions, data.eval_questions)


def _from_gold(
  system: systems.System, questions: Sequence[types.Question]
) -> measures.Values:
  """Measures of answers that the reader gives from the gold documents."""
  gold, _ = measures.gold(questions, system.rows)
  # Powers of two, so that splits share a compiled function.
  width = 1 << (gold.shape[1] - 1).bit_length()
  gold = np.pad(gold, ((0, 0), (0, width - gold.shape[1])), constant_values=-1)
  read = run(system, compiled.answer_from_gold, questions, gold=gold)
  texts = [
    None if system.abstains(read, row) else system.text(read, row)[0]
    for row in range(len(questions))
  ]
  values = _answers(FROM_GOLD, system, questions, texts)
  without = [not question.document_ids for question in questions]
  for value in values.values():
    value[without] = np.nan
  return values


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
  answerable = np.asarray([question.answerable for question in questions])
  if answerable.any() and not answerable.all():
    subsets |= {
      f'{split} / with an answer': answerable,
      f'{split} / without an answer': ~answerable,
    }
  return subsets


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


def _retrieval(
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


def _answers(
  name: str,
  system: systems.System,
  questions: Sequence[types.Question],
  texts: Sequence[str | None],
) -> measures.Values:
  """Measures of answers, under the name of a row of the results."""
  reader = system.config.reader
  found = measures.answers(
    questions,
    texts,
    written=not readers.make(reader).points,
    may_abstain=reader.abstention_threshold < base.NEVER,
  )
  return {(name, measure): value for measure, value in found.items()}


def _calibration(
  measured: Measured, probabilities: np.ndarray
) -> list[report.Result]:
  """ECE and AURC of a split."""
  exact = measured.values.get((ANSWERS, 'EM'), np.zeros(0))
  known = np.isfinite(exact)
  if not known.any():
    return []
  found = measures.calibration(
    probabilities[known], exact[known] > 0, resamples=RESAMPLES
  )
  return [
    report.Result(
      split=measured.split,
      system=ANSWERS,
      metric=name,
      value=value,
      low=low,
      high=high,
      count=int(known.sum()),
    )
    for name, (value, low, high) in found.items()
  ]
