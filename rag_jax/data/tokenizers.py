"""Subword tokenizers: trained on the user's text, or of a pretrained model.

The tokens of a word or punctuation mark do not depend on its context. The
tokens of an answer are therefore a contiguous subsequence of its document's
tokens, and answer spans are found on the device by matching tokens. The
fallback is bytes, so no text is unknown.
"""

import dataclasses
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import tokenizers as hf
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from rag_jax import files, types
from rag_jax.data import sentence_pieces, tokenizer_checks, tokenizer_files
from rag_jax.ops import checks

PAD, BOS, EOS, SEP, MASK = types.PAD, 1, 2, 3, 4
SPECIAL = ['[PAD]', '[BOS]', '[EOS]', '[SEP]', '[MASK]']
Array = np.ndarray

_CHARACTERS_PER_TOKEN = 40  # longer texts are cut before tokenisation
_CHUNK = 4096  # texts per call of the tokenizer
_ENDS = ('[EOS]', '</s>', '[SEP]')
# Scripts without spaces between words, and symbols such as emoji, are split
# into single characters, so that any substring can be an answer span.
_SINGLE = (
  r'[\p{S}\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]'
)
_KNOWN_PATTERNS = frozenset((_SINGLE, *sentence_pieces.PATTERNS))


@dataclasses.dataclass(frozen=True)
class Encoded:
  """Tokens of texts."""

  tokens: np.ndarray  # int32[n, max_tokens], 0 = padding
  truncated: int  # number of truncated texts
  cut: np.ndarray  # bool[n], which texts are truncated


def train(
  texts: Iterable[str], *, vocab_size: int, lowercase: bool = True
) -> hf.Tokenizer:
  """Trains a byte-level BPE tokenizer, deterministically.

  Args:
    texts: training texts.
    vocab_size: maximum number of tokens, special tokens included; at least 300.
    lowercase: whether to lowercase.

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
  if isinstance(texts, str):
    texts = checks.strings(texts, 'texts')  # raises
  tokenizer = hf.Tokenizer(models.BPE())
  steps = [normalizers.NFKC(), normalizers.Lowercase()]
  tokenizer.normalizer = normalizers.Sequence(steps[: 1 + lowercase])
  tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
    [
      pre_tokenizers.BertPreTokenizer(),
      pre_tokenizers.Split(hf.Regex(_SINGLE), 'isolated'),
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
  """Raises a ValueError if the vocabulary cannot hold all bytes."""
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
    tokenizer: from `train`, `load` or `load_published`.
    texts: n texts.
    max_tokens: longer texts are truncated; added tokens count.
    eos: whether to append `end` to each text, truncated or not.
    with_special_tokens: whether to add the tokenizer's special tokens, such as
      [CLS] and [SEP].

  Returns:
    int32[n, max_tokens] and the number of truncated texts.

  Raises:
    ValueError: if `max_tokens` leaves no room for a token of the text.

  Example:
    >>> tokenizer = train(['one two', 'two three'], vocab_size=300)
    >>> found = encode(tokenizer, ['one', 'one two three'], max_tokens=2)
    >>> found.tokens.shape, found.truncated
    ((2, 2), 1)
  """
  before, after = special_tokens(tokenizer) if with_special_tokens else ([], [])
  if eos:
    after = [end(tokenizer)]
  added = len(before) + len(after)
  room = max_tokens - added
  if room < 1:
    raise ValueError(
      f'max_tokens must be at least {1 + added}, got {max_tokens}. '
      'Set --config.data.max_document_tokens or max_answer_tokens.'
    )
  texts = checks.strings(texts, 'texts')
  tokens = np.zeros((len(texts), max_tokens), np.int32)
  cut = np.zeros(len(texts), bool)
  for row, encoding in enumerate(_encodings(tokenizer, texts, room)):
    ids = encoding.ids
    cut[row] = len(ids) > room
    ids = before + ids[:room] + after
    tokens[row, : len(ids)] = ids
  return Encoded(tokens, int(cut.sum()), cut)


def encode_targets(
  tokenizer: hf.Tokenizer,
  answers: Sequence[Sequence[str]],
  *,
  max_answers: int,
  max_tokens: int,
) -> np.ndarray:
  """Tokenises answers as training targets.

  Args:
    tokenizer: the tokenizer of the documents.
    answers: the answers of each of n questions.
    max_answers: M; further answers are dropped.
    max_tokens: A; a longer answer is all padding.

  Returns:
    int32[n, M, A], 0 = padding.
  """
  found = np.zeros((len(answers), max_answers, max_tokens), np.int32)
  texts, places, before = [], [], lead(tokenizer)
  for i, accepted in enumerate(answers):
    for j, text in enumerate(accepted[:max_answers]):
      texts.append(before + text)
      places.append((i, j))
  if texts:
    encoded = encode(tokenizer, texts, max_tokens=max_tokens + 1).tokens
    fits = encoded[:, -1] == types.PAD
    index = np.asarray(places)[fits]
    found[index[:, 0], index[:, 1]] = encoded[fits, :-1]
  return found


def special_tokens(tokenizer: hf.Tokenizer) -> tuple[list[int], list[int]]:
  """Special tokens before and after a text; none for a trained tokenizer."""
  encoding = tokenizer.encode('a', add_special_tokens=True)
  added = encoding.special_tokens_mask
  if 0 not in added:  # no token for this text
    return encoding.ids, []
  first = added.index(0)
  last = len(added) - added[::-1].index(0)
  return encoding.ids[:first], encoding.ids[last:]


def lead(tokenizer: hf.Tokenizer) -> str:
  """What gives a text the tokens that it has inside another text: '' or ' '.

  Byte-level tokenizers, as of RoBERTa, have other tokens for a word at the
  start of a text than for the same word after a space.
  """
  plain, spaced = (
    tokenizer.encode(text, add_special_tokens=False).ids for text in ('a', ' a')
  )
  return ' ' if plain != spaced and len(plain) == len(spaced) else ''


def offsets(tokenizer: hf.Tokenizer, text: str, *, max_tokens: int) -> Array:
  """Character offsets of tokens in the original text.

  Args:
    tokenizer: from `train`, `load` or `load_published`.
    text: one text, before normalisation.
    max_tokens: as given to `encode`.

  Returns:
    int32[T, 2], the first character of each token and one past its last,
    T <= max_tokens. Byte tokens of one character have the same offsets.

  Example:
    >>> tokenizer = train(['one two', 'one two'], vocab_size=300)
    >>> offsets(tokenizer, 'One  two', max_tokens=8).tolist()
    [[0, 3], [5, 8]]
  """
  encoding = next(_encodings(tokenizer, [text], max_tokens))
  places = np.asarray(encoding.offsets, np.int32).reshape(-1, 2)
  return places[:max_tokens]


def decode(tokenizer: hf.Tokenizer, tokens: Sequence[int] | Array) -> str:
  """Detokenises up to `end`; omits special tokens."""
  ids = [int(token) for token in tokens]
  last = end(tokenizer)
  if last in ids:
    ids = ids[: ids.index(last)]
  return tokenizer.decode(ids, skip_special_tokens=True).strip()


def end(tokenizer: hf.Tokenizer) -> int:
  """The token that ends a text: [EOS], for T5 </s>, for BERT [SEP]."""
  for name in _ENDS:
    if (token := tokenizer.token_to_id(name)) is not None:
      return token
  raise ValueError(
    f'tokenizer must have one of {_ENDS} to end a text, got none. Give a '
    'tokenizer from tokenizers.train, or that of a BERT or T5.'
  )


def save(tokenizer: hf.Tokenizer, path: str | os.PathLike[str]) -> None:
  """Writes a tokenizer, atomically."""
  files.write(path, tokenizer.to_str())


def load(path: str | os.PathLike[str]) -> hf.Tokenizer:
  """Reads a tokenizer that `save` wrote.

  Raises:
    ValueError: if the file is missing or damaged.
  """
  return _read(
    pathlib.Path(path),
    missing='Set --workdir to a trained one, or train first with --mode=train.',
    damaged='Train into another --workdir.',
  )


def load_published(
  path: str | os.PathLike[str],
  *,
  vocab_size: int | None = None,
  lowercase: bool = False,
) -> hf.Tokenizer:
  """Reads the tokenizer of a pretrained model.

  Normalisation is as in the file. Padding and truncation settings of the file
  are dropped, because `encode` does both. The name of a special token in a text
  is plain text; `tokenizer.token_to_id('[CLS]')` gives the id of the token.

  If another token than 0 is the padding, both change places, see
  `tokenizer_files`.

  With WordPiece (BERT), the tokens of an answer of whole words are a contiguous
  subsequence of its document's tokens. With SentencePiece (T5), this holds only
  for an answer after a space: a word after a bracket has other tokens.

  Args:
    path: a tokenizer.json, or a spiece.model (requires sentencepiece).
    vocab_size: rows of the model's embedding; every token id must be below it.
    lowercase: whether to lower-case texts, if the file does not say so.

  Raises:
    ValueError: if the file is missing or damaged, if it names no padding, or if
      a token id is not below `vocab_size`.
  """
  path = pathlib.Path(path)
  if path.suffix == '.model' and path.is_file():
    tokenizer = sentence_pieces.load(path)
    tokenizer.encode_special_tokens = True
  else:
    remedy = 'Give the tokenizer.json or spiece.model of a published model.'
    tokenizer = _read(path, missing=remedy, damaged=remedy)
    if pad := tokenizer_files.pad_token(path):
      tokenizer = tokenizer_files.renumber(tokenizer, path, pad)
  tokenizer.no_truncation()
  tokenizer.no_padding()
  first = tokenizer.get_added_tokens_decoder().get(PAD)
  if first is None or not first.special:
    raise ValueError(
      f'token {PAD} of {str(path)!r} must be a special token, since it is the '
      f'padding here, got {tokenizer.id_to_token(PAD)!r}. Give the tokenizer '
      'of a BERT or T5, or add its pad_token to tokenizer_config.json.'
    )
  if isinstance(tokenizer.model, models.Unigram):
    sentence_pieces.split_special_names(tokenizer)
  if lowercase:
    steps = [normalizers.Lowercase(), tokenizer.normalizer]
    tokenizer.normalizer = normalizers.Sequence([s for s in steps if s])
  last, count = max(tokenizer.get_vocab().values()), tokenizer.get_vocab_size()
  if last >= (count if vocab_size is None else vocab_size):
    kind = (
      'number of tokens' if vocab_size is None else 'vocab_size of the model'
    )
    raise ValueError(
      f'tokens of {str(path)!r} must be below the {kind}, '
      f'{vocab_size or count}, got {last}. Give the tokenizer of that model.'
    )
  return tokenizer


def _read(path: pathlib.Path, *, missing: str, damaged: str) -> hf.Tokenizer:
  """Reads a tokenizer.json; `missing` and `damaged` are the remedies."""
  if not path.is_file():
    raise ValueError(f'tokenizer file {str(path)!r} does not exist. {missing}')
  try:
    text = path.read_text(encoding='utf-8')
    tokenizer = hf.Tokenizer.from_str(text)
    tokenizer_checks.check_patterns(text, _KNOWN_PATTERNS)
    tokenizer.encode('a \u2603')  # fails if tokens that it needs are missing
  except Exception as error:  # the Rust side raises bare Exception
    reason = (str(error) or type(error).__name__).splitlines()[0]
    raise ValueError(
      f'tokenizer file {str(path)!r} is damaged ({reason[:200]}). {damaged}'
    ) from error
  tokenizer.encode_special_tokens = True  # the file does not store this
  return tokenizer


def _encodings(
  tokenizer: hf.Tokenizer, texts: Sequence[str], max_tokens: int
) -> Iterator[hf.Encoding]:
  """Yields encodings whose first `max_tokens` + 1 tokens are exact.

  Texts are tokenised in chunks, in parallel and with bounded memory. A very
  long text is first cut by characters; it is tokenised whole only if the cut
  leaves too few exact tokens.
  """
  limit = _CHARACTERS_PER_TOKEN * (max_tokens + 1)
  for start in range(0, len(texts), _CHUNK):
    chunk = texts[start : start + _CHUNK]
    cut = [_valid(text[:limit]) for text in chunk]
    encodings = _encode_batch(tokenizer, cut)
    for text, encoding in zip(chunk, encodings, strict=True):
      if len(text) > limit and not _is_exact(encoding, max_tokens):
        yield _encode_batch(tokenizer, [_valid(text)])[0]
      else:
        yield encoding


def _encode_batch(
  tokenizer: hf.Tokenizer, texts: list[str]
) -> list[hf.Encoding]:
  try:
    return tokenizer.encode_batch(texts, add_special_tokens=False)
  except BaseException as error:
    # Rust code that gives up raises this type, which derives from no other.
    if type(error).__name__ != 'PanicException':
      raise
    reason = (str(error) or 'unknown reason').splitlines()[0]
    raise ValueError(
      f'the tokenizer gave up on a text ({reason[:200]}). Give the tokenizer '
      'of another published model, or train one: --config.data.tokenizer='
    ) from error


def _is_exact(encoding: hf.Encoding, max_tokens: int) -> bool:
  """Whether `max_tokens` + 1 tokens precede the last word, which may be cut."""
  words = encoding.word_ids
  return sum(word != words[-1] for word in words) > max_tokens


def _valid(text: str) -> str:
  """Replaces lone surrogates, which UTF-8 cannot encode."""
  if text.isascii():
    return text
  return text.encode('utf-8', 'replace').decode('utf-8')
