"""Questions as arrays: nothing is cut in silence, and widths change nothing."""

import dataclasses

import numpy as np
import pytest

from rag_jax import types
from rag_jax.data import batches, pipeline, tokenizers, widths, words

LONG = ' '.join(['please tell me kindly'] * 20) + ' which metal is Au'


@pytest.fixture(scope='module')
def tokenizer():
  texts = ['please tell me kindly which metal is Au gold'] * 9
  return tokenizers.train(texts, vocab_size=320)


def ask(text, number=0, **fields):
  return types.Question(id=str(number), text=text, **fields)


def encode(tokenizer, questions, rows=(), vocabulary=None, **options):
  fields = options.pop('fields', {})
  return batches.encode_questions(
    tokenizer,
    questions,
    dict(rows),
    pipeline.DataConfig(**fields),
    vocabulary,
    **options,
  )


def lengths(encoded):
  return (encoded.query != types.PAD).sum(axis=1)


def test_arrays_are_as_wide_as_the_longest_question(tokenizer):
  found = encode(tokenizer, [ask('which metal'), ask(LONG)])
  whole = tokenizers.encode(tokenizer, [LONG], max_tokens=500).tokens[0]
  assert found.query.shape[1] == lengths(found)[1] == (whole != 0).sum()
  assert not found.cut.any()


def test_a_question_above_the_limit_is_marked_and_counted(tokenizer):
  questions = [ask('which metal'), ask(LONG)]
  found = encode(tokenizer, questions, max_tokens=30)
  assert found.cut.tolist() == [False, True]
  assert found.query.shape == (2, 30)
  [note] = batches.notes(questions, found, pipeline.DataConfig())
  assert note.startswith('1 of 2 training questions are cut after 30 tokens')


def test_words_without_weight_never_push_out_others(tokenizer):
  vocabulary = words.build(['gold is a metal'])
  found = encode(tokenizer, [ask('unknown ' * 900 + 'metal')], (), vocabulary)
  assert found.words.tolist() == [[vocabulary.ids['metal']]]
  counted = dataclasses.replace(vocabulary, counts=np.array([0, 1, 9]))
  text = 'metal ' * widths.WORDS + 'gold'
  found = encode(tokenizer, [ask(text)], (), counted).words
  assert found.shape == (1, widths.WORDS)
  assert vocabulary.ids['gold'] in found


def test_all_gold_documents_are_kept_up_to_a_bound_with_a_note(tokenizer):
  rows = {str(i): i for i in range(40)}
  names = ('0', '3', '3', 'gone', '7')
  questions = [ask('a', document_ids=names), ask('b', document_ids=('1',))]
  found = encode(tokenizer, questions, rows)
  assert found.gold.tolist() == [[0, 3, -1, 7], [1, -1, -1, -1]]
  assert not list(batches.notes(questions, found, pipeline.DataConfig()))
  assert encode(tokenizer, questions, rows, targets=False).gold.max() == -1
  config = pipeline.DataConfig(max_gold=1)
  found = encode(tokenizer, questions, rows, fields={'max_gold': 1})
  assert found.gold.tolist() == [[0], [1]]
  [note] = batches.notes(questions, found, config)
  assert note.startswith('1 of 2 training questions have more than 1 gold')
  many = [ask('a', document_ids=tuple(rows))]
  assert encode(tokenizer, many, rows).gold.shape == (1, batches.MOST_GOLD)


def test_answers_that_are_no_targets_are_counted(tokenizer):
  fields = {'max_answers': 2, 'max_answer_tokens': 4}
  questions = [ask('a', answers=('gold', LONG, 'me')), ask('b')]
  found = encode(tokenizer, questions, fields=fields)
  assert found.answers.shape == (2, 2, 4)
  several, long = batches.notes(questions, found, pipeline.DataConfig(**fields))
  assert several.startswith('1 of 2 training questions have more than 2 ans')
  assert long.startswith('1 of 2 answers are longer than 4 tokens')


def test_asked_batches_have_every_row_once_at_the_width_of_its_room(tokenizer):
  texts = ['which metal', LONG, 'is Au', 'me ' * 40, 'gold']
  found = encode(tokenizer, [ask(text) for text in texts])
  seen = []
  for rows, batch in batches.asked_batches(found, batch_size=2, max_tokens=90):
    seen += rows.tolist()
    longest = lengths(found)[rows].max()
    width = batch.query.shape[1]
    assert longest <= width <= max(24, 2 * longest)
    assert width in (24, 48, 90)
    assert batch.where.tolist() == [True] * len(rows) + [False] * (
      2 - len(rows)
    )
    for own, row in zip(batch.query[: len(rows)], rows, strict=True):
      np.testing.assert_array_equal(own, widths.fit(found.query[row], width))
  assert sorted(seen) == [0, 1, 2, 3, 4]


def test_training_batches_are_narrow_where_that_is_worth_a_compilation(
  tokenizer,
):
  short = [ask('which metal', i) for i in range(7)]
  found = encode(tokenizer, [*short, ask('me ' * 60)])
  assert found.query.shape[1] > 24 * widths.NEAR
  source = batches.train_batches(found, batch_size=2, seed=0)
  sizes = {source[step].query.shape[1] for step in range(4)}
  assert sizes == {24, found.query.shape[1]}
  found = encode(tokenizer, short)  # no padding beyond the longest question
  source = batches.train_batches(found, batch_size=2, seed=0)
  assert source[0].query.shape[1] == lengths(found).max()


def test_a_room_holds_words_and_prompts_too():
  questions = batches.Questions(
    query=np.array([[5, 6, 0], [5, 6, 7]]),
    answers=np.zeros((2, 1, 1), np.int32),
    gold=np.full((2, 1), -1),
    cut=np.zeros(2, bool),
    words=np.ones((2, 40), int) * [[0], [1]],
    reader_query=np.ones((2, 90), int),
  )
  assert widths.needed(questions, prompt=70).tolist() == [20, 60]
  wide = widths.resize(questions, 96, prompt=70)
  assert wide.words.shape == (2, 64) and wide.reader_query.shape == (2, 166)
  same = widths.resize(questions, 96, prompt=70, pads=False)
  assert same.words.shape == (2, 40) and same.reader_query.shape == (2, 90)
