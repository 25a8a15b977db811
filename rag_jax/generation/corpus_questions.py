"""The questions of a corpus: written by a model, or read from a file.

They are made once for a workdir and kept in its files `QUESTIONS` and `MODEL`.
A stopped run goes on with the documents that have none yet.
"""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import tokenizers as hf_tokenizers

from rag_jax import baselines, console, types
from rag_jax.data import pipeline
from rag_jax.generation import cache, generator, round_trip, settings

QUESTIONS = 'generated-questions.jsonl'  # in the workdir
MODEL = 'generator.npz'  # in the workdir: parameters of the generator
SAVE = 512  # documents between two writes of the file
LOG = 200  # training steps between two notes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Made:
  """How many questions were drawn for some documents, and how many are kept."""

  documents: int = 0
  drawn: int = 0  # different ones that ended
  kept: int = 0


def make(
  config: settings.GeneratorConfig,
  data: pipeline.DataConfig,
  seed: int,
  tokenizer: hf_tokenizers.Tokenizer,
  documents: Sequence[types.Document],
  questions: Sequence[types.Question],
  folder: pathlib.Path,
) -> cache.Found:
  """Questions about the documents of a corpus; prints notes.

  Args:
    config: the settings.
    data: configuration of the data.
    seed: of the model and of the draws.
    tokenizer: of the data.
    documents: the corpus.
    questions: the training questions; no others are looked at.
    folder: the workdir; it exists.

  Returns:
    Document id -> its questions, in the order of the corpus. Documents without
    a line in the file `config.path` have none.

  Raises:
    ValueError: if a file is damaged or belongs to other data, or no training
      question can be used.
  """
  about = provenance(config, data, seed, documents, questions)
  ids = [document.id for document in documents]
  path, found = folder / QUESTIONS, {}
  if path.exists():
    moved = config.path and not pathlib.Path(config.path).exists()
    found = cache.read(path, ids, provenance=None if moved else about)
  elif config.path:
    found = _read_file(config, data, ids)
    cache.write(path, about, found)
  missing = [d for d in documents if d.id not in found]
  if missing and not config.path:
    found = _write_missing(
      config, data, seed, tokenizer, documents, questions, folder, found, about
    )
  return {name: found.get(name, ()) for name in ids}


def _write_missing(
  config, data, seed, tokenizer, documents, questions, folder, found, about
):
  """Trains or loads the model, and writes about documents not yet in `found`.

  Other arguments are those of `make`.
  """
  if (folder / MODEL).exists():
    model = generator.load(config, data, seed, tokenizer, folder / MODEL)
  else:
    model = generator.train(
      config, data, seed, tokenizer, documents, questions, report=_report
    )
    generator.save(model, folder / MODEL)
  index = bm25(data, documents) if config.round_trip else None
  places = {d.id: row for row, d in enumerate(documents)}
  missing = [d for d in documents if d.id not in found]
  counts = Made()
  for start in range(0, len(missing), SAVE):
    part = missing[start : start + SAVE]
    rows = [places[d.id] for d in part]
    more, made = write(model, part, rows, index)
    found = found | more
    counts = Made(
      documents=counts.documents + made.documents,
      drawn=counts.drawn + made.drawn,
      kept=counts.kept + made.kept,
    )
    cache.write(folder / QUESTIONS, about, found)
  console.note(_said(config, counts, sum(not own for own in found.values())))
  return found


def write(
  model: generator.Generator,
  documents: Sequence[types.Document],
  rows: Sequence[int],
  index: baselines.Bm25Index | None,
) -> tuple[cache.Found, Made]:
  """Draws questions and keeps those that pass the round trip.

  Args:
    model: the generator.
    documents: n documents.
    rows: the row of each in `index`.
    index: BM25 of the corpus with these documents; None keeps all.
  """
  drawn = model.write(documents)
  pairs = [
    (row, text) for row, own in zip(rows, drawn, strict=True) for text in own
  ]
  keeps = [True] * len(pairs)
  if index is not None:
    keeps = round_trip.found_back(
      index,
      [text for _, text in pairs],
      [row for row, _ in pairs],
      k=model.config.round_trip,
    ).tolist()
  flags = iter(keeps)
  found = {
    document.id: tuple(text for text in own if next(flags))
    for document, own in zip(documents, drawn, strict=True)
  }
  return found, Made(
    documents=len(documents), drawn=len(pairs), kept=sum(keeps)
  )


def add_keys(
  model: generator.Generator,
  corpus: Sequence[types.Document],
  new: Sequence[types.Document],
) -> list[types.Document]:
  """New documents with questions, searched for among old and new ones.

  Args:
    model: the generator.
    corpus: the documents that are there.
    new: the documents to add; those with questions keep them.
  """
  bare = [document for document in new if not document.questions]
  index = None
  if model.config.round_trip:
    index = bm25(model.data, [*corpus, *bare])
  rows = range(len(corpus), len(corpus) + len(bare))
  found = write(model, bare, rows, index)[0] if bare else {}
  return attach(new, found)


def attach(
  documents: Sequence[types.Document], found: cache.Found
) -> list[types.Document]:
  """The documents with these questions, besides those that they have."""
  return [
    dataclasses.replace(d, questions=(*d.questions, *found.get(d.id, ())))
    for d in documents
  ]


def bm25(
  data: pipeline.DataConfig,
  documents: Sequence[types.Document],
  *,
  keys: bool = False,
) -> baselines.Bm25Index:
  """BM25 as the data is configured; `keys`: with questions of documents."""
  if not keys:
    documents = [dataclasses.replace(d, questions=()) for d in documents]
  return baselines.bm25_index(
    documents,
    k1=data.bm25_k1,
    b=data.bm25_b,
    title_weight=data.title_weight,
    language=data.language,
  )


def provenance(
  config: settings.GeneratorConfig,
  data: pipeline.DataConfig,
  seed: int,
  documents: Sequence[types.Document],
  questions: Sequence[types.Question],
) -> dict[str, Any]:
  """What the questions depend on, as values for JSON."""
  if config.path:
    content = pathlib.Path(config.path)
    digest = hashlib.sha256(content.read_bytes()) if content.is_file() else None
    return {'file': digest.hexdigest() if digest else ''}
  names = ('max_document_tokens', 'language', 'bm25_k1', 'bm25_b')
  return {
    'settings': dataclasses.asdict(config),
    'data': {n: getattr(data, n) for n in (*names, 'title_weight')},
    'seed': seed,
    'documents': _hash([d.id, d.title, d.text] for d in documents),
    'train_questions': _hash([q.text, *q.document_ids] for q in questions),
  }


def _hash(rows: Any) -> str:
  digest = hashlib.sha256()
  for row in rows:
    digest.update(json.dumps(row).encode())
  return digest.hexdigest()


def _read_file(
  config: settings.GeneratorConfig,
  data: pipeline.DataConfig,
  ids: Sequence[str],
) -> cache.Found:
  """The questions of `config.path`."""
  path = pathlib.Path(config.path)
  if not path.is_file():
    raise ValueError(
      f'generator.path {config.path!r} is no file. Set --config.generator.path '
      "to a file of questions, or to '' for a model that writes them."
    )
  try:
    found = cache.read(path, ids, max_gib=data.max_file_gib)
  except ValueError as error:
    raise ValueError(f'generator.path: {error}') from error
  count = sum(map(len, found.values()))
  without = sum(not found.get(name) for name in ids)
  console.note(
    f'{count} questions about documents are read from {config.path!r}; '
    f'{without} of {len(ids)} documents have none.'
  )
  return found


def _report(step: int, loss: Any) -> None:
  if step % LOG == 0:
    console.note(f'question generator: step {step}, loss {float(loss):.3f}')


def _said(config: settings.GeneratorConfig, made: Made, without: int) -> str:
  kept = f'{made.kept} of {made.drawn} generated questions are kept'
  if config.round_trip:
    kept += (
      f': BM25 finds their document among the first {config.round_trip} '
      '(--config.generator.round_trip)'
    )
  return f'{kept}; {without} documents have none.'
