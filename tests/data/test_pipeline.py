"""Batches: labelled questions, length buckets and order."""

import dataclasses

import numpy as np
import pytest

from rag_jax import types
from rag_jax.data import batches as batching
from rag_jax.data import pipeline

COUNT, SIZE = 200, 4


@pytest.fixture
def questions():
  gold = np.arange(COUNT)[:, None] % 50
  gold[7] = -1
  return batching.Questions(
    query=np.arange(1, COUNT + 1)[:, None].astype(np.int32),
    answers=np.ones((COUNT, 1, 1), np.int32),
    gold=gold.astype(np.int32),
    cut=np.zeros(COUNT, bool),
  )


def test_kept_labels_are_spread_over_all_labelled_questions():
  questions = tuple(
    types.Question(
      id=str(i), text='?', answers=('a',), document_ids=('d',) * (i % 3 > 0)
    )
    for i in range(12)
  )
  dataset = types.Dataset(documents=(), splits={'train': questions})

  def kept(count):
    config = pipeline.DataConfig(labelled_questions=count)
    found = pipeline.train_questions(dataset, config)
    assert [q.answers for q in found] == [('a',)] * 12
    return [int(q.id) for q in found if q.document_ids]

  assert kept(0) == kept(50) == [1, 2, 4, 5, 7, 8, 10, 11]
  assert kept(4) == [1, 4, 7, 10]
  with pytest.raises(ValueError, match='data.labelled_questions must be'):
    pipeline.DataConfig(labelled_questions=-1)


def draw(questions, lengths, seed=0, count=96):
  batches = batching.reading_batches(
    questions, lengths, batch_size=SIZE, seed=seed
  )
  return [batches[i] for i in range(count)]


def test_documents_of_a_batch_have_similar_lengths(questions):
  lengths = np.random.default_rng(0).integers(10, 200, 50)
  longest, waste = [], 0
  for batch, length in draw(questions, lengths):
    own_lengths = lengths[np.asarray(batch.gold)[:, 0]]
    assert length == own_lengths.max()
    longest.append(length)
    waste += (length - own_lengths).sum() / SIZE
  # In random batches of four the longest is 38 tokens above the mean.
  assert waste / 96 < 10
  assert np.any(np.diff(longest) < 0)  # batches are not sorted by length


def test_batches_of_a_pool_are_shuffled(questions):
  # Distinct lengths identify the batches of a pool.
  count = len(questions.query)
  gold = np.arange(count)[:, None].astype(np.int32)
  distinct = dataclasses.replace(questions, gold=gold)
  lengths = np.random.default_rng(0).permutation(np.arange(10, 10 + count))
  pool = batching.POOL
  assert 2 * pool * SIZE < count
  found = {}
  for seed in (0, 1):
    longest = [length for _, length in draw(distinct, lengths, seed, 2 * pool)]
    found[seed] = longest[:pool], longest[pool:]
    ranks = []
    for part in found[seed]:
      assert part not in (sorted(part), sorted(part, reverse=True))
      ranks.append(np.argsort(np.argsort(part)).tolist())
      # A random order of 16 has about this many descents.
      assert 3 < (np.diff(part) < 0).sum() < 12
    found[seed] = ranks
  # The order differs between seeds and between pools.
  orders = [tuple(ranks) for seed in found for ranks in found[seed]]
  assert len(set(orders)) == 4


def test_hard_negatives_count_for_the_length(questions):
  rng = np.random.default_rng(0)
  lengths = rng.integers(10, 200, 50)
  negative = rng.integers(-1, 50, len(questions.query))
  assert (negative < 0).any()
  both = dataclasses.replace(questions, negative=negative)
  waste = 0
  for batch, length in draw(both, lengths):
    rows = np.column_stack([batch.gold, batch.negative])
    own_lengths = np.where(rows >= 0, lengths[rows], 0).max(axis=1)
    assert length == own_lengths.max()
    waste += (length - own_lengths).sum() / SIZE
  assert waste / 96 < 10


def test_each_question_occurs_once_per_epoch(questions):
  lengths = np.full(50, 9)
  # 199 questions have gold; 192 fill three pools of 16 batches of 4.
  rows = [np.asarray(b.query)[:, 0] for b, _ in draw(questions, lengths)]
  first = np.concatenate(rows[:48])
  assert len(set(first.tolist())) == 192
  assert 8 not in np.concatenate(rows)  # the question without gold


def test_batches_depend_only_on_seed_and_number(questions):
  lengths = np.random.default_rng(0).integers(10, 200, 50)
  again = batching.reading_batches(questions, lengths, batch_size=SIZE, seed=0)
  ours = draw(questions, lengths)
  for number in (5, 90, 17):
    np.testing.assert_array_equal(again[number][0].query, ours[number][0].query)
  other = draw(questions, lengths, seed=1, count=1)
  assert (np.asarray(other[0][0].query) != ours[0][0].query).any()
