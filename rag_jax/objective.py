"""The loss of a training step: a weighted sum of named terms.

A term is a function of a `trace.Trace` that returns (sum, count) over the
questions for which it is defined. A stage minimises the sum over its terms of
weight * sum / count. To add a loss, add a function and a line to `TERMS`; to
add a distillation loss, add a line to `reader_terms.TEACHERS`.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from rag_jax import docid_search, model, ranking_terms, reader_terms, types
from rag_jax import stage as stages
from rag_jax import trace as traces
from rag_jax.index import index as indexes
from rag_jax.ops import beam, metrics

Sum = tuple[jax.Array, jax.Array]  # (sum, count)
Sums = dict[str, Sum]
Trace = traces.Trace


def loss(
  params: model.Params,
  rng: jax.Array,
  batch: types.Batch,
  index: indexes.Index,
  *,
  config: model.ModelConfig,
  stage: stages.Stage,
  shard: tuple[jax.Array | int, int] = (0, 1),
) -> tuple[Sums, Sums]:
  """All losses of a batch of questions.

  Args:
    params: parameters from `model.init`.
    rng: PRNG key of the step, the same on every device.
    batch: the questions.
    index: the corpus.
    config: the model.
    stage: the stage, which has the losses and the documents.
    shard: (index of this device, number of devices) if each device runs this on
      its part of the batch; (0, 1) if one program has the whole batch.

  Returns:
    Losses, and metrics including the losses; each name -> (sum, count). See
    `total`.
  """
  trace = Trace(
    params, rng, batch, index, config=config, stage=stage, shard=shard
  )
  terms = {
    name: term(trace) for name, term in TERMS.items() if stage.weight(name)
  }
  measured = _metrics(trace) if stage.searches else {}
  return terms, measured | terms


def total(
  terms: Sums, counts: dict[str, jax.Array], stage: stages.Stage
) -> jax.Array | float:
  """The training loss: sum over names of weight * sum / count.

  Args:
    terms: name -> (sum, count), from `loss`.
    counts: name -> count over all devices.
    stage: has the weights.
  """
  return sum(
    stage.weight(name) * value / jnp.maximum(counts[name], 1.0)
    for name, (value, _) in terms.items()
  )


TERMS: dict[str, Callable[[Trace], Sum]] = {
  'answer': reader_terms.answer,
  'expected_cost': reader_terms.expected_cost,
  **{
    name: functools.partial(reader_terms.taught, teacher)
    for name, teacher in reader_terms.TEACHERS.items()
  },
  'docid_posterior': reader_terms.docid_posterior,
  'reranking': ranking_terms.reranking,
  'relevance': ranking_terms.relevance,
  'null_document': ranking_terms.null_document,
  'docid': ranking_terms.docid,
  'ranking': ranking_terms.ranking,
  'list_mle': ranking_terms.list_mle,
  'margin': ranking_terms.margin,
  'prefix_margin': ranking_terms.prefix_margin,
  'indexing': ranking_terms.indexing,
}
# Losses that need the reader.
READER_LOSSES = frozenset(
  ('answer', 'expected_cost', *reader_terms.TEACHERS, 'docid_posterior')
  + ('reranking', 'relevance', 'null_document')
)


def _metrics(trace: Trace) -> Sums:
  found, ranking, batch = trace.found, trace.ranking, trace.batch
  is_gold, has_gold = trace.is_gold, trace.has_gold
  weight = (ranking.weights * is_gold).sum(1)
  measured = {
    'support': metrics.total((ranking.weights > 0).sum(1), batch.where),
    'gold_weight': metrics.total(weight, has_gold),
    'gold_off_support': metrics.total(weight == 0, has_gold),
  }
  if trace.stage.candidates == 'all':  # no beam search
    return measured
  hits = docid_search.gold_among(found, batch.gold)
  measured['beam_hits'] = metrics.total(hits.any(1), has_gold)
  measured['docid_hits@1'] = metrics.total(hits[:, 0], has_gold)
  if trace.config.search.scoring in ('log_softmax', 'vocabulary'):
    mass = jnp.exp(beam.beam_mass(found))  # where scores are probabilities
    measured['beam_mass'] = metrics.total(mass, batch.where)
  return measured
