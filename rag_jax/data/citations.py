"""Citations in texts and tokens.

In a text, the mark [n] after a sentence cites document n, from 1. In the tokens
of an answer, -n cites it: the documents are the gold documents of the question
in a training target, and the documents read in what a reader writes. No token
of a tokenizer is negative, so a citation is never taken from a text.
"""

from collections.abc import Sequence

import numpy as np
import tokenizers as hf

from rag_jax import types
from rag_jax.data import tokenizers
from rag_jax.ops import summary_metrics


def encode_targets(
  tokenizer: hf.Tokenizer,
  answers: Sequence[Sequence[str]],
  *,
  max_answers: int,
  max_tokens: int,
) -> np.ndarray:
  """Tokenises answers with marks as training targets.

  Args:
    tokenizer: the tokenizer of the documents.
    answers: the answers of each of n questions.
    max_answers: M; further answers are dropped.
    max_tokens: A; a longer answer is all padding.

  Returns:
    int32[n, M, A], 0 = padding, -n = the mark [n].

  Example:
    >>> tokenizer = tokenizers.train(['one two.', 'two.'], vocab_size=300)
    >>> options = {'max_answers': 1, 'max_tokens': 9}
    >>> found = encode_targets(tokenizer, [['two. [2]']], **options)
    >>> found.shape, found.min(), decode(tokenizer, found[0, 0])
    ((1, 1, 9), np.int32(-2), 'two . [2]')
  """
  pieces: list[str] = []
  plans = []
  for accepted in answers:
    for text in accepted[:max_answers]:
      plan: list[int | None] = []  # None = the next piece
      start = 0
      for mark in summary_metrics.MARKS.finditer(text):
        if piece := text[start : mark.start()].strip():
          pieces.append(piece)
          plan.append(None)
        plan.append(-int(mark[1]))
        start = mark.end()
      if piece := text[start:].strip():
        pieces.append(piece)
        plan.append(None)
      plans.append(plan)
  encoded = tokenizers.encode(
    tokenizer,
    [tokenizers.lead(tokenizer) + piece for piece in pieces],
    max_tokens=max_tokens + 1,
  ).tokens
  left, planned = iter(encoded), iter(plans)
  found = np.zeros((len(answers), max_answers, max_tokens), np.int32)
  for row, accepted in enumerate(answers):
    for place in range(len(accepted[:max_answers])):
      tokens: list[int] = []
      for number in next(planned):
        if number is not None:
          tokens.append(number)
          continue
        own = next(left)
        tokens += own[own != types.PAD].tolist()
      if len(tokens) <= max_tokens:
        found[row, place, : len(tokens)] = tokens
  return found


def decode(tokenizer: hf.Tokenizer, tokens: Sequence[int] | np.ndarray) -> str:
  """The text of tokens, with the mark [n] for -n."""
  parts: list[str] = []
  piece: list[int] = []
  for token in (*map(int, tokens), types.PAD):
    if token > 0:
      piece.append(token)
      continue
    if piece:
      parts.append(tokenizers.decode(tokenizer, piece))
      piece = []
    if token == types.PAD:
      break
    parts.append(f'[{-token}]')
  return ' '.join(parts)
