"""Measuring: every split, every system, on the same questions."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rag_jax import baselines, rag, report, types
from rag_jax import config as configs
from rag_jax import workdir as workdirs
from rag_jax.components import query_encoder, reader
from rag_jax.data import pipeline, tokenizers
from rag_jax.ops import metrics, text_metrics

DEPTHS = (1, 10, 100)  # k of Hits@k; a search that is narrower has no more
TUNING = 10_000  # training questions that weights of baselines are chosen by
# A question's value for each system and measure; NaN where it has none.
Values = dict[tuple[str, str], np.ndarray]


@functools.cache
def answer_function(config: rag.RagConfig) -> Callable[..., rag.Answer]:
  """`rag.answer`, compiled once a model: (params, batch, index) -> Answer."""
  return jax.jit(functools.partial(rag.answer, config=config))


@functools.cache
def read_function(config: rag.RagConfig) -> Callable[..., rag.Answer]:
  """`rag.answer` on the gold documents, without a search."""

  def read(params, batch, index):
    gold = types.Candidates(
      documents=jnp.maximum(batch.gold, 0),
      codes=index.codes[batch.gold],
      scores=jnp.zeros(batch.gold.shape),
      where=batch.gold >= 0,
    )
    return rag.answer(params, batch, index, config=config, candidates=gold)

  return jax.jit(read)


@functools.cache
def search_function(config: rag.RagConfig) -> Callable[..., types.Candidates]:
  """`rag.retrieve`, compiled once a model, for what is not read."""

  def search(params, batch, index):
    encoding = query_encoder.apply(
      params['query_encoder'], config.query_encoder, batch.query
    )
    return rag.retrieve(params, config, index, encoding, words=batch.words)

  return jax.jit(search)


def measure(
  params: rag.Params,
  config: configs.Config,
  prepared: workdirs.Prepared,
  *,
  with_baselines: bool = True,
) -> list[report.Result]:
  """Measures the index, the ranker, the reader and baselines on each split.

  Args:
    params: what was trained.
    config: the experiment.
    prepared: documents, questions and index.
    with_baselines: whether those that do not learn are measured beside them.

  Returns:
    One `Result` a split, system and measure, with 95% bootstrap intervals.
    Where some documents of a split were asked for in training and some were
    not, or some questions have an answer and some have none, these are told
    apart in splits of their own.
  """
  results = []
  others = _Baselines(config, prepared) if with_baselines else None
  for split, questions in splits(config, prepared):
    values: Values = {}
    if others is not None:
      found = others.search(questions)
      values = _retrieval(questions, prepared, found, config)
    values |= question_values(params, config, prepared, questions)
    if config.loss.reads and config.reader.weights:
      read = answer_all(
        params, config, prepared, questions, function=read_function
      )
      name = 'answers from the gold document'
      own = _answers(name, questions, prepared, read, config)
      without = [not question.document_ids for question in questions]
      for value in own.values():  # without one there was nothing to read
        value[without] = np.nan
      values |= own
    groups = _groups(split, questions, prepared, config)
    results += _summarise(groups, values)
  return results


def question_values(
  params: rag.Params,
  config: configs.Config,
  prepared: workdirs.Prepared,
  questions: Sequence[types.Question],
) -> Values:
  """What index, ranker and reader are worth on each question.

  Args:
    params: what was trained.
    config: the experiment.
    prepared: documents and index.
    questions: n of them.

  Returns:
    (system, measure) -> float[n], NaN where a question has no such value.
    Answers are left out where nobody has taught the reader anything.
  """
  found = answer_all(params, config, prepared, questions)
  systems = {
    'generative index': (found.candidates.documents, found.candidates.where),
    'after ranker': (found.documents, found.documents >= 0),
  }
  values = _retrieval(questions, prepared, systems, config)
  values['generative index', 'real documents'] = _share_real(
    found.candidates, len(prepared.dataset.documents)
  )
  if config.loss.reads:
    values |= _answers('answers', questions, prepared, found, config)
  return values


def measure_search(
  params: rag.Params, config: configs.Config, prepared: workdirs.Prepared
) -> list[report.Result]:
  """Measures the index alone, on each split; no document is read."""
  results = []
  for split, questions in splits(config, prepared):
    found = answer_all(
      params, config, prepared, questions, function=search_function
    )
    systems = {'generative index': (found.documents, found.where)}
    values = _retrieval(questions, prepared, systems, config)
    groups = _groups(split, questions, prepared, config)
    results += _summarise(groups, values)
  return results


def answer_all(
  params: rag.Params,
  config: configs.Config,
  prepared: workdirs.Prepared,
  questions: Sequence[types.Question],
  *,
  function: Callable[..., Callable[..., Any]] = answer_function,
) -> Any:
  """Answers questions in batches; fields come back as host arrays.

  Args:
    params: what was trained.
    config: the experiment.
    prepared: documents and index.
    questions: what is asked.
    function: one of the functions above.
  """
  batches = pipeline.eval_batches(
    prepared.encode(questions, config.data),
    batch_size=config.train.eval_batch_size,
  )
  answer_fn = function(config.model)
  parts = [
    jax.device_get(answer_fn(params, b, prepared.index)) for b in batches
  ]
  whole = jax.tree.map(lambda *x: np.concatenate(x), *parts)
  return jax.tree.map(lambda x: x[: len(questions)], whole)


def abstains(found: rag.Answer, row: int, config: configs.Config) -> bool:
  """Whether one question is given no answer."""
  threshold = config.reader.null_threshold
  return threshold < reader.NEVER and bool(found.no_answer[row] > threshold)


def answer_text(
  found: rag.Answer,
  row: int,
  prepared: workdirs.Prepared,
  config: configs.Config,
) -> str:
  """The answer to one question as text, cut from its document or written.

  It is '' where no answer is given.
  """
  if abstains(found, row, config):
    return ''
  if config.reader.kind == 'fusion':
    return tokenizers.decode(prepared.tokenizer, np.asarray(found.tokens[row]))
  return pipeline.span_text(
    prepared.tokenizer,
    prepared.dataset.documents[int(found.read[row])],
    int(found.start[row]),
    int(found.end[row]),
    config.data,
  )


class _Baselines:
  """Systems that nothing is trained for, on the same questions."""

  def __init__(self, config: configs.Config, prepared: workdirs.Prepared):
    data, documents = config.data, prepared.dataset.documents
    self._config, self._prepared = config, prepared
    self._bm25 = baselines.bm25_index(
      documents,
      k1=data.bm25_k1,
      b=data.bm25_b,
      title_weight=data.title_weight,
    )
    self._documents = None
    if prepared.pretrained.vectors is not None:
      self._documents = np.asarray(prepared.pretrained.vectors)
      self._weight = self._tune(self._documents)

  def search(
    self, questions: Sequence[types.Question]
  ) -> dict[str, tuple[types.Array, types.Array]]:
    """Documents of each system, best first, and which are real."""
    texts = [question.text for question in questions]
    depth = min(max(DEPTHS), len(self._prepared.dataset.documents))
    rows = baselines.bm25_search(self._bm25, texts, k=depth)[0]
    found = {'BM25': rows}
    if self._documents is not None:
      vectors = self._vectors(questions)
      found['dense, exact'] = baselines.dense_search(
        self._documents, vectors, k=depth
      )[0]
      if self._weight is not None:
        found['dense + BM25, exact'] = baselines.hybrid_search(
          self._bm25,
          texts,
          self._documents,
          vectors,
          weight=self._weight,
          k=depth,
        )[0]
    return {name: (rows, rows >= 0) for name, rows in found.items()}

  def _tune(self, documents: np.ndarray) -> float | None:
    """Weight of BM25 beside published vectors, by training questions.

    None where no training question has a document to choose it by.
    """
    training = pipeline.train_questions(
      self._prepared.dataset, self._config.data
    )
    sample = [q for q in training if q.document_ids][:TUNING]
    if not sample:
      return None
    return baselines.tune_hybrid(
      self._bm25,
      [question.text for question in sample],
      documents,
      self._vectors(sample),
      _gold(sample, self._prepared),
      sample=TUNING,
    )

  def _vectors(self, questions: Sequence[types.Question]) -> np.ndarray:
    """Vectors of questions by the published encoder as it was published."""
    params = {'bert': self._prepared.pretrained.query_encoder}
    return answer_all(
      {'query_encoder': params},
      self._config,
      self._prepared,
      questions,
      function=_vector_function,
    )


@functools.cache
def _vector_function(config: rag.RagConfig) -> Callable[..., jax.Array]:
  def encode(params, batch, index):
    del index
    return query_encoder.apply(
      params['query_encoder'], config.query_encoder, batch.query
    ).vector

  return jax.jit(encode)


def _gold(
  questions: Sequence[types.Question], prepared: workdirs.Prepared
) -> np.ndarray:
  """Rows of the documents that answer each question, int32[n, G]; -1 = none."""
  rows = prepared.rows
  most = max([1, *(len(q.document_ids) for q in questions)])
  gold = np.full((len(questions), most), -1, np.int32)
  for i, question in enumerate(questions):
    gold[i, : len(question.document_ids)] = [
      rows[name] for name in question.document_ids
    ]
  return gold


def splits(
  config: configs.Config, prepared: workdirs.Prepared
) -> Iterator[tuple[str, Sequence[types.Question]]]:
  """The splits to measure, each with its name and the questions asked of it."""
  for split in pipeline.check_splits(prepared.dataset, config.data):
    questions = prepared.dataset.splits[split]
    yield split, pipeline.spread(questions, config.data.eval_questions)


def _groups(
  split: str,
  questions: Sequence[types.Question],
  prepared: workdirs.Prepared,
  config: configs.Config,
) -> dict[str, np.ndarray]:
  """All questions of a split, and kinds of them where they mix; bool[n] each.

  Told apart are those that ask for documents that training asked for or did
  not, and those that have an answer or have none.
  """
  training = pipeline.train_questions(prepared.dataset, config.data)
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
  questions: Sequence[types.Question],
  prepared: workdirs.Prepared,
  systems: dict[str, tuple[types.Array, types.Array]],
  config: configs.Config,
) -> Values:
  """Hits@k and MRR@10 where the gold documents are known."""
  gold = _gold(questions, prepared)
  unknown = (gold < 0).all(axis=1)
  values = {}
  relevant = jnp.asarray(gold)
  for system, found in systems.items():
    documents, where = map(jnp.asarray, found)
    ranked = metrics.from_ranking(documents, relevant)
    own = {
      f'Hits@{k}': metrics.hits(*ranked, k=k, where=where)
      for k in DEPTHS
      if k <= max(10, config.search.beam_size)
    }
    own['MRR@10'] = metrics.reciprocal_rank(*ranked, k=10, where=where)
    for name, value in own.items():
      values[system, name] = np.where(unknown, np.nan, np.asarray(value))
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
  system: str,
  questions: Sequence[types.Question],
  prepared: workdirs.Prepared,
  found: rag.Answer,
  config: configs.Config,
) -> Values:
  """Exact match and F1 of the answers, where the data has answers.

  No answer is the right one where the data says that there is none.
  """
  exact, overlap, answered = np.full((3, len(questions)), np.nan)
  for row, question in enumerate(questions):
    answers = question.answers if question.answerable else ('',)
    text = answer_text(found, row, prepared, config)
    answered[row] = not abstains(found, row, config)
    if answers:
      exact[row] = text_metrics.exact_match(text, answers)
      overlap[row] = text_metrics.f1(text, answers)
  values = {(system, 'EM'): exact, (system, 'F1'): overlap}
  if config.reader.null_threshold < reader.NEVER:
    values[system, 'answered'] = answered
  return values
