"""Tests for rag_jax.data.tokenizers."""

import random
import time

import numpy as np
import pytest

from rag_jax import types
from rag_jax.data import tokenizers

SCRIPTS = {
  'latin': 'abcdefgéßñøAZ',
  'cyrillic': 'абвгдежзЯЖ',
  'chinese': '你好世界中文漢字',
  'arabic': 'ابتثجحخدذر',
  'thai': 'กขคงจฉชซ',
  'emoji': '🎉😀🚀❤🇫👍🏽',
  'odd': 'ﬁ½Ⅳ①ＡＢİσς',
}
TEXTS = [
  'The cat sat on the mat.',
  'Привет, мир!',
  '你好，世界。',
  'مرحبا بالعالم',
]


@pytest.fixture(scope='module', name='tokenizer')
def _tokenizer():
  return tokenizers.train(TEXTS * 3, vocab_size=400)


def _ids(tokenizer, text):
  row = tokenizers.encode(tokenizer, [text], max_tokens=512).tokens[0]
  return row[row != types.PAD].tolist()


def _contains(whole, part):
  return any(
    whole[i : i + len(part)] == part for i in range(len(whole) - len(part) + 1)
  )


def test_special_tokens(tokenizer):
  names = [tokenizer.id_to_token(i) for i in range(5)]
  assert names == ['[PAD]', '[BOS]', '[EOS]', '[SEP]', '[MASK]']
  assert tokenizers.PAD == types.PAD
  numbers = (
    tokenizers.PAD,
    tokenizers.BOS,
    tokenizers.EOS,
    tokenizers.SEP,
    tokenizers.MASK,
  )
  assert numbers == (0, 1, 2, 3, 4)


def test_names_of_special_tokens_in_a_text_are_plain_text(tokenizer):
  ids = _ids(tokenizer, '[PAD] then [EOS]')
  assert tokenizers.EOS not in ids
  assert tokenizers.decode(tokenizer, ids) == '[ pad ] then [ eos ]'


def test_training_is_deterministic():
  first = tokenizers.train(TEXTS, vocab_size=350).to_str()
  assert tokenizers.train(iter(TEXTS), vocab_size=350).to_str() == first


def test_vocab_size_is_kept_and_checked(tokenizer):
  assert tokenizer.get_vocab_size() <= 400
  with pytest.raises(ValueError, match='at least 300.*got 299.*vocab_size'):
    tokenizers.train(TEXTS, vocab_size=299)


@pytest.mark.parametrize('lowercase', [True, False])
def test_lowercase(lowercase):
  tokenizer = tokenizers.train(TEXTS, vocab_size=350, lowercase=lowercase)
  assert (_ids(tokenizer, 'CAT') == _ids(tokenizer, 'cat')) == lowercase


@pytest.mark.parametrize('script', SCRIPTS)
def test_an_answer_is_a_contiguous_subsequence_of_its_document(
  tokenizer, script
):
  rng = random.Random(script)

  def word():
    return ''.join(rng.choices(SCRIPTS[script], k=rng.randint(1, 6)))

  for _ in range(100):
    words = [word() for _ in range(12)]
    start = rng.randrange(12)
    answer = ' '.join(words[start : start + rng.randint(1, 4)])
    at = ' '.join(words[:start])
    left, right = rng.choice(['""', '()', '  ', '«»', '-,', '[.'])
    rest = ' '.join(words[start + len(answer.split(' ')) :])
    document = f'{at} {left}{answer}{right} {rest}'
    assert _contains(_ids(tokenizer, document), _ids(tokenizer, answer))
    assert _ids(tokenizer, answer)


def test_answer_inside_text_without_spaces(tokenizer):
  document = _ids(tokenizer, '中国的首都是北京市。')
  assert _contains(document, _ids(tokenizer, '北京'))
  assert _contains(_ids(tokenizer, 'costs 5€!'), _ids(tokenizer, '€'))


@pytest.mark.parametrize('script', SCRIPTS)
def test_no_text_is_unknown(tokenizer, script):
  text = SCRIPTS[script]
  decoded = tokenizers.decode(tokenizer, _ids(tokenizer, text))
  wanted = tokenizer.normalizer.normalize_str(text)
  assert decoded.replace(' ', '') == wanted.replace(' ', '')


@pytest.mark.parametrize(
  'text', ['', '   ', '\x00', '\ud800', '\u200d', 'a\udfff']
)
def test_strange_texts_are_tokenised(tokenizer, text):
  found = tokenizers.encode(tokenizer, [text], max_tokens=8)
  assert found.tokens.shape == (1, 8)
  assert found.truncated == 0


def test_encode_pads_and_counts_truncated_texts(tokenizer):
  texts = ['the', 'the cat', 'the cat sat on the mat']
  found = tokenizers.encode(tokenizer, texts, max_tokens=2)
  the, cat = tokenizer.token_to_id('Ġthe'), tokenizer.token_to_id('Ġcat')
  np.testing.assert_array_equal(
    found.tokens, [[the, 0], [the, cat], [the, cat]]
  )
  assert found.tokens.dtype == np.int32
  assert found.truncated == 1
  assert tokenizers.encode(tokenizer, [], max_tokens=2).tokens.shape == (0, 2)


def test_eos_is_kept_in_a_truncated_text(tokenizer):
  found = tokenizers.encode(
    tokenizer, ['the', 'the cat'], max_tokens=2, eos=True
  )
  the = tokenizer.token_to_id('Ġthe')
  np.testing.assert_array_equal(found.tokens, [[the, 2], [the, 2]])
  assert found.truncated == 1
  assert tokenizers.decode(tokenizer, [the, 2, the, 0]) == 'the'


def test_no_room_for_a_token_is_an_error(tokenizer):
  with pytest.raises(ValueError, match='at least 2, got 1'):
    tokenizers.encode(tokenizer, ['a'], max_tokens=1, eos=True)


def test_chunks_change_nothing(tokenizer, monkeypatch):
  texts = [f'{i} cats sat' for i in range(10)]
  whole = tokenizers.encode(tokenizer, texts, max_tokens=8)
  monkeypatch.setattr(tokenizers, '_CHUNK', 3)
  parts = tokenizers.encode(tokenizer, texts, max_tokens=8)
  np.testing.assert_array_equal(parts.tokens, whole.tokens)


def test_offsets_point_into_the_original(tokenizer):
  text = '  The ﬁrst  CAT,\u3000½ cup: 🎉世界 İs'
  ids = _ids(tokenizer, text)
  places = tokenizers.offsets(tokenizer, text, max_tokens=64)
  assert places.shape == (len(ids), 2)
  for start, end in places:
    assert text[start:end].strip() == text[start:end] != ''
  for part in ('The', 'ﬁrst', 'CAT', ',', '½', '🎉', '世', '界', 'İs'):
    wanted = _ids(tokenizer, part)
    at = next(i for i in range(len(ids)) if ids[i : i + len(wanted)] == wanted)
    assert text[places[at, 0] : places[at + len(wanted) - 1, 1]] == part


def test_offsets_are_truncated_and_may_be_empty(tokenizer):
  assert tokenizers.offsets(tokenizer, 'the cat', max_tokens=1).shape == (1, 2)
  assert tokenizers.offsets(tokenizer, '', max_tokens=4).shape == (0, 2)


def test_a_huge_document_is_truncated_quickly_and_counted(tokenizer):
  huge = 'the cat sat on the mat . ' * 14_300  # 100,100 words
  start = time.perf_counter()
  found = tokenizers.encode(tokenizer, [huge, 'the cat'], max_tokens=128)
  assert time.perf_counter() - start < 1
  assert found.truncated == 1
  np.testing.assert_array_equal(found.tokens[0], _ids(tokenizer, huge)[:128])


@pytest.mark.parametrize(
  ('text', 'truncated'),
  [
    ('the' + ' ' * 500 + 'cat', 0),  # the cut leaves too few tokens
    (' ' * 500, 0),
    ('the' * 300, 1),  # one word, longer than the cut
    ('the cat ' * 100, 1),
  ],
)
def test_the_cut_by_characters_changes_no_tokens(tokenizer, text, truncated):
  found = tokenizers.encode(tokenizer, [text], max_tokens=2)
  exact = tokenizer.encode(text).ids[:2]
  assert found.tokens[0, : len(exact)].tolist() == exact
  assert found.truncated == truncated


def test_save_and_load(tokenizer, tmp_path):
  tokenizers.save(tokenizer, tmp_path / 'tokenizer.json')
  loaded = tokenizers.load(str(tmp_path / 'tokenizer.json'))
  assert loaded.to_str() == tokenizer.to_str()
  assert _ids(loaded, 'a [EOS]') == _ids(tokenizer, 'a [EOS]')
  assert [path.name for path in tmp_path.iterdir()] == ['tokenizer.json']


def test_load_rejects_a_missing_or_damaged_file(tmp_path):
  path = tmp_path / 'tokenizer.json'
  with pytest.raises(ValueError, match='tokenizer.json.*does not exist'):
    tokenizers.load(path)
  for content in (b'{"half": ', b'\xff\xfe', b''):
    path.write_bytes(content)
    with pytest.raises(ValueError, match='tokenizer.json.*is damaged'):
      tokenizers.load(path)
