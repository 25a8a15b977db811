"""Documents and questions from user input, and derived fields of an index."""

import dataclasses
import os
import pathlib
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import tokenizers as hf_tokenizers

from rag_jax import config as configs
from rag_jax import console, readers, types
from rag_jax.components import query_encoder
from rag_jax.data import (
  assemble,
  encoder_input,
  pipeline,
  text_io,
  words,
)
from rag_jax.index import index as indexes
from rag_jax.index import lexicon_file
from rag_jax.ops import lexical, node_slots, token_table
from rag_jax.ops import trie as tries

BLOCK = 4096  # documents whose words are padded to the same length

Texts = Iterable[str | Mapping[str, Any] | types.Document]


def as_documents(texts: Texts, *, start: int = 0) -> list[types.Document]:
  """Converts user input to documents.

  Args:
    texts: plain texts, `Document`s, or mappings with 'text' or 'title' and
      optionally 'id', 'summary' and 'questions'. The default id is a running
      number.
    start: the first number.

  Raises:
    ValueError: if there is no document, an id is repeated, or a text is blank.

  Example:
    >>> [document] = as_documents(['A cat sleeps.'])
    >>> document.id, document.text
    ('0', 'A cat sleeps.')
  """
  if isinstance(texts, (str, Mapping, types.Document)):
    raise ValueError(
      f'documents must be a list, got {texts!r}. Pass [document].'
    )
  if isinstance(texts, os.PathLike) or not isinstance(texts, Iterable):
    raise ValueError(
      f'documents must be a list of texts, got {texts!r}. Read the file first, '
      'or pass rag_jax.data.formats.load(path).documents of a data set.'
    )
  found = [_document(value, str(start + i)) for i, value in enumerate(texts)]
  if not found:
    raise ValueError(
      'documents must not be empty, got none. Pass at least one.'
    )
  seen: set[str] = set()
  for document in found:
    if document.id in seen:
      raise ValueError(
        f'ids of documents must be unique, got {document.id!r} twice. '
        'Change one of them.'
      )
    seen.add(document.id)
    if not assemble.shows(document):
      raise ValueError(
        f'document {document.id!r} must have text, got {document.text!r}. '
        'Leave it out.'
      )
  return found


def _document(value: Any, default_id: str) -> types.Document:
  if isinstance(value, types.Document):
    return value
  if isinstance(value, str):
    return types.Document(id=default_id, text=value)
  known = {field.name for field in dataclasses.fields(types.Document)}
  if (
    not isinstance(value, Mapping)
    or not {'text', 'title'} & value.keys()
    or not value.keys() <= known
  ):
    raise ValueError(
      'documents must be texts or mappings with text and optionally id, '
      f'title, summary and questions, got {value!r}. Rename or leave out '
      'other fields.'
    )
  fields = {'id': default_id, 'text': ''} | dict(value)
  questions = fields.pop('questions', ())
  if isinstance(questions, str) or not all(
    isinstance(text, str) and text_io.has_text(text) for text in questions
  ):
    raise ValueError(
      'questions of a document must be a list of texts that are not blank, got '
      f'{questions!r}. Pass [question], or leave it out.'
    )
  wrong = [key for key, text in fields.items() if not isinstance(text, str)]
  if wrong:
    raise ValueError(
      f'{wrong[0]} of a document must be text, got {fields[wrong[0]]!r}. '
      'Convert it with str().'
    )
  return types.Document(**fields, questions=tuple(questions))


def as_questions(texts: Sequence[str]) -> list[types.Question]:
  """Converts texts to questions; a ValueError if one is blank or no text."""
  if isinstance(texts, str):
    raise ValueError(
      f'questions must be a list of texts, got the text {texts!r}. '
      f'Pass [{texts!r}].'
    )
  if not isinstance(texts, Iterable) or isinstance(texts, Mapping):
    raise ValueError(
      f'questions must be a list of texts, got {texts!r}. Pass a list.'
    )
  texts = list(texts)
  for text in texts:
    if not isinstance(text, str) or not text_io.has_text(text):
      raise ValueError(
        f'questions must be texts that are not blank, got {text!r}. Leave it '
        'out.'
      )
  if not texts:
    raise ValueError(
      'questions must not be empty, got none. Pass at least one.'
    )
  return [
    types.Question(id=str(number), text=text.strip())
    for number, text in enumerate(texts)
  ]


def complete(
  config: configs.Config,
  documents: Sequence[types.Document | None],
  tokenizer: hf_tokenizers.Tokenizer,
  index: indexes.Index,
  *,
  reader_tokenizer: hf_tokenizers.Tokenizer | None = None,
  notes: bool = False,
  workdir: pathlib.Path | None = None,
  placed: bool = True,
) -> tuple[indexes.Index, words.Vocabulary | None]:
  """Rebuilds the fields of an index that are derived from its documents.

  Args:
    config: the experiment.
    documents: documents by row of the index; None = an empty row.
    tokenizer: tokenizer of the documents.
    index: an index with docids and tokens.
    reader_tokenizer: tokenizer of a reader that does not use that of the data.
    notes: whether to print how many documents were truncated for the reader.
    workdir: folder that may hold the lexicon of these documents, as `rag-jax
      corpus pack` writes it; None makes it here.
    placed: whether tables are put on the default device; if not, they are
      arrays of the host, for `placement.place_index`.

  Returns:
    The index with `lexicon` (BM25 weights), `around_query` (special tokens and
    prompt), `reader_tokens` (passages for the reader) and `slots` (nodes with a
    row), each if it is needed; and the vocabulary of the lexicon or None.
  """
  around = encoder_input.around_query(tokenizer, config.data.query_prompt)
  if any(around):
    before, after = (jnp.asarray(part, jnp.int32) for part in around)
    index = dataclasses.replace(index, around_query=(before, after))
  passages = reader_passages(
    config, documents, reader_tokenizer, notes=notes, placed=placed
  )
  index = dataclasses.replace(index, reader_tokens=passages)
  index = with_slots(config, index)
  if not config.data.lexicon:
    return index, None
  if workdir is not None and (workdir / lexicon_file.FOLDER).is_dir():
    about = about_lexicon(config, _checksum(documents))
    folder = workdir / lexicon_file.FOLDER
    made = lexicon_file.load(
      folder, about, language=config.data.language, placed=placed
    )
    if made is not None:
      return dataclasses.replace(index, lexicon=made[0]), made[1]
  lexicon, vocabulary = _lexicon(config, _present(documents), placed)
  return dataclasses.replace(index, lexicon=lexicon), vocabulary


def with_slots(
  config: configs.Config, index: indexes.Index, *, count: int = 0
) -> indexes.Index:
  """The index with the nodes that have a row, if some have none.

  Args:
    config: the experiment.
    index: an index of the run; slots that it has stay.
    count: rows of the table, if it has more than the nodes need.
  """
  decoder = config.id_decoder
  if not decoder.shares_rows or index.slots is not None:
    return index
  least = decoder.table_levels, decoder.table_documents
  slots = node_slots.of_trie(index.trie, *least, count=count)
  return dataclasses.replace(index, slots=slots)


def about_lexicon(config: configs.Config, checksum: int) -> dict[str, Any]:
  """What the lexicon of a workdir must be made of.

  Args:
    config: the experiment.
    checksum: CRC-32 of ids, titles and texts of the documents.
  """
  names = ('language', 'bm25_k1', 'bm25_b', 'title_weight', 'pair_weight')
  values = {name: getattr(config.data, name) for name in names}
  return values | {'documents': checksum}


def _checksum(documents: Sequence[types.Document | None]) -> int:
  """CRC-32 of documents; -1 if some have questions, which are keys as well."""
  checksum = 0
  for document in _present(documents):
    if document.questions:
      return -1
    fields = document.id, document.title, document.text
    checksum = add_to_checksum(checksum, *fields)
  return checksum


def add_to_checksum(checksum: int, name: str, title: str, text: str) -> int:
  """CRC-32 of documents, and of one more with this id, title and text."""
  fields = '\0'.join((name, title, text))
  return zlib.crc32(fields.encode('utf-8', 'surrogatepass'), checksum)


def _lexicon(
  config: configs.Config, documents: Sequence[types.Document], placed: bool
) -> tuple[lexical.Lexicon, words.Vocabulary]:
  """The lexicon of documents, and its vocabulary."""
  texts = words.document_texts(documents, title_weight=config.data.title_weight)
  vocabulary = words.build(texts, language=config.data.language)
  lexicon = lexical.build(
    (
      words.encode(vocabulary, texts[first : first + BLOCK])
      for first in range(0, len(texts), BLOCK)
    ),
    vocab_size=vocabulary.size,
    k1=config.data.bm25_k1,
    b=config.data.bm25_b,
    pair_weight=config.data.pair_weight,
    placed=placed,
  )
  counts = np.diff(np.asarray(lexicon.first))[: vocabulary.size]
  return lexicon, dataclasses.replace(vocabulary, counts=counts)


def with_gold_nodes(
  config: configs.Config, dataset: types.Dataset, index: indexes.Index
) -> indexes.Index:
  """The index with a mask of the trie nodes above gold training documents.

  Losses exclude all other documents from their negatives. The index stays
  without the mask in two cases: with the loss `indexing`, because crops make
  every document gold, and without a published query encoder, because training
  from scratch must move every document.
  """
  published = query_encoder.make(config.query_encoder).published
  if not published or config.trains_with(frozenset(('indexing',))):
    return index
  rows = {d.id: i for i, d in enumerate(dataset.documents)}
  is_gold = np.zeros(len(rows), np.float32)
  for question in pipeline.train_questions(dataset, config.data):
    is_gold[[rows[name] for name in question.document_ids]] = 1
  below = tries.sum_below(index.trie, jnp.asarray(is_gold))
  return dataclasses.replace(index, gold_nodes=below > 0)


def reader_passages(
  config: configs.Config,
  documents: Sequence[types.Document | None],
  reader_tokenizer: hf_tokenizers.Tokenizer | None,
  *,
  notes: bool = False,
  placed: bool = True,
) -> token_table.Table | None:
  """Passages in the reader's own tokens, int32[N, P'].

  None for a reader that uses the tokens of the data. With `notes`, it prints
  how many documents were truncated.
  """
  text = readers.make(config.reader).text_inputs
  if text is None or reader_tokenizer is None:
    return None
  most = config.data.max_document_tokens
  passages, truncated = text.passages(
    reader_tokenizer, _present(documents), max_tokens=most + text.overhead
  )
  if notes and truncated:
    console.note(
      f'{truncated} of {len(documents)} documents are truncated to {most} '
      "tokens of the reader's own tokenizer "
      '(--config.data.max_document_tokens).'
    )
  on_host = config.data.host_tokens
  return token_table.make(passages, on_host=on_host, placed=placed)


def _present(
  documents: Sequence[types.Document | None],
) -> list[types.Document]:
  """The documents, with an empty document for each empty row."""
  empty = types.Document(id='', text='')
  return [empty if d is None else d for d in documents]


def with_special_tokens(
  config: configs.Config,
  tokenizer: hf_tokenizers.Tokenizer,
  documents: Sequence[types.Document],
) -> np.ndarray:
  """Documents as input of a published encoder, int32[N, T]."""
  data = config.data
  return encoder_input.documents(
    tokenizer,
    [pipeline.document_text(document) for document in documents],
    document_prompt=data.document_prompt,
    max_tokens=data.max_vector_tokens,
  )


def rows_of(
  ids: Iterable[str], rows: Mapping[str, int], *, what: str
) -> list[int]:
  """The rows of documents in the index.

  Args:
    ids: ids of documents, at least one.
    rows: id -> row of each document.
    what: name of `ids`, for the message.

  Raises:
    ValueError: if an id is unknown, or there is none.
  """
  if isinstance(ids, str) or not isinstance(ids, Iterable):
    raise ValueError(
      f'{what} must be a list of document ids, got {ids!r}. Pass [{ids!r}].'
    )
  found = list(ids)
  unknown = [name for name in found if name not in rows]
  if unknown or not found:
    got = f'{unknown[0]!r}' if unknown else 'none'
    raise ValueError(
      f'{what} must be ids of documents in the system, got {got}. Pass ids '
      f'such as {next(iter(rows))!r}.'
    )
  return [rows[name] for name in found]
