import numpy as np
import pytest

from rag_jax.data import citations, tokenizers

TEXTS = ['Cats sleep. [1] Dogs bark. [2][1]', 'Cats. [2]', 'No mark']


@pytest.fixture(scope='module')
def tokenizer():
  return tokenizers.train([*TEXTS, 'Cats sleep. Dogs bark.'], vocab_size=400)


def encode(tokenizer, answers, max_tokens=20, max_answers=2):
  return citations.encode_targets(
    tokenizer, answers, max_answers=max_answers, max_tokens=max_tokens
  )


def test_marks_are_negative_and_words_as_without_them(tokenizer):
  found = encode(tokenizer, [[TEXTS[0], TEXTS[2]], [], [TEXTS[1]]])
  assert found.shape == (3, 2, 20) and found.dtype == np.int32
  whole = tokenizers.encode(
    tokenizer, ['Cats sleep. Dogs bark.', 'Cats.', 'No mark'], max_tokens=20
  ).tokens
  for own, plain, marks in (
    (found[0, 0], whole[0], [-1, -2, -1]),
    (found[2, 0], whole[1], [-2]),
    (found[0, 1], whole[2], []),
  ):
    assert own[own > 0].tolist() == plain[plain > 0].tolist()
    assert own[own < 0].tolist() == marks
    end = int((own != 0).sum())
    assert (own[end:] == 0).all()
  assert not found[1].any() and not found[2, 1].any()


def test_a_text_comes_back(tokenizer):
  found = encode(tokenizer, [TEXTS[:2]])
  assert citations.decode(tokenizer, found[0, 0]) == (
    'cats sleep . [1] dogs bark . [2] [1]'
  )
  assert citations.decode(tokenizer, found[0, 1]) == 'cats . [2]'
  assert citations.decode(tokenizer, [0, 0]) == ''


def test_a_long_answer_is_all_padding(tokenizer):
  needed = int((encode(tokenizer, [TEXTS[:1]]) != 0).sum())
  assert encode(tokenizer, [TEXTS[:1]], max_tokens=needed).any()
  assert not encode(tokenizer, [TEXTS[:1]], max_tokens=needed - 1).any()
  one = encode(tokenizer, [TEXTS], max_answers=1)
  np.testing.assert_array_equal(one[0, 0], encode(tokenizer, [TEXTS])[0, 0])
