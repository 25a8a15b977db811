"""Forgetting: the summary by hand, and a small index with two sessions."""

import numpy as np
import pytest

from rag_jax.index import docids, forgetting, live, statistics

CONFIG = docids.DocidConfig(branching=8, leaf_size=8)
TRAINING = forgetting.TrainConfig(
  steps=20, later_steps=100, batch_size=16, table_rate=3e-3
)


def unit(x):
  return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def corpus(count=200, width=16):
  """Documents of two sessions, and two sets of questions about them.

  Questions are closer to the latent content of a document than its vector is,
  so training can improve the zero-shot search.
  """
  rng = np.random.default_rng(0)
  content = rng.normal(size=(count, width))
  vectors = unit(content + rng.normal(size=content.shape))
  sessions = (rng.random(count) < 0.3).astype(int)
  sets = []
  for _ in range(2):
    rows = np.repeat(np.arange(count), 2)
    noise = 0.3 * rng.normal(size=(len(rows), width))
    sets.append(
      forgetting.Questions(vectors=unit(content[rows] + noise), documents=rows)
    )
  return vectors, sessions, *sets


def test_summary_of_a_table_equals_arithmetic_by_hand():
  hits = np.array(
    [
      [0.9, np.nan, np.nan],
      [0.7, 0.8, np.nan],
      [0.6, 0.9, 0.5],
    ]
  )
  summary = forgetting.summarise(hits)
  assert summary.average == pytest.approx((0.6 + 0.9 + 0.5) / 3)
  assert summary.forgetting == pytest.approx((0.3 - 0.1) / 2)
  assert summary.learning == pytest.approx((0.8 + 0.5) / 2)
  with pytest.raises(ValueError, match=r'got \(1, 1\)'):
    forgetting.summarise(np.ones((1, 1)))


@pytest.mark.long
@pytest.mark.long
def test_without_training_hits_equal_those_of_the_zero_shot_search():
  vectors, sessions, train, test = corpus()
  (hits,) = forgetting.continual(
    vectors,
    sessions,
    train,
    test,
    CONFIG,
    replays=(None,),
    training=forgetting.TrainConfig(steps=0),
    depths=(1, 5),
    beam_size=20,
  )
  old = np.flatnonzero(sessions == 0)
  codes = docids.assign(vectors[old], CONFIG)
  about_old = np.isin(test.documents, old)
  found = statistics.zero_shot(
    codes, vectors[old], test.vectors[about_old], beam_size=20
  )
  hit = old[found] == test.documents[about_old, None]
  for k in (1, 5):
    assert hits[k][0, 0] == pytest.approx(hit[:, :k].any(1).mean())
    assert np.isnan(hits[k][0, 1])


def test_training_learns_new_documents_and_replay_reduces_forgetting():
  vectors, sessions, train, test = corpus()
  runs = forgetting.continual(
    vectors,
    sessions,
    train,
    test,
    CONFIG,
    replays=(None, 0.0, 0.8),
    training=TRAINING,
    depths=(1,),
  )
  before = {run[1][0, 0] for run in runs}
  assert len(before) == 1  # all runs continue from the same session 0
  added, finetuned, replayed = (forgetting.summarise(run[1]) for run in runs)
  assert finetuned.learning > added.learning
  assert finetuned.forgetting > replayed.forgetting
  again = forgetting.continual(
    vectors,
    sessions,
    train,
    test,
    CONFIG,
    replays=(0.0,),
    training=TRAINING,
    depths=(1,),
  )
  np.testing.assert_array_equal(again[0][1], runs[1][1])


def test_ancestors_are_the_nodes_of_the_prefixes():
  vectors = corpus()[0]
  tokens = np.arange(1, 201, dtype=np.int32)[:, None]
  index = live.build(tokens, vectors, CONFIG, capacity=240)
  paths, levels = forgetting._ancestors(index)
  row_of_prefix = {}
  for document in range(200):
    for level in range(index.codes.shape[1] - 1):
      prefix = tuple(index.codes[document, : level + 1])
      row = row_of_prefix.setdefault(prefix, paths[document, level])
      assert row == paths[document, level]
      assert row < 0 or levels[row] == level
    assert paths[document, -1] == document
  shared = [row for row in row_of_prefix.values() if row >= 0]
  assert len(set(shared)) == len(shared)
  assert (paths[200:] < 0).all()


def test_errors_name_the_field_the_value_and_the_remedy():
  vectors, sessions, train, test = corpus()
  run = forgetting.continual
  with pytest.raises(ValueError, match='test questions, got none in session 1'):
    only = np.flatnonzero(sessions[test.documents] == 0)
    some = forgetting.Questions(
      vectors=test.vectors[only], documents=test.documents[only]
    )
    run(vectors, sessions, train, some, CONFIG)
  with pytest.raises(ValueError, match='between 0 and 1, or None, got 2'):
    run(vectors, sessions, train, test, CONFIG, replays=(2,))
