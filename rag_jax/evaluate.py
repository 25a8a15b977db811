"""Measuring: every split, every system, on the same questions."""

from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from rag_jax import (
  comparison,
  compiled,
  forward,
  model,
  objective,
  readers,
  report,
  types,
)
from rag_jax import system as systems
from rag_jax.data import pipeline
from rag_jax.ops import metrics, text_metrics
from rag_jax.readers import base

DEPTHS = comparison.DEPTHS
RESAMPLES = 100  # of the bootstrap of measures that are no mean
# A question's value for each system and measure; NaN where it has none.
Values = dict[tuple[str, str], np.ndarray]


def measure(
  system: systems.System,
  dataset: types.Dataset,
  pretrained: model.Pretrained,
  *,
  with_baselines: bool = True,
) -> list[report.Result]:
  """Measures the index, the ranker, the reader and baselines on each split.

  Args:
    system: what was trained.
    dataset: the questions.
    pretrained: published weights, for baselines that use them as published.
    with_baselines: whether those that do not learn are measured beside them.

  Returns:
    One `Result` a split, system and measure, with 95% bootstrap intervals.
    Where some documents of a split were asked for in training and some were
    not, or some questions have an answer and some have none, these are told
    apart in splits of their own.
  """
  results = []
  others = None
  if with_baselines:
    others = comparison.Baselines(system, dataset, pretrained)
  reads = system.config.trains_with(objective.READS)
  published = readers.make(system.config.reader).load is not None
  for split, questions in splits(system, dataset):
    values: Values = {}
    if others is not None:
      values = _retrieval(system, questions, others.search(questions))
    own, extra = _measured(system, questions)
    values |= own
    if reads and published:
      values |= _from_gold(system, questions)
    groups = _groups(system, dataset, split, questions)
    results += _summarise(groups, values)
    if extra is not None:
      results += _calibration(split, *extra)
  return results


def question_values(
  system: systems.System, questions: Sequence[types.Question]
) -> Values:
  """What index, ranker and reader are worth on each question.

  Args:
    system: what was trained.
    questions: n of them.

  Returns:
    (system, measure) -> float[n], NaN where a question has no such value.
    Answers are left out where no stage has trained the reader.
  """
  return _measured(system, questions)[0]


def _measured(
  system: systems.System, questions: Sequence[types.Question]
) -> tuple[Values, tuple[np.ndarray, np.ndarray] | None]:
  """Values of each question; chances of answers, and which are right."""
  found = run(system, compiled.answer, questions)
  values = _retrieval(
    system,
    questions,
    {
      'generative index': (found.candidates.documents, found.candidates.where),
      'after ranker': (found.documents, found.documents >= 0),
    },
  )
  values['generative index', 'real documents'] = _share_real(
    found.candidates, len(system.documents)
  )
  if system.config.train.evaluate_exact:
    values['generative index', 'beam regret'] = run(
      system, compiled.regret, questions
    )
  if not system.config.trains_with(objective.READS):
    return values, None
  answers = _answers('answers', system, questions, found)
  chance = np.exp(np.asarray(found.log_probability, np.float64))
  return values | answers, (chance, answers['answers', 'EM'])


def measure_search(
  system: systems.System, dataset: types.Dataset
) -> list[report.Result]:
  """Measures the index alone, on each split; no document is read."""
  results = []
  for split, questions in splits(system, dataset):
    found = run(system, compiled.search, questions)
    values = _retrieval(
      system, questions, {'generative index': (found.documents, found.where)}
    )
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
) -> Values:
  """Answers that are read from the gold document."""
  read = run(system, compiled.answer_from_gold, questions)
  own = _answers('answers from the gold document', system, questions, read)
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

  Told apart are those that ask for documents that training asked for or did
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
      f'{split}, documents asked for in training': seen,
      f'{split}, documents never asked for': unseen,
    }
  answerable = np.asarray([question.answerable for question in questions])
  if answerable.any() and not answerable.all():
    groups |= {
      f'{split}, with an answer': answerable,
      f'{split}, without an answer': ~answerable,
    }
  return groups


def _summarise(
  groups: dict[str, np.ndarray], values: Values
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
  found_by: dict[str, tuple[types.Array, types.Array]],
) -> Values:
  """Hits@k and MRR@10 where the gold documents are known.

  With several gold documents a question, nDCG@10 and R-precision too.
  """
  gold = comparison.gold_rows(system, questions)
  count = (gold >= 0).sum(axis=1)
  values = {}
  relevant = jnp.asarray(gold)
  ideal = jnp.asarray(gold >= 0, jnp.float32)
  for name, found in found_by.items():
    documents, where = map(jnp.asarray, found)
    ranked = metrics.from_ranking(documents, relevant)
    own = {
      f'Hits@{k}': metrics.hits(*ranked, k=k, where=where)
      for k in DEPTHS
      if k <= max(10, system.config.search.beam_size)
    }
    own['MRR@10'] = metrics.reciprocal_rank(*ranked, k=10, where=where)
    if (count > 1).any():
      own['nDCG@10'] = metrics.ndcg(*ranked, k=10, where=where, ideal=ideal)
      own['R-precision'] = metrics.r_precision(
        *ranked, where=where, num_relevant=jnp.asarray(count)
      )
    for measure_name, value in own.items():
      values[name, measure_name] = np.where(
        count == 0, np.nan, np.asarray(value)
      )
  return values


def _share_real(candidates: types.Candidates, count: int) -> np.ndarray:
  """1.0 for each question whose candidates all exist and differ."""
  shares = []
  for documents, where in zip(
    candidates.documents, candidates.where, strict=True
  ):
    real = documents[where]
    exist = bool(len(real)) and real.min() >= 0 and real.max() < count
    shares.append(float(exist and len(set(real.tolist())) == len(real)))
  return np.asarray(shares)


def _answers(
  name: str,
  system: systems.System,
  questions: Sequence[types.Question],
  found: forward.Answer,
) -> Values:
  """Exact match and F1 of the answers, where the data has answers.

  No answer is the right one where the data says that there is none. Answers
  that are written get ROUGE-L too.
  """
  exact, overlap, longest, answered = np.full((4, len(questions)), np.nan)
  for row, question in enumerate(questions):
    answers = question.answers if question.answerable else ('',)
    answered[row] = not system.abstains(found, row)
    text = system.text(found, row)[0] if answered[row] else ''
    if answers:
      exact[row] = text_metrics.exact_match(text, answers)
      overlap[row] = text_metrics.f1(text, answers)
      longest[row] = max(
        text_metrics.rouge(text, answer)['f1'] for answer in answers
      )
  values = {(name, 'EM'): exact, (name, 'F1'): overlap}
  if not readers.make(system.config.reader).points:
    values[name, 'ROUGE-L'] = longest
  if system.config.reader.null_threshold < base.NEVER:
    values[name, 'answered'] = answered
  return values


def _calibration(
  split: str, chance: np.ndarray, right: np.ndarray
) -> list[report.Result]:
  """How far to trust the probabilities of answers, over a whole split.

  ECE is the expected calibration error; AURC the area under the risk-coverage
  curve, where the least probable answers are withheld first.
  """
  known = np.isfinite(right)
  if not known.any():
    return []
  chance, right = chance[known], right[known] > 0
  both = {
    'ECE': jax.jit(metrics.expected_calibration_error),
    'AURC': jax.jit(lambda c, r: metrics.risk_coverage(c, r)[1]),
  }
  rng = np.random.default_rng(0)
  draws = rng.integers(0, len(chance), (RESAMPLES, len(chance)))
  results = []
  for name, function in both.items():
    value = float(function(jnp.asarray(chance), jnp.asarray(right)))
    others = [
      float(function(jnp.asarray(chance[d]), jnp.asarray(right[d])))
      for d in draws
    ]
    low, high = np.quantile(others, [0.025, 0.975])
    results.append(
      report.Result(
        split=split,
        system='answers',
        metric=name,
        value=value,
        low=float(low),
        high=float(high),
        count=len(chance),
      )
    )
  return results
