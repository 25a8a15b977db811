"""What answers rest on: leaving documents out, and gradients of the answer."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from rag_jax import docid_search, forward, model, readers, types
from rag_jax.components import query_encoder, ranker
from rag_jax.index import index as indexes
from rag_jax.ops import losses, masking, metrics
from rag_jax.readers import base, citations

FLOOR = -20.0  # nats; log-likelihood of an answer that no document read holds


@flax.struct.dataclass
class Evidence:
  """The documents read, and what happens without them.

  The answer without a document is that of the other documents read, with
  weights by the ranker's operator over these.
  """

  documents: jax.Array  # int32[B, R]; -1 = none
  # float32[B, R], log P(gold answer) minus that without the document, nats; NaN
  # where there is no gold answer or no document
  left_out: jax.Array
  without: base.Written  # the answer without the cited document
  without_document: jax.Array  # int32[B], the document with that answer


def evidence(
  params: model.Params,
  batch: types.Batch,
  found: forward.Pass,
  *,
  config: model.ModelConfig,
) -> Evidence:
  """Leaves out each document read, in one call without another search."""
  reading, reader = found.reading, readers.make(config.reader)
  select = ranker.selector(config.ranker)
  size = reading.where.shape[1]

  def weights_without(left_out):
    where = reading.where & ~left_out
    return jnp.where(
      where.any(1, keepdims=True), select(reading.scores, where), 0.0
    )

  cited = jnp.arange(size) == found.written.place[:, None]
  without = reader.answer(
    params['reader'],
    reading.memory,
    weights_without(cited),
    reading.where & ~cited,
  )
  likelihood = _likelihood(params, batch, reading, reader)
  # One more row: nothing is left out.
  each = jnp.concatenate(
    [jnp.eye(size, dtype=bool), jnp.zeros((1, size), bool)]
  )
  scores = jax.lax.map(lambda row: likelihood(weights_without(row)), each)
  known = has_answer(batch, reader)[:, None] & reading.where
  return Evidence(
    documents=jnp.where(reading.where, reading.documents, -1),
    left_out=jnp.where(known, (scores[-1] - scores[:-1]).T, jnp.nan),
    without=without,
    without_document=jnp.take_along_axis(
      reading.documents, without.place[:, None], axis=1
    )[:, 0],
  )


def has_answer(batch: types.Batch, reader: base.Reader) -> jax.Array:
  """Questions with a gold answer that the reader can score, bool[B]."""
  answers = batch.read_answers if reader.points else batch.read_answers[:, :1]
  return batch.where & (answers != types.PAD).any((1, 2))


def _likelihood(params: Any, batch: Any, reading: Any, reader: base.Reader):
  """The function weights -> log P(gold answer), float32[B], nats."""
  joint = reader.joint_log_likelihood
  answers = citations.targets(reader.cites, batch, reading)
  if joint is not None:
    return lambda weights: jnp.maximum(
      joint(params['reader'], reading.memory, weights, answers).sum(-1),
      FLOOR,
    )
  tokens = reader.log_likelihood(params['reader'], reading.memory, answers)
  each = tokens[..., 0] if reader.points else tokens.sum(-1)
  holds = reading.where & (each > masking.NEG_INF / 2)

  def of(weights):
    readable = (holds & (weights > 0)).any(1)
    nll = losses.sequence_marginal(weights, each, where=holds)
    return jnp.where(readable, jnp.maximum(-nll, FLOOR), FLOOR)

  return of


@flax.struct.dataclass
class Health:
  """How the gradient of the answer reaches the system, per question."""

  norms: dict[str, jax.Array]  # component -> float32[B], the same in each row
  # float32[B, R], -d loss / d score of the documents read, as in `Evidence`
  slopes: jax.Array
  known: jax.Array  # bool[B], questions with a gold answer
  gold: jax.Array  # float32[B], total weight of the gold documents
  has_gold: jax.Array  # bool[B]


def health(
  params: model.Params,
  batch: types.Batch,
  index: indexes.Index,
  *,
  config: model.ModelConfig,
) -> Health:
  """The gradient of -log P(gold answer) through weights, ranker and search.

  Args:
    params: parameters of all components.
    batch: questions with gold answers.
    index: the corpus.
    config: the model.
  """
  reader = readers.make(config.reader)
  select = ranker.selector(config.ranker)
  encoding = query_encoder.apply(
    params['query_encoder'], config.query_encoder, batch.query
  )
  first = docid_search.retrieve(
    params, config, index, encoding, words=batch.words
  )
  encoding = forward.follow(params, config, index, batch, encoding, first)
  candidates = docid_search.retrieve_again(
    params, config, index, encoding, first, words=batch.words
  )
  known = has_answer(batch, reader)
  size = min(config.search.read_size, candidates.where.shape[1])

  def loss(params, shift):
    encoding = query_encoder.apply(
      params['query_encoder'], config.query_encoder, batch.query
    )
    encoding = forward.follow(params, config, index, batch, encoding, first)
    ranking = forward.rank(params, config, index, batch, encoding, candidates)
    scores = ranking.scores + shift
    ranking = ranking.replace(
      scores=scores, weights=select(scores, candidates.where)
    )
    reading = forward.choose(index, ranking, size)
    reading = forward.read(params, config, batch, reading)
    likelihood = _likelihood(params, batch, reading, reader)
    nll = -likelihood(reading.weights)
    value, count = metrics.total(nll, known)
    return value / jnp.maximum(count, 1), (ranking, reading.places, count)

  (_, (ranking, places, count)), (gradients, slope) = jax.value_and_grad(
    loss, argnums=(0, 1), has_aux=True
  )(params, jnp.zeros(candidates.where.shape))
  gold = (batch.gold[:, None] == candidates.documents[..., None]).any(-1)
  return Health(
    norms={
      name: jnp.full(known.shape, optax.global_norm(part))
      for name, part in gradients.items()
    },
    slopes=-jnp.take_along_axis(slope, places, axis=1) * count,
    known=known,
    gold=(ranking.weights * (gold & candidates.where)).sum(1),
    has_gold=(batch.gold >= 0).any(1) & batch.where,
  )
