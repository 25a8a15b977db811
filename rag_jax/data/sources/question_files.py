"""Files of questions that carry their passages: one file for each split.

SQuAD (nested or rows), DPR, FiD and HotpotQA, in JSON, JSON lines, CSV, TSV or
Parquet. Each record is read by the function of its kind.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import Any

from rag_jax import types
from rag_jax.data import text_files, text_io
from rag_jax.data.sources import (
  base,
  beside,
  dpr,
  fid,
  hotpotqa,
  records,
  rows,
  squad,
  tables,
)

# Kind -> (the field that a record must have, reader of all records).
Questions = Callable[
  [Iterator[records.Record], text_io.Corpus, base.Options, base.References],
  Iterator[types.Question],
]
KINDS: dict[str, tuple[str, Questions]] = {
  'squad': ('data', squad.read),
  'dpr': ('positive_ctxs', dpr.read),
  'fid': ('ctxs', fid.read),
  'hotpotqa': ('supporting_facts', hotpotqa.read),
  'rows': ('question', rows.read),
}
_SPLITS = ('train', 'dev', 'test', 'validation', 'valid', 'val', 'eval')
_SHARD = re.compile(r'-\d+-of-\d+')


def reader(kind: str = '') -> base.Reader:
  """The reader of one kind of question files; '' detects the kind."""

  def read(path: pathlib.Path, options: base.Options) -> base.Content:
    return _read(path, options, kind)

  return read


def find(folder: pathlib.Path) -> dict[str, pathlib.Path]:
  """Name -> path of the files of a folder that may hold questions."""
  found: dict[str, pathlib.Path] = {}
  for suffix in records.SUFFIXES:
    found |= text_files.find_all(folder, f'*{suffix}')
  return {n: path for n, path in found.items() if not beside.is_one(path)}


def is_one(folder: pathlib.Path) -> bool:
  """Whether a folder has a file with a first record of a known kind."""
  options = base.Options()
  for path in find(folder).values():
    with contextlib.suppress(ValueError):
      first = next(records.read(path, options), None)
      if first is not None and _kind(*first, '', options) != 'documents':
        return True
  return False


def split_of(name: str) -> str:
  """The split in a file name: a usual one, or all up to the first - or .

  Example:
    >>> split_of('hotpot_dev_fullwiki_v1.json'), split_of('own-2.json')
    ('dev', 'own')
  """
  words = re.split(r'[-._]', name)
  return next((x for x in words if x in _SPLITS), re.split('[-.]', name)[0])


def _read(path: pathlib.Path, options: base.Options, kind: str) -> base.Content:
  corpus: text_io.Corpus = {}
  documents: list[types.Document] = []
  references = base.References(options)
  splits: text_io.Splits = {}
  fields: list[str] = []
  for split, files in _files(path).items():
    for file in files:
      found = records.read(file, options)
      first = next(found, None)
      if first is None:
        continue
      kind_here = _kind(*first, kind, options)
      fields = list(map(str, first[1]))
      found = itertools.chain([first], found)
      if kind_here == 'documents':
        documents += tables.read_documents(file, found, options)
        continue
      own = splits.setdefault(split, [])
      questions = KINDS[kind_here][1](found, corpus, options, references)
      own += _numbered(questions, len(own))
  if len(splits) == 1:
    splits = train_and_dev(*splits.values())
  documents = text_io.documents_of(corpus) + documents
  ids = {document.id for document in documents}
  if not ids and any(splits.values()):
    raise ValueError(
      f'data.path {str(path)!r} holds questions without documents: their '
      f'fields are {", ".join(fields)[:200]}, without text, context, ctxs or '
      'positive_ctxs. Add documents.jsonl with id, title and text, and rename '
      'the questions to questions-SPLIT, or set --config.data.fields.'
    )
  return base.Content(
    documents=documents,
    splits={
      split: [
        beside.with_known(q, f'question {q.id!r}', ids, path.name, references)
        for q in own
      ]
      for split, own in splits.items()
    },
    notes=list(references.notes()),
  )


def _numbered(
  questions: Iterator[types.Question], start: int
) -> Iterator[types.Question]:
  """The questions; those without an id get their number in the split."""
  for number, question in enumerate(questions, start):
    if not question.id:
      question = dataclasses.replace(question, id=str(number))
    yield question


def _files(path: pathlib.Path) -> dict[str, list[pathlib.Path]]:
  """Split -> its files; several only if they are parts of one."""
  if not path.is_dir():
    return {'all': [path]}
  found: dict[str, dict[str, list[pathlib.Path]]] = {}
  files = find(path)
  for name, file in files.items():
    whole = _SHARD.sub('', name)
    found.setdefault(split_of(name), {}).setdefault(whole, []).append(file)
  if not found:
    raise ValueError(
      f'data.path {str(path)!r} holds no file of questions '
      f'({", ".join(records.SUFFIXES)}). Set --config.data.path to a file, or '
      'to a folder with one for each split.'
    )
  if any(len(own) > 1 for own in found.values()):
    raise ValueError(
      f'data.path {str(path)!r} holds {len(files)} files but {len(found)} '
      f'splits ({", ".join(found)}, by their names). Set --config.data.path to '
      'one of the files.'
    )
  return {split: next(iter(own.values())) for split, own in found.items()}


def _kind(
  where: str, record: dict[str, Any], kind: str, options: base.Options
) -> str:
  """The kind of a file, by the fields of its first record."""
  context = record.get('context')
  if kind:
    field = KINDS[kind][0]
    own = options.names.get(field, field)
    if own not in record:
      raise ValueError(
        f'{where} must have the field {own!r} of data.format={kind}, got the '
        f'fields {", ".join(map(str, record))[:200]}. Set '
        '--config.data.format=auto, or to its format.'
      )
    return kind
  if not options.fields:  # a misspelt field would make it another kind
    text_io.check_names(record, [field for field, _ in KINDS.values()], where)
  if {'input', 'output'} <= record.keys():
    raise ValueError(
      f'{where} is of KILT, whose pages are in a file of their own. Add '
      'kilt_knowledgesource.json to the folder, and set --config.data.path to '
      'the folder.'
    )
  for name, (field, _) in KINDS.items():
    if options.names.get(field, field) in record:
      return name
  if isinstance(context, (list, dict)) and 'question' in record:
    return 'hotpotqa'  # a test file has no supporting facts
  if any(options.names.get(x, x) in record for x in ('text', 'title')):
    return 'documents'
  raise ValueError(
    f'{where} has none of the fields of a known format: data (SQuAD), '
    'positive_ctxs (DPR), ctxs (FiD), supporting_facts (HotpotQA), question, '
    f'text or title; it has {", ".join(map(str, record))[:200] or "none"}. '
    "Set --config.data.fields, such as 'question=NAME,text=NAME'."
  )


def train_and_dev(questions: list[types.Question]) -> text_io.Splits:
  """Splits 9:1 by id alone, so added questions do not move old ones."""
  splits: text_io.Splits = {'train': [], 'dev': []}
  for question in questions:
    digest = hashlib.md5(question.id.encode('utf-8', 'replace')).digest()
    splits['dev' if digest[0] * 10 < 256 else 'train'].append(question)
  return splits
