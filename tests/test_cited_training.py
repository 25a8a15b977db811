"""Citations and empty answers in the training loss."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax import model, reader_terms
from rag_jax import trace as traces
from rag_jax.readers import base, fid


@pytest.fixture(scope='module')
def traced(small_config, small_index, small_batch):
  """Attributes of a training step whose answers cite both gold documents."""
  config = small_config(
    reader={'kind': 'fid', 'citations': True}, ranker={'operator': 'softmax'}
  )
  [(_, stage)] = config.stages

  def init(rng):
    return model.init(rng, config.model, small_index, vocab_size=50)

  params = jax.jit(init)(jax.random.key(0))
  answers = jnp.array([[[5, -1, 6, -2]], [[7, -1, 0, 0]]] + [[[0] * 4]] * 2)
  batch = dataclasses.replace(
    small_batch,
    answers=answers,
    gold=jnp.array([[0, 7], [1, -1], [-1, -1], [-1, -1]]),
    answerable=jnp.array([True, True, False, True]),
  )

  @jax.jit
  def run(params, batch):
    trace = traces.Trace(
      params,
      jax.random.key(1),
      batch,
      small_index,
      config=config.model,
      stage=stage,
    )
    reader, reading = trace.reader, trace.reading
    scores = reader.joint_log_likelihood(
      params['reader'], reading.memory, reading.weights, trace.answers
    )
    return {
      'answers': trace.answers,
      'written': trace.written,
      'documents': reading.documents,
      'scores': scores,
      'term': reader_terms.answer(trace),
    }

  return jax.device_get(run(params, batch))


def test_citations_of_gold_documents_are_places_among_those_read(traced):
  for row, golds in ((0, [0, 7]), (1, [1])):
    cited = [int(-1 - t) for t in traced['answers'][row, 0] if t < 0]
    assert [traced['documents'][row, place] for place in cited] == golds


def test_an_unanswerable_question_trains_an_empty_answer(traced):
  # The last one has no answer in the data, and trains nothing.
  assert traced['written'].tolist() == [True, True, True, False]
  value, count = traced['term']
  assert count == 3
  np.testing.assert_allclose(value, -traced['scores'][:3].sum(), rtol=1e-5)
  # Only the end token of the empty answer has a score.
  target = base.with_end(jnp.zeros((1, 4), int), fid.EOS)
  assert target.tolist() == [[fid.EOS, 0, 0, 0, 0]]
  assert traced['scores'][2, 0] < 0 and not traced['scores'][2, 1:].any()
