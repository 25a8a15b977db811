"""Citations and empty answers in the training loss."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax import model, reader_terms
from rag_jax import trace as traces
from rag_jax.readers import base, fid

IS_RARE = jnp.arange(50) % 3 == 0


@pytest.fixture(scope='module')
def traced(small_config, small_index, small_batch):
  """Attributes of a training step whose answers cite both gold documents."""
  config = small_config(
    reader={'kind': 'fid', 'citations': True}, ranker={'operator': 'softmax'}
  )
  [(_, stage)] = config.stages
  ungrounded = dataclasses.replace(stage, without_gold=0.5)
  renamed = dataclasses.replace(stage, renamed=0.5)

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

  def attributes(params, batch, stage, seed):
    trace = traces.Trace(
      params,
      jax.random.key(seed),
      batch,
      dataclasses.replace(small_index, rare=IS_RARE),
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
      'weights': reading.weights,
      'ungrounded': trace.ungrounded,
      'names': () if trace.names is None else trace.names,
      'memory': reading.memory.tokens,
      'scores': scores,
      'term': reader_terms.answer(trace),
    }

  run = jax.jit(attributes, static_argnums=2)
  return {
    'grounded': jax.device_get(run(params, batch, stage, 1)),
    'draws': [
      jax.device_get(run(params, batch, ungrounded, seed)) for seed in range(8)
    ],
    'renamed': [
      jax.device_get(run(params, batch, renamed, seed)) for seed in range(3)
    ],
    'passages': np.asarray(small_index.tokens),
    'query': np.asarray(batch.query),
  }


def test_citations_of_gold_documents_are_places_among_those_read(traced):
  traced = traced['grounded']
  assert not traced['ungrounded'].any()
  for row, golds in ((0, [0, 7]), (1, [1])):
    cited = [int(-1 - t) for t in traced['answers'][row, 0] if t < 0]
    assert [traced['documents'][row, place] for place in cited] == golds


def test_an_unanswerable_question_trains_an_empty_answer(traced):
  traced = traced['grounded']
  # The last one has no answer in the data, and trains nothing.
  assert traced['written'].tolist() == [True, True, True, False]
  value, count = traced['term']
  assert count == 3
  np.testing.assert_allclose(value, -traced['scores'][:3].sum(), rtol=1e-5)
  # Only the end token of the empty answer has a score.
  target = base.with_end(jnp.zeros((1, 4), int), fid.EOS)
  assert target.tolist() == [[fid.EOS, 0, 0, 0, 0]]
  assert traced['scores'][2, 0] < 0 and not traced['scores'][2, 1:].any()


def test_without_its_gold_documents_an_answer_is_empty(traced):
  golds = [{0, 7}, {1}, set(), set()]
  drawn = np.array([own['ungrounded'] for own in traced['draws']])
  assert not drawn[:, 2:].any()  # they have no gold documents
  assert 0 < drawn[:, :2].sum() < drawn[:, :2].size
  for own in traced['draws']:
    for row in range(4):
      weights, documents = own['weights'][row], own['documents'][row]
      if not own['ungrounded'][row]:
        same = traced['grounded']
        np.testing.assert_allclose(weights, same['weights'][row], rtol=1e-5)
        np.testing.assert_array_equal(own['answers'][row], same['answers'][row])
        continue
      np.testing.assert_allclose(weights.sum(), 1, rtol=1e-5)
      is_gold = np.isin(documents, list(golds[row]))
      assert (weights[is_gold] == 0).all() and is_gold.any()
      assert len(set(weights[~is_gold].round(6))) == 1
      assert not own['answers'][row].any() and own['written'][row]
      assert own['scores'][row, 0] < 0 and not own['scores'][row, 1:].any()


def test_a_reader_sees_the_same_new_names_everywhere(traced):
  same, width = traced['grounded'], traced['query'].shape[1]
  changed = []
  for own in traced['renamed']:
    # The search sees the old names.
    np.testing.assert_array_equal(own['documents'], same['documents'])
    for row, names in enumerate(own['names']):
      changed.append((names != np.arange(50)).any())
      asked, read = np.split(own['memory'][row], [width], axis=1)
      np.testing.assert_array_equal(
        asked, -names[np.broadcast_to(traced['query'][row], asked.shape)]
      )
      texts = traced['passages'][own['documents'][row]]
      np.testing.assert_array_equal(read, names[texts])
      for new, old in zip(
        own['answers'][row].flat, same['answers'][row].flat, strict=True
      ):
        assert new == (names[old] if old >= 0 else old)
  assert 0 < sum(changed) < len(changed)
