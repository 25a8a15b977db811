import tokenizers as hf
from tokenizers import models

from rag_jax.data import numbers, tokenizers


def test_order_of_trained_tokens():
  """Years of a text are single tokens, in order; the zeros are no numbers."""
  text = 'In 1848 and 1912 and 1875, not in 12th or 3.5.'
  tokenizer = tokenizers.train([text] * 3, vocab_size=400)
  values = numbers.order(tokenizer)
  assert values.shape == (tokenizer.get_vocab_size(),)

  def of(word):
    [token] = tokenizer.encode(word).ids
    return values[token]

  years = [of(word) for word in (' 1848', ' 1875', ' 1912')]
  assert years == sorted(years) and len(set(years)) == 3
  assert years[-1] == values.max() < 1
  assert of(' and') == of(' 12th') == 0 and values[0] == 0
  assert abs(values[values != 0].min() + values.max()) < 1e-6
  assert set((values != 0).nonzero()[0]) <= set(numbers.with_digits(tokenizer))


def test_the_same_number_with_and_without_a_mark():
  words = {'Ġ7': 0, '7': 1, '▁8': 2, '8%': 3, '²': 4}
  values = numbers.order(hf.Tokenizer(models.WordLevel(words)))
  assert values.tolist() == [-0.5, -0.5, 0.5, 0, 0]


def test_no_numbers():
  values = numbers.order(hf.Tokenizer(models.WordLevel({'a': 0, 'b': 1})))
  assert values.tolist() == [0, 0]


def test_tokens_with_digits():
  words = {'a': 0, '12th': 1, '[PAD]': 2, '▁7': 3}
  found = numbers.with_digits(hf.Tokenizer(models.WordLevel(words)))
  assert found == [1, 3]
