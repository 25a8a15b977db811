"""Loads BEIR, SQuAD, DPR, JSON lines, TFDS and the facts as a `Dataset`.

`load` is the only public function. An answer that occurs in no gold document of
its question is kept and counted in `Dataset.notes`.
"""

import hashlib
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

from rag_jax import types
from rag_jax.data import catalogue, text_files, text_io

FORMATS = ('facts', 'beir', 'squad', 'dpr', 'jsonl', 'tfds')
# Fields that are read.
_QUESTION = ('id', 'question', 'answers', 'document_ids', 'answerable')
_SQUAD = ('id', 'question', 'answers', 'is_impossible')
_CONTEXTS = ('positive_ctxs', 'negative_ctxs', 'hard_negative_ctxs')
_LAYOUTS = (
  'a BEIR folder (corpus.jsonl, queries.jsonl, qrels/*.tsv), a folder of '
  'JSON lines (documents.jsonl, questions-<split>.jsonl), or SQuAD or DPR '
  '.json files; .gz is fine'
)


def load(
  path: str | os.PathLike[str],
  *,
  format: str = 'auto',
  on_empty: str = 'error',
  max_file_gib: float = text_files.MAX_GIB,
) -> types.Dataset:
  """Loads a dataset.

  Args:
    path: 'facts' (the embedded dataset), 'tfds:NAME', a file or a folder.
    format: one of `FORMATS`, or 'auto' to detect it.
    on_empty: what to do with documents without text: 'error', or 'skip'.
    max_file_gib: maximum size of a data file once unpacked, in GiB.

  Returns:
    The documents, the questions of each split, and notes. A single SQuAD or
    DPR file is split 9:1 into 'train' and 'dev' by a hash of the question ids.
    A folder of such files has one split per file, named after the file.

  Raises:
    ValueError: if data are missing, damaged or inconsistent; the message names
      the file, the value and a remedy.

  Example:
    >>> dataset = load('facts')
    >>> 'train' in dataset.splits
    True
  """
  if format not in (*FORMATS, 'auto'):
    raise ValueError(
      f'data.format must be one of auto, {", ".join(FORMATS)}, '
      f'got {format!r}. Set --config.data.format.'
    )
  if on_empty not in ('error', 'skip'):
    raise ValueError(
      f"data.on_empty must be 'error' or 'skip', got {on_empty!r}. "
      'Set --config.data.on_empty.'
    )
  name = os.fspath(path)
  if format == 'facts' or (format == 'auto' and name == 'facts'):
    if name != 'facts':
      raise ValueError(
        f"data.path must be 'facts' with data.format='facts', got {name!r}. "
        'Set --config.data.format=auto to read that path, or leave out '
        '--config.data.path.'
      )
    from rag_jax.data import facts  # imports TFDS, which is slow

    return facts.load()
  if format == 'tfds' or (format == 'auto' and name.startswith('tfds:')):
    return text_io.finish(
      name, on_empty, *catalogue.load(name.removeprefix('tfds:'))
    )
  where = pathlib.Path(name).expanduser()
  if not name or not where.exists():
    raise ValueError(
      f'data.path {name!r} does not exist. Set --config.data.path to '
      "'facts', 'tfds:NAME', a file or a folder."
    )
  if format == 'auto':
    format = _detect(where)
  if format == 'beir':
    return text_io.finish(name, on_empty, *_beir(where, max_file_gib))
  if format == 'jsonl':
    return text_io.finish(name, on_empty, *_json_lines(where, max_file_gib))
  return text_io.finish(name, on_empty, *_json(where, format, max_file_gib))


def _detect(path: pathlib.Path) -> str:
  """The format of an existing path; 'json' is either SQuAD or DPR."""
  if path.is_dir():
    if text_files.find(path, 'corpus.jsonl'):
      return 'beir'
    if text_files.find(path, 'documents.jsonl'):
      return 'jsonl'
    if text_files.find_all(path, '*.json'):
      return 'json'
  elif path.name.removesuffix('.gz').endswith('.json'):
    return 'json'
  raise ValueError(
    f'data.path {str(path)!r} has no known format. '
    f'Set --config.data.path to {_LAYOUTS}.'
  )


def _need(folder: pathlib.Path, name: str) -> pathlib.Path:
  path = text_files.find(folder, name)
  if path is None:
    raise ValueError(
      f'data.path {str(folder)!r} holds no {name} or {name}.gz. '
      f'Set --config.data.path to {_LAYOUTS}.'
    )
  return path


def _beir(
  folder: pathlib.Path, max_gib: float
) -> tuple[list[types.Document], text_io.Splits]:
  """Reads a BEIR folder; each qrels file is a split."""
  corpus = _need(folder, 'corpus.jsonl')
  documents = _read_documents(corpus, '_id', max_gib)
  questions: dict[str, types.Question] = {}
  source = _need(folder, 'queries.jsonl')
  for where, record in text_files.read_json_lines(source, max_gib):
    text_io.check_names(record, ('_id', 'text', 'metadata'), where)
    metadata = text_io.mapping(record, 'metadata', where)
    text_io.check_names(metadata, ('answers', 'answerable'), where)
    question = types.Question(
      id=text_io.identifier(record, '_id', where),
      text=text_io.required(record, 'text', where),
      answers=text_io.strings(metadata, 'answers', where),
      answerable=text_io.answerable(metadata, where),
    )
    if question.id in questions:
      raise text_io.duplicate('question', question.id, where)
    questions[question.id] = question
  files = text_files.find_all(folder / 'qrels', '*.tsv')
  if not files:
    raise ValueError(
      f'data.path {str(folder)!r} holds no qrels/*.tsv. Add one file per '
      'split with the columns query-id, corpus-id and score.'
    )
  known = {document.id for document in documents}

  def is_known(query: str, document: str) -> bool:
    return query in questions or document in known

  splits: text_io.Splits = {}
  for name, file in files.items():
    gold: dict[str, dict[str, int]] = {}
    rows = text_files.read_qrels(file, max_gib, is_known)
    for where, query, document, grade in rows:
      if query not in questions:
        raise text_io.unknown('question', query, where, source)
      if document not in known:
        raise text_io.unknown('document', document, where, corpus)
      judged = gold.setdefault(query, {})
      if judged.setdefault(document, grade) != grade:
        raise ValueError(
          f'{where}: the score of {query!r} and {document!r} was '
          f'{judged[document]} before, got {grade}. Remove one of the lines.'
        )
    splits[name.removesuffix('.tsv')] = [
      text_io.with_gold(
        questions[query], {d: grade for d, grade in judged.items() if grade > 0}
      )
      for query, judged in gold.items()
    ]
  return documents, splits


def _json_lines(
  folder: pathlib.Path, max_gib: float
) -> tuple[list[types.Document], text_io.Splits]:
  """Reads a folder of documents.jsonl and questions-<split>.jsonl."""
  corpus = _need(folder, 'documents.jsonl')
  documents = _read_documents(corpus, 'id', max_gib)
  known = {document.id for document in documents}
  files = text_files.find_all(folder, 'questions-*.jsonl')
  if not files:
    raise ValueError(
      f'data.path {str(folder)!r} holds no questions-<split>.jsonl. Add one '
      'file per split with id, question, answers and document_ids.'
    )
  splits: text_io.Splits = {}
  for name, file in files.items():
    split = name.removeprefix('questions-').removesuffix('.jsonl')
    questions = splits.setdefault(split, [])
    for where, record in text_files.read_json_lines(file, max_gib):
      text_io.check_names(record, _QUESTION, where)
      question = types.Question(
        id=text_io.identifier(record, 'id', where),
        text=text_io.required(record, 'question', where),
        answers=text_io.strings(record, 'answers', where),
        document_ids=text_io.strings(record, 'document_ids', where),
        answerable=text_io.answerable(record, where),
      )
      for gold in question.document_ids:
        if gold not in known:
          raise text_io.unknown('document', gold, where, corpus)
      questions.append(question)
  return documents, splits


def _read_documents(
  path: pathlib.Path, key: str, max_gib: float
) -> list[types.Document]:
  """Reads the documents of a JSON lines file, with or without text."""
  documents = []
  seen = set()
  for where, record in text_files.read_json_lines(path, max_gib):
    text_io.check_names(record, (key, 'title', 'text', 'summary'), where)
    name = text_io.identifier(record, key, where)
    if name in seen:
      raise text_io.duplicate('document', name, where)
    seen.add(name)
    document = types.Document(
      id=name,
      title=text_io.string(record, 'title', where),
      text=text_io.string(record, 'text', where),
      summary=text_io.string(record, 'summary', where),
    )
    documents.append(document)
  return documents


def _json(
  path: pathlib.Path, format: str, max_gib: float
) -> tuple[list, text_io.Splits]:
  """Reads SQuAD or DPR: one file, or a folder with one file per split."""
  if path.is_dir():
    files = text_files.find_all(path, '*.json')
    named = {re.split('[-.]', name)[0]: file for name, file in files.items()}
    if len(named) < len(files):
      raise ValueError(
        f'data.path {str(path)!r} holds {len(files)} .json files but '
        f'{len(named)} splits (the name up to the first - or .). '
        'Set --config.data.path to one of the files.'
      )
    if not named:
      raise ValueError(
        f'data.path {str(path)!r} holds no .json file. '
        f'Set --config.data.path to {_LAYOUTS}.'
      )
  else:
    named = {'all': path}
  corpus: text_io.Corpus = {}
  splits: text_io.Splits = {}
  for split, file in named.items():
    value = text_files.read_json(file, max_gib)
    where = f'data file {str(file)!r}'
    found = format if format in ('squad', 'dpr') else _kind(value, where)
    reader = _squad if found == 'squad' else _dpr
    splits[split] = list(reader(value, where, corpus))
  if len(splits) == 1:
    splits = _train_and_dev(*splits.values())
  return text_io.documents_of(corpus), splits


def _kind(value: Any, where: str) -> str:
  """Whether a JSON value is SQuAD or DPR."""
  if isinstance(value, dict) and 'data' in value:
    return 'squad'
  if isinstance(value, list) and isinstance((value or [{}])[0], dict):
    return 'dpr'
  raise ValueError(
    f'{where} is neither SQuAD (an object with data) nor DPR (a list of '
    f'questions). Set --config.data.path to {_LAYOUTS}.'
  )


def _train_and_dev(questions: list[types.Question]) -> text_io.Splits:
  """Splits 9:1 by id alone, so added questions do not move old ones."""
  splits: text_io.Splits = {'train': [], 'dev': []}
  for question in questions:
    digest = hashlib.md5(question.id.encode('utf-8', 'replace')).digest()
    splits['dev' if digest[0] * 10 < 256 else 'train'].append(question)
  return splits


def _squad(
  value: Any, where: str, corpus: text_io.Corpus
) -> Iterator[types.Question]:
  """Reads SQuAD v1.1 or v2; an impossible question has no gold document."""
  value = value if isinstance(value, dict) else {'data': value}
  for i, page in enumerate(text_io.items(value, 'data', where, dict)):
    at = f'{where} data[{i}]'
    title = text_io.string(page, 'title', at).replace('_', ' ')
    parts = text_io.items(page, 'paragraphs', at, dict, required=True)
    for j, part in enumerate(parts):
      here = f'{at}.paragraphs[{j}]'
      name = text_io.add_paragraph(
        corpus, title, text_io.required(part, 'context', here)
      )
      for record in text_io.items(part, 'qas', here, dict, required=True):
        text_io.check_names(record, _SQUAD, here)
        answers = text_io.items(record, 'answers', here, dict)
        texts = (text_io.required(answer, 'text', here) for answer in answers)
        impossible = text_io.flag(record, 'is_impossible', here) is True
        if impossible and answers:
          raise ValueError(
            f'{here}: a question with is_impossible must have no answers, got '
            f'{text_files.short(answers)}. Correct one of the two.'
          )
        yield types.Question(
          id=text_io.identifier(record, 'id', here),
          text=text_io.required(record, 'question', here),
          answers=() if impossible else text_io.distinct(texts),
          document_ids=() if impossible else (name,),
          answerable=not impossible,
        )


def _dpr(
  value: Any, where: str, corpus: text_io.Corpus
) -> Iterator[types.Question]:
  """Reads a DPR file; positive and negative passages form the corpus."""
  for i, record in enumerate(
    text_io.items({'questions': value}, 'questions', where, dict)
  ):
    at = f'{where} question {i}'
    text_io.check_names(record, ('question', 'answers', *_CONTEXTS), at)
    gold = []
    for kind in _CONTEXTS:
      for context in text_io.items(record, kind, at, dict):
        text_io.check_names(context, ('title', 'text'), at)
        key = 'passage_id' if 'passage_id' in context else 'psg_id'
        name = text_io.add_paragraph(
          corpus,
          text_io.string(context, 'title', at),
          text_io.string(context, 'text', at),
          text_io.identifier(context, key, at) if key in context else '',
        )
        if kind == 'positive_ctxs':
          gold.append(name)
    yield types.Question(
      id=str(i),
      text=text_io.required(record, 'question', at),
      answers=text_io.strings(record, 'answers', at),
      document_ids=text_io.distinct(gold),
    )
