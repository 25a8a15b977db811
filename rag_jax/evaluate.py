"""Measuring: every split, every system, on the same questions."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from rag_jax import baselines, rag, report, types
from rag_jax import config as configs
from rag_jax import workdir as workdirs
from rag_jax.data import pipeline, tokenizers
from rag_jax.ops import metrics, text_metrics

DEPTH = 10  # documents a question that BM25 returns


@functools.cache
def answer_function(config: rag.RagConfig) -> Callable[..., rag.Answer]:
  """`rag.answer`, compiled once a model: (params, batch, index) -> Answer."""
  return jax.jit(functools.partial(rag.answer, config=config))


def measure(
  params: rag.Params,
  config: configs.Config,
  prepared: workdirs.Prepared,
  *,
  with_bm25: bool = True,
) -> list[report.Result]:
  """Measures the index, the ranker, the reader and BM25 on each split.

  Args:
    params: what was trained.
    config: the experiment.
    prepared: documents, questions and index.
    with_bm25: whether BM25 is measured beside them.

  Returns:
    One `Result` a split, system and measure, with 95% bootstrap intervals.
  """
  dataset = prepared.dataset
  bm25 = baselines.bm25_index(dataset.documents) if with_bm25 else None
  results = []
  for split in pipeline.check_splits(dataset, config.data):
    questions = dataset.splits[split]
    if config.data.eval_questions:
      questions = questions[: config.data.eval_questions]
    found = answer_all(params, config, prepared, questions)
    systems = {
      'generative index': (found.candidates.documents, found.candidates.where),
      'after ranker': (found.documents, found.documents >= 0),
    }
    if bm25 is not None:
      texts = [question.text for question in questions]
      rows = baselines.bm25_search(bm25, texts, k=DEPTH)[0]
      systems = {'BM25': (rows, rows >= 0)} | systems
    results += _retrieval(split, questions, prepared, systems)
    results.append(
      report.summarise(
        split,
        'generative index',
        'real documents',
        _share_real(found.candidates, len(dataset.documents)),
      )
    )
    results += _answers(split, questions, prepared, found, config)
  return results


def answer_all(
  params: rag.Params,
  config: configs.Config,
  prepared: workdirs.Prepared,
  questions: Sequence[types.Question],
) -> rag.Answer:
  """Answers questions in batches; fields come back as host arrays."""
  encoded = pipeline.encode_questions(
    prepared.tokenizer, questions, prepared.rows, config.data
  )
  batches = pipeline.eval_batches(
    encoded, batch_size=config.train.eval_batch_size
  )
  answer_fn = answer_function(config.model)
  parts = [
    jax.device_get(answer_fn(params, b, prepared.index)) for b in batches
  ]
  whole = jax.tree.map(lambda *x: np.concatenate(x), *parts)
  return jax.tree.map(lambda x: x[: len(questions)], whole)


def answer_text(
  found: rag.Answer,
  row: int,
  prepared: workdirs.Prepared,
  config: configs.Config,
) -> str:
  """The answer to one question as text, cut from its document or written."""
  if config.reader.kind == 'fusion':
    return tokenizers.decode(prepared.tokenizer, np.asarray(found.tokens[row]))
  return pipeline.span_text(
    prepared.tokenizer,
    prepared.dataset.documents[int(found.read[row])],
    int(found.start[row]),
    int(found.end[row]),
    config.data,
  )


def _retrieval(
  split: str,
  questions: Sequence[types.Question],
  prepared: workdirs.Prepared,
  systems: dict[str, tuple[types.Array, types.Array]],
) -> list[report.Result]:
  """Hits@1, Hits@10 and MRR@10 where the gold documents are known."""
  rows = prepared.rows
  most = max(1, *(len(q.document_ids) for q in questions))
  gold = np.full((len(questions), most), -1, np.int32)
  for i, question in enumerate(questions):
    gold[i, : len(question.document_ids)] = [
      rows[name] for name in question.document_ids
    ]
  known = (gold >= 0).any(axis=1)
  if not known.any():
    return []
  results = []
  relevant = jnp.asarray(gold)
  for system, found in systems.items():
    documents, where = map(jnp.asarray, found)
    ranked = metrics.from_ranking(documents, relevant)
    values = {
      'Hits@1': metrics.hits(*ranked, k=1, where=where),
      'Hits@10': metrics.hits(*ranked, k=10, where=where),
      'MRR@10': metrics.reciprocal_rank(*ranked, k=10, where=where),
    }
    results += [
      report.summarise(split, system, name, np.asarray(value)[known])
      for name, value in values.items()
    ]
  return results


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
  split: str,
  questions: Sequence[types.Question],
  prepared: workdirs.Prepared,
  found: rag.Answer,
  config: configs.Config,
) -> list[report.Result]:
  """Exact match and F1 of the answers, where the data has answers."""
  exact, overlap = [], []
  for row, question in enumerate(questions):
    if not question.answers:
      continue
    text = answer_text(found, row, prepared, config)
    exact.append(text_metrics.exact_match(text, question.answers))
    overlap.append(text_metrics.f1(text, question.answers))
  if not exact:
    return []
  return [
    report.summarise(split, 'answers', 'EM', np.asarray(exact)),
    report.summarise(split, 'answers', 'F1', np.asarray(overlap)),
  ]
