"""Tests for rag_jax.data.words."""

import dataclasses

import bm25s
import numpy as np
import pytest
import Stemmer

from rag_jax import baselines, types
from rag_jax.data import facts, words


def test_words_are_stemmed_lowercased_and_numbered_alphabetically():
  texts = ['The Dogs were barking!', 'Vitamin C, vitamin D']
  vocabulary = words.build(texts)
  wanted = ['bark', 'c', 'd', 'dog', 'vitamin', 'were']
  assert list(vocabulary.ids) == wanted
  assert list(vocabulary.ids.values()) == [1, 2, 3, 4, 5, 6]
  assert vocabulary.size == 7
  assert words.build(texts[::-1]) == vocabulary
  assert 'barking' in words.build(texts, stem=False).ids


def test_encode_keeps_order_and_repetitions_and_drops_unknown_words():
  vocabulary = words.build(['cat dog fish'])
  texts = ['fish bird cat fish', 'the', '', 'dogs']
  found = words.encode(vocabulary, texts)
  assert found.dtype == np.int32
  assert found.tolist() == [[3, 1, 3], [0, 0, 0], [0, 0, 0], [2, 0, 0]]
  assert words.encode(vocabulary, []).shape == (0, 1)
  with pytest.raises(ValueError, match='max_words must be at least 1, got 0'):
    words.encode(vocabulary, texts, max_words=0)


def test_of_a_long_text_the_rarest_known_words_are_kept_in_their_order():
  vocabulary = words.build(['cat dog fish'])  # 1, 2, 3
  texts = ['unknown words never count: cat fish dog cat', 'dog']
  counts = np.array([0, 5, 1, 2])
  counted = dataclasses.replace(vocabulary, counts=counts)
  found = words.encode(counted, texts, max_words=3)
  assert found.tolist() == [[1, 3, 2], [2, 0, 0]]
  found = words.encode(vocabulary, texts, max_words=2)  # without counts
  assert found[0].tolist() == [1, 3]


def test_titles_are_repeated_title_weight_times():
  document = types.Document(id='a', title='Leone', text='of Naples')
  for weight in (0, 1, 3):
    texts = words.document_texts([document], title_weight=weight)
    assert words.split(texts) == [['leon'] * weight + ['napl']]


def test_a_corpus_without_words():
  vocabulary = words.build(['the', '...', ''])
  assert vocabulary.size == 1
  assert words.encode(vocabulary, ['cat']).tolist() == [[0]]


def test_english_words_are_those_of_bm25s():
  facts_texts = [d.text for d in facts.load().documents[:200]]
  texts = [*facts_texts, "Don't U.S. 3.14 co-op x2 A.D. r_2 Été!"]
  theirs = bm25s.tokenize(
    texts,
    token_pattern=r'(?u)\b\w+\b',
    stopwords='en',
    stemmer=Stemmer.Stemmer('english'),
    return_ids=False,
    show_progress=False,
  )
  theirs[-1] = [*theirs[-1][:-1], 'r', '2', theirs[-1][-1]]  # parts of r_2
  assert words.split(texts) == theirs


# Words that the code could not know: written by hand.
@pytest.mark.parametrize(
  ('text', 'language', 'terms'),
  [
    ('长城很长。水', 'none', '长城 城很 很长 水'),
    ('2008年，iPhone手机', 'none', '2008 2008年 iphone iphone手 手机'),
    ('コーヒー', 'english', 'コー ーヒ ヒー'),
    ('ｶﾞ', 'english', 'ガ'),  # wide form, one character
    ('ที่นี่', 'english', 'ที่นี่'),  # two with marks
    ('किताबें', 'none', 'किताबें'),  # Hindi marks stay
    ('한국어는 책', 'none', '한국 국어 어는 책'),
    ('STRASSE Straße', 'none', 'strasse strasse'),
    ('café café', 'none', 'café café'),
    ('die Häuser', 'german', 'haus'),
    ('книги и книга', 'russian', 'книг книг'),
    (
      'get_config __init__ _',
      'english',
      'get_config get config __init__ init _',
    ),
  ],
)
def test_words_of_other_scripts_and_languages(text, language, terms):
  assert words.split([text], language=language) == [terms.split()]


def test_chinese_questions_find_their_paragraphs():
  texts = [
    '长江是亚洲最长的河流，全长六千三百公里。',
    '珠穆朗玛峰是世界上最高的山峰。',
    '熊猫生活在四川的竹林里。',
  ]
  documents = [types.Document(id=t, text=t) for t in texts]
  asked = [
    '亚洲哪条河流最长？',
    '世界最高的山峰叫什么？',
    '熊猫住在哪里的竹林？',
  ]
  index = baselines.bm25_index(documents)
  assert baselines.bm25_search(index, asked, k=1)[0].ravel().tolist() == [
    0,
    1,
    2,
  ]


def test_an_unknown_language_is_an_error_with_a_remedy():
  message = "data.language must be one of none.*got 'klingon'.*language=none"
  with pytest.raises(ValueError, match=message):
    words.split(['a'], language='klingon')
