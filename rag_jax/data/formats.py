"""Loads the user's data in any known format as a `Dataset`.

`READERS` has the formats by name; `register` adds one.
"""

import importlib
import os
import pathlib

from rag_jax import types
from rag_jax.data import assemble, text_files
from rag_jax.data.sources import (
  array_records,
  base,
  beir,
  catalogue,
  ir_data,
  kilt,
  medquad,
  question_files,
  records,
  smart,
  tables,
  text_folder,
)

# Name of a format -> its reader.
READERS: dict[str, base.Reader] = {
  'beir': beir.read,
  'jsonl': tables.reader('documents.jsonl'),
  'tables': tables.reader(),
  'questions': question_files.reader(),
  'squad': question_files.reader('squad'),
  'dpr': question_files.reader('dpr'),
  'fid': question_files.reader('fid'),
  'hotpotqa': question_files.reader('hotpotqa'),
  'kilt': kilt.read,
  'smart': smart.read,
  'medquad': medquad.read,
  'files': text_folder.read,
  'array_record': array_records.read,
  'ir_datasets': ir_data.read,
  'tfds': catalogue.read,
}
# Embedded data sets: name, which is also the path -> module.
EMBEDDED = {
  'facts': 'facts',
  'facts_pairs': 'fact_pairs',
  'facts_summaries': 'fact_summaries',
}
# Formats that are no file: the beginning of their path.
_PREFIXES = {'tfds': catalogue.PREFIX, 'ir_datasets': ir_data.PREFIX}
LAYOUTS = (
  'a folder of text, Markdown, HTML or PDF files; of documents and questions '
  '(documents.jsonl or .csv, questions-SPLIT.jsonl); in the layout of BEIR '
  '(corpus.jsonl), KILT, SMART or MedQuAD; or files of questions (SQuAD, DPR, '
  'FiD, HotpotQA). docs/howto/corpus.md lists all formats'
)


def register(name: str, reader: base.Reader) -> None:
  """Adds a format, so that `data.format=NAME` reads it.

  Args:
    name: name of the format.
    reader: a function: (path, `sources.base.Options`) ->
      `sources.base.Content`. It raises a ValueError in one line for bad data.

  Raises:
    ValueError: if the name is taken.

  Example:
    >>> from rag_jax.data.sources import base
    >>> def lines(path, options):
    ...   texts = path.read_text(encoding='utf-8').splitlines()
    ...   documents = [
    ...     types.Document(id=str(i), text=text) for i, text in enumerate(texts)
    ...   ]
    ...   return base.Content(documents=documents)
    >>> register('one-per-line', lines)
    >>> del READERS['one-per-line']
  """
  if not isinstance(name, str) or name in (*READERS, *EMBEDDED, 'auto', ''):
    raise ValueError(
      f'name of a format must be new, got {name!r}; there are '
      f'{", ".join((*EMBEDDED, *READERS))}. Pass another name.'
    )
  READERS[name] = reader


def load(
  path: str | os.PathLike[str],
  *,
  format: str = 'auto',
  **options,
) -> types.Dataset:
  """Loads a dataset.

  Args:
    path: the name of an embedded data set (`EMBEDDED`), 'tfds:NAME',
      'ir_datasets:NAME', a file or a folder.
    format: one of `READERS` or `EMBEDDED`, or 'auto' to detect it.
    **options: the fields of `sources.base.Options`: `on_empty`, `on_dangling`,
      `max_file_gib`, `fields`, `answer_patterns`, `passage_words` and
      `passage_overlap`, as in the configuration.

  Returns:
    The documents, the questions of each split, and notes. A single file of
    questions is split 9:1 into 'train' and 'dev' by a hash of the ids of its
    questions. A folder of such files has one split per file, named after it.

  Raises:
    ValueError: if data are missing, damaged or inconsistent; the message names
      the file, the value and a remedy.

  Example:
    >>> dataset = load('facts')
    >>> 'train' in dataset.splits
    True
  """
  if format not in (*READERS, *EMBEDDED, 'auto'):
    raise ValueError(
      f'data.format must be one of auto, {", ".join((*EMBEDDED, *READERS))}, '
      f'got {format!r}. Set --config.data.format.'
    )
  checked = base.Options(**options)
  name = os.fspath(path)
  for own, module in EMBEDDED.items():
    if format != own and (format != 'auto' or name != own):
      continue
    if name != own:
      raise ValueError(
        f'data.path must be {own!r} with data.format={own!r}, got {name!r}. '
        'Set --config.data.format=auto to read that path, or '
        f'--config.data.path={own}.'
      )
    # Not at the top: it imports TFDS, which is slow.
    return importlib.import_module(f'rag_jax.data.{module}').load()
  for own, prefix in _PREFIXES.items():
    if format == own or (format == 'auto' and name.startswith(prefix)):
      content = READERS[own](pathlib.Path(name.removeprefix(prefix)), checked)
      return assemble.finish(name, content, checked)
  where = pathlib.Path(name).expanduser()
  if not name or not where.exists():
    raise ValueError(
      f'data.path {name!r} does not exist. Set --config.data.path to '
      f'{", ".join(map(repr, EMBEDDED))}, '
      "'tfds:NAME', 'ir_datasets:NAME', a file or a folder."
    )
  if format == 'auto':
    format = detect(where)
  return assemble.finish(name, READERS[format](where, checked), checked)


def detect(path: pathlib.Path) -> str:
  """The format of an existing path, by the names and beginnings of its files.

  Raises:
    ValueError: if it is unknown.
  """
  if path.is_dir():
    if text_files.find(path, 'corpus.jsonl'):
      return 'beir'
    if tables.find(path):
      return 'tables'
    if array_records.find(path):
      return 'array_record'
    if kilt.find(path):
      return 'kilt'
    if smart.find(path):
      return 'smart'
    if question_files.is_one(path):
      return 'questions'
  elif records.suffix(path) in records.SUFFIXES:
    return 'questions'
  if medquad.is_one(path):
    return 'medquad'
  if text_folder.is_one(path):
    return 'files'
  if path.is_dir() and question_files.find(path):
    return 'questions'  # its error says which fields are missing
  raise ValueError(
    f'data.path {str(path)!r} has no known format. '
    f'Set --config.data.path to {LAYOUTS}.'
  )
