"""Input of a published encoder: texts with its prompt and special tokens."""

from collections.abc import Sequence

import numpy as np
import tokenizers as hf_tokenizers

from rag_jax import console, types
from rag_jax.data import tokenizers

AUTO = 'auto'  # a prompt as the published weights say
MAX_TOKENS = 512  # of a document, if the configuration says nothing
FEWEST = 3  # [CLS], a token and [SEP]


def prompt(text: str) -> str:
  """A prompt of the configuration; '' if it is not filled in."""
  return '' if text == AUTO else text


def around_query(
  tokenizer: hf_tokenizers.Tokenizer, query_prompt: str
) -> tuple[list[int], list[int]]:
  """Tokens before and after a question: special tokens, and the prompt."""
  before, after = tokenizers.special_tokens(tokenizer)
  words = prompt(query_prompt)
  if words:
    before = before + tokenizer.encode(words, add_special_tokens=False).ids
  return before, after


def pair_tokens(
  tokenizer: hf_tokenizers.Tokenizer,
) -> tuple[list[int], list[int]]:
  """Special tokens that a text pair has and a single text has not.

  Returns:
    Those between the end of the first text, with its special tokens, and the
    second text; and those after the second text. For BERT: none and [SEP].
  """
  before, after = tokenizers.special_tokens(tokenizer)
  encoding = tokenizer.encode('a', 'a', add_special_tokens=True)
  texts = [
    i for i, added in enumerate(encoding.special_tokens_mask) if not added
  ]
  half = len(texts) // 2
  between = encoding.ids[texts[half - 1] + 1 : texts[half]]
  return between[len(after) :], encoding.ids[texts[-1] + 1 :]


def prompt_tokens(tokenizer: hf_tokenizers.Tokenizer, query_prompt: str) -> int:
  """Tokens that the prompt adds to a question."""
  around = around_query(tokenizer, query_prompt)
  special = tokenizers.special_tokens(tokenizer)
  return sum(map(len, around)) - sum(map(len, special))


def documents(
  tokenizer: hf_tokenizers.Tokenizer,
  texts: Sequence[str],
  *,
  document_prompt: str,
  max_tokens: int,
) -> np.ndarray:
  """Tokenises documents for the encoder, int32[N, T], T of the longest one.

  A note says how many are truncated.

  Args:
    tokenizer: the tokenizer of the encoder.
    texts: N documents.
    document_prompt: `data.document_prompt`.
    max_tokens: `data.max_vector_tokens`, special tokens included.
  """
  words, size = prompt(document_prompt), max_tokens or MAX_TOKENS
  encoded = tokenizers.encode(
    tokenizer,
    [words + text for text in texts] if words else texts,
    max_tokens=size,
    with_special_tokens=True,
  )
  if encoded.truncated:
    console.note(
      f'the vectors of {encoded.truncated} of {len(texts)} documents are of '
      f'their first {size} tokens (--config.data.max_vector_tokens).'
    )
  longest = (encoded.tokens != types.PAD).sum(axis=1).max(initial=1)
  return encoded.tokens[:, :longest]
