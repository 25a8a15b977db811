"""What the stages of training ask: which questions, of which documents.

Search alone asks what has gold documents; the reader alone what its documents
answer, beside documents that do not if the experiment says so, and before that,
if it names other data, the questions of these; all together ask everything.
"""

import dataclasses
import sys

import jax
import jax.numpy as jnp
import numpy as np

from rag_jax import config as configs
from rag_jax import objective, rag, types
from rag_jax import workdir as workdirs
from rag_jax.components import query_encoder, reader
from rag_jax.data import formats, pipeline
from rag_jax.index import index as indexes


def training_questions(
  config: configs.Config, prepared: workdirs.Prepared
) -> pipeline.Questions:
  """The questions to train on, as arrays."""
  return prepared.encode(
    pipeline.train_questions(prepared.dataset, config.data), config.data
  )


def labelled(questions: pipeline.Questions) -> pipeline.Questions:
  """Those with gold documents, which search alone learns from; or all."""
  rows = np.flatnonzero((questions.gold >= 0).any(axis=1))
  return pipeline.keep(questions, rows) if rows.size else questions


def answered(
  config: configs.Config, questions: pipeline.Questions, index: indexes.Index
) -> pipeline.Questions:
  """The questions whose gold documents hold an answer, word for word.

  The fusion reader writes its answers: for it they need not.
  """
  points = config.reader.kind == 'extractive'

  @jax.jit
  def holds(tokens, batch):
    found = (batch.answers != types.PAD).any((1, 2))[:, None]
    if points:
      found = reader.find_answers(tokens[batch.gold], batch.answers).any((2, 3))
    return (found & (batch.gold >= 0)).any(1) & batch.where

  batches = pipeline.eval_batches(questions, batch_size=256)
  parts = [np.asarray(holds(index.tokens, batch)) for batch in batches]
  rows = np.flatnonzero(np.concatenate(parts))
  if not rows.size:
    raise ValueError(
      'train.reader_steps needs training questions that a gold document '
      'answers, an extractive reader in its own words, got none. Set '
      '--config.train.reader_steps=0.'
    )
  return pipeline.keep(questions, rows)


def with_negative(
  config: configs.Config,
  params: rag.Params,
  questions: pipeline.Questions,
  index: indexes.Index,
) -> pipeline.Questions:
  """Questions with the document that search ranks best but for the gold ones.

  Where the index knows what training questions ask for, one of them does; see
  `objective.compared`. It may hold the answer by chance, and is taken for wrong
  all the same; so is a gold document that is none of the first `data.max_gold`.

  Args:
    config: the experiment.
    params: the search that finds and ranks them.
    questions: the questions.
    index: the corpus.

  Returns:
    The questions with `negative`, int32[n]; -1 where nothing else is found.
  """

  @jax.jit
  def find(params, batch, index):
    allowed = None
    if index.asked is not None:
      allowed = index.asked[: len(index.tokens)]
    encoding = query_encoder.apply(
      params['query_encoder'], config.query_encoder, batch.query
    )
    found = rag.retrieve(
      params,
      config.model,
      index,
      encoding,
      words=batch.words,
      allowed=allowed,
    )
    others = found.where & ~objective.gold_among(found, batch.gold)
    found = dataclasses.replace(found, where=others)
    ranking = rag.rank(params, config.model, index, batch, encoding, found)
    best = rag.choose(index, ranking, 1)
    return jnp.where(best.where, best.documents, -1)[:, 0]

  # So many at a time whatever else changes: a run that is taken up again has
  # to find the same.
  batches = pipeline.eval_batches(questions, batch_size=32)
  rows = np.concatenate([find(params, batch, index) for batch in batches])
  return dataclasses.replace(questions, negative=rows[: len(questions.query)])


def load_other(config: configs.Config) -> types.Dataset | None:
  """The data that the reader starts with.

  Args:
    config: the experiment.

  Returns:
    `data.other_path`, or None where the experiment names none.

  Raises:
    ValueError: if it has no question to train on with answer and document.
  """
  path, split = config.data.other_path, config.data.train_split
  if not path:
    return None
  try:
    dataset = formats.load(path, on_empty=config.data.on_empty)
  except ValueError as error:  # its remedies are for data.path
    text = str(error).replace('data.path', 'data.other_path')
    raise ValueError(text) from error
  if not _readable(dataset, split):
    raise ValueError(
      f'data.other_path {path!r} must have questions in split {split!r} with '
      'answers and documents, got none; its splits are '
      f'{", ".join(sorted(dataset.splits)) or "none"}. Set '
      '--config.data.other_path to data that has.'
    )
  return dataset


def _readable(dataset: types.Dataset, split: str) -> list[types.Question]:
  asked = dataset.splits.get(split, ())
  return [q for q in asked if q.answers and q.document_ids]


def other_questions(
  config: configs.Config, prepared: workdirs.Prepared, other: types.Dataset
) -> tuple[pipeline.Questions, indexes.Index]:
  """Questions of other data, and an index whose tokens hold its documents.

  What was met on the way is printed.

  Args:
    config: the experiment.
    prepared: its own documents, questions and index.
    other: what `load_other` found.

  Returns:
    The questions that one of their documents answers, and the index; the other
    documents come after its own, to be read: no search finds them.

  Raises:
    ValueError: if no document holds an answer word for word.
  """
  data, train = config.data, config.train
  # Some hold no answer that can be pointed at; more are not needed.
  enough = 2 * train.other_steps * train.reader_batch_size
  asked = pipeline.spread(_readable(other, data.train_split), enough)
  names = {name for question in asked for name in question.document_ids}
  documents = [d for d in other.documents if d.id in names]
  own = prepared.index.tokens
  rows = {d.id: len(own) + i for i, d in enumerate(documents)}
  questions = pipeline.encode_questions(
    prepared.tokenizer, asked, rows, data, prepared.vocabulary
  )
  encoded = pipeline.encode_documents(prepared.tokenizer, documents, data)
  tokens = jnp.concatenate([own, jnp.asarray(encoded.tokens, own.dtype)])
  library = dataclasses.replace(prepared.index, tokens=tokens)
  try:
    found = answered(config, questions, library)
  except ValueError as error:
    raise ValueError(
      f'data.other_path {data.other_path!r} must have documents that hold an '
      f'answer word for word, got none in {len(documents)}. Set '
      '--config.data.other_path to data that has.'
    ) from error
  cut = f'{encoded.truncated} of {len(documents)} documents are cut'
  used = f'{len(found.query)} of {len(asked)} questions have an answer to point'
  for note in (*other.notes, f'{cut}, {used} at.'):
    print(f'note: data.other_path: {note}', file=sys.stderr)
  return found, library
