"""Rankings of the baselines for the questions of a system."""

import collections
import dataclasses
from collections.abc import Sequence

import numpy as np

from rag_jax import baselines, compiled, measures, model, trec, types
from rag_jax import system as systems
from rag_jax.data import pipeline
from rag_jax.generation import corpus_questions

DEPTH = 100  # documents per question
MOST_PASSAGES = 20  # per document of the depth
KEYED = 'BM25 + questions'  # with generated questions as keys
TUNING = 10_000  # maximum training questions for tuning the hybrid baseline


class Baselines:
  """BM25, exact dense search and their hybrid, on the corpus of a system.

  The dense baselines need published weights, and the hybrid also needs training
  questions with gold documents.
  """

  def __init__(
    self,
    system: systems.System,
    dataset: types.Dataset,
    pretrained: model.Pretrained,
  ):
    """Indexes the corpus, and tunes the hybrid on training questions."""
    self._system, self._dataset = system, dataset
    self._pretrained = pretrained
    data = system.config.data
    self._bm25 = corpus_questions.bm25(data, dataset.documents)
    self._keyed = None
    if any(d is not None and d.questions for d in system.documents):
      keys = {d.id: d.questions for d in system.documents if d is not None}
      documents = corpus_questions.attach(dataset.documents, keys)
      self._keyed = corpus_questions.bm25(data, documents, keys=True)
    sources = collections.Counter(d.source for d in dataset.documents)
    # So many passages hold that many documents, but for very long ones.
    self._passages = min(max(sources.values()), MOST_PASSAGES)
    self._documents = None
    if pretrained.vectors is not None:
      self._documents = np.asarray(pretrained.vectors)
      self._weight = self._tune(self._documents)

  def search(self, questions: Sequence[types.Question]) -> dict[str, trec.Run]:
    """Name of each baseline -> its ranking, in rows of the system's index."""
    texts = [question.text for question in questions]
    depth = min(DEPTH * self._passages, len(self._dataset.documents))
    found = {'BM25': baselines.bm25_search(self._bm25, texts, k=depth)}
    if self._keyed is not None:
      found[KEYED] = baselines.bm25_search(self._keyed, texts, k=depth)
    if self._documents is not None:
      vectors = self._vectors(questions)
      found['dense, exact'] = baselines.dense_search(
        self._documents, vectors, k=depth
      )
      if self._weight is not None:
        found['dense + BM25, exact'] = baselines.hybrid_search(
          self._bm25,
          texts,
          self._documents,
          vectors,
          weight=self._weight,
          k=depth,
        )
    return {name: self._run(*ranked) for name, ranked in found.items()}

  def _run(self, rows: np.ndarray, scores: np.ndarray) -> trec.Run:
    """A run in rows of the system; masks documents that it has deleted."""
    row_of = self._system.rows
    known = [row_of.get(d.id, -1) for d in self._dataset.documents]
    rows = np.where(rows >= 0, np.asarray(known)[rows], -1)
    return trec.Run(rows=rows, scores=scores, where=rows >= 0)

  def _tune(self, documents: np.ndarray) -> float | None:
    """Weight of BM25 in the hybrid; None without gold documents to tune on."""
    training = pipeline.train_questions(self._dataset, self._system.config.data)
    sample = [q for q in training if q.document_ids][:TUNING]
    if not sample:
      return None
    return baselines.tune_hybrid(
      self._bm25,
      [question.text for question in sample],
      documents,
      self._vectors(sample),
      measures.gold(sample, self._system.rows)[0],
      sample=TUNING,
    )

  def _vectors(self, questions: Sequence[types.Question]) -> np.ndarray:
    """Vectors of questions by the published encoder before fine-tuning."""
    params = {'query_encoder': self._pretrained.query_encoder}
    system = dataclasses.replace(self._system, params=params)
    size = system.config.train.eval_batch_size
    return system.run(compiled.vector, questions, batch_size=size)
