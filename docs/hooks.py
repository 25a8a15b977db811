"""What mkdocs does beyond its pages: the tutorial, and pages of the root.

The tutorial is a script in the percent format; `to_markdown` makes a page of
it, with what its cells print: `python docs/hooks.py` runs them and writes that
to tutorial.json. CHANGELOG.md and CONTRIBUTING.md stand in the root, where
GitHub looks for them, and become pages too. Links are written as GitHub needs
them, and are turned here to what the site has.
"""

import contextlib
import hashlib
import io
import json
import pathlib
import posixpath
import re
from collections.abc import Iterator, Mapping

ROOT = pathlib.Path(__file__).parents[1]
SCRIPT = ROOT / 'docs' / 'tutorial.py'
OUTPUTS = ROOT / 'docs' / 'tutorial.json'  # what its cells print
OF_ROOT = {'CHANGELOG.md': 'changelog.md', 'CONTRIBUTING.md': 'contributing.md'}
TUTORIAL = 'tutorial.md'


def on_files(files, config):
  """Adds the pages that are no Markdown files below docs/."""
  from mkdocs.structure.files import File

  script = SCRIPT.read_text(encoding='utf-8')
  outputs = json.loads(OUTPUTS.read_text(encoding='utf-8'))
  pages = {TUTORIAL: to_markdown(script, outputs)}
  for source, page in OF_ROOT.items():
    text = (ROOT / source).read_text(encoding='utf-8')
    pages[page] = re.sub(r'\]\(docs/', '](', text)
  for page, text in pages.items():
    files.append(File.generated(config, page, content=text))
  return files


def on_page_markdown(markdown, page, config, files):
  """Turns links to files of the repository into links to pages."""
  return for_site(markdown, page.file.src_uri)


def for_site(text: str, page: str) -> str:
  """A page's text with the links and the code blocks that the site has.

  Args:
    text: as GitHub shows it.
    page: its path below docs/.

  Example:
    >>> for_site('[What is new](../CHANGELOG.md#today)', 'index.md')
    '[What is new](changelog.md#today)'
    >>> for_site('[Start](../tutorial.py)', 'howto/index.md')
    '[Start](../tutorial.md)'
  """
  folder = posixpath.dirname(page)
  here = posixpath.join('docs', folder)

  def link(match):
    path, anchor = match.groups(default='')
    target = posixpath.normpath(posixpath.join(here, path))
    if target == 'docs/tutorial.py':
      target = TUTORIAL
    elif target in OF_ROOT:
      target = OF_ROOT[target]
    else:
      return match.group()
    return f']({posixpath.relpath(target, folder or ".")}{anchor})'

  text = re.sub(r'\]\(([^)#:\s]+)(#[^)]*)?\)', link, text)
  return text.replace('```python\n>>>', '```pycon\n>>>')


def to_markdown(script: str, outputs: Mapping[str, str] = {}) -> str:
  r"""A page of a script in the percent format.

  A cell starts with a line `# %%`, or `# %% [markdown]`, whose lines are
  comments. What stands before the first cell is left out.

  Args:
    script: the text of the script.
    outputs: what cells have printed, by the hash of their code.

  Example:
    >>> script = '# %% [markdown]\n# # One\n#\n# Text.\n# %%\nx = 1\n'
    >>> print(to_markdown(script))
    # One
    <BLANKLINE>
    Text.
    <BLANKLINE>
    ```python
    x = 1
    ```
    <BLANKLINE>
  """
  parts = []
  for is_code, body in cells(script):
    if not is_code:
      parts.append(body)
      continue
    parts.append(f'```python\n{body}\n```')
    if name_of(body) in outputs:
      parts.append(f'```text\n{outputs[name_of(body)].rstrip()}\n```')
  return '\n\n'.join(parts) + '\n'


def cells(script: str) -> Iterator[tuple[bool, str]]:
  """The cells of a script: whether it is code, and its code or its text."""
  pieces = re.split(r'^# %%(.*)\n', script, flags=re.MULTILINE)[1:]
  for kind, piece in zip(pieces[::2], pieces[1::2], strict=True):
    body = piece.strip('\n')
    if kind.strip() == '[markdown]':
      yield False, re.sub(r'^# ?', '', body, flags=re.MULTILINE)
    elif body:
      yield True, body


def name_of(code: str) -> str:
  """A name by which a cell's output is found; other code has another."""
  return hashlib.sha256(code.encode()).hexdigest()[:12]


def run_tutorial() -> dict[str, str]:
  """Runs the tutorial; what each cell has printed, by the hash of its code."""
  namespace: dict[str, object] = {'__name__': 'tutorial'}
  found = {}
  for is_code, body in cells(SCRIPT.read_text(encoding='utf-8')):
    if is_code:
      printed = io.StringIO()
      with contextlib.redirect_stdout(printed):
        exec(compile(body, str(SCRIPT), 'exec'), namespace)
      if printed.getvalue():
        found[name_of(body)] = printed.getvalue()
  return found


if __name__ == '__main__':
  text = json.dumps(run_tutorial(), indent=2, ensure_ascii=False)
  OUTPUTS.write_text(text + '\n', encoding='utf-8')
