"""Leaving documents out, gradients of answers, and warnings about both."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax import (
  compiled,
  examine,
  forward,
  grounding,
  health,
  model,
  readers,
)
from rag_jax.components import ranker
from rag_jax.ops import beam
from rag_jax.readers import base


def start(small_config, index, **groups):
  """A configuration with softmax weights, and its initial parameters."""
  config = small_config(**{'ranker': {'operator': 'softmax'}} | groups).model
  params = jax.jit(model.init, static_argnames=('config', 'vocab_size'))(
    jax.random.key(1), config, index, vocab_size=50
  )
  return config, params


@pytest.fixture(scope='module')
def batch(small_batch, small_tokens):
  """Questions whose answer is in the gold document; the last has none."""
  answers = np.asarray(small_batch.answers).copy()
  answers[3] = 0
  return dataclasses.replace(small_batch, answers=jnp.asarray(answers))


@pytest.fixture(scope='module')
def extractive(small_config, small_index, batch):
  """A pass of the extractive reader and its evidence."""
  config, params = start(small_config, small_index)

  @jax.jit
  def run(params, batch, index):
    found = forward.run(params, batch, index, config=config)
    return found, examine.evidence(params, batch, found, config=config)

  return config, params, *run(params, batch, small_index)


def test_leaving_out_a_document_is_reading_the_others(extractive, batch):
  config, params, found, evidence = extractive
  reading, reader = found.reading, readers.make(config.reader)
  likelihood = reader.log_likelihood(
    params['reader'], reading.memory, batch.answers
  )[..., 0]
  select = ranker.selector(config.ranker)
  chances = jnp.exp(likelihood)  # 0 where the answer does not occur
  for b in range(4):
    for r in range(3):
      where = reading.where.at[b, r].set(False)
      rest = select(reading.scores, where)[b]
      whole = select(reading.scores, reading.where)[b]
      before = np.log(float(whole @ chances[b]) or 1e-99)
      after = np.log(float(rest @ chances[b]) or 1e-99)
      gain = max(before, examine.FLOOR) - max(after, examine.FLOOR)
      if b == 3:  # no gold answer
        assert np.isnan(evidence.left_out[b, r])
      else:
        np.testing.assert_allclose(evidence.left_out[b, r], gain, atol=1e-4)
  assert np.nanmax(np.abs(evidence.left_out)) > 0.01


def test_the_answer_without_the_cited_document_is_of_another(extractive):
  config, params, found, evidence = extractive
  reading, written = found.reading, found.written
  select = ranker.selector(config.ranker)
  for b in range(4):
    cited = int(written.place[b])
    where = reading.where.at[b, cited].set(False)
    again = readers.make(config.reader).answer(
      params['reader'], reading.memory, select(reading.scores, where), where
    )
    assert int(evidence.without.place[b]) == int(again.place[b]) != cited
    assert int(evidence.without.start[b]) == int(again.start[b])
    document = reading.documents[b, again.place[b]]
    assert int(evidence.without_document[b]) == int(document)
  np.testing.assert_array_equal(evidence.documents, reading.documents)


def test_slopes_and_norms_are_those_of_the_answer(
  extractive, batch, small_index
):
  """The derivative by a score, and the sum over shifts, by differences."""
  config, params, found, _ = extractive
  checked = compiled.health(config)(params, batch, small_index)
  reading, reader = found.reading, readers.make(config.reader)
  likelihood = reader.log_likelihood(
    params['reader'], reading.memory, batch.answers
  )[..., 0]
  weights = np.asarray(reading.weights)  # softmax over all candidates
  chances = np.exp(np.asarray(likelihood))
  for b in range(3):
    total = float(weights[b] @ chances[b])
    if np.log(total or 1e-99) < examine.FLOOR:
      assert not np.asarray(checked.slopes[b]).any()
      continue
    # d log(sum w p) / d z_r = w_r (p_r - sum w p) / sum w p
    expected = weights[b] * (chances[b] - total) / total
    np.testing.assert_allclose(checked.slopes[b], expected, atol=1e-4)
  assert not np.asarray(checked.slopes[3]).any()
  assert list(checked.norms) == list(params)
  assert all(float(norm[0]) > 0 for norm in checked.norms.values())
  assert checked.known.tolist() == [True, True, True, False]


def test_the_numbers_of_health():
  slopes = np.array([[0.2, -0.2], [0.0, 0.0], [0.4, -0.3], [0.0, 0.0]])
  found = examine.Health(
    norms={'reader': np.full(4, 2.0)},
    slopes=slopes,
    known=np.array([True, True, True, False]),
    gold=np.array([0.8, 0.0, 0.3, 0.0]),
    has_gold=np.array([True, True, True, False]),
  )
  left_out = np.array([[1.0, -1.0], [5.0, 0.0], [2.0, -1.5], [np.nan] * 2])
  values = health.measure(found, left_out)
  assert values['gradient reader'] == 2
  assert values['off support'] == values['starved'] == pytest.approx(1 / 3)
  assert values['correlation'] == pytest.approx(1)
  worse = dataclasses.replace(found, slopes=-slopes)
  assert health.measure(worse, left_out)['correlation'] == pytest.approx(-1)
  assert health.warnings(values)[0].startswith('starved 0.33:')
  healthy = {'collapse': 0.5, 'starved': 0.25, 'beam mass': 0.5, 'changes': 0.1}
  assert health.warnings(healthy) == []


def test_a_support_that_starves_gives_a_warning(
  small_config, small_index, batch
):
  """Scores so far apart that one document, rarely the gold one, gets all."""
  config, params = start(
    small_config, small_index, ranker={'operator': 'sparsemax'}
  )
  away = dataclasses.replace(batch, gold=(batch.gold + 5) % 12)
  params['ranker']['log_signal_weight'] += 8.0
  found = jax.device_get(compiled.health(config)(params, away, small_index))
  left_out = np.full(found.slopes.shape, np.nan)
  [text] = health.warnings(health.measure(found, left_out))
  assert text.startswith('starved 1.00') and 'ranker.operator=softmax' in text


def test_a_collapsed_search_gives_a_warning(small_config, small_index, batch):
  """A query encoder without parameters maps all questions to one vector."""
  config, params = start(small_config, small_index)
  params['ranker']['log_signal_weight'] -= 30.0
  params['ranker']['log_signal_weight'] += jnp.array([30.0, 0.0, 0.0])
  encoder = jax.tree.map(jnp.zeros_like, params['query_encoder'])
  found = {
    name: compiled.rank(config)(own, batch, small_index).documents[:, 0]
    for name, own in {
      'whole': params,
      'collapsed': params | {'query_encoder': encoder},
    }.items()
  }
  gold = np.asarray(batch.gold[:, 0])
  index = health.collapse(np.asarray(found['collapsed']), gold)
  assert index == 1
  [text] = health.warnings({'collapse': index})
  assert text.startswith('collapse 1.00') and 'losses.indexing=1' in text
  assert health.collapse(gold, gold) == 0
  assert np.isnan(health.collapse(gold, np.zeros(4, int)))


def test_a_narrow_beam_gives_a_warning(small_config, small_index, batch):
  config, params = start(
    small_config, small_index, search={'beam_size': 1, 'read_size': 1}
  )
  # All docids have equal probabilities.
  params['id_decoder'] = jax.tree.map(jnp.zeros_like, params['id_decoder'])
  found = compiled.search(config)(params, batch, small_index)
  mass = float(np.exp(beam.beam_mass(found)).mean())
  [text] = health.warnings({'beam mass': mass})
  assert mass < 0.5 and 'Raise --config.search.beam_size' in text


def test_a_reader_that_ignores_its_documents_gives_a_warning(
  extractive, batch, small_index, monkeypatch
):
  """A reader that writes the same two tokens, whatever it reads."""
  config, params, *_ = extractive

  def answer(params, memory, weights, where):
    tokens = jnp.broadcast_to(jnp.array([5, 6, 0]), (len(where), 3))
    return base.written(weights.argmax(1), tokens, weights.max(1))

  ignoring = readers.make(config.reader)._replace(answer=answer)
  monkeypatch.setattr(readers, 'make', lambda own: ignoring)

  @jax.jit
  def run(params, batch, index):
    found = forward.run(params, batch, index, config=config)
    return found, examine.evidence(params, batch, found, config=config)

  found, evidence = run(params, batch, small_index)
  assert (found.written.place != evidence.without.place).all()
  texts = [
    [' '.join(map(str, row)) for row in written.tokens.tolist()]
    for written in (found.written, evidence.without)
  ]
  grounds = [
    grounding.ground(before, after, None, [], written=True)
    for before, after in zip(*texts, strict=True)
  ]
  changes = grounding.values(grounds)['changes'].mean()
  [text] = health.warnings({'changes': changes})
  assert text.startswith('changes 0.00') and 'candidates=gold' in text
