"""MedQuAD: XML files of a topic with questions and long answers."""

import pathlib
import re
import tarfile
from collections.abc import Iterator
from xml.etree import ElementTree

from rag_jax import types
from rag_jax.data import text_files, text_io
from rag_jax.data.sources import base, question_files

_SPACES = re.compile(r'[ \t]*\n[\s]*|[ \t]{2,}')
_TAR = ('.tar', '.tar.gz', '.tgz')


def is_one(path: pathlib.Path) -> bool:
  """Whether a path is an archive, or a folder, of MedQuAD's XML files."""
  if path.is_file():
    return path.name.endswith(_TAR)
  first = next((p for p in path.rglob('*.xml') if p.is_file()), None)
  if first is None:
    return False
  with first.open('rb') as file:
    return b'<QAPair' in file.read(2**16)


def read(path: pathlib.Path, options: base.Options) -> base.Content:
  """Reads MedQuAD; each file is a document, the text of all its answers.

  Files without an answer are left out and counted; their answers were removed
  from the data for reasons of copyright. Questions are split 9:1 into 'train'
  and 'dev' by a hash of their ids.
  """
  documents: list[types.Document] = []
  questions: list[types.Question] = []
  silent = without = 0
  for where, file, data in _files(path, options):
    name = file.removesuffix('.xml')  # the ids in the files are not unique
    try:
      root = ElementTree.fromstring(data)
    except ElementTree.ParseError as error:
      raise ValueError(
        f'{where} is not valid XML ({error}). Correct it, or fetch it again.'
      ) from error
    title = _text(root.find('Focus'))
    answers = []
    for pair in root.iter('QAPair'):
      question, answer = pair.find('Question'), _text(pair.find('Answer'))
      if question is None or not text_io.has_text(answer):
        without += 1
        continue
      answers.append(answer)
      questions.append(
        types.Question(
          id=f'{name}-{len(answers)}',
          text=_text(question),
          answers=(answer,),
          document_ids=(name,),
        )
      )
    if answers:
      text = '\n\n'.join(dict.fromkeys(answers))
      documents.append(types.Document(id=name, title=title, text=text))
    else:
      silent += 1
  notes = []
  if silent or without:
    notes.append(
      f'{silent:,} files and {without:,} questions without an answer are left '
      'out.'
    )
  return base.Content(
    documents=documents,
    splits=question_files.train_and_dev(questions),
    notes=notes,
  )


def _text(element: ElementTree.Element | None) -> str:
  """The text of an element; indentation and line breaks become one space."""
  if element is None:
    return ''
  return _SPACES.sub(' ', ''.join(element.itertext())).strip()


def _files(
  path: pathlib.Path, options: base.Options
) -> Iterator[tuple[str, str, bytes]]:
  """Yields (location, path, content) of the XML of a folder or an archive."""
  if path.is_dir():
    for file in sorted(path.rglob('*.xml')):
      with text_files.open(file, options.max_file_gib) as opened:
        name = file.relative_to(path).as_posix()
        yield f'data file {str(file)!r}', name, opened.read()
    return
  with text_files.open(path, options.max_file_gib) as opened:
    try:
      with tarfile.open(fileobj=opened, mode='r|') as archive:
        for member in archive:
          content = archive.extractfile(member)
          if content is not None and member.name.endswith('.xml'):
            where = f'data file {str(path)!r} member {member.name!r}'
            yield where, member.name, content.read()
    except tarfile.TarError as error:
      raise ValueError(
        f'data file {str(path)!r} is a damaged archive ({error}). Fetch it '
        'again.'
      ) from error
