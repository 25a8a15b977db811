"""Makes the tokenizer of a GGUF file from its metadata.

Two kinds: byte-level byte-pair encoding ('gpt2'), and SentencePiece's, with
scores instead of merges and bytes for unknown characters ('llama').
"""

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

import tokenizers as hf
from tokenizers import (
  decoders,
  models,
  normalizers,
  pre_tokenizers,
  processors,
)

_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4  # types of tokens
_SPACE = '\u2581'  # stands for a space in SentencePiece
_WORDS = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,DIGITS}|"
  r' ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+'
)
# Value of tokenizer.ggml.pre -> steps before the byte-level step.
_SPLITTERS: dict[str, list[Any]] = {
  'smollm': [pre_tokenizers.Digits(individual_digits=True)],
  'gpt-2': [],
  'llama-bpe': [
    pre_tokenizers.Split(hf.Regex(_WORDS.replace('DIGITS', '3')), 'isolated')
  ],
  'qwen2': [
    pre_tokenizers.Split(hf.Regex(_WORDS.replace('DIGITS', '1')), 'isolated')
  ],
}
_OWN_PATTERN = ('smollm', 'gpt-2')  # the byte-level step splits words
_KINDS = [('gpt2', name) for name in _SPLITTERS] + [('llama', 'any')]


def make(
  fields: Mapping[str, Any], vocab_size: int, path: str | os.PathLike[str]
) -> hf.Tokenizer:
  """The tokenizer from the metadata.

  Args:
    fields: the metadata.
    vocab_size: rows of the embedding, each of which has a token.
    path: the file, for errors.

  Raises:
    ValueError: if the kind is not supported, or lists are missing.
  """
  kind = text(fields, 'tokenizer.ggml.model')
  pre = text(fields, 'tokenizer.ggml.pre')
  if kind != 'llama' and not (kind == 'gpt2' and pre in _SPLITTERS):
    raise ValueError(
      f'{str(path)!r} must have a tokenizer of {_KINDS}, got '
      f'{(kind or None, pre or None)}. Give the folder of the model with its '
      'tokenizer.json.'
    )
  tokens = _list(fields, 'tokens', str, path)
  if len(tokens) != vocab_size:
    raise ValueError(
      f'{str(path)!r} must have one token for each of the {vocab_size} rows of '
      f'the embedding, got {len(tokens)} tokens. Download it again.'
    )
  with naming(path):
    if kind == 'gpt2':
      merges = _list(fields, 'merges', str, path)
      tokenizer = _byte_level(tokens, merges, pre)
    else:
      scores = _list(fields, 'scores', float, path)
      tokenizer = _sentence_piece(fields, tokens, scores)
    _add_tokens(tokenizer, fields, tokens)
    _add_start(tokenizer, fields, tokens, kind == 'llama' or pre == 'llama-bpe')
  return tokenizer


def text(fields: Mapping[str, Any], name: str) -> str:
  """A text of the metadata, or ''."""
  value = fields.get(name)
  return value if isinstance(value, str) else ''


def end(fields: Mapping[str, Any]) -> str:
  """The token at the end of a text, or ''."""
  token = fields.get('tokenizer.ggml.eos_token_id')
  tokens = fields.get('tokenizer.ggml.tokens')
  if not isinstance(token, int) or not isinstance(tokens, list):
    return ''
  return tokens[token] if 0 <= token < len(tokens) else ''


@contextlib.contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
  """Errors of what is built from a file name the file, in one line."""
  try:
    yield
  except Exception as error:  # `tokenizers` raises bare Exception
    reason = (str(error) or type(error).__name__).splitlines()[0]
    if str(path) in reason:
      raise
    raise ValueError(
      f'{str(path)!r} must be an intact GGUF file, got one that does not fit '
      f'together ({reason[:200]}). Download it again.'
    ) from error


def _list(fields, name, kind, path):
  """A list of the metadata of the tokenizer."""
  name = f'tokenizer.ggml.{name}'
  values = fields.get(name)
  if not isinstance(values, list) or not all(
    isinstance(value, kind) for value in values
  ):
    what = 'texts' if kind is str else 'numbers'
    raise ValueError(
      f'{str(path)!r} must hold the {what} {name}, got {repr(values)[:60]}. '
      'Convert the model again with a current llama.cpp.'
    )
  return values


def _byte_level(tokens, merges, pre):
  """Byte-level byte-pair encoding."""
  vocabulary = {token: i for i, token in enumerate(tokens)}
  pairs = [tuple(merge.split(' ')) for merge in merges]
  options = {'ignore_merges': True} if pre == 'llama-bpe' else {}
  tokenizer = hf.Tokenizer(
    models.BPE(vocab=vocabulary, merges=pairs, **options)
  )
  if pre == 'qwen2':
    tokenizer.normalizer = normalizers.NFC()
  own = pre in _OWN_PATTERN
  last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=own)
  tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*_SPLITTERS[pre], last])
  tokenizer.decoder = decoders.ByteLevel()
  return tokenizer


def _sentence_piece(fields, tokens, scores):
  """SentencePiece's byte-pair encoding: the best score is merged first."""
  vocabulary = {token: i for i, token in enumerate(tokens)}
  pairs = []
  for token, score in zip(tokens, scores, strict=True):
    own = [
      (token[:i], token[i:])
      for i in range(1, len(token))
      if token[:i] in vocabulary and token[i:] in vocabulary
    ]
    own.sort(key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
    pairs += [(score, pair) for pair in own]
  pairs.sort(key=lambda pair: -pair[0])  # stable
  unknown = fields.get('tokenizer.ggml.unknown_token_id', 0)
  tokenizer = hf.Tokenizer(
    models.BPE(
      vocab=vocabulary,
      merges=[pair for _, pair in pairs],
      unk_token=tokens[unknown],
      fuse_unk=True,
      byte_fallback=True,
    )
  )
  prefix = fields.get('tokenizer.ggml.add_space_prefix', True)
  replace = normalizers.Replace(' ', _SPACE)
  steps = [normalizers.Prepend(_SPACE)] if prefix else []
  tokenizer.normalizer = normalizers.Sequence([*steps, replace])
  back = [decoders.Replace(_SPACE, ' '), decoders.ByteFallback()]
  back.append(decoders.Fuse())
  if prefix:
    back.append(decoders.Strip(content=' ', left=1, right=0))
  tokenizer.decoder = decoders.Sequence(back)
  return tokenizer


def _add_tokens(tokenizer, fields, tokens):
  """Marks tokens that are found before all others, and those that are special.

  Special ones, such as the end of a turn, are no text.
  """
  types = fields.get('tokenizer.ggml.token_type')
  types = types if isinstance(types, list) else []
  typed = list(zip(tokens, types, strict=False))
  special = [t for t, kind in typed if kind in (_CONTROL, _UNKNOWN)]
  tokenizer.add_special_tokens(special)
  added = [t for t, kind in typed if kind == _USER_DEFINED]
  tokenizer.add_tokens([hf.AddedToken(t, normalized=False) for t in added])


def _add_start(tokenizer, fields, tokens, default):
  """Adds the token at the start of a text, if the model has one."""
  first = fields.get('tokenizer.ggml.bos_token_id')
  if not isinstance(first, int) or not fields.get(
    'tokenizer.ggml.add_bos_token', default
  ):
    return
  name = tokens[first]
  tokenizer.post_processor = processors.TemplateProcessing(
    single=f'{name} $A', special_tokens=[(name, first)]
  )
