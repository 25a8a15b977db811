"""Questions and judgements beside a corpus, in one folder.

questions-SPLIT.jsonl (or .json, .csv, .tsv, .parquet), with their answers and
gold documents; DPR's SPLIT.qa.csv; or queries (queries.SPLIT.tsv,
queries.jsonl, TREC topics) with judgements (qrels/SPLIT.tsv, qrels.SPLIT.tsv,
SPLIT.qrels).
"""

import pathlib
import re
from collections.abc import Container, Iterator
from typing import Any

from rag_jax import types
from rag_jax.data import text_files, text_io
from rag_jax.data.sources import base, beir, judgements, records, topics

_WORDS = re.compile(r'(qrels|queries|topics|questions|qa)(?![a-z])')
_QRELS = ('qrels/*', 'qrels.*', 'qrels-*', 'qrels_*', '*.qrels', '*qrels*.t??')
_YES_NO = {'true': True, 'false': False, '': None}


def read(
  folder: pathlib.Path,
  documents: Container[str],
  source: str,
  options: base.Options,
  references: base.References,
) -> tuple[text_io.Splits, list[str]]:
  """Reads all questions of a folder.

  Args:
    folder: the folder.
    documents: ids of the corpus.
    source: what defines these ids, for errors.
    options: maximum size and names of fields.
    references: checks the ids of gold documents.

  Returns:
    The questions by split, empty if there are none, and notes.
  """
  splits: text_io.Splits = {}
  for path in _tables(folder):
    rows = questions_of(path, records.read(path, options), options)
    splits.setdefault(split_of(path), []).extend(
      with_known(question, where, documents, source, references)
      for where, question in rows
    )
  for path in text_files.find_all(folder, '*.qa.[ct]sv').values():
    splits.setdefault(split_of(path), []).extend(_question_answers(path))
  queries, notes = _queries(folder, options)
  judged = {split_of(path): path for path in _judgements(folder)}
  every = {name: q for own in queries.values() for name, q in own.items()}
  for split, path in judged.items():
    splits.setdefault(split, []).extend(
      judgements.judged(
        path,
        options,
        queries.get(split, every),
        documents,
        references,
        names=('the queries', source),
      )
    )
  if not judged:
    for split, own in queries.items():
      splits.setdefault(split, []).extend(own.values())
  return splits, notes


def is_one(path: pathlib.Path) -> bool:
  """Whether a file of a corpus folder holds questions or judgements."""
  name = text_files.bare(path.name)
  return (
    bool(re.match(r'(questions-|queries\b|qrels\b|topics\b)', name))
    or name.endswith(('.qrels', '.topics', '.qa.csv', '.qa.tsv'))
    or path.parent.name == 'qrels'
  )


def split_of(path: pathlib.Path) -> str:
  """The split that a file name says; 'test' if it says none.

  Example:
    >>> [split_of(pathlib.Path(x)) for x in ('qrels.dev.tsv', 'topics.txt')]
    ['dev', 'test']
  """
  name = pathlib.PurePath(text_files.bare(path.name)).stem
  return _WORDS.sub('', name).strip('-._') or 'test'


def _tables(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  for kind in records.SUFFIXES:
    yield from text_files.find_all(folder, f'questions-*{kind}').values()


def _judgements(folder: pathlib.Path) -> list[pathlib.Path]:
  found: dict[str, pathlib.Path] = {}
  for pattern in _QRELS:
    base_folder, _, rest = pattern.rpartition('/')
    for name, path in text_files.find_all(folder / base_folder, rest).items():
      found.setdefault(f'{base_folder}/{name}', path)
  return list(found.values())


def questions_of(
  path: pathlib.Path, rows: Iterator[records.Record], options: base.Options
) -> Iterator[tuple[str, types.Question]]:
  """Yields (location, question) of records with a question each."""
  fields = records.Fields(options, path)
  known = base.QUESTION_FIELDS
  for number, (where, own) in enumerate(rows, 1):
    record = fields.named(own, known)
    if 'question_id' not in record and 'id' in record:
      record = {**record, 'question_id': record['id']}
    text_io.check_names(record, (*known, 'id'), where)
    yield where, question_of(record, where, str(number))


def question_of(
  record: dict[str, Any], where: str, default_id: str
) -> types.Question:
  """The question of a record with the names of `QUESTION_FIELDS`."""
  written = record.get('answerable')
  if isinstance(written, str) and written.lower() in _YES_NO:
    record = record | {'answerable': _YES_NO[written.lower()]}
  name = default_id
  if record.get('question_id') is not None:
    name = text_io.identifier(record, 'question_id', where)
  return types.Question(
    id=name,
    text=text_io.required(record, 'question', where),
    answers=records.many(record, 'answers', where),
    document_ids=records.many(record, 'document_ids', where),
    answerable=text_io.answerable(record, where),
    answer_patterns=records.many(record, 'answer_patterns', where),
  )


def with_known(
  question: types.Question,
  where: str,
  documents: Container[str],
  source: str,
  references: base.References,
) -> types.Question:
  """The question without gold documents that are not in the corpus."""
  if all(name in documents for name in question.document_ids):
    return question
  gold = {
    name: 1
    for name in question.document_ids
    if references.known('document', name, documents, where, source)
  }
  return text_io.with_gold(question, gold)


def _question_answers(path: pathlib.Path) -> Iterator[types.Question]:
  """DPR's lines of a question, a tab and a list of answers."""
  rows = text_files.lines(path, text_files.MAX_GIB)
  for number, line in rows:
    where = f'data file {str(path)!r} line {number}'
    question, tab, answers = line.rstrip('\r\n').partition('\t')
    if not tab:
      raise ValueError(
        f'{where} must be a question and a list of answers with a tab between, '
        f'got {text_files.short(line)}. Correct that line.'
      )
    yield types.Question(
      id=str(number),
      text=question,
      answers=records.many({'answers': answers}, 'answers', where),
    )


def _queries(
  folder: pathlib.Path, options: base.Options
) -> tuple[dict[str, dict[str, types.Question]], list[str]]:
  """Split -> id -> question of the files of queries without judgements."""
  found: dict[str, dict[str, types.Question]] = {}
  notes: list[str] = []
  for path in text_files.find_all(folder, 'queries.jsonl').values():
    found[split_of(path)] = beir.read_queries(path, options)
  for path in text_files.find_all(folder, 'queries*.tsv').values():
    own = found.setdefault(split_of(path), {})
    for where, record in records.read(path, options, ('id', 'text')):
      name = text_io.identifier(record, 'id', where)
      if name in own:
        raise text_io.duplicate('question', name, where)
      own[name] = types.Question(id=name, text=record['text'])
  files = text_files.find_all(folder, '*topics*')
  for path in files.values():
    own = found.setdefault(split_of(path), {})
    for question in topics.read(path, options):
      own[question.id] = question
  if files:
    notes.append(
      'Of TREC topics the titles are read as questions, without description '
      'and narrative.'
    )
  return found, notes
