"""Tests for rag_jax.data.words."""

import numpy as np
import pytest

from rag_jax import types
from rag_jax.data import words


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
  assert words.encode(vocabulary, texts, max_words=2)[0].tolist() == [3, 1]
  assert words.encode(vocabulary, [], max_words=2).shape == (0, 2)
  with pytest.raises(ValueError, match='max_words must be at least 1, got 0'):
    words.encode(vocabulary, texts, max_words=0)


def test_titles_are_repeated_title_weight_times():
  document = types.Document(id='a', title='Leone', text='of Naples')
  for weight in (0, 1, 3):
    texts = words.document_texts([document], title_weight=weight)
    assert words.split(texts) == [['leon'] * weight + ['napl']]


def test_a_corpus_without_words():
  vocabulary = words.build(['the', '...', ''])
  assert vocabulary.size == 1
  assert words.encode(vocabulary, ['cat']).tolist() == [[0]]
