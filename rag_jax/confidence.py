"""What a system knows about its own answer, as numbers.

`features` collects those of one forward pass, and `complete` adds that of the
words. `calibration` turns them into a probability that the answer is right.
"""

from collections.abc import Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rag_jax import types
from rag_jax.data import words

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
  'length',  # number of tokens of the question
  'new words',  # number of words of the question that are new; see `complete`
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
  """The numbers of `FEATURES` but the last, for each question.

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
    float32[B, F - 1], all finite.
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
    'length': asked.sum(1),
  }
  stacked = jnp.stack(
    [columns[name].astype(jnp.float32) for name in FEATURES[:-1]], axis=1
  )
  return jnp.clip(jnp.nan_to_num(stacked), -LIMIT, LIMIT)


def complete(
  found: Any,
  questions: Sequence[str],
  read: Sequence[Sequence[types.Document]],
  *,
  known: Collection[str],
  language: str,
) -> np.ndarray:
  """Adds the number of new words of each question.

  A word is new if it occurs neither in a document that the answer is from nor
  in a training question that has an answer. All documents read count, as the
  name in a question of two documents is often in the one that is not cited.
  Stop words do not count, and words are stemmed.

  Args:
    found: float[n, F - 1], from `features`.
    questions: n questions.
    read: n lists of the documents read with positive weight.
    known: the words of training questions with answers, from `words.split`.
    language: of the words, as `data.language`.

  Returns:
    float64[n, F].

  Example:
    >>> document = types.Document(id='a', text='The Nile is a long river.')
    >>> row = np.zeros((1, len(FEATURES) - 1))
    >>> question = 'Which river has the most dams?'
    >>> known = {'which', 'has', 'most'}
    >>> float(complete(
    ...   row, [question], [[document]], known=known, language='english'
    ... )[0, -1])
    1.0
  """
  asked = words.split(list(questions), language=language)
  texts = ['\n'.join(words.document_texts(documents)) for documents in read]
  stated = words.split(texts, language=language)
  new = [
    len(set(own).difference(known, text))
    for own, text in zip(asked, stated, strict=True)
  ]
  return np.column_stack([np.asarray(found, np.float64), new])


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
