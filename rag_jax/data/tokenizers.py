"""Subword tokens of any script, learned from the user's own text.

Every word and punctuation mark is tokenised alike wherever it stands, so the
tokens of an answer are a run of its document's tokens, and answers are found
on the device by matching. Bytes are the fallback: no text is unknown.

`load_published` reads the tokenizer of a pretrained model instead.
"""

import dataclasses
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import tokenizers as hf
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from rag_jax import types
from rag_jax.data import sentence_pieces

PAD, BOS, EOS, SEP, MASK = types.PAD, 1, 2, 3, 4
SPECIAL = ['[PAD]', '[BOS]', '[EOS]', '[SEP]', '[MASK]']
Array = np.ndarray

_CHARACTERS_PER_TOKEN = 40  # a longer text is cut before it is tokenised
_CHUNK = 4096  # texts tokenised at once
_ENDS = ('[EOS]', '</s>', '[SEP]')
# Scripts that put no space between words, and symbols such as emoji, go one
# character at a time: any stretch of them can then be an answer.
_ALONE = (
  r'[\p{S}\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]'
)


@dataclasses.dataclass(frozen=True)
class Encoded:
  """Texts as tokens."""

  tokens: np.ndarray  # int32[n, max_tokens], 0 = padding
  truncated: int  # how many texts were cut


def train(
  texts: Iterable[str], *, vocab_size: int, lowercase: bool = True
) -> hf.Tokenizer:
  """Learns byte-pair merges; the same texts give the same tokenizer.

  Args:
    texts: what to learn from.
    vocab_size: tokens at most, special ones included; at least 300.
    lowercase: whether case is folded.

  Returns:
    A Hugging Face tokenizer.

  Example:
    >>> tokenizer = train(['one two', 'two three'], vocab_size=300)
    >>> decode(tokenizer, encode(tokenizer, ['Two!'], max_tokens=8).tokens[0])
    'two !'

  Reference:
    Sennrich et al., Neural Machine Translation of Rare Words with Subword
    Units, 2016.
  """
  check_vocab_size(vocab_size)
  tokenizer = hf.Tokenizer(models.BPE())
  steps = [normalizers.NFKC(), normalizers.Lowercase()]
  tokenizer.normalizer = normalizers.Sequence(steps[: 1 + lowercase])
  tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
    [
      pre_tokenizers.BertPreTokenizer(),
      pre_tokenizers.Split(hf.Regex(_ALONE), 'isolated'),
      pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False),
    ]
  )
  tokenizer.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=vocab_size,
    special_tokens=SPECIAL,
    initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    show_progress=False,
  )
  tokenizer.train_from_iterator(map(_valid, texts), trainer)
  tokenizer.encode_special_tokens = True  # '[EOS]' in a text is just text
  return tokenizer


def check_vocab_size(vocab_size: int) -> None:
  """Raises a ValueError if there is no room for every byte."""
  if vocab_size < 300:
    raise ValueError(
      f'vocab_size must be at least 300 (all bytes), got {vocab_size}. '
      'Set --config.data.vocab_size.'
    )


def encode(
  tokenizer: hf.Tokenizer,
  texts: Sequence[str],
  *,
  max_tokens: int,
  eos: bool = False,
  with_special_tokens: bool = False,
) -> Encoded:
  """Tokenises texts into one padded array.

  Args:
    tokenizer: from `train` or `load`.
    texts: n texts.
    max_tokens: a longer text is cut.
    eos: whether each text ends in `end`, which counts as one of its tokens and
      is kept when the text is cut.
    with_special_tokens: whether the tokenizer's special tokens, such as [CLS]
      and [SEP], are added; they count as tokens too.

  Returns:
    int32[n, max_tokens] and the number of texts that were cut.

  Raises:
    ValueError: if there is no room for a token.

  Example:
    >>> tokenizer = train(['one two', 'two three'], vocab_size=300)
    >>> found = encode(tokenizer, ['one', 'one two three'], max_tokens=2)
    >>> found.tokens.shape, found.truncated
    ((2, 2), 1)
  """
  before, after = special_tokens(tokenizer) if with_special_tokens else ([], [])
  if eos:
    after = [end(tokenizer)]
  taken = len(before) + len(after)
  room = max_tokens - taken
  if room < 1:
    raise ValueError(
      f'max_tokens must be at least {1 + taken}, got {max_tokens}. '
      'Set --config.data.max_document_tokens, max_query_tokens or '
      'max_answer_tokens.'
    )
  tokens = np.zeros((len(texts), max_tokens), np.int32)
  truncated = 0
  for row, encoding in enumerate(_encodings(tokenizer, texts, room)):
    ids = encoding.ids
    truncated += len(ids) > room
    ids = before + ids[:room] + after
    tokens[row, : len(ids)] = ids
  return Encoded(tokens, truncated)


def special_tokens(tokenizer: hf.Tokenizer) -> tuple[list[int], list[int]]:
  """Special tokens before and after a text; none if it was learned here."""
  ids = tokenizer.encode('', add_special_tokens=True).ids
  half = len(ids) // 2
  return ids[:half], ids[half:]


def offsets(tokenizer: hf.Tokenizer, text: str, *, max_tokens: int) -> Array:
  """Where each token stands in the text as it was given.

  Args:
    tokenizer: from `train` or `load`.
    text: one text, before any normalisation.
    max_tokens: as given to `encode`.

  Returns:
    int32[T, 2], the first character of a token and the one past its last,
    T <= max_tokens. Tokens that share a character share its place.

  Example:
    >>> tokenizer = train(['one two', 'one two'], vocab_size=300)
    >>> offsets(tokenizer, 'One  two', max_tokens=8).tolist()
    [[0, 3], [5, 8]]
  """
  encoding = next(_encodings(tokenizer, [text], max_tokens))
  places = np.asarray(encoding.offsets, np.int32).reshape(-1, 2)
  return places[:max_tokens]


def decode(tokenizer: hf.Tokenizer, tokens: Sequence[int] | Array) -> str:
  """The text of tokens up to `end`, words apart; special ones are left out."""
  ids = [int(token) for token in tokens]
  last = end(tokenizer)
  if last in ids:
    ids = ids[: ids.index(last)]
  return tokenizer.decode(ids, skip_special_tokens=True).strip()


def end(tokenizer: hf.Tokenizer) -> int:
  """The token that ends a text: [EOS], of T5 </s>, of BERT [SEP]."""
  for name in _ENDS:
    if (token := tokenizer.token_to_id(name)) is not None:
      return token
  raise ValueError(
    f'tokenizer must have one of {_ENDS} to end a text, got none. Give one '
    'from train, or that of a BERT or T5.'
  )


def save(tokenizer: hf.Tokenizer, path: str | os.PathLike[str]) -> None:
  """Writes a tokenizer, atomically."""
  path = pathlib.Path(path)
  partial = path.with_name(path.name + '.partial')
  partial.write_text(tokenizer.to_str(), encoding='utf-8')
  os.replace(partial, path)


def load(path: str | os.PathLike[str]) -> hf.Tokenizer:
  """Reads what `save` wrote.

  Raises:
    ValueError: if the file is missing or is no tokenizer.
  """
  return _read(
    pathlib.Path(path),
    missing='Set --workdir to a trained one, or train first with --mode=train.',
    damaged='Train into another --workdir to make it again.',
  )


def load_published(
  path: str | os.PathLike[str], *, vocab_size: int | None = None
) -> hf.Tokenizer:
  """Reads the tokenizer of a pretrained model, as it was published.

  Normalisation is as in the file; lengths are not: `encode` alone pads and
  cuts. `encode` adds no special tokens, and one typed in a text is just text;
  read off their numbers by `tokenizer.token_to_id('[CLS]')`.

  In WordPiece (BERT) the tokens of an answer of whole words are a run of those
  of its document. In SentencePiece (T5) that holds of an answer after a space:
  a word after a bracket has other tokens.

  Args:
    path: a tokenizer.json, or a spiece.model (for that sentencepiece must be
      installed).
    vocab_size: rows of the model's embedding, to check the tokens against.

  Raises:
    ValueError: if the file is missing or damaged, if token 0 could be a piece
      of a text (it is padding here), or if the model lacks tokens.
  """
  path = pathlib.Path(path)
  if path.suffix == '.model' and path.is_file():
    tokenizer = sentence_pieces.load(path)
    tokenizer.encode_special_tokens = True
  else:
    remedy = 'Give the tokenizer.json or spiece.model of a published model.'
    tokenizer = _read(path, missing=remedy, damaged=remedy)
  tokenizer.no_truncation()
  tokenizer.no_padding()
  first = tokenizer.get_added_tokens_decoder().get(PAD)
  if first is None or not first.special:
    raise ValueError(
      f'token {PAD} of {str(path)!r} must be a special one, it is padding '
      f'here, got {tokenizer.id_to_token(PAD)!r}. Give the tokenizer of a '
      'BERT or T5, which have it so.'
    )
  if isinstance(tokenizer.model, models.Unigram):
    sentence_pieces.keep_names_apart(tokenizer)
  last = max(tokenizer.get_vocab().values())
  if vocab_size is not None and last >= vocab_size:
    raise ValueError(
      f'tokens of {str(path)!r} must be below the vocab_size of the model, '
      f'{vocab_size}, got {last}. Give the tokenizer of that model.'
    )
  return tokenizer


def _read(path: pathlib.Path, *, missing: str, damaged: str) -> hf.Tokenizer:
  """Reads a Hugging Face tokenizer; the remedies are for the errors."""
  if not path.is_file():
    raise ValueError(f'tokenizer file {str(path)!r} does not exist. {missing}')
  try:
    tokenizer = hf.Tokenizer.from_str(path.read_text(encoding='utf-8'))
  except Exception as error:  # the Rust side raises bare Exception
    raise ValueError(
      f'tokenizer file {str(path)!r} is damaged ({error}). {damaged}'
    ) from error
  tokenizer.encode_special_tokens = True  # is not saved with the rest
  return tokenizer


def _encodings(
  tokenizer: hf.Tokenizer, texts: Sequence[str], max_tokens: int
) -> Iterator[hf.Encoding]:
  """Encodings of texts, exact in their first `max_tokens` + 1 tokens.

  Chunks share the Rust threads and bound the memory. A text far longer than
  max_tokens is cut by characters first, so that a huge document costs no more
  than a long one.
  """
  limit = _CHARACTERS_PER_TOKEN * (max_tokens + 1)
  for start in range(0, len(texts), _CHUNK):
    chunk = texts[start : start + _CHUNK]
    cut = [_valid(text[:limit]) for text in chunk]
    encodings = tokenizer.encode_batch(cut, add_special_tokens=False)
    for text, encoding in zip(chunk, encodings, strict=True):
      if len(text) > limit and not _is_exact(encoding, max_tokens):
        yield tokenizer.encode(_valid(text), add_special_tokens=False)
      else:
        yield encoding


def _is_exact(encoding: hf.Encoding, max_tokens: int) -> bool:
  """Whether the cut, which may be inside the last word, is far enough back."""
  words = encoding.word_ids
  return sum(word != words[-1] for word in words) > max_tokens


def _valid(text: str) -> str:
  """The text with lone surrogates, which UTF-8 cannot hold, replaced."""
  if text.isascii():
    return text
  return text.encode('utf-8', 'replace').decode('utf-8')
