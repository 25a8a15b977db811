"""A folder of plain text, Markdown, HTML and PDF files, in any mix."""

import collections
import pathlib
from collections.abc import Iterator

from rag_jax import types
from rag_jax.data import text_files, text_io
from rag_jax.data.sources import base, beside, markup, records

SUFFIXES = (*markup.TEXTS, markup.PDF)


def is_one(path: pathlib.Path) -> bool:
  """Whether a path is such a file, or a folder that has one at any depth."""
  if path.is_file():
    return records.suffix(path) in SUFFIXES
  return next(_files(path), None) is not None


def read(path: pathlib.Path, options: base.Options) -> base.Content:
  """Reads all files below a folder; the id of a document is its path there.

  The title is that of the file, or else its name. Hidden files, and files with
  other endings, are skipped and counted. Questions may be beside the files.

  Raises:
    ValueError: for a file that is not UTF-8, or that cannot be read, unless
      `on_empty` is 'skip'.
  """
  folder = path if path.is_dir() else path.parent
  files = list(_files(path)) if path.is_dir() else [path]
  documents: list[types.Document] = []
  sections: dict[str, tuple[base.Section, ...]] = {}
  unreadable: list[str] = []
  for file in files:
    name = file.relative_to(folder).as_posix()
    try:
      title, text, parts = _parse(file, options)
    except markup.UnreadableError as error:
      if options.on_empty == 'error':
        raise ValueError(
          f'data file {str(file)!r} {error}. Convert or remove it, or set '
          '--config.data.on_empty=skip to skip such files.'
        ) from error
      unreadable.append(name)
      continue
    if not title and text:
      title = file.name.partition('.')[0].replace('_', ' ').replace('-', ' ')
      parts = tuple(
        base.Section(
          markup.SEPARATOR.join(filter(None, (title, part.title))), part.text
        )
        for part in parts
      )
    documents.append(types.Document(id=name, title=title, text=text))
    sections[name] = parts
  notes = list(_notes(path, files, unreadable))
  references = base.References(options)
  splits: text_io.Splits = {}
  if path.is_dir():
    known = {document.id for document in documents}
    splits, more = beside.read(folder, known, 'the folder', options, references)
    notes += [*more, *references.notes()]
  return base.Content(
    documents=documents,
    splits=splits,
    notes=notes,
    sections=sections,
    passage_words=base.PASSAGE_WORDS,
  )


def _files(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  """The text files of a folder, in order of their paths."""
  for file in sorted(folder.rglob('*')):
    if (
      file.is_file()
      and records.suffix(file) in SUFFIXES
      and not _is_hidden(file, folder)
      and not beside.is_one(file)
    ):
      yield file


def _is_hidden(file: pathlib.Path, folder: pathlib.Path) -> bool:
  return any(part[:1] == '.' for part in file.relative_to(folder).parts)


def _parse(file: pathlib.Path, options: base.Options) -> markup.Document:
  """Title, text and sections of a file."""
  where = f'data file {str(file)!r}'
  kind = records.suffix(file)
  with text_files.open(file, options.max_file_gib) as opened:
    data = opened.read()
  if kind == markup.PDF:
    return markup.pdf(data, where)
  try:
    text = data.decode('utf-8-sig')
  except UnicodeDecodeError as error:
    line = data.count(b'\n', 0, error.start) + 1
    raise markup.UnreadableError(
      f'line {line} is not UTF-8 (byte 0x{data[error.start]:02x}), which '
      'iconv -t UTF-8 makes of it'
    ) from error
  if '\0' in text:
    raise markup.UnreadableError('is no text: it has a zero byte')
  text = text.replace('\r\n', '\n').replace('\r', '\n')
  return markup.TEXTS[kind](text, where)


def _notes(
  path: pathlib.Path, files: list[pathlib.Path], unreadable: list[str]
) -> Iterator[str]:
  """Counts of the files that are skipped."""
  if unreadable:
    yield (
      f'{len(unreadable):,} of {len(files):,} files cannot be read as text and '
      f'are skipped: {_few(unreadable)}.'
    )
  if not path.is_dir():
    return
  read_files = set(files)
  others = [
    file
    for file in path.rglob('*')
    if file.is_file() and file not in read_files and not beside.is_one(file)
  ]
  if others:
    kinds = collections.Counter(
      'hidden' if _is_hidden(file, path) else file.suffix or 'no ending'
      for file in others
    )
    listed = [f'{count:,} {kind}' for kind, count in kinds.most_common()]
    yield (
      f'{len(others):,} files with other endings are skipped: {_few(listed)}.'
    )


def _few(items: list[str]) -> str:
  more = f' and {len(items) - 3:,} more' if len(items) > 3 else ''
  return ', '.join(items[:3]) + more
