"""Files of a workdir; this module reads and writes configuration and documents.

config.json          the experiment
config-changes.jsonl   fields that changed in the middle of the run
data.json            hash of the training questions
documents.jsonl.gz   the corpus, so that the workdir works without the data
tokenizer.json       the tokenizer of the data
reader-tokenizer.json  the tokenizer of a reader that does not use that
generated-questions.jsonl, generator.npz
                     questions about documents, and the model that wrote them
index.npz            docids, tokens, and the quantiser for new documents
checkpoints/         parameters and optimiser state, by Orbax
live.npz             documents, index and node table after a change of documents
lock                 held by the process that writes; see `lock`
"""

import dataclasses
import gzip
import json
import os
import pathlib
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rag_jax import checkpoint, console, files, lock, types
from rag_jax import config as configs
from rag_jax.data import text_files

Documents = tuple[types.Document | None, ...]  # None = an empty row
CONFIG = 'config.json'
CHANGES = 'config-changes.jsonl'
DATA = 'data.json'
DOCUMENTS = 'documents.jsonl.gz'
TOKENIZER = 'tokenizer.json'
READER_TOKENIZER = 'reader-tokenizer.json'
INDEX = 'index.npz'
LIVE = 'live.npz'
CHECKPOINTS = 'checkpoints'
BEST = 'best'  # parameters of the best checkpoint, by `train.keep_best`
STAGES = 'stages'  # field of the experiment
CONFIG_REMEDY = (
  'Copy config.json of a folder in evaluations/ over it, if there is one, or '
  'set another --workdir.'
)
# All that a run can leave that was killed before it wrote config.json.
LEFTOVERS = {lock.FILE, f'{CONFIG}.partial', 'config.partial'}


def pack_documents(documents: Sequence[types.Document | None]) -> bytes:
  """A corpus as compressed JSON lines, deterministic."""
  lines = (json.dumps(_fields(d), ensure_ascii=False) for d in documents)
  text = ''.join(line + '\n' for line in lines)
  return gzip.compress(text.encode(), mtime=0)


def _fields(document: types.Document | None) -> dict[str, Any] | None:
  """A document as values; without questions as before there were any."""
  if document is None:
    return None
  fields = dataclasses.asdict(document)
  if not document.questions:
    del fields['questions']
  return fields


def unpack_documents(packed: bytes) -> Documents:
  """The inverse of `pack_documents`.

  Example:
    >>> documents = (types.Document(id='a', text='A cat.'), None)
    >>> unpack_documents(pack_documents(documents)) == documents
    True
  """
  # Not splitlines, which also splits at Unicode separators inside a text.
  lines = gzip.decompress(packed).decode().split('\n')[:-1]
  rows = map(json.loads, lines)
  return tuple(None if row is None else _document(row) for row in rows)


def _document(fields: dict[str, Any]) -> types.Document:
  questions = tuple(fields.pop('questions', ()))
  return types.Document(**fields, questions=questions)


def save_documents(
  documents: Sequence[types.Document | None], workdir: pathlib.Path
) -> None:
  """Writes a corpus, atomically, unless the file has it already."""
  path, packed = workdir / DOCUMENTS, pack_documents(documents)
  if path.exists() and path.read_bytes() == packed:
    return
  files.write(path, packed)


def load_documents(workdir: pathlib.Path) -> Documents:
  """Reads the corpus of a workdir.

  Raises:
    ValueError: if the file is missing or damaged.
  """
  path = workdir / DOCUMENTS
  try:
    return unpack_documents(path.read_bytes())
  except (OSError, EOFError, ValueError, TypeError, zlib.error) as error:
    raise ValueError(
      f'{str(path)!r} cannot be read ({type(error).__name__}). '
      'Run rag-jax train with the same --workdir, which writes it again.'
    ) from error


def read_config(workdir: pathlib.Path) -> configs.Config:
  """Reads the experiment of a workdir.

  Raises:
    ValueError: if config.json is missing, damaged, or of another version.
  """
  path = workdir / CONFIG
  if workdir.is_file():
    raise ValueError(
      f'workdir {str(workdir)!r} is a file. Give the folder of a trained run.'
    )
  if not path.exists():
    raise ValueError(
      f'workdir {str(workdir)!r} holds no {CONFIG}, so it is no run. '
      'Train first, with --mode=train and the same --workdir.'
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


def claim(
  workdir: pathlib.Path, config: configs.Config, *, resumes: bool = False
) -> None:
  """Writes config.json of a new workdir; checks that of an existing one.

  A folder with nothing but files that a killed run left before it wrote
  config.json is new.

  Args:
    workdir: the folder; created if missing.
    config: the experiment; fields in `config.MAY_CHANGE` may differ from
      config.json.
    resumes: whether a trained run goes on, in which also the learning rate and
      number of steps of an unfinished stage, and the path of the same data, may
      differ. They are written to config.json and config-changes.jsonl.

  Raises:
    ValueError: if the folder has another experiment or unrelated files; then
      nothing is written.
  """
  workdir = local(workdir)
  changed = check(workdir, config, resumes=resumes)
  if (workdir / CONFIG).exists() and not changed:
    return
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    if changed:
      known = [*changes(workdir), *changed]
      lines = ''.join(json.dumps(own) + '\n' for own in known)
      files.write(workdir / CHANGES, lines)
      for own in changed:
        console.note(
          f'{own["field"]} is {own["now"]!r} from step {own["step"]} on, '
          f'was {own["was"]!r}; see {CHANGES}'
        )
    files.write(workdir / CONFIG, configs.to_json(config))
  except OSError as error:
    raise lock.unwritable(workdir, error) from error


def check(
  workdir: pathlib.Path,
  config: configs.Config,
  *,
  resumes: bool = False,
  extends: bool = False,
) -> list[dict[str, Any]]:
  """Checks that a workdir is new or has this experiment; writes nothing.

  Args:
    workdir: the folder.
    config: the experiment.
    resumes: as in `claim`.
    extends: whether also the last stage may change after its last step, to
      more steps.

  Returns:
    The changes that `claim` writes: step, field, was, now.

  Raises:
    ValueError: if the folder has another experiment or unrelated files.
  """
  workdir = local(workdir)
  path = workdir / CONFIG
  if not path.exists():
    if workdir.exists() and not workdir.is_dir():
      raise ValueError(
        f'workdir {str(workdir)!r} is a file. Set --workdir to a folder.'
      )
    if workdir.exists() and {p.name for p in workdir.iterdir()} - LEFTOVERS:
      raise ValueError(
        f'workdir {str(workdir)!r} holds files but no config.json, so it is no '
        'run. Set --workdir to a new or empty folder.'
      )
    return []
  done = max([0, *checkpoint.steps(workdir / CHECKPOINTS)])
  found = []
  for name, was, value in _differences(workdir, config):
    if name in configs.MAY_CHANGE:
      continue
    if not resumes or not _may_resume(workdir, name, value, done, extends):
      raise _another(workdir, name, was, value)
    found.append({'step': done, 'field': name, 'was': was, 'now': value})
  return found


def check_use(workdir: pathlib.Path, config: configs.Config) -> None:
  """Checks that a trained workdir can be used with a configuration.

  Raises:
    ValueError: if it has no checkpoint, or a field differs that is not in
      `config.MAY_CHANGE_IN_USE`.
  """
  workdir = local(workdir)
  check_trained(workdir)
  for name, was, value in _differences(workdir, config):
    if name not in configs.MAY_CHANGE_IN_USE:
      raise _another(workdir, name, was, value)


def local(workdir: str | os.PathLike[str]) -> pathlib.Path:
  """A workdir as a path; a ValueError if it is an address, or no path."""
  if not isinstance(workdir, (str, os.PathLike)):
    raise ValueError(
      f'workdir must be a path, got {workdir!r}. Pass the folder of a run, '
      "such as 'runs/facts'."
    )
  if re.match(r'[A-Za-z][\w+.-]+:/', str(workdir)):
    raise ValueError(
      f'workdir {str(workdir)!r} is no local folder. Set --workdir to a folder '
      'of this machine, and copy the finished run to its place.'
    )
  return pathlib.Path(workdir)


def changes(workdir: pathlib.Path) -> list[dict[str, Any]]:
  """What config-changes.jsonl says: fields that changed in the middle of a run.

  Raises:
    ValueError: if the file is damaged.
  """
  path = workdir / CHANGES
  if not path.exists():
    return []
  try:
    lines = path.read_text(encoding='utf-8').splitlines()
    return [dict(json.loads(line)) for line in lines]
  except (ValueError, TypeError) as error:
    raise damaged(path, error, 'Correct or delete this file.') from error


def damaged(path: pathlib.Path, error: object, remedy: str) -> ValueError:
  """The error that a file of a workdir is damaged, in one line."""
  reason = str(error).strip().split('\n')[0]
  return ValueError(f'{str(path)!r} is damaged ({reason}). {remedy}')


def _may_resume(
  workdir: pathlib.Path, name: str, value: Any, done: int, extends: bool
) -> bool:
  """Whether a field may change in the middle of a run.

  Args:
    workdir: folder of the run.
    name: dotted name of the field.
    value: its new value.
    done: number of steps of the run so far.
    extends: as in `check`.
  """
  if name in configs.MAY_CHANGE_WITH_SAME_DATA:
    return True
  group, _, field = name.rpartition('.')
  if field not in configs.MAY_CHANGE_UNFINISHED or not group.startswith(
    f'{STAGES}.'
  ):
    return False
  first = 0
  stages = _stage_steps(_read(workdir / CONFIG))
  for number, (stage, steps) in enumerate(stages, start=1):
    if f'{STAGES}.{stage}' == group:
      if not done:
        return True
      if done >= first + steps and not (extends and number == len(stages)):
        return False
      return field != 'steps' or value > max(done - first, 0)
    first += steps
  return False


def _stage_steps(values: dict[str, Any]) -> list[tuple[str, int]]:
  """Names of stages and their numbers of steps, in order."""
  named = values.get(STAGES, {}).items()
  return [(name, int(fields.get('steps', 0))) for name, fields in named]


def _differences(
  workdir: pathlib.Path, config: configs.Config
) -> Iterator[tuple[str, Any, Any]]:
  """Fields that differ from config.json: name, value there, value here."""
  values = _read(workdir / CONFIG)
  _check_version(workdir, values)
  stored, ours = _values(values), _values(configs.as_dict(config))
  for name in sorted(ours.keys() | stored.keys()):
    value, was = ours.get(name), stored.get(name)
    if value != was:
      yield name, was, value


def _another(
  workdir: pathlib.Path, name: str, was: Any, value: Any
) -> ValueError:
  remedy = f'--config.{name}={was}'
  if name == STAGES:  # no flag can set it
    remedy = 'these stages in the experiment, in this order'
  return ValueError(
    f'workdir {str(workdir)!r} holds an experiment with {name}={was!r}, got '
    f'{value!r}. Set another --workdir, or {remedy}.'
  )


def _read(path: pathlib.Path) -> dict[str, Any]:
  try:
    values = json.loads(
      path.read_text(encoding='utf-8'), object_pairs_hook=text_files.distinct
    )
    values.get(STAGES, {}).items()
  except (OSError, ValueError, AttributeError, RecursionError) as error:
    raise damaged(path, error, CONFIG_REMEDY) from error
  return values


def _check_version(workdir: pathlib.Path, values: dict[str, Any]) -> None:
  """Raises a ValueError on a field that this version does not have."""
  found = dict(_flatten(values))
  unknown = found.keys() - _defaults(values.get(STAGES, {})).keys()
  if unknown:
    name = min(unknown)
    raise ValueError(
      f'workdir {str(workdir)!r} holds an experiment of another version, with '
      f'{name}={found[name]!r}. Set another --workdir, or use that version.'
    )


def _values(values: dict[str, Any]) -> dict[str, Any]:
  """Dotted name -> value of every field, from the values of config.json.

  Fields that config.json lacks get their defaults, which keep the behaviour of
  older versions. Losses and components that a stage does not name are 0.
  """
  plain = json.loads(json.dumps(values))
  names = plain.get(STAGES, {})
  order = {STAGES: ', '.join(names)}
  return _defaults(names) | dict(_flatten(plain)) | order


def _defaults(stages: Iterable[str]) -> dict[str, Any]:
  """Dotted name -> default of every field, for stages of these names."""
  values = configs.as_dict(dataclasses.replace(configs.Config(), stages=()))
  empty: dict[str, Any] = {'losses': {}, 'trains': {}}
  named = configs.stages(**dict.fromkeys(stages, empty)).to_dict()
  plain = json.loads(json.dumps(values | {STAGES: named}))
  return dict(_flatten(plain))


def _flatten(values: dict[str, Any], prefix: str = '') -> Iterator:
  for name, value in values.items():
    if isinstance(value, dict):
      yield from _flatten(value, f'{prefix}{name}.')
    else:
      yield prefix + name, value
