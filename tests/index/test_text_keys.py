import numpy as np
import pytest

from rag_jax.index import text_keys


@pytest.mark.parametrize('stride', [1, 2])
def test_ngram_keys_agree_with_a_loop(stride):
  tokens = np.random.default_rng(0).integers(0, 4, (30, 9))
  tokens[:, 6:] *= tokens[:, 6:] > 1
  expected = []
  for owner, row in enumerate(tokens):
    keys = [tuple(row[i : i + 2].tolist()) for i in range(0, 8, stride)]
    expected += [(owner, k) for k in dict.fromkeys(keys) if 0 not in k]
  codes, owners = text_keys.ngram_keys(tokens, length=2, stride=stride)
  got = [
    (int(o), tuple(c.tolist())) for o, c in zip(owners, codes, strict=True)
  ]
  assert got == expected


@pytest.mark.parametrize(
  'sizes, words',
  [
    ({'length': 4}, 'length must be between 1 and .* got 4'),
    ({'length': 2, 'stride': 0}, 'stride must be at least 1, got 0'),
  ],
)
def test_bad_sizes_are_named(sizes, words):
  with pytest.raises(ValueError, match=words):
    text_keys.ngram_keys(np.ones((2, 3), int), **sizes)


def test_frequent_words_have_small_codes_and_new_words_none():
  table = text_keys.fit_titles(['b a', 'B c', 'b'])
  assert table['words'].tolist() == ['b', 'a', 'c']
  codes = text_keys.title_codes(table, ['c B x a', ''], 3)
  assert codes.tolist() == [[3, 1, 0], [0, 0, 0]]
