"""Tokens that are numbers, and their order."""

import re

import numpy as np
import tokenizers as hf

_STARTS = 'Ġ▁'  # marks of the start of a word in byte-level BPE, SentencePiece


def with_digits(tokenizer: hf.Tokenizer) -> list[int]:
  """Tokens with a digit, such as years, in increasing order."""
  pieces = tokenizer.get_vocab()
  return sorted(i for piece, i in pieces.items() if re.search(r'\d', piece))


def order(tokenizer: hf.Tokenizer) -> np.ndarray:
  """The place of each token that is a number among all of them.

  Numbers are written in the digits 0 to 9 alone. The n different ones have the
  values (2 r + 1) / n - 1 in (-1, 1), where r counts the smaller ones.

  Args:
    tokenizer: the tokenizer of the documents.

  Returns:
    float32[V]; 0 for tokens that are not numbers.

  Example:
    >>> from tokenizers import models
    >>> words = {'[PAD]': 0, 'in': 1, '1848': 2, '9': 3, '1912': 4, '4th': 5}
    >>> found = order(hf.Tokenizer(models.WordLevel(words)))
    >>> [f'{value:.2f}' for value in found]
    ['0.00', '0.00', '0.00', '-0.67', '0.67', '0.00']
  """
  found = {}
  for piece, token in tokenizer.get_vocab().items():
    digits = piece.lstrip(_STARTS)
    if re.fullmatch('[0-9]+', digits):
      found[token] = int(digits)
  ranks = {value: r for r, value in enumerate(sorted(set(found.values())))}
  values = np.zeros(tokenizer.get_vocab_size(), np.float32)
  for token, value in found.items():
    values[token] = (2 * ranks[value] + 1) / len(ranks) - 1
  return values
