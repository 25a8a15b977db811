"""Tokens at which sentences end, and the numbers of sentences in passages."""

import jax
import jax.numpy as jnp
import numpy as np
import tokenizers as hf

from rag_jax import types
from rag_jax.data import numbers
from rag_jax.ops import summary_metrics

# Columns of the table of `of_tokenizer`.
END, NUMBER, ABBREVIATION, CLOSING = range(4)
_ENDS = frozenset('.!?…。！？؟।')
_CLOSING = frozenset(')]')
# A full stop after these, or after one letter, ends no sentence.
_ABBREVIATIONS = {*map(str.lower, summary_metrics.TITLES), 'vs', 'fig'}
_STARTS = 'Ġ▁#'  # marks of the start, and the last of the inside, of a word


def of_tokenizer(tokenizer: hf.Tokenizer) -> np.ndarray:
  """What each token says about the ends of sentences.

  Args:
    tokenizer: the tokenizer of the documents.

  Returns:
    float32[V, 4] of 0 and 1: marks that end a sentence, tokens with a digit,
    abbreviations and single letters, closing brackets.

  Example:
    >>> from rag_jax.data import tokenizers
    >>> tokenizer = tokenizers.train(['Hi. A 5!'] * 2, vocab_size=400)
    >>> found = of_tokenizer(tokenizer)
    >>> tokens = tokenizers.encode(tokenizer, ['hi. a 5!'], max_tokens=6).tokens
    >>> found[tokens[0, 1:5]].argmax(1).tolist()
    [0, 2, 1, 0]
  """
  pieces = tokenizer.get_vocab()
  spaced = any(piece[0] in _STARTS[:2] for piece in pieces if piece)
  found = np.zeros((max(pieces.values()) + 1, 4), np.float32)
  for piece, token in pieces.items():
    text = piece.strip(_STARTS).lower()
    if not text.isascii():  # byte-level tokens of other scripts
      text = tokenizer.decode([token]).strip().lower()
    found[token, END] = text in _ENDS
    found[token, CLOSING] = text in _CLOSING
    starts = piece[:1] in _STARTS[:2] if spaced else piece[:2] != '##'
    short = len(text) == 1 and text.isascii() and text.isalpha()
    short |= text in _ABBREVIATIONS
    found[token, ABBREVIATION] = short and starts  # not the end of a word
  found[numbers.with_digits(tokenizer), NUMBER] = 1
  return found


def split(
  tokens: jax.Array, marks: jax.Array, *, most: int
) -> tuple[jax.Array, jax.Array]:
  """The sentence of each token.

  A sentence ends after a token that ends one; of several in a row, after the
  last. It does not end between two numbers, as in 3.5, after an abbreviation or
  a single letter, but for units as in 5 g, or before a closing bracket.

  Args:
    tokens: int32[..., P], 0 = padding.
    marks: float[V, 4], from `of_tokenizer`.
    most: S; what follows sentence S - 1 belongs to it.

  Returns:
    int32[..., P], the number of its sentence from 0; of padding, S. And
    bool[..., P], tokens that are marks.

  Example:
    >>> marks = jnp.zeros((10, 4)).at[9, END].set(1).at[3:6, NUMBER].set(1)
    >>> found, _ = split(jnp.array([7, 9, 3, 9, 5, 9, 8, 0]), marks, most=9)
    >>> found.tolist()
    [0, 0, 1, 1, 1, 1, 2, 9]
  """
  own = marks[tokens] > 0  # [..., P, 4], without a gradient
  edge = [(0, 0)] * (tokens.ndim - 1)
  before = jnp.pad(own, [*edge, (1, 0), (0, 0)])[..., :-1, :]
  earlier = jnp.pad(own, [*edge, (2, 0), (0, 0)])[..., :-2, :]
  after = jnp.pad(own, [*edge, (0, 1), (0, 0)])[..., 1:, :]
  inside = before[..., NUMBER] & after[..., NUMBER]
  inside |= before[..., ABBREVIATION] & ~earlier[..., NUMBER]
  inside |= after[..., END] | after[..., CLOSING]
  ends = own[..., END] & ~inside
  number = jnp.cumsum(ends, axis=-1) - ends
  number = jnp.minimum(number, most - 1)
  return jnp.where(tokens != types.PAD, number, most), own[..., END]
