"""Tokens of a reader whose input is plain text, as for the data itself.

A published BERT or T5 reads with its own tokenizer if that of the data is
another one. Answers are matched in its own tokens, and spans are converted to
characters of the text, so that the search may have any tokenizer.
"""

from collections.abc import Sequence

import numpy as np
import tokenizers as hf

from rag_jax import types
from rag_jax.data import pipeline, tokenizers
from rag_jax.readers import base


def passages(
  tokenizer: hf.Tokenizer,
  documents: Sequence[types.Document],
  *,
  max_tokens: int,
) -> tuple[np.ndarray, int]:
  """Tokens int32[N, P] of documents, and how many were truncated."""
  texts = [pipeline.document_text(document) for document in documents]
  found = tokenizers.encode(tokenizer, texts, max_tokens=max_tokens)
  return found.tokens, found.truncated


def questions(
  tokenizer: hf.Tokenizer, texts: Sequence[str], *, max_tokens: int
) -> np.ndarray:
  """Tokens int32[n, Q] of questions, with the model's special tokens."""
  return tokenizers.encode(
    tokenizer, texts, max_tokens=max_tokens, with_special_tokens=True
  ).tokens


INPUTS = base.TextInputs(
  passages=passages,
  questions=questions,
  answers=tokenizers.encode_targets,
  decode=tokenizers.decode,
)
