"""Converts the SentencePiece file of a T5 (spiece.model) to Hugging Face.

The Hugging Face tokenizer returns character offsets and uses all cores.
"""

import pathlib
import re

import tokenizers as hf
from tokenizers import decoders, models, normalizers, pre_tokenizers

_UNIGRAM = 1  # TrainerSpec.ModelType
_UNKNOWN, _CONTROL = 2, 3  # SentencePiece.Type
PATTERNS = r'\A +| +\z', ' {2,}'  # spaces to remove, spaces to join
_SENTINELS = 100  # <extra_id_0> ..., whose ids follow the pieces in T5


def load(path: pathlib.Path) -> hf.Tokenizer:
  """Reads a spiece.model.

  Args:
    path: the file.

  Returns:
    A Hugging Face tokenizer with the same pieces and ids.

  Raises:
    ValueError: if the file is damaged, the model is not a unigram model, or
      sentencepiece is not installed.
  """
  try:
    from sentencepiece import sentencepiece_model_pb2
  except ImportError as error:
    raise ValueError(
      f'reading {str(path)!r} needs sentencepiece, which is not installed. Run '
      "pip install 'rag_jax[text]', or give a tokenizer.json."
    ) from error
  # protobuf creates this class at run time, invisible to a type checker.
  model = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
  try:
    model.ParseFromString(path.read_bytes())
  except Exception as error:  # the class depends on the protobuf version
    raise ValueError(
      f'tokenizer file {str(path)!r} is damaged ({error}). Download it again.'
    ) from error
  if not model.pieces or model.trainer_spec.model_type != _UNIGRAM:
    raise ValueError(
      f'{str(path)!r} must hold a unigram model, got {len(model.pieces)} '
      f'pieces of kind {model.trainer_spec.model_type}. Give the spiece.model '
      'of a T5, or a tokenizer.json.'
    )
  return _convert(model)


def split_special_names(tokenizer: hf.Tokenizer) -> None:
  """Makes the name of a special token in a text, such as '</s>', plain text.

  A unigram model would encode it as the special token. This splits the first
  character of each such name from the rest.

  Args:
    tokenizer: a tokenizer with a unigram model; changed in place.
  """
  names = [
    token.content
    for token in tokenizer.get_added_tokens_decoder().values()
    if token.special
  ]
  pattern = '|'.join(
    f'{re.escape(name[0])}(?={re.escape(name[1:])})' for name in names
  )
  tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
    [
      tokenizer.pre_tokenizer,
      pre_tokenizers.Split(hf.Regex(pattern), 'isolated'),
    ]
  )


def _convert(model) -> hf.Tokenizer:
  """Builds the tokenizer with the pieces and settings of the file."""
  pieces = [(piece.piece, piece.score) for piece in model.pieces]
  special = [
    piece.piece for piece in model.pieces if piece.type in (_UNKNOWN, _CONTROL)
  ]
  if not any('<extra_id_' in piece for piece, _ in pieces):
    names = [f'<extra_id_{i}>' for i in reversed(range(_SENTINELS))]
    pieces += [(name, 0.0) for name in names]
    special += names
  tokenizer = hf.Tokenizer(
    models.Unigram(pieces, unk_id=model.trainer_spec.unk_id)
  )
  settings = model.normalizer_spec
  steps: list[normalizers.Normalizer] = []
  if settings.precompiled_charsmap:
    steps.append(normalizers.Precompiled(settings.precompiled_charsmap))
  if settings.remove_extra_whitespaces:
    steps.append(normalizers.Replace(hf.Regex(PATTERNS[0]), ''))
    steps.append(normalizers.Replace(hf.Regex(PATTERNS[1]), ' '))
  tokenizer.normalizer = normalizers.Sequence(steps)
  prefix = 'always' if settings.add_dummy_prefix else 'never'
  tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prefix)
  tokenizer.decoder = decoders.Metaspace(prepend_scheme=prefix)
  tokenizer.add_special_tokens(special)
  return tokenizer
