"""The interface of a reader of the user's data.

A reader is a function: (path, options) -> `Content`. `formats.READERS` lists
all of them, and `formats.register` adds one.
"""

import collections
import dataclasses
import difflib
import pathlib
from collections.abc import Callable, Container, Iterator

from rag_jax import types
from rag_jax.data import text_files, text_io

# Names of fields in CSV, Parquet and JSON lines.
DOCUMENT_FIELDS = ('id', 'title', 'text', 'summary')
QUESTION_FIELDS = (
  'question_id',
  'question',
  'answers',
  'answer_patterns',
  'document_ids',
  'answerable',
)
PASSAGE_WORDS = 120  # of the files of a folder, by default
WORDS_PER_OVERLAP = 6  # the default overlap is a sixth of a passage


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
  """How data is read; the fields of the same names in `DataConfig`."""

  on_empty: str = 'error'
  on_dangling: str = 'error'
  max_file_gib: float = text_files.MAX_GIB
  fields: str = ''
  answer_patterns: bool = False
  passage_words: int = -1
  passage_overlap: int = -1

  def __post_init__(self) -> None:
    """Raises a ValueError on a value out of range."""
    for name in ('on_empty', 'on_dangling'):
      value = getattr(self, name)
      if value not in ('error', 'skip'):
        raise ValueError(
          f"data.{name} must be 'error' or 'skip', got {value!r}. "
          f'Set --config.data.{name}.'
        )
    if self.max_file_gib <= 0:
      raise ValueError(
        f'data.max_file_gib must be above 0, got {self.max_file_gib}. '
        'Set --config.data.max_file_gib.'
      )
    for name in ('passage_words', 'passage_overlap'):
      if getattr(self, name) < -1:
        raise ValueError(
          f'data.{name} must be at least -1, got {getattr(self, name)}. '
          f'Set --config.data.{name}.'
        )
    if self.passage_words >= 0:
      self.passages(0)
    self.names  # noqa: B018  # checks `fields`

  def passages(self, default: int) -> tuple[int, int]:
    """Words of a passage, and words that it shares with the next one.

    Args:
      default: words if `passage_words` is -1; 0 = whole documents.

    Raises:
      ValueError: if the overlap is not smaller than a passage.
    """
    words = self.passage_words if self.passage_words >= 0 else default
    if self.passage_overlap > 0 and self.passage_overlap >= words:
      raise ValueError(
        f'data.passage_overlap must be below data.passage_words, got '
        f'{self.passage_overlap} and {words}. Set --config.data.passage_words '
        'or --config.data.passage_overlap.'
      )
    if self.passage_overlap >= 0:
      return words, self.passage_overlap
    return words, words // WORDS_PER_OVERLAP

  @property
  def names(self) -> dict[str, str]:
    """Name of a field here -> its name in the files, where they differ."""
    names: dict[str, str] = {}
    known = (*DOCUMENT_FIELDS, *QUESTION_FIELDS)
    for pair in filter(None, (x.strip() for x in self.fields.split(','))):
      name, equals, own = (x.strip() for x in pair.partition('='))
      if not equals or name not in known or name in names:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean '{close[0]}'? " if close else ''
        raise ValueError(
          f'data.fields must be NAME=OWN pairs with commas between, each NAME '
          f'once and one of {", ".join(known)}, got {pair!r} ({hint}OWN is '
          'the name in your files). Set --config.data.fields.'
        )
      names[name] = own
    return names


@dataclasses.dataclass(frozen=True)
class Section:
  """A part of a document under its own heading."""

  title: str  # of the document and all headings above the text
  text: str


@dataclasses.dataclass(kw_only=True)
class Content:
  """What a reader found.

  Attributes:
    documents: the corpus, in file order.
    splits: questions by split.
    notes: one sentence each, with a count, for the user.
    sections: id of a document -> its sections, for passages that keep their
      headings; documents without an entry have one section.
    passage_words: words per passage if the user does not say; 0 = whole
      documents.
  """

  documents: list[types.Document]
  splits: text_io.Splits = dataclasses.field(default_factory=dict)
  notes: list[str] = dataclasses.field(default_factory=list)
  sections: dict[str, tuple[Section, ...]] = dataclasses.field(
    default_factory=dict
  )
  passage_words: int = 0


Reader = Callable[[pathlib.Path, Options], Content]


class References:
  """Checks ids of questions and documents; counts those that are skipped."""

  def __init__(self, options: Options):
    """Raises errors or counts, as `options.on_dangling` says."""
    self._skips = options.on_dangling == 'skip'
    self._counts: collections.Counter[str] = collections.Counter()

  def known(
    self, what: str, name: str, ids: Container[str], where: str, file: str
  ) -> bool:
    """Whether an id is in the data; otherwise it is counted, or an error.

    Args:
      what: 'question' or 'document'.
      name: the id.
      ids: the ids that there are.
      where: location of the reference.
      file: what defines such ids, for the error.

    Raises:
      ValueError: if the id is unknown and `on_dangling` is 'error'.
    """
    if name in ids:
      return True
    if not self._skips:
      raise text_io.unknown(what, name, where, file)
    self._counts[what] += 1
    return False

  def notes(self) -> Iterator[str]:
    """Counts of the references that were skipped."""
    for what, count in sorted(self._counts.items()):
      yield (
        f'{count:,} references to {what}s that are not in the data are skipped '
        '(--config.data.on_dangling=skip).'
      )


def need(folder: pathlib.Path, name: str) -> pathlib.Path:
  """The path of a file that a folder must hold, plain or packed."""
  path = text_files.find(folder, name)
  if path is None:
    raise ValueError(
      f'data.path {str(folder)!r} holds no {name} or {name}.gz. '
      'Set --config.data.path to a folder with it, or --config.data.format.'
    )
  return path


def read_documents(
  path: pathlib.Path, key: str, options: Options
) -> list[types.Document]:
  """Reads the documents of a JSON lines file, with or without text.

  Args:
    path: the file.
    key: name of the field with the id.
    options: the maximum size.
  """
  documents = []
  seen = set()
  for where, record in text_files.read_json_lines(path, options.max_file_gib):
    text_io.check_names(record, (key, 'title', 'text', 'summary'), where)
    document = types.Document(
      id=text_io.identifier(record, key, where),
      title=text_io.string(record, 'title', where),
      text=text_io.string(record, 'text', where),
      summary=text_io.string(record, 'summary', where),
    )
    if document.id in seen:
      raise text_io.duplicate('document', document.id, where)
    seen.add(document.id)
    documents.append(document)
  return documents
