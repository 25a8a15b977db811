"""The file of generated questions: JSON lines, one per document.

  {"provenance": {"settings": {...}, "seed": 0, "documents": "1f0c...", ...}}
  {"id": "elements/gold", "questions": ["what is the symbol of gold ?", ...]}

The first line says what the questions depend on; a file from elsewhere needs
none. A document may have no question left.
"""

import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from rag_jax import files
from rag_jax.data import text_files

Found = dict[str, tuple[str, ...]]  # document id -> questions
PROVENANCE = 'provenance'


def write(
  path: pathlib.Path, provenance: Mapping[str, Any], found: Found
) -> None:
  """Writes questions, atomically."""
  lines = [json.dumps({PROVENANCE: provenance}, sort_keys=True)]
  lines += [
    json.dumps({'id': name, 'questions': own}, ensure_ascii=False)
    for name, own in found.items()
  ]
  files.write(path, ''.join(f'{line}\n' for line in lines))


def read(
  path: pathlib.Path,
  ids: Iterable[str],
  *,
  provenance: Mapping[str, Any] | None = None,
  max_gib: float = text_files.MAX_GIB,
) -> Found:
  """Reads questions.

  Args:
    path: the file.
    ids: ids of the documents of the corpus.
    provenance: what the first line must say; None = anything.
    max_gib: largest size of the file, in GiB.

  Returns:
    The documents in the file -> their questions, in the order of the file.

  Raises:
    ValueError: if the file cannot be read, has other fields, names a document
      twice or one that is not in `ids`, or has another provenance.
  """
  known = set(ids)
  found: Found = {}
  said = None
  for where, line in text_files.read_json_lines(path, max_gib):
    if said is None and not found and line.keys() == {PROVENANCE}:
      said = line[PROVENANCE]
      continue
    name, own = line.get('id'), line.get('questions')
    if not isinstance(own, list) or not all(
      isinstance(text, str) and text.strip() for text in own
    ):
      raise ValueError(
        f'{where} must have an id and a list of texts that are not blank as '
        f'questions, got {text_files.short(line)}. Correct that line.'
      )
    if name not in known or name in found:
      why = 'twice' if name in found else 'that is no document'
      raise ValueError(
        f'{where} must name each document of the corpus once, got the id '
        f'{name!r} {why}. Correct or delete that line.'
      )
    found[name] = tuple(own)
  if provenance is not None and said != json.loads(json.dumps(provenance)):
    raise ValueError(
      f'{str(path)!r} holds questions from other documents, questions or '
      f'settings, {_difference(said, provenance)}. Delete it, and they are '
      'made again.'
    )
  return found


def _difference(said: Any, wanted: Mapping[str, Any]) -> str:
  """The first part of a provenance that differs."""
  said = said if isinstance(said, dict) else {}
  wanted = json.loads(json.dumps(wanted))
  for name in sorted(wanted.keys() | said.keys()):
    if said.get(name) != wanted.get(name):
      return f'got another value of {name!r}'
  return 'got none'
