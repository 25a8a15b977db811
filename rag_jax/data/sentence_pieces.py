"""The tokenizer of a T5 as SentencePiece keeps it, a spiece.model.

It becomes a Hugging Face tokenizer, like all others here, so that it gives
offsets and uses all cores.
"""

import pathlib
import re

import tokenizers as hf
from tokenizers import decoders, models, normalizers, pre_tokenizers

_UNIGRAM = 1  # of the kinds of models
_UNKNOWN, _CONTROL = 2, 3  # of the kinds of pieces
_SENTINELS = 100  # <extra_id_0> ..., which T5 counts behind the pieces


def load(path: pathlib.Path) -> hf.Tokenizer:
  """Reads a spiece.model.

  Args:
    path: the file.

  Returns:
    A Hugging Face tokenizer of the same pieces and ids.

  Raises:
    ValueError: if the file is damaged or of another kind of model, or if
      sentencepiece is not installed.
  """
  try:
    from sentencepiece import sentencepiece_model_pb2
  except ImportError as error:
    raise ValueError(
      f'{str(path)!r} is read with sentencepiece, which is not installed. Run '
      "pip install 'rag_jax[text]', or give a tokenizer.json."
    ) from error
  # protobuf makes this class at run time, where a type checker cannot see it.
  model = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
  try:
    model.ParseFromString(path.read_bytes())
  except Exception as error:  # of protobuf, whose classes differ
    raise ValueError(
      f'tokenizer file {str(path)!r} is damaged ({error}). Get it again.'
    ) from error
  if not model.pieces or model.trainer_spec.model_type != _UNIGRAM:
    raise ValueError(
      f'{str(path)!r} must hold a unigram model, got {len(model.pieces)} '
      f'pieces of kind {model.trainer_spec.model_type}. Give the spiece.model '
      'of a T5, or a tokenizer.json.'
    )
  return _convert(model)


def keep_names_apart(tokenizer: hf.Tokenizer) -> None:
  """Makes '</s>' in a text just text, which a unigram model takes for a piece.

  Args:
    tokenizer: of a unigram model; changed in place, so that the first
      character of the name of a special token goes apart from the rest.
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
  """Follows the settings of the file."""
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
    steps.append(normalizers.Replace(hf.Regex(r'\A +| +\z'), ''))
    steps.append(normalizers.Replace(hf.Regex(' {2,}'), ' '))
  tokenizer.normalizer = normalizers.Sequence(steps)
  prefix = 'always' if settings.add_dummy_prefix else 'never'
  tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prefix)
  tokenizer.decoder = decoders.Metaspace(prepend_scheme=prefix)
  tokenizer.add_special_tokens(special)
  return tokenizer
