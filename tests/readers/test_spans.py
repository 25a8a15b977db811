import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax.ops import masking
from rag_jax.readers import base, spans


def brute_force_likelihood(pointers, passage, answers):
  """Sums P(start) P(end) over all occurrences of all answers."""
  total = 0.0
  for answer in answers:
    answer = [t for t in answer if t]
    if not answer:
      continue
    for i in range(len(passage) - len(answer) + 1):
      if list(passage[i : i + len(answer)]) == answer:
        end = i + len(answer) - 1
        total += np.exp(pointers[i, 0] + pointers[end, 1])
  return total


def test_answer_likelihood_sums_over_all_occurrences():
  rng = np.random.default_rng(1)
  passages = rng.integers(1, 4, (4, 3, 12))
  answers = rng.integers(1, 4, (4, 2, 3))
  answers[0, 1] = 0
  answers[1, :, 2:] = 0
  answers[2, :, 1:] = 0
  answers[3] = 9  # occurs in no passage
  pointers = jax.nn.log_softmax(rng.normal(size=(4, 3, 12, 2)), axis=2)
  found = spans.answer_log_likelihood(
    pointers, jnp.asarray(passages), jnp.asarray(answers)
  )
  for b in range(4):
    for k in range(3):
      expected = brute_force_likelihood(
        np.asarray(pointers[b, k]), passages[b, k], answers[b]
      )
      if expected == 0:
        assert float(found[b, k]) < masking.NEG_INF / 2
      else:
        np.testing.assert_allclose(np.exp(found[b, k]), expected, rtol=1e-4)
  assert (np.asarray(found)[3] < masking.NEG_INF / 2).all()


@pytest.mark.parametrize('longest', [1, 2, 5, 20])
def test_best_span_against_enumeration(longest):
  rng = np.random.default_rng(2)
  pointers = jnp.asarray(rng.normal(size=(2, 3, 8, 2)), jnp.float32)
  best = spans.best_spans(pointers, max_tokens=longest)
  passages = jnp.asarray(rng.integers(1, 50, (2, 3, 8)))
  config = base.ReaderConfig(max_answer_tokens=longest)
  memory = spans.Memory(pointers, passages)
  tokens = spans.functions(config)['answer_each']({}, memory)
  assert tokens.shape == (2, 3, longest)
  for b in range(2):
    for k in range(3):
      scores = {
        (i, j): float(pointers[b, k, i, 0] + pointers[b, k, j, 1])
        for i in range(8)
        for j in range(i, min(i + longest, 8))
      }
      i, j = max(scores, key=scores.__getitem__)
      assert (int(best.start[b, k]), int(best.end[b, k])) == (i, j)
      np.testing.assert_allclose(best.score[b, k], scores[i, j], rtol=1e-6)
      answer = tokens[b, k]
      np.testing.assert_array_equal(
        answer[answer > 0], passages[b, k, i : j + 1]
      )


@pytest.mark.parametrize('null', [False, True])
def test_the_answer_maximises_passage_weight_times_span_probability(null):
  rng = np.random.default_rng(3)
  pointers = jnp.asarray(rng.normal(size=(20, 3, 6, 2)), jnp.float32)
  relevance = jnp.asarray(rng.normal(size=(20, 3)), jnp.float32)
  weights = rng.dirichlet([1, 1, 1], 20).astype(np.float32)
  weights[:10, 0], weights[0] = 0, 0
  where = jnp.asarray(rng.random((20, 3)) < 0.7)
  config = base.ReaderConfig(max_answer_tokens=3, null_document=null)
  memory = spans.Memory(pointers, jnp.ones((20, 3, 6), int), relevance)
  found = spans.functions(config)['answer'](
    {}, memory, jnp.asarray(weights), where
  )
  best = spans.best_spans(pointers, max_tokens=3)
  for b in range(1, 20):
    joint = {
      k: float(best.score[b, k] + np.log(weights[b, k]))
      for k in range(3)
      if weights[b, k] > 0
    }
    k = max(joint, key=joint.__getitem__)
    assert int(found.place[b]) == k
    assert int(found.start[b]) == int(best.start[b, k])
    assert int(found.end[b]) == int(best.end[b, k])
    np.testing.assert_allclose(found.log_probability[b], joint[k], rtol=1e-6)
    # The second answer: any span that has no token of the first.
    i, j = int(found.start[b]), int(found.end[b])
    others = [
      float(pointers[b, o, s, 0] + pointers[b, o, e, 1] + np.log(weights[b, o]))
      for o in joint
      for s in range(6)
      for e in range(s, min(s + 3, 6))
      if o != k or e < i or s > j
    ]
    np.testing.assert_allclose(found.second[b], max(others), rtol=1e-5)
    odds = -joint[k]
    if null:
      odds -= np.log(np.exp(relevance[b])[where[b]].sum() or 1e-300)
    if not null or where[b].any():
      np.testing.assert_allclose(found.no_answer[b], odds, rtol=1e-4, atol=1e-5)
  assert float(found.log_probability[0]) == masking.NEG_INF  # all weights are 0
  assert not found.tokens.any()
