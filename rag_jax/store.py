"""Files of a workdir that need no model: its experiment and its documents.

config.json          the experiment, as it was first run
documents.jsonl.gz   the corpus, so that the workdir is complete without data
tokenizer.json       and reader-tokenizer.json, where a reader has its own
index.npz            docids, tokens, and what names further documents
checkpoints/         parameters and optimiser state, by Orbax
live.npz             documents, index and node table, once some came or went
"""

import dataclasses
import gzip
import json
import os
import pathlib
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rag_jax import config as configs
from rag_jax import types

Documents = tuple[types.Document | None, ...]  # None = a row that is free
CONFIG = 'config.json'
DOCUMENTS = 'documents.jsonl.gz'
TOKENIZER = 'tokenizer.json'
READER_TOKENIZER = 'reader-tokenizer.json'
INDEX = 'index.npz'
LIVE = 'live.npz'
CHECKPOINTS = 'checkpoints'
STAGES = 'stages'  # the field of the experiment


def pack_documents(documents: Sequence[types.Document | None]) -> bytes:
  """A corpus as compressed JSON lines; the same one gives the same bytes."""
  lines = (
    json.dumps(None if d is None else dataclasses.asdict(d), ensure_ascii=False)
    for d in documents
  )
  text = ''.join(line + '\n' for line in lines)
  return gzip.compress(text.encode(), mtime=0)


def unpack_documents(packed: bytes) -> Documents:
  """What `pack_documents` packed.

  Example:
    >>> documents = (types.Document(id='a', text='A cat.'), None)
    >>> unpack_documents(pack_documents(documents)) == documents
    True
  """
  # Not splitlines, which also splits at separators inside a text.
  lines = gzip.decompress(packed).decode().split('\n')[:-1]
  rows = map(json.loads, lines)
  return tuple(None if row is None else types.Document(**row) for row in rows)


def save_documents(
  documents: Sequence[types.Document | None], workdir: pathlib.Path
) -> None:
  """Writes a corpus, atomically, unless it is there already."""
  path, packed = workdir / DOCUMENTS, pack_documents(documents)
  if path.exists() and path.read_bytes() == packed:
    return
  partial = path.with_suffix('.partial')
  partial.write_bytes(packed)
  os.replace(partial, path)


def load_documents(workdir: pathlib.Path) -> Documents:
  """Reads what `save_documents` wrote.

  Raises:
    ValueError: if it is missing or damaged.
  """
  path = workdir / DOCUMENTS
  try:
    return unpack_documents(path.read_bytes())
  except (OSError, EOFError, ValueError, TypeError, zlib.error) as error:
    raise ValueError(
      f'{str(path)!r} cannot be read ({type(error).__name__}). '
      'Set another --workdir, or train again.'
    ) from error


def read_config(workdir: pathlib.Path) -> configs.Config:
  """The experiment of a workdir.

  Raises:
    ValueError: if it holds none, a damaged one, or one of another version.
  """
  path = workdir / CONFIG
  if workdir.is_file():
    raise ValueError(
      f'workdir {str(workdir)!r} is a file. Give the folder of a trained run.'
    )
  if not path.exists():
    raise ValueError(
      f'workdir {str(workdir)!r} holds no {CONFIG}, so it is not of an '
      'experiment. Train first, with --mode=train and the same --workdir.'
    )
  values = _read(path)
  _check_version(workdir, values)
  return configs.build(values)


def check_trained(workdir: pathlib.Path) -> None:
  """Raises a ValueError if a workdir holds no checkpoint."""
  if not (workdir / CHECKPOINTS).is_dir():
    raise ValueError(
      f'workdir {str(workdir)!r} holds no checkpoint. '
      'Train first, with --mode=train and the same --workdir.'
    )


def claim(workdir: str | os.PathLike[str], config: configs.Config) -> None:
  """Writes config.json on the first run, and checks it on the next.

  Args:
    workdir: the folder; made if it is not there.
    config: the experiment; fields in `config.MAY_CHANGE` may differ between
      runs.

  Raises:
    ValueError: if the folder belongs to another experiment or to somebody
      else; nothing has been written then.
  """
  workdir = pathlib.Path(workdir)
  if workdir.exists() and not workdir.is_dir():
    raise ValueError(
      f'workdir {str(workdir)!r} is a file. Set --workdir to a folder.'
    )
  path = workdir / 'config.json'
  if not path.exists():
    if workdir.exists() and any(workdir.iterdir()):
      raise ValueError(
        f'workdir {str(workdir)!r} holds files but no config.json, so it is '
        'not of an experiment. Set --workdir to a new or empty folder.'
      )
    text = json.dumps(configs.as_dict(config), indent=2)
    partial = path.with_suffix('.partial')
    try:
      workdir.mkdir(parents=True, exist_ok=True)
      partial.write_text(text + '\n', encoding='utf-8')
      os.replace(partial, path)
    except OSError as error:
      raise ValueError(
        f'workdir {str(workdir)!r} cannot be written ({error.strerror}). '
        'Set --workdir to a folder that can.'
      ) from error
    return
  values = _read(path)
  _check_version(workdir, values)
  stored, ours = _values(values), _values(configs.as_dict(config))
  for name in sorted(ours.keys() | stored.keys()):
    value, was = ours.get(name), stored.get(name)
    if value == was or name in configs.MAY_CHANGE:
      continue
    remedy = f'--config.{name}={was}'
    if name == STAGES:  # which is no flag
      remedy = 'these stages in the experiment, in this order'
    raise ValueError(
      f'workdir {str(workdir)!r} holds an experiment with {name}={was!r}, got '
      f'{value!r}. Set another --workdir, or {remedy}.'
    )


def _read(path: pathlib.Path) -> dict[str, Any]:
  try:
    values = json.loads(path.read_text(encoding='utf-8'))
    values.get(STAGES, {}).items()
  except (ValueError, AttributeError) as error:
    raise ValueError(
      f'{str(path)!r} is damaged ({error}). Set another --workdir.'
    ) from error
  return values


def _check_version(workdir: pathlib.Path, values: dict[str, Any]) -> None:
  """Raises a ValueError on a field that this version does not have."""
  found = dict(_flatten(values))
  strange = found.keys() - _defaults(values.get(STAGES, {})).keys()
  if strange:
    name = min(strange)
    raise ValueError(
      f'workdir {str(workdir)!r} holds an experiment of another version, with '
      f'{name}={found[name]!r}. Set another --workdir, or use the version that '
      'made it.'
    )


def _values(values: dict[str, Any]) -> dict[str, Any]:
  """Every field of an experiment by its dotted name, as config.json has it.

  A field that is younger than the experiment does nothing by default. What a
  stage does not name among its losses and components is off.
  """
  plain = json.loads(json.dumps(values))
  names = plain.get(STAGES, {})
  order = {STAGES: ', '.join(names)}
  return _defaults(names) | dict(_flatten(plain)) | order


def _defaults(stages: Iterable[str]) -> dict[str, Any]:
  """The default of every field by its dotted name, with stages so named."""
  values = configs.as_dict(dataclasses.replace(configs.Config(), stages=()))
  nothing: dict[str, Any] = {'losses': {}, 'trains': {}}
  own = configs.stages(**dict.fromkeys(stages, nothing)).to_dict()
  plain = json.loads(json.dumps(values | {STAGES: own}))
  return dict(_flatten(plain))


def _flatten(values: dict[str, Any], prefix: str = '') -> Iterator:
  for name, value in values.items():
    if isinstance(value, dict):
      yield from _flatten(value, f'{prefix}{name}.')
    else:
      yield prefix + name, value
