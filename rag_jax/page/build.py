"""Writes the page report.html: runs in one file that needs no network.

The page holds its style, its scripts and the data, compressed; a content
security policy forbids every request. Texts of the data reach the page as text
nodes only, so that HTML in a document is shown and not run.
"""

import base64
import gzip
import hashlib
import html
import json
import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any

from rag_jax import compare, console, files, outputs
from rag_jax.page import questions, runs

FILE, SEVERAL = 'report.html', 'report-compare.html'
STATIC = pathlib.Path(__file__).parent / 'static'
SCRIPTS = (
  *('state.js', 'dom.js', 'charts.js', 'overview.js', 'training.js'),
  *('confidence.js', 'docids.js', 'explorer.js', 'trie.js', 'question.js'),
  'app.js',
)
Path = str | os.PathLike[str]


def write(folders: Sequence[Path], to: Path | None = None) -> pathlib.Path:
  """Writes the page of one run, or of several side by side.

  Args:
    folders: workdirs, or folders of evaluations; others are compared with the
      first.
    to: the file; default: report.html in the folder, or report-compare.html in
      the first of several.

  Returns:
    The file.

  Raises:
    ValueError: if a folder has no results, a file is damaged, or the page
      cannot be written.
  """
  paths = [pathlib.Path(folder) for folder in folders]
  if not paths:
    raise ValueError(
      'report needs a workdir, got none. Name one or more: rag-jax report '
      'runs/facts.'
    )
  file = pathlib.Path(to or paths[0] / (SEVERAL if len(paths) > 1 else FILE))
  text = page(paths)
  try:
    files.write(file, text)
  except OSError as error:
    raise ValueError(
      f'{str(file)!r} cannot be written ({files.reason(error)}). Set --to to a '
      'file in a folder that exists and permits writing.'
    ) from error
  return file


def add(folder: pathlib.Path) -> None:
  """Writes the page of a run that just ended; a failure is a note.

  Args:
    folder: the workdir, or the folder of an evaluation.
  """
  try:
    write([folder])
  except ValueError as error:
    console.note(f'no page is written: {error}')


def page(folders: Sequence[pathlib.Path]) -> str:
  """The page as HTML.

  Raises:
    ValueError: if a folder has no results, or a file is damaged.
  """
  documents = questions.Documents()
  found = [runs.read(folder, documents) for folder in folders]
  for name, run in zip(_names(folders), found, strict=True):
    run['name'] = name
  data = {
    'runs': found,
    'documents': documents.rows,
    'differences': [
      _differences(folders[0], other, name)
      for other, name in zip(folders[1:], _names(folders)[1:], strict=True)
    ],
  }
  return _html(data, ' and '.join(_names(folders)))


def _names(folders: Sequence[pathlib.Path]) -> list[str]:
  """The shortest ends of the paths that tell the runs apart."""
  parts, own = [], []
  for folder in folders:
    path = folder.absolute()
    inside = path.parent.name == outputs.EVALUATIONS
    own.append(2 if inside else 1)  # of an evaluation: facts/001
    parts.append([x for x in path.parts if x != outputs.EVALUATIONS])
  for more in range(max(map(len, parts))):
    names = [
      '/'.join(part[-(depth + more) :])
      for part, depth in zip(parts, own, strict=True)
    ]
    if len(set(names)) == len(names):
      return names
  return [f'{"/".join(part)} ({i})' for i, part in enumerate(parts, 1)]


def _differences(
  first: pathlib.Path, other: pathlib.Path, name: str
) -> dict[str, Any]:
  """The paired tests of two runs, or the reason why there are none."""
  try:
    found = compare.differences([first, other])
  except ValueError as error:
    return {'name': name, 'rows': [], 'note': str(error)}
  fields = (
    *('split', 'system', 'metric', 'means', 'value', 'low', 'high', 'p'),
    *('better', 'worse', 'count'),
  )
  rows = [[getattr(own, field) for field in fields] for own in found]
  return {'name': name, 'rows': rows, 'note': ''}


def _html(data: dict[str, Any], title: str) -> str:
  """Fills the template; only its own style and scripts may run."""
  packed = gzip.compress(
    json.dumps(data, ensure_ascii=False, separators=(',', ':')).encode(),
    mtime=0,
  )
  style = (STATIC / 'page.css').read_text(encoding='utf-8')
  script = '\n'.join(
    (STATIC / name).read_text(encoding='utf-8') for name in SCRIPTS
  )
  script = f"'use strict';\n(() => {{\n{script}}})();\n"
  template = (STATIC / 'page.html').read_text(encoding='utf-8')
  values = {
    'TITLE': html.escape(f'rag_jax: {title}'),
    'POLICY': "default-src 'none'; base-uri 'none'; form-action 'none'; "
    f"script-src '{_hash(script)}'; style-src '{_hash(style)}'; img-src data:",
    'STYLE': style,
    'SCRIPT': script,
    'DATA': base64.b64encode(packed).decode(),
  }
  # In one pass, so that nothing is replaced inside of a value.
  return re.sub(r'\[\[([A-Z]+)\]\]', lambda found: values[found[1]], template)


def _hash(text: str) -> str:
  """The hash of a style or script, for a content security policy."""
  digest = hashlib.sha256(text.encode()).digest()
  return f'sha256-{base64.b64encode(digest).decode()}'
