"""Answers of a forward pass as text, their scores and candidates."""

from typing import Any

import numpy as np
import tokenizers as hf_tokenizers

from rag_jax import (
  answers,
  calibration,
  cited,
  confidence,
  forward,
  readers,
  store,
  types,
)
from rag_jax import config as configs
from rag_jax.data import citations, pipeline, text_io, tokenizers


def text(
  config: configs.Config,
  found: forward.Answer,
  row: int,
  *,
  documents: store.Documents,
  tokenizer: hf_tokenizers.Tokenizer,
  reader_tokenizer: hf_tokenizers.Tokenizer | None = None,
) -> tuple[str, tuple[int, int] | None]:
  """The best answer, and its character span in the text of its document.

  Args:
    config: the experiment.
    found: the answers of a batch, on the host.
    row: which of them.
    documents: documents by row of the index.
    tokenizer: tokenizer of the documents.
    reader_tokenizer: tokenizer of a reader that does not use that.

  Returns:
    The text, and its span; None if it was generated or is in the title.
  """
  reader = readers.make(config.reader)
  if not reader.points:
    tokens = np.asarray(found.tokens[row])
    if reader.cites:
      return citations.decode(tokenizer, tokens), None
    if reader.text_inputs is not None and reader_tokenizer is not None:
      return reader.text_inputs.decode(reader_tokenizer, tokens), None
    return tokenizers.decode(tokenizer, tokens), None
  document = documents[int(found.read[row])]
  assert document is not None  # the search returns no empty rows
  begin, end = pipeline.span(
    reader_tokenizer or tokenizer,
    document,
    int(found.start[row]),
    int(found.end[row]),
    config.data,
  )
  whole = pipeline.document_text(document)
  before = max(len(whole) - len(document.text), 0)
  inside = None if begin < before else (begin - before, end - before)
  if not text_io.has_text(document.text):  # the answer is in the title
    inside = None
  return whole[begin:end], inside


def read(
  config: configs.Config,
  found: Any,
  row: int,
  documents: store.Documents,
  *,
  weighted: bool = False,
) -> list[types.Document]:
  """The documents that the reader read, in the order of its citations.

  Args:
    config: the experiment.
    found: `forward.Answer` or `compiled.Ranked`, on the host.
    row: the question.
    documents: documents by row of the index.
    weighted: only those with positive weight, which the answer is from.
  """
  places = np.asarray(found.documents[row][: config.search.read_size])
  if weighted:
    places = places[np.asarray(found.weights[row][: len(places)]) > 0]
  return [
    document
    for place in places.tolist()
    if place >= 0 and (document := documents[place]) is not None
  ]


def finished(
  system: Any, text: str, found: Any, row: int
) -> tuple[str, tuple[types.Document, ...]]:
  """A text with citations as it is given, and the documents that it cites.

  Args:
    system: a `system.System` whose reader cites.
    text: from `text`.
    found: the answers of a batch, on the host.
    row: which of them.
  """
  return cited.finish(
    text,
    read(system.config, found, row, system.documents),
    support=system.config.reader.support,
    language=system.config.data.language,
  )


def candidates(
  found: Any, row: int, documents: store.Documents
) -> tuple[answers.Candidate, ...]:
  """The candidates of one question, largest weight first.

  Args:
    found: `forward.Answer` or `compiled.Ranked`, on the host.
    row: the question.
    documents: documents by row of the index.
  """
  fields = zip(
    found.documents[row],
    found.codes[row],
    found.docid[row],
    found.scores[row],
    found.weights[row],
    strict=True,
  )
  return tuple(
    answers.Candidate(
      document=documents[int(document)],  # type: ignore[arg-type]
      codes=tuple(int(code) for code in codes),
      log_probability=float(docid),
      score=float(score),
      weight=float(weight),
    )
    for document, codes, docid, score, weight in fields
    if document >= 0
  )


def score(
  config: configs.Config,
  calibrator: calibration.Calibrator | None,
  found: forward.Answer,
  row: int,
  question: str,
  documents: store.Documents,
) -> float | None:
  """The probability that an answer is right; None without a calibrator.

  Args:
    config: the experiment.
    calibrator: of the system.
    found: the answers of a batch, on the host.
    row: which of them.
    question: its question.
    documents: documents by row of the index.
  """
  if calibrator is None:
    return None
  features = confidence.complete(
    found.features[row][None],
    [question],
    [read(config, found, row, documents, weighted=True)],
    known=calibrator.known,
    language=config.data.language,
  )
  return float(calibrator.logistic(features)[0])
