"""The `System`: searches a corpus, answers questions, adds documents.

  system = rag_jax.load('runs/facts')
  [answer] = system.ask(['Which element has the symbol Au?'])
  system = system.add([{'id': 'new', 'text': 'Fresh facts.'}])

A `System` is immutable: `add` and `delete` return a new one, and save it to the
workdir that the system was loaded from.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tokenizers as hf_tokenizers

from rag_jax import (
  answers,
  calibration,
  changes,
  compiled,
  console,
  corpus,
  forward,
  model,
  parallel,
  placement,
  queries,
  replies,
  store,
  table_changes,
  types,
)
from rag_jax import certificate as certificates
from rag_jax import config as configs
from rag_jax.data import batches, words
from rag_jax.index import docids
from rag_jax.index import index as indexes
from rag_jax.index import live as live_indexes
from rag_jax.readers import base


@dataclasses.dataclass(frozen=True, kw_only=True)
class System:
  """An indexed corpus with the parameters of a model.

  Attributes:
    config: the experiment.
    tokenizer: tokenizer of questions and documents.
    documents: documents by row of the index; None = an empty row.
    index: the corpus on the device.
    params: parameters of the four components.
    vocabulary: words of the index's lexicon (BM25), if it has one.
    reader_tokenizer: tokenizer of a reader that does not use `tokenizer`.
    quantiser: the quantiser that assigns docids to new documents.
    live: the index with spare capacity, after the first addition or deletion.
    workdir: folder to save changes to; None = keep them in memory.
    checkpoint: identity of the checkpoint that the parameters are from.
    has_reader: whether a reader was trained.
    calibrator: the calibrated probability that an answer is right, if fitted.
  """

  config: configs.Config
  tokenizer: hf_tokenizers.Tokenizer
  documents: store.Documents
  index: indexes.Index
  params: model.Params = dataclasses.field(default_factory=dict)
  vocabulary: words.Vocabulary | None = None
  reader_tokenizer: hf_tokenizers.Tokenizer | None = None
  quantiser: docids.Quantiser = dataclasses.field(default_factory=dict)
  live: live_indexes.LiveIndex | None = None
  workdir: pathlib.Path | None = None
  checkpoint: str = ''
  has_reader: bool = True
  calibrator: calibration.Calibrator | None = None

  @functools.cached_property
  def rows(self) -> dict[str, int]:
    """Id -> row of each document in the index."""
    return {d.id: i for i, d in enumerate(self.documents) if d is not None}

  def with_config(self, config: configs.Config) -> 'System':
    """The system with another configuration of the same parameters."""
    configs.check(config)
    params = model.to_search(config.search, self.params)
    return dataclasses.replace(self, config=config, params=params)

  def on_devices(self) -> 'System':
    """The system with its arrays on the mesh of its run, `train.mesh`.

    On another number of devices, or after pmap, it stays on one device. On a
    mesh already, it stays there.
    """
    train = self.config.train
    devices = placement.mesh_of(self.params)
    devices = devices or parallel.run_mesh(train.parallel, train.mesh)
    params = model.to_search(self.config.search, self.params)
    if devices is None or devices.size == 1:
      return dataclasses.replace(self, params=params)
    return dataclasses.replace(
      self,
      params=placement.place(params, devices),
      index=placement.place_index(self.index, devices),
    )

  def ask(
    self,
    questions: Sequence[str],
    *,
    allowed: Iterable[str] | None = None,
  ) -> list[answers.Answer]:
    """Answers questions.

    Args:
      questions: n questions.
      allowed: ids of the documents that may be used; None = all.

    Returns:
      n answers.

    Raises:
      ValueError: if a question is blank or no text, or an id is unknown.
    """
    texts = corpus.as_questions(questions)
    encoded = self.encode(texts, targets=False)
    function = compiled.answer if self.has_reader else compiled.rank
    found = self._run(function, encoded, allowed=allowed)
    given = [self.answer(text.text, found, i) for i, text in enumerate(texts)]
    for i in np.flatnonzero(encoded.cut):
      note = queries.cut_note(self.config, encoded.cut[[i]])
      given[i] = dataclasses.replace(given[i], notes=(note,))
    return given

  def search(
    self,
    questions: Sequence[str],
    *,
    allowed: Iterable[str] | None = None,
  ) -> list[tuple[answers.Candidate, ...]]:
    """Retrieves and ranks documents, without the reader.

    Args:
      questions: n questions.
      allowed: ids of the documents that may be returned; None = all.

    Returns:
      The candidates of each question, largest weight first.

    Raises:
      ValueError: if a question is blank or no text, or an id is unknown.
    """
    encoded = self._encode_and_note(questions)
    found = self._run(compiled.rank, encoded, allowed=allowed)
    return [
      replies.candidates(found, i, self.documents)
      for i in range(len(encoded.query))
    ]

  def embed(self, texts: Sequence[str]) -> np.ndarray:
    """Vectors of questions by the query encoder, float32[n, D], unit length."""
    return self._run(compiled.vector, self._encode_and_note(texts))

  def encode(
    self,
    questions: Sequence[types.Question],
    *,
    max_tokens: int = 0,
    targets: bool = True,
  ) -> batches.Questions:
    """Tokenises questions, answers and gold documents; see `queries.encode`."""
    return queries.encode(
      self.config,
      questions,
      self.rows,
      tokenizer=self.tokenizer,
      reader_tokenizer=self.reader_tokenizer,
      vocabulary=self.vocabulary,
      max_tokens=max_tokens,
      targets=targets,
    )

  def run(
    self,
    function: queries.Function,
    questions: Sequence[types.Question],
    *,
    gold: np.ndarray | None = None,
    targets: bool = False,
    batch_size: int = 0,
  ) -> Any:
    """Runs a function of the module `compiled` over questions, in batches.

    Args:
      function: model configuration -> function (params, batch, index, allowed)
        -> pytree of arrays with one row per question.
      questions: n questions.
      gold: int32[n, G], rows of documents for a function that reads them; -1 =
        none.
      targets: whether the function takes answers and gold documents.
      batch_size: questions per batch; 0 = the smallest sufficient of
        `queries.SIZES`.

    Returns:
      The pytree with n rows, on the host.
    """
    encoded = self.encode(questions, targets=targets)
    if gold is not None:
      encoded = dataclasses.replace(encoded, gold=gold)
    return self._run(function, encoded, batch_size=batch_size)

  def _run(
    self,
    function: queries.Function,
    encoded: batches.Questions,
    *,
    allowed: Iterable[str] | None = None,
    batch_size: int = 0,
  ) -> Any:
    """`run`, of questions as arrays and with the ids of allowed documents."""
    return queries.run(
      self.config,
      function,
      self.params,
      encoded,
      self.index,
      allowed=self._mask(allowed),
      batch_size=batch_size,
    )

  def _encode_and_note(self, texts: Sequence[str]) -> batches.Questions:
    """Questions as arrays; prints a note if some are cut."""
    encoded = self.encode(corpus.as_questions(texts), targets=False)
    if note := queries.cut_note(self.config, encoded.cut):
      console.note(note)
    return encoded

  def answer(
    self,
    question: str,
    found: forward.Answer,
    row: int,
    *,
    score: float | None = None,
  ) -> answers.Answer:
    """One answer of a batch; `score` replaces that of the calibrator."""
    candidates = replies.candidates(found, row, self.documents)
    if not self.has_reader:
      return answers.unanswered(question, candidates)
    text, span = self.text(found, row)
    if score is None:
      score = replies.score(
        self.config, self.calibrator, found, row, question, self.documents
      )
    trust = calibration.trust(self.calibrator, score, self.config.calibration)
    abstained = self.abstains(found, row) or trust.withheld
    sources: tuple[types.Document, ...] = ()
    if self.config.reader.citations:
      text, sources = replies.finished(self, text, found, row)
      abstained = abstained or not text
    return answers.Answer(
      question=question,
      text='' if abstained else text,
      probability=float(np.exp(found.log_probability[row])),
      abstained=abstained,
      document=self._document(int(found.read[row])),
      span=span,
      candidates=candidates,
      score=trust.score,
      certified=trust.certified,
      cited=() if abstained else sources,
    )

  @property
  def certificate(self) -> certificates.Certificate | None:
    """The certificate of the answers; None without a calibrator."""
    return calibration.certificate(self.calibrator, self.config.calibration)

  def abstains(self, found: forward.Answer, row: int) -> bool:
    """Whether one answer is withheld, by `reader.abstention_threshold`."""
    threshold = self.config.reader.abstention_threshold
    return threshold < base.NEVER and bool(found.no_answer[row] > threshold)

  def text(
    self, found: forward.Answer, row: int
  ) -> tuple[str, tuple[int, int] | None]:
    """The best answer, and its character span in the text of its document."""
    return replies.text(
      self.config,
      found,
      row,
      documents=self.documents,
      tokenizer=self.tokenizer,
      reader_tokenizer=self.reader_tokenizer,
    )

  def add(self, documents: corpus.Texts) -> 'System':
    """A system with more documents, without training.

    Args:
      documents: `Document`s, mappings with 'id' and 'text', or plain texts.
        With `data.question_keys` or `docid.further`, documents without
        questions get those that the generator of the workdir writes.

    Returns:
      The new system, which is also saved to the workdir.

    Raises:
      ValueError: if an id or a text is already in the system.
    """
    new = changes.new_documents(
      self.config, self.workdir, self.tokenizer, self.documents, documents
    )
    live, params = self._with_capacity(len(new.documents))
    live, params, rows = changes.add(
      self.config, self.tokenizer, live, params, new
    )
    by_row = dict(zip(rows.tolist(), new.documents, strict=True))
    return self._changed(live, params, by_row)

  def delete(self, ids: Iterable[str]) -> 'System':
    """A system without some documents.

    Args:
      ids: ids of the documents to delete.

    Returns:
      The new system, which is also saved to the workdir.

    Raises:
      ValueError: if an id is unknown, or no document would be left.
    """
    deleted = self._rows_of(ids, what='ids')
    live, params = self._with_capacity(0)
    left, change = live_indexes.delete(live, deleted)
    live, params = table_changes.update(
      self.config, params, live, left, change, None
    )
    return self._changed(live, params, dict.fromkeys(deleted))

  def _with_capacity(
    self, more: int
  ) -> tuple[live_indexes.LiveIndex, model.Params]:
    params, index = placement.gathered(self.params, self.index)
    parts = self.live, index, self.quantiser, params
    return changes.with_capacity(self.config, *parts, len(self.rows) + more)

  def _changed(
    self,
    live: live_indexes.LiveIndex,
    params: model.Params,
    changed: Mapping[int, types.Document | None],
  ) -> 'System':
    """Saves and returns the system with other documents in some rows."""
    by_row = dict(enumerate(self.documents)) | dict(changed)
    documents = tuple(by_row.get(row) for row in range(len(live.alive)))
    index, vocabulary = corpus.complete(
      self.config,
      documents,
      self.tokenizer,
      live.index,
      reader_tokenizer=self.reader_tokenizer,
    )
    if self.workdir is not None:
      path = self.workdir / store.LIVE
      changes.save(live, documents, params, path, self.checkpoint)
    return dataclasses.replace(
      self,
      documents=documents,
      index=index,
      vocabulary=vocabulary,
      live=live,
      params=params,
    )

  def _document(self, row: int) -> types.Document:
    """The document of a row that the search returned."""
    document = self.documents[row]
    assert document is not None  # the search returns no empty rows
    return document

  def _mask(self, allowed: Iterable[str] | None) -> jax.Array | None:
    """Ids of allowed documents as a mask bool[N]."""
    if allowed is None:
      return None
    mask = np.zeros(len(self.documents), bool)
    mask[self._rows_of(allowed, what='allowed')] = True
    return jnp.asarray(mask)

  def _rows_of(self, ids: Iterable[str], *, what: str) -> list[int]:
    return corpus.rows_of(ids, self.rows, what=what)
