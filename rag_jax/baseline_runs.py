"""What baselines return for the questions of a system."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from rag_jax import baselines, compiled, measures, model, trec, types
from rag_jax import system as systems
from rag_jax.data import pipeline

DEPTH = 100  # documents a question
TUNING = 10_000  # training questions that weights of baselines are chosen by


class Baselines:
  """Systems that nothing is trained for, on the same questions."""

  def __init__(
    self,
    system: systems.System,
    dataset: types.Dataset,
    pretrained: model.Pretrained,
  ):
    """Indexes the corpus, and tunes what can be tuned on training questions."""
    self._system, self._dataset = system, dataset
    self._pretrained = pretrained
    data = system.config.data
    self._bm25 = baselines.bm25_index(
      dataset.documents,
      k1=data.bm25_k1,
      b=data.bm25_b,
      title_weight=data.title_weight,
    )
    self._documents = None
    if pretrained.vectors is not None:
      self._documents = np.asarray(pretrained.vectors)
      self._weight = self._tune(self._documents)

  def search(self, questions: Sequence[types.Question]) -> dict[str, trec.Run]:
    """What each baseline returns, in rows of the system's documents."""
    texts = [question.text for question in questions]
    depth = min(DEPTH, len(self._dataset.documents))
    found = {'BM25': baselines.bm25_search(self._bm25, texts, k=depth)}
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
    return {name: self._run(*own) for name, own in found.items()}

  def _run(self, rows: np.ndarray, scores: np.ndarray) -> trec.Run:
    """A run in rows of the system, without documents that it has lost."""
    own = self._system.rows
    known = [own.get(document.id, -1) for document in self._dataset.documents]
    rows = np.where(rows >= 0, np.asarray(known)[rows], -1)
    return trec.Run(rows=rows, scores=scores, where=rows >= 0)

  def _tune(self, documents: np.ndarray) -> float | None:
    """Weight of BM25 beside published vectors, by training questions.

    None where no training question has a document to choose it by.
    """
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
    """Vectors of questions by the published encoder as it was published."""
    own = {'query_encoder': {'bert': self._pretrained.query_encoder}}
    system = dataclasses.replace(self._system, params=own)
    size = system.config.train.eval_batch_size
    return system.run(compiled.vector, questions, batch_size=size)
