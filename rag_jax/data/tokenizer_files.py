"""Files of published tokenizers: their padding, and what tells them apart.

Padding is token 0 in all arrays of tokens. A tokenizer with another padding,
such as 1 in XLM-R, is renumbered: padding and token 0 change places, in the
tokenizer and in the embeddings of the weights alike.
"""

import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import tokenizers as hf

from rag_jax import types

_NAMES = ('[PAD]', '<pad>', '<|padding|>')


def pad_token(path: str | os.PathLike[str]) -> int:
  """The id of padding in a published tokenizer; 0 if the file names none.

  Raises:
    ValueError: if the file is missing or damaged.
  """
  path = pathlib.Path(path)
  if path.suffix == '.model':
    return types.PAD  # of a T5
  return find(_json(path), path.parent) or types.PAD


def difference(
  one: str | os.PathLike[str], other: str | os.PathLike[str]
) -> str:
  """What tells apart two published tokenizers, in one line; '' if nothing.

  Truncation, padding, and the conversion of tokens to text do not count.

  Raises:
    ValueError: if a file is missing or damaged.
  """
  if (
    pathlib.Path(one).suffix == '.model'
    or pathlib.Path(other).suffix == '.model'
  ):
    return ''
  ours, theirs = (
    json.loads(hf.Tokenizer.from_str(json.dumps(_json(path))).to_str())
    for path in (one, other)
  )
  words = [dict(_numbered(file)) for file in (ours, theirs)]
  for word, number in words[0].items():
    if words[1].get(word) != number:
      found = words[1].get(word, 'none')
      return (
        f'token {word!r} has the id {number} in one and {found} in the other'
      )
  for part in ('model', 'normalizer', 'pre_tokenizer', 'post_processor'):
    if ours.get(part) != theirs.get(part):
      return f'{part} differs'
  return ''


def restored(tokenizer: hf.Tokenizer, pad: int) -> str:
  """The text of a tokenizer.json with the published ids again.

  Args:
    tokenizer: from `tokenizers.load_published`.
    pad: its published id of padding.
  """
  text = tokenizer.to_str()
  if pad == types.PAD:
    return text
  return json.dumps(swap(json.loads(text), pad), ensure_ascii=False)


def name_of(text: str, number: int) -> str | None:
  """The token with an id in the text of a tokenizer.json; None if none has."""
  return hf.Tokenizer.from_str(text).id_to_token(number)


def _numbered(file: dict) -> Iterator[tuple[str, int]]:
  """Token and id, of all tokens of a tokenizer.json."""
  words = file['model'].get('vocab') or {}
  if isinstance(words, list):
    yield from ((piece[0], number) for number, piece in enumerate(words))
  else:
    yield from words.items()
  for token in file.get('added_tokens') or ():
    yield token['content'], token['id']


def _json(path: str | os.PathLike[str]) -> dict:
  """The contents of a tokenizer.json."""
  try:
    file = json.loads(pathlib.Path(path).read_text(encoding='utf-8'))
    return dict(file)
  except (OSError, ValueError, TypeError, RecursionError) as error:
    raise ValueError(
      f'tokenizer file {str(path)!r} is damaged or missing ({error}). Download '
      'it again.'
    ) from error


def renumber(
  tokenizer: hf.Tokenizer, path: pathlib.Path, pad: int
) -> hf.Tokenizer:
  """A tokenizer with the ids of padding and token 0 exchanged.

  Args:
    tokenizer: as in the file.
    path: its tokenizer.json.
    pad: its id of padding.

  Raises:
    ValueError: if the two tokens cannot change places.
  """
  file = swap(_json(path), pad)
  found = hf.Tokenizer.from_str(json.dumps(file))
  found.encode_special_tokens = True
  places = {types.PAD: pad, pad: types.PAD}
  before = tokenizer.get_vocab()
  if found.get_vocab() != {w: places.get(n, n) for w, n in before.items()}:
    raise ValueError(
      f'padding of {str(path)!r} must be token 0, or a token that can change '
      f'places with it, got {pad}. Give the tokenizer of another model.'
    )
  return found


def find(file: dict[str, Any], folder: pathlib.Path) -> int | None:
  """The id of padding.

  Args:
    file: the contents of a tokenizer.json.
    folder: the folder that holds it. Its tokenizer_config.json and
      special_tokens_map.json name the padding, if they exist.

  Returns:
    The id; None if there is none.

  Example:
    >>> added = [{'id': 1, 'content': '<pad>', 'special': True}]
    >>> find({'added_tokens': added}, pathlib.Path('no_such_folder'))
    1
  """
  special = {
    token['content']: token['id']
    for token in file.get('added_tokens') or ()
    if token.get('special')
  }
  for name in (*_named(folder), *_NAMES):
    if name in special:
      return special[name]
  return (file.get('padding') or {}).get('pad_id')


def swap(file: dict[str, Any], pad: int) -> dict[str, Any]:
  """The tokenizer with the ids of padding and token 0 exchanged.

  Args:
    file: the contents of a tokenizer.json.
    pad: the id of padding.

  Returns:
    A copy. `swap` of it gives the original.

  Example:
    >>> vocabulary = {'<s>': 0, '<pad>': 1, 'a': 2}
    >>> swap({'model': {'vocab': vocabulary}}, 1)['model']['vocab']
    {'<s>': 1, '<pad>': 0, 'a': 2}
  """
  places = {0: pad, pad: 0}
  file = json.loads(json.dumps(file))

  def moved(number):
    return places.get(number, number)

  model, added = file.get('model') or {}, file.get('added_tokens') or []
  words = model.get('vocab')
  # A reader of the file numbers added tokens anew, unless the vocabulary has
  # them.
  if isinstance(words, dict):
    words |= {token['content']: token['id'] for token in added}
    model['vocab'] = {word: moved(number) for word, number in words.items()}
  elif isinstance(words, list):  # the place in a list is the id
    for token in sorted(added, key=lambda token: token['id']):
      if token['id'] == len(words):
        words.append([token['content'], 0.0])
    words[0], words[pad] = words[pad], words[0]
    if isinstance(model.get('unk_id'), int):
      model['unk_id'] = moved(model['unk_id'])
  for token in added:
    token['id'] = moved(token['id'])
  file['added_tokens'] = sorted(added, key=lambda token: token['id'])
  if file.get('padding'):
    file['padding']['pad_id'] = moved(file['padding'].get('pad_id', 0))
  _swap_processor(file.get('post_processor'), moved)
  return file


def _swap_processor(processor: Any, moved: Any) -> None:
  """Renumbers the special tokens of a post-processor, in place."""
  if isinstance(processor, list):
    for part in processor:
      _swap_processor(part, moved)
  if not isinstance(processor, dict):
    return
  _swap_processor(processor.get('processors'), moved)
  for name in ('sep', 'cls'):  # of BERT and RoBERTa: a pair of name and id
    pair = processor.get(name)
    if isinstance(pair, list) and len(pair) == 2:
      pair[1] = moved(pair[1])
  named = processor.get('special_tokens')
  if isinstance(named, dict):
    for token in named.values():
      token['ids'] = [moved(number) for number in token['ids']]


def _named(folder: pathlib.Path) -> list[str]:
  """Names of the padding in the files beside a tokenizer."""
  found = []
  for name in ('tokenizer_config.json', 'special_tokens_map.json'):
    try:
      values = json.loads((folder / name).read_text(encoding='utf-8'))
      token = values.get('pad_token')
    except (OSError, ValueError, AttributeError):
      continue
    if isinstance(token, dict):
      token = token.get('content')
    if isinstance(token, str):
      found.append(token)
  return found
