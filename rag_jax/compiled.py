"""Compiled inference functions, compiled once per model and batch size.

Each takes a `model.ModelConfig` and returns a function (params, batch, index,
allowed) -> pytree of arrays with one row per question; `allowed` is bool[N],
the documents that may be returned, or None.
"""

import dataclasses
import functools
import importlib.metadata
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from rag_jax import (
  docid_search,
  examine,
  forward,
  matching,
  model,
  readers,
  types,
)
from rag_jax.components import id_decoder, query_encoder, ranker
from rag_jax.ops import beam, teacher_forcing

Function = Callable[..., Any]
ALTERNATIVES = 6  # codes that `paths` returns at each level


@flax.struct.dataclass
class Ranked:
  """Ranked documents, largest weight first, without an answer."""

  candidates: types.Candidates  # in the order of the beam search
  documents: jax.Array  # int32[B, K]; -1 = none
  codes: jax.Array  # int32[B, K, L]
  docid: jax.Array  # float32[B, K], log-probabilities of docids, nats
  scores: jax.Array  # float32[B, K], nats
  weights: jax.Array  # float32[B, K]


@functools.cache
def answer(config: model.ModelConfig) -> Function:
  """`forward.answer`: search, ranking and reading."""

  def run(params, batch, index, allowed=None):
    return forward.answer(params, batch, index, config=config, allowed=allowed)

  return jax.jit(run)


@functools.cache
def answer_from_gold(config: model.ModelConfig) -> Function:
  """`forward.answer` on the gold documents, without a search."""

  def run(params, batch, index, allowed=None):
    del allowed
    gold = types.Candidates(
      documents=jnp.maximum(batch.gold, 0),
      codes=index.codes[batch.gold].astype(jnp.int32),
      scores=jnp.zeros(batch.gold.shape),
      where=batch.gold >= 0,
    )
    return forward.answer(params, batch, index, config=config, candidates=gold)

  return jax.jit(run)


@functools.cache
def answer_with_evidence(config: model.ModelConfig) -> Function:
  """`forward.answer`, and `examine.evidence` for the same pass."""

  def run(params, batch, index, allowed=None):
    found = forward.run(params, batch, index, config=config, allowed=allowed)
    answer = forward.conclude(params, batch, index, found, config=config)
    return answer, examine.evidence(params, batch, found, config=config)

  return jax.jit(run)


@functools.cache
def answer_without_gold(config: model.ModelConfig) -> Function:
  """`forward.answer` with the gold documents taken out of the index."""

  def run(params, batch, index, allowed=None):
    rows = jnp.arange(len(index.tokens))
    others = (batch.gold[..., None] != rows).all(1)  # bool[B, N]
    if allowed is not None:
      others &= allowed
    return forward.answer(params, batch, index, config=config, allowed=others)

  return jax.jit(run)


@functools.cache
def answer_unread(config: model.ModelConfig) -> Function:
  """The reader's answer from the question and a passage without a token."""

  def run(params, batch, index, allowed=None):
    del allowed
    reader = readers.make(config.reader)
    passages = jnp.zeros((len(batch.query), 1, index.passages.shape[1]), int)
    memory = reader.read(params['reader'], batch.read_query, passages)
    weights = jnp.ones((len(batch.query), 1))
    return reader.answer(params['reader'], memory, weights, weights > 0).tokens

  return jax.jit(run)


@functools.cache
def health(config: model.ModelConfig) -> Function:
  """`examine.health`: gradients of the answer."""

  def run(params, batch, index, allowed=None):
    del allowed
    return examine.health(params, batch, index, config=config)

  # A published reader is large: running takes longer than compiling.
  options = None if config.reader.weights else _quick_to_compile()
  return jax.jit(run, compiler_options=options)


@functools.cache
def rank(config: model.ModelConfig) -> Function:
  """Search and ranking, without the reader."""

  def run(params, batch, index, allowed=None):
    encoding, found = forward.search(
      params, config, index, batch, allowed=allowed
    )
    ranking = forward.rank(params, config, index, batch, encoding, found)
    best = forward.choose(index, ranking, found.where.shape[1])
    return Ranked(
      candidates=found,
      documents=jnp.where(best.where, best.documents, -1),
      codes=beam.reorder(found.codes, best.places),
      docid=best.docid,
      scores=best.scores,
      weights=best.weights,
    )

  return jax.jit(run)


@functools.cache
def negative(config: model.ModelConfig) -> Function:
  """The best document that is not gold by search and ranker, int32[B].

  -1 = all that are found are gold. With `gold_nodes`, only documents that are
  gold for some training question are allowed.
  """

  def run(params, batch, index, allowed=None):
    if index.gold_nodes is not None:
      allowed = index.gold_nodes[: len(index.tokens)]
    encoding, found = forward.search(
      params, config, index, batch, allowed=allowed
    )
    others = found.where & ~docid_search.gold_among(found, batch.gold)
    found = dataclasses.replace(found, where=others)
    ranking = forward.rank(params, config, index, batch, encoding, found)
    best = forward.choose(index, ranking, 1)
    return jnp.where(best.where, best.documents, -1)[:, 0]

  return jax.jit(run)


@functools.cache
def search(config: model.ModelConfig) -> Function:
  """The beam search alone; with `search.hops=2`, both of them."""

  def run(params, batch, index, allowed=None):
    return forward.search(params, config, index, batch, allowed=allowed)[1]

  return jax.jit(run)


@functools.cache
def regret(config: model.ModelConfig) -> Function:
  """Fraction of the exact top k that the beam search misses, float32[B].

  k is `search.read_size`. It scores every document, so it is for small corpora.
  """

  def run(params, batch, index, allowed=None):
    encoding, found = forward.search(
      params, config, index, batch, allowed=allowed
    )
    scores = docid_search.score_all(
      params, config, index, encoding, words=batch.words, allowed=allowed
    )
    k = min(config.search.read_size, scores.shape[1])
    return beam.regret(found, scores, k=k)

  return jax.jit(run)


@functools.cache
def paths(config: model.ModelConfig) -> Function:
  """The way of documents through the trie, and the parts of their scores.

  The documents are those of `batch.gold`; -1 = none. Returns `(Paths, codes,
  parts)`: the way to the most probable docid of each document, this docid
  int32[B, G, L], and the parts of the ranker's score by signal, float32[B, G],
  nats.
  """

  def run(params, batch, index, allowed=None):
    del allowed
    encoding = query_encoder.apply(
      params['query_encoder'], config.query_encoder, batch.query
    )
    documents = jnp.maximum(batch.gold, 0)
    size, width = encoding.vector.shape
    ahead = matching.lookahead(params, config, index, batch.words)
    codes = docid_search.best_docids(params, config, index, encoding, documents)
    found = teacher_forcing.paths(
      (params['id_decoder'], encoding),
      id_decoder.initial_cache(config.id_decoder, size, width),
      index.trie,
      codes,
      step_fn=docid_search.step_fn(config, index),
      best=ALTERNATIVES,
      lookahead=ahead,
      scoring=config.search.scoring,
    )
    docid = found.total
    # The ranker's signal has no lookahead score, and is of all docids.
    if ahead is not None or index.further is not None:
      docid = docid_search.score_docids(
        params, config, index, encoding, documents
      )
    parts = ranker.parts(
      params['ranker'],
      config.ranker,
      docid=docid,
      **matching.signals(params, config, index, batch, encoding, documents),
    )
    return found, codes.astype(jnp.int32), parts

  return jax.jit(run, compiler_options=_quick_to_compile())


def _quick_to_compile() -> dict[str, Any] | None:
  """Options for a program that runs a few batches: compiling takes longer.

  On a CPU, the program of the quickstart compiles in 0.8 seconds, not 3.9.
  """
  if jax.default_backend() != 'cpu':
    return None
  options: dict[str, Any] = {'xla_backend_optimization_level': 0}
  if importlib.metadata.version('jaxlib').startswith('0.10.'):
    options['xla_cpu_use_fusion_emitters'] = False  # later versions need them
  return options


@functools.cache
def vector(config: model.ModelConfig) -> Function:
  """The query encoder's vectors, float32[B, D]."""

  def run(params, batch, index, allowed=None):
    del index, allowed
    return query_encoder.apply(
      params['query_encoder'], config.query_encoder, batch.query
    ).vector

  return jax.jit(run)
