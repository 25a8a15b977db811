"""Measuring: every split, every system, on the same questions."""

import functools
from collections.abc import Sequence

import jax
import numpy as np
import tokenizers as hf_tokenizers

from rag_jax import baselines, rag, report, types
from rag_jax import config as configs
from rag_jax.data import pipeline, tokenizers
from rag_jax.index import index as indexes
from rag_jax.ops import metrics

DEPTH = 10  # documents a question that BM25 returns


def measure(
  params: rag.Params,
  config: configs.Config,
  dataset: types.Dataset,
  tokenizer: hf_tokenizers.Tokenizer,
  index: indexes.Index,
) -> list[report.Result]:
  """Measures the index, the ranker, the reader and BM25 on each split.

  Args:
    params: what was trained.
    config: the experiment.
    dataset: documents and questions.
    tokenizer: of the experiment.
    index: of the documents.

  Returns:
    One `Result` a split, system and measure, with 95% bootstrap intervals.
  """
  answer_fn = jax.jit(functools.partial(rag.answer, config=config.model))
  bm25 = baselines.bm25_index(dataset.documents)
  results = []
  for split in pipeline.check_splits(dataset, config.data):
    questions = dataset.splits[split]
    if config.data.eval_questions:
      questions = questions[: config.data.eval_questions]
    found = answer_all(
      params, config, dataset, tokenizer, index, questions, answer_fn
    )
    lexical, _ = baselines.bm25_search(
      bm25, [q.text for q in questions], k=DEPTH
    )
    results += _retrieval(split, questions, dataset, found, lexical, config)
    results += _answers(split, questions, dataset, found, tokenizer, config)
  return results


def answer_all(
  params: rag.Params,
  config: configs.Config,
  dataset: types.Dataset,
  tokenizer: hf_tokenizers.Tokenizer,
  index: indexes.Index,
  questions: Sequence[types.Question],
  answer_fn,
) -> rag.Answer:
  """Answers questions in batches; fields come back as host arrays."""
  rows = {d.id: i for i, d in enumerate(dataset.documents)}
  encoded = pipeline.encode_questions(tokenizer, questions, rows, config.data)
  batches = pipeline.eval_batches(
    encoded, batch_size=config.train.eval_batch_size
  )
  parts = [jax.device_get(answer_fn(params, b, index)) for b in batches]
  whole = jax.tree.map(lambda *x: np.concatenate(x), *parts)
  return jax.tree.map(lambda x: x[: len(questions)], whole)


def answer_text(
  found: rag.Answer,
  row: int,
  documents: Sequence[types.Document],
  tokenizer: hf_tokenizers.Tokenizer,
  config: configs.Config,
) -> str:
  """The answer to one question as text, cut from its document or written."""
  if config.reader.kind == 'fusion':
    return tokenizers.decode(tokenizer, np.asarray(found.tokens[row]))
  return pipeline.span_text(
    tokenizer,
    documents[int(found.read[row])],
    int(found.start[row]),
    int(found.end[row]),
    config.data,
  )


def _retrieval(split, questions, dataset, found, lexical, config):
  """Hits@1, Hits@10, MRR@10 of the index, the ranker and BM25."""
  rows = {d.id: i for i, d in enumerate(dataset.documents)}
  most = max(1, *(len(q.document_ids) for q in questions))
  gold = np.full((len(questions), most), -1, np.int32)
  for i, question in enumerate(questions):
    gold[i, : len(question.document_ids)] = [
      rows[name] for name in question.document_ids
    ]
  known = (gold >= 0).any(axis=1)
  if not known.any():
    return []
  candidates = found.candidates
  systems = {
    'BM25': (lexical, lexical >= 0),
    'generative index': (candidates.documents, candidates.where),
    'after ranker': (found.documents, found.documents >= 0),
  }
  results = []
  for system, (documents, where) in systems.items():
    for k in (1, 10):
      values = metrics.hits(documents, gold, k=k, where=where)
      results.append(
        report.summarise(split, system, f'Hits@{k}', np.asarray(values)[known])
      )
    values = metrics.reciprocal_rank(documents, gold, k=10, where=where)
    results.append(
      report.summarise(split, system, 'MRR@10', np.asarray(values)[known])
    )
  real = _share_real(candidates, len(dataset.documents))
  results.append(
    report.summarise(split, 'generative index', 'real documents', real)
  )
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


def _answers(split, questions, dataset, found, tokenizer, config):
  """Exact match and F1 of the answers, where the data has answers."""
  exact, overlap = [], []
  for row, question in enumerate(questions):
    if not question.answers:
      continue
    text = answer_text(found, row, dataset.documents, tokenizer, config)
    exact.append(metrics.exact_match(text, question.answers))
    overlap.append(metrics.f1(text, question.answers))
  if not exact:
    return []
  return [
    report.summarise(split, 'answers', 'EM', np.asarray(exact)),
    report.summarise(split, 'answers', 'F1', np.asarray(overlap)),
  ]
