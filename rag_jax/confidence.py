"""What one forward pass knows about its own answer, as numbers.

`features` collects them; `calibration` turns them into a probability that the
answer is right.
"""

from typing import Any

import jax
import jax.numpy as jnp

from rag_jax import types

FEATURES = (
  'answer',  # log-probability of the answer, nats
  'margin',  # that minus the log-probability of the second answer, nats
  'no answer',  # log-odds of no answer in any passage, by the reader, nats
  'relevance',  # relevance of the cited passage, by the reader, nats
  'weight',  # weight of the cited document
  'support',  # number of documents with positive weight
  'ranker margin',  # score of the best document minus that of the second, nats
  'docid',  # log-probability of the docid of the cited document, nats
  'beam mass',  # log of the total probability of the docids in the beam
  'beam margin',  # docid score of the first minus that of the second, nats
  'first in beam',  # whether the cited document is first in the beam
  'occurring',  # weighted share of the question's tokens in the cited document
  'missing',  # largest weight of a question's token that does not occur there
  'length',  # number of tokens of the question
)
LIMIT = 50.0  # nats; larger differences are cut


def features(
  *,
  query: jax.Array,
  cited: jax.Array,
  token_weights: jax.Array,
  reading: Any,
  written: Any,
  scores: jax.Array,
  where: jax.Array,
  beam: jax.Array,
  beam_mass: jax.Array,
  relevance: jax.Array | None,
) -> jax.Array:
  """The numbers of `FEATURES` for each question.

  Args:
    query: int32[B, Q], tokens of the questions, 0 = padding.
    cited: int32[B, P], tokens of the cited documents.
    token_weights: float32[vocab_size], of the ranker's BM25.
    reading: `forward.Reading`, the documents read.
    written: `readers.base.Written`, the answers.
    scores: float32[B, K], the ranker's scores of all candidates, nats.
    where: bool[B, K], real candidates, in the order of the beam.
    beam: float32[B, K], their docid scores by the search, nats.
    beam_mass: float32[B], log of the total probability of the docids.
    relevance: float32[B, R], of the documents read, nats; None if the reader
      has none.

  Returns:
    float32[B, F], all finite.
  """
  place = written.place[:, None]

  def of_cited(x):
    return jnp.take_along_axis(x, place, axis=1)[:, 0]

  zeros = jnp.zeros(written.log_probability.shape)
  no_answer = written.no_answer + written.log_probability
  asked = query != types.PAD
  occurs = (query[:, :, None] == cited[:, None]).any(-1)
  weights = jnp.where(asked, token_weights[query], 0.0)
  total = jnp.maximum(weights.sum(1), 1e-6)
  columns = {
    'answer': written.log_probability,
    'margin': written.log_probability - written.second,
    'no answer': no_answer,
    'relevance': zeros if relevance is None else of_cited(relevance),
    'weight': of_cited(reading.weights),
    'support': (reading.weights > 0).sum(1),
    'ranker margin': _margin(scores, where),
    'docid': of_cited(reading.docid),
    'beam mass': beam_mass,
    'beam margin': _margin(beam, where),
    'first in beam': of_cited(reading.places) == 0,
    'occurring': (weights * occurs).sum(1) / total,
    'missing': (weights * ~occurs).max(1),
    'length': asked.sum(1),
  }
  stacked = jnp.stack(
    [columns[name].astype(jnp.float32) for name in FEATURES], axis=1
  )
  return jnp.clip(jnp.nan_to_num(stacked), -LIMIT, LIMIT)


def _margin(scores: jax.Array, where: jax.Array) -> jax.Array:
  """The largest minus the second largest score; `LIMIT` if there is no second.

  Example:
    >>> _margin(jnp.array([[1.0, 4.0, 2.0]]), jnp.ones((1, 3), bool)).tolist()
    [2.0]
  """
  real = jnp.where(where, scores, -jnp.inf)
  if real.shape[1] < 2:
    return jnp.full(real.shape[0], LIMIT)
  best = jax.lax.top_k(real, 2)[0]
  return jnp.where(jnp.isfinite(best).all(1), best[:, 0] - best[:, 1], LIMIT)
