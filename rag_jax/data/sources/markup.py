"""Title and sections of Markdown, HTML and PDF files, by optional libraries."""

import io
import logging
import re
from collections.abc import Callable, Iterator

from rag_jax.data import text_files, text_io
from rag_jax.data.sources import base

SEPARATOR = ' > '  # between the headings above a section
_FRONT_MATTER = re.compile(r'\A---\s*\n(.*?)\n(?:---|\.\.\.)\s*(?:\n|\Z)', re.S)
_TITLE = re.compile(r'^title:\s*["\']?(.*?)["\']?\s*$', re.M | re.I)
_LINES = re.compile(r'[ \t]*\n\s*')
# Elements of HTML whose content is no text, and those that begin a new line.
_HIDDEN = ('script', 'style', 'template', 'noscript', 'head')
_BLOCKS = (
  *('p', 'div', 'li', 'ul', 'ol', 'dl', 'dt', 'dd', 'tr', 'table', 'pre'),
  *('blockquote', 'section', 'article', 'header', 'footer', 'nav', 'main'),
  *('aside', 'figure', 'figcaption', 'br', 'hr', 'form', 'body', 'html'),
)
_HEADING = re.compile(r'h[1-6]')


class Outline:
  """Collects the text of a file under its headings."""

  def __init__(self, title: str):
    """Starts under the title of the file."""
    self._title = title
    self._headings: list[tuple[int, str]] = []  # level and text
    self._parts: list[tuple[tuple[str, ...], list[str]]] = [((), [])]

  def heading(self, level: int, text: str) -> None:
    """Starts a section under a heading of a level, 1 to 6."""
    while self._headings and self._headings[-1][0] >= level:
      self._headings.pop()
    self._headings.append((level, text))
    path = tuple(own for _, own in self._headings)
    self._parts.append((path, []))

  def block(self, text: str) -> None:
    """Adds a paragraph."""
    if text_io.has_text(text):
      self._parts[-1][1].append(text)

  def document(self) -> tuple[str, str, tuple[base.Section, ...]]:
    """Title, whole text and sections.

    The title is that of the file, or else its first heading. The whole text
    has the other headings as lines. A heading without text above another one
    is in the titles of the sections below it.
    """
    title = self._title
    if not title and len(self._parts) > 1:
      title = self._parts[1][0][0]
    lines, sections = [], []
    for number, (path, blocks) in enumerate(self._parts):
      if path and path[-1] != title:
        lines.append(path[-1])
      lines += blocks
      following = self._parts[number + 1 : number + 2]
      is_above = following and following[0][0][: len(path)] == path
      if not blocks and (is_above or not path):
        continue
      names = (
        path if path[:1] == (title,) else tuple(filter(None, (title, *path)))
      )
      sections.append(base.Section(SEPARATOR.join(names), '\n\n'.join(blocks)))
    return title, '\n\n'.join(lines), tuple(sections)


Document = tuple[str, str, tuple[base.Section, ...]]


def plain(text: str, where: str) -> Document:
  """A plain text has no title and one section."""
  del where
  outline = Outline('')
  outline.block(text.strip())
  return outline.document()


def markdown(text: str, where: str) -> Document:
  """Markdown: its title is that of its front matter or its first heading."""
  try:
    import markdown_it
  except ImportError as error:
    raise text_files.missing('markdown-it-py', 'files', where) from error
  title = ''
  front = _FRONT_MATTER.match(text)
  if front:
    named = _TITLE.search(front[1])
    title, text = named[1] if named else '', text[front.end() :]
  outline = Outline(title)
  level = 0
  cells: list[str] | None = None
  for token in markdown_it.MarkdownIt().enable('table').parse(text):
    if token.type == 'heading_open':
      level = int(token.tag[1])
    elif token.type == 'tr_open':
      cells = []
    elif token.type == 'tr_close':
      outline.block(' | '.join(cells or ()))
      cells = None
    elif token.type == 'inline':
      content = ''.join(_inline(token.children or ()))
      if level:
        outline.heading(level, ' '.join(content.split()))
      elif cells is not None:
        cells.append(content)
      else:
        outline.block(content)
      level = 0
    elif token.type in ('fence', 'code_block'):
      outline.block(token.content.rstrip('\n'))
    elif token.type == 'html_block':
      _html_text(token.content, where, outline)
  return outline.document()


def _inline(tokens) -> Iterator[str]:
  """The visible text of inline Markdown; a link shows its text."""
  for token in tokens:
    if token.type in ('softbreak', 'hardbreak'):
      yield '\n'
    elif token.type in ('text', 'code_inline', 'image'):
      yield token.content


def html(text: str, where: str) -> Document:
  """HTML: its title is <title> or its first heading; scripts are no text."""
  soup = _soup(text, where)
  title = ' '.join(soup.title.get_text().split()) if soup.title else ''
  outline = Outline(title)
  _walk(soup, outline)
  return outline.document()


def _html_text(text: str, where: str, outline: Outline) -> None:
  _walk(_soup(text, where), outline)


def _soup(text: str, where: str):
  try:
    import bs4
  except ImportError as error:
    raise text_files.missing('beautifulsoup4', 'files', where) from error
  return bs4.BeautifulSoup(text, 'html.parser')


def _walk(soup, outline: Outline) -> None:
  """Adds the text of a parsed page, a paragraph for each block."""
  import bs4

  line: list[str] = []

  def end() -> None:
    text = _LINES.sub('\n', ''.join(line)).strip()
    outline.block(text)
    line.clear()

  stack = [iter(soup.children)]
  blocks = [False]
  while stack:  # without recursion: pages can be nested deeply
    node = next(stack[-1], None)
    if node is None:
      stack.pop()
      if blocks.pop():
        end()
    elif isinstance(node, bs4.NavigableString):
      if type(node) is bs4.NavigableString:  # neither a comment nor a doctype
        line.append(str(node))
    elif node.name in _HIDDEN:
      continue
    elif _HEADING.fullmatch(node.name):
      end()
      text = ' '.join(node.get_text(' ').split())
      if text:
        outline.heading(int(node.name[1]), text)
    else:
      is_block = node.name in _BLOCKS
      if is_block:
        end()
      elif node.name in ('td', 'th') and line:
        line.append(' | ')
      stack.append(iter(node.children))
      blocks.append(is_block)
  end()


def pdf(data: bytes, where: str) -> Document:
  """PDF: the text of its pages; its title is that of its properties."""
  try:
    import pypdf
  except ImportError as error:
    raise text_files.missing('pypdf', 'files', where) from error
  logging.getLogger('pypdf').setLevel(logging.ERROR)
  try:
    reader = pypdf.PdfReader(io.BytesIO(data))
    if reader.is_encrypted:
      reader.decrypt('')
    title = str((reader.metadata and reader.metadata.title) or '')
    pages = [page.extract_text() for page in reader.pages]
  except Exception as error:  # damaged files raise nearly anything
    reason = (str(error) or type(error).__name__).splitlines()[0]
    raise UnreadableError(f'is no readable PDF ({reason[:80]})') from error
  outline = Outline(' '.join(title.split()))
  for page in pages:
    outline.block(page.strip())
  return outline.document()


class UnreadableError(Exception):
  """A file whose content cannot be read as text."""


# Ending -> reader of a text.
TEXTS: dict[str, Callable[[str, str], Document]] = {
  '.txt': plain,
  '.text': plain,
  '.rst': plain,
  '.md': markdown,
  '.markdown': markdown,
  '.html': html,
  '.htm': html,
  '.xhtml': html,
}
PDF = '.pdf'
