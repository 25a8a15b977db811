"""Datasets from TensorFlow Datasets (TFDS); TensorFlow is not needed."""

import contextlib
import pathlib
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

from rag_jax import types
from rag_jax.data import text_io
from rag_jax.data.sources import base

PREFIX = 'tfds:'
NAMES = ('squad', 'trivia_qa', 'natural_questions_open')
_HOSTS = {
  'squad': 'https://rajpurkar.github.io/SQuAD-explorer/',
  'trivia_qa': 'http://nlp.cs.washington.edu/triviaqa/',
}


def read(path: pathlib.Path, options: base.Options) -> base.Content:
  """Reads SQuAD or TriviaQA from TFDS, downloading it if necessary.

  Args:
    path: one of `NAMES`.
    options: not used.

  Returns:
    The documents, and the questions of the splits train and validation.

  Raises:
    ValueError: if the name is unknown, the dataset has no documents, or the
      download fails.
  """
  del options
  name = str(path)
  if name not in NAMES:
    raise ValueError(
      f'data.path must be tfds:NAME with a NAME of {", ".join(NAMES)}, '
      f'got {name!r}. Set --config.data.path.'
    )
  if name == 'natural_questions_open':
    raise ValueError(
      "data.path 'tfds:natural_questions_open' has questions but no "
      'documents. Set --config.data.path to a BEIR folder (nq) or a DPR file.'
    )
  import tensorflow_datasets as tfds  # slow to import, needed only here

  read_row = {'squad': _squad, 'trivia_qa': _trivia_qa}[name]
  corpus: text_io.Corpus = {}
  try:
    builder = tfds.builder(name, file_format='array_record')
    if not builder.is_prepared():
      _check_reachable(_HOSTS[name])
      builder.download_and_prepare()
    splits = {
      split: [read_row(row, corpus) for row in builder.as_data_source(split)]
      for split in ('train', 'validation')
    }
  except Exception as error:  # network, disk and TFDS share no base class
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    raise ValueError(
      f"data.path 'tfds:{name}' cannot be downloaded or read "
      f'({reason[:120]}). Fetch the data elsewhere and set --config.data.path '
      'to the local SQuAD or DPR .json file.'
    ) from error
  return base.Content(documents=text_io.documents_of(corpus), splits=splits)


def _check_reachable(url: str) -> None:
  """Raises within seconds if there is no network; TFDS retries for minutes."""
  request = urllib.request.Request(url, method='HEAD')
  # Any HTTP response shows that the host is reachable, even an error status.
  with contextlib.suppress(urllib.error.HTTPError):
    urllib.request.urlopen(request, timeout=20).close()


def _squad(row: Mapping, corpus: text_io.Corpus) -> types.Question:
  title = _text(row['title']).replace('_', ' ')
  return types.Question(
    id=_text(row['id']),
    text=_text(row['question']),
    answers=text_io.distinct(map(_text, row['answers']['text'])),
    document_ids=(text_io.add_paragraph(corpus, title, _text(row['context'])),),
  )


def _trivia_qa(row: Mapping, corpus: text_io.Corpus) -> types.Question:
  """TriviaQA; the evidence pages of a question are its gold documents."""
  gold = []
  for pages, key in (
    ('entity_pages', 'wiki_context'),
    ('search_results', 'search_context'),
  ):
    found = row[pages]
    for title, text in zip(found['title'], found[key], strict=True):
      if text_io.has_text(_text(text)):
        gold.append(text_io.add_paragraph(corpus, _text(title), _text(text)))
  answer = row['answer']
  return types.Question(
    id=_text(row['question_id']),
    text=_text(row['question']),
    answers=text_io.distinct(map(_text, (answer['value'], *answer['aliases']))),
    document_ids=text_io.distinct(gold),
  )


def _text(value: Any) -> str:
  return value.decode('utf-8') if isinstance(value, bytes) else str(value)
