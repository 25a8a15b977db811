"""Training data of each stage: its questions, and the index of its documents.

The questions of a stage are:
- with `data`: those of that data set that one of their documents answers;
- with `candidates` gold or gold+negative: those that a gold document answers;
- without a reader loss: those with gold documents, or all if there are none;
- otherwise: all.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from rag_jax import (
  compiled,
  console,
  corpus,
  model,
  objective,
  parallel,
  placement,
  readers,
  types,
)
from rag_jax import config as configs
from rag_jax import stage as stages
from rag_jax import workdir as workdirs
from rag_jax.data import batches, formats, numbers, pipeline
from rag_jax.index import index as indexes
from rag_jax.ops import renaming, token_table
from rag_jax.readers import spans

Material = tuple[batches.Questions, indexes.Index]  # to train a stage on


def prepare(
  config: configs.Config,
  prepared: workdirs.Prepared,
  stage_data: dict[str, types.Dataset],
) -> dict[str, Callable[[model.Params], Material]]:
  """Selects the training data of each stage.

  All errors are raised here, before the first step. Hard negatives are searched
  for later, at the start of their stage, with the parameters at that time.

  Args:
    config: the experiment.
    prepared: documents, questions and index.
    stage_data: stage name -> data set, from `load_stage_data`.

  Returns:
    Stage name -> function: parameters -> (questions, index).

  Raises:
    ValueError: if a stage has no question to train on.
  """
  found: dict[str, Callable[[model.Params], Material]] = {}
  if not config.steps:
    return found
  questions = training_questions(prepared)
  for name, stage in config.stages:
    if not stage.steps:
      continue
    chosen, index = questions, prepared.index
    if name in stage_data:
      chosen, index = stage_questions(name, stage, prepared, stage_data[name])
    elif not stage.searches:
      chosen = answered(name, config, chosen, index)
    elif not any(loss in objective.READER_LOSSES for loss, _ in stage.losses):
      chosen = labelled(chosen)
    if stage.renamed:
      tokenizer = prepared.system.tokenizer
      kept = () if stage.renamed_numbers else numbers.with_digits(tokenizer)
      is_rare = renaming.rare(
        np.asarray(index.tokens), tokenizer.get_vocab_size(), kept=kept
      )
      index = dataclasses.replace(index, rare=jnp.asarray(is_rare))
    if stage.candidates == 'gold+negative':
      found[name] = functools.partial(_with_negative, config, chosen, index)
    else:
      found[name] = functools.partial(_unchanged, chosen, index)
  return found


def _unchanged(
  questions: batches.Questions, index: indexes.Index, params: model.Params
) -> Material:
  del params
  return questions, index


def _with_negative(
  config: configs.Config,
  questions: batches.Questions,
  index: indexes.Index,
  params: model.Params,
) -> Material:
  return with_negative(config, params, questions, index), index


def training_questions(prepared: workdirs.Prepared) -> batches.Questions:
  """The training questions of the experiment, as arrays; prints notes."""
  data = prepared.system.config.data
  questions = pipeline.train_questions(prepared.dataset, data)
  encoded = prepared.system.encode(questions, max_tokens=data.max_query_tokens)
  for note in batches.notes(questions, encoded, data):
    console.note(note)
  return encoded


def labelled(questions: batches.Questions) -> batches.Questions:
  """The questions with gold documents; all questions if there are none."""
  rows = np.flatnonzero((questions.gold >= 0).any(axis=1))
  return batches.keep(questions, rows) if rows.size else questions


def answered(
  name: str,
  config: configs.Config,
  questions: batches.Questions,
  index: indexes.Index,
) -> batches.Questions:
  """The questions that their gold documents answer.

  For an extractive reader, a gold document must contain an answer word for
  word. A generative reader needs only an answer and a gold document.

  Args:
    name: name of the stage, for errors.
    config: the experiment.
    questions: the questions.
    index: the index with the gold documents.

  Raises:
    ValueError: if there is no such question.
  """
  points = readers.make(config.reader).points

  @jax.jit
  def holds(golds, batch):
    found = (batch.read_answers != types.PAD).any((1, 2))[:, None]
    if points:
      answers = batch.read_answers
      found = spans.find_answers(golds, answers).any((2, 3))
    return (found & (batch.gold >= 0)).any(1) & batch.where

  parts_of = batches.eval_batches(questions, batch_size=256)
  parts = [
    np.asarray(holds(index.passages[np.asarray(batch.gold)], batch))
    for batch in parts_of
  ]
  rows = np.flatnonzero(np.concatenate(parts))
  if not rows.size:
    raise ValueError(
      f'stages.{name} reads gold documents: it needs training questions with '
      'answers and gold documents, and an extractive reader the answer word '
      'for word in a gold document, got none. '
      f'Set --config.stages.{name}.steps=0.'
    )
  return batches.keep(questions, rows)


def with_negative(
  config: configs.Config,
  params: model.Params,
  questions: batches.Questions,
  index: indexes.Index,
) -> batches.Questions:
  """Adds a hard negative to each question: the best document that is not gold.

  Search and ranker choose it. If the index has `gold_nodes`, only documents
  that are gold for some training question are allowed; see
  `docid_search.contrasted`. False negatives are possible: documents that
  contain the answer by chance, and gold documents beyond the first
  `data.max_gold`.

  Args:
    config: the experiment.
    params: parameters of search and ranker.
    questions: the questions.
    index: the corpus.

  Returns:
    The questions with `negative`, int32[n]; -1 if the search finds only gold
    documents.
  """
  devices = placement.mesh_of(params)
  if devices is not None:  # once, not for each batch
    index = placement.place_index(index, devices)
  # A fixed batch size: a resumed run must find the same negatives.
  parts = batches.eval_batches(questions, batch_size=32)
  find = compiled.negative(config.model)
  rows = np.concatenate(
    [parallel.call(find, params, batch, index) for batch in parts]
  )
  return dataclasses.replace(questions, negative=rows[: len(questions.query)])


def load_stage_data(config: configs.Config) -> dict[str, types.Dataset]:
  """Stage name -> data set, for the stages with `data`.

  Raises:
    ValueError: if the data cannot be read, or its training split has no
      question with an answer and a document.
  """
  found, split = {}, config.data.train_split
  for name, stage in config.stages:
    if not stage.data or not stage.steps:
      continue
    field = f'stages.{name}.data'
    try:
      dataset = formats.load(stage.data, **config.data.reading)
    except ValueError as error:  # its remedies name data.path
      raise ValueError(str(error).replace('data.path', field)) from error
    if not _readable(dataset, split):
      raise ValueError(
        f'{field} {stage.data!r} must have questions in split {split!r} with '
        'answers and documents, got none; its splits are '
        f'{", ".join(sorted(dataset.splits)) or "none"}. Set --config.{field} '
        'to such data.'
      )
    found[name] = dataset
  return found


def _readable(dataset: types.Dataset, split: str) -> list[types.Question]:
  """The questions of a split with answers and gold documents."""
  questions = dataset.splits.get(split, ())
  return [q for q in questions if q.answers and q.document_ids]


def stage_questions(
  name: str,
  stage: stages.Stage,
  prepared: workdirs.Prepared,
  stage_data: types.Dataset,
) -> Material:
  """Questions of a stage's own data set, and an index with its documents.

  Prints notes, such as the number of truncated documents.

  Args:
    name: name of the stage.
    stage: the stage.
    prepared: documents, questions and index of the experiment.
    stage_data: the data set of the stage, from `load_stage_data`.

  Returns:
    The questions that one of their documents answers, and the index. Documents
    of the data set are appended to the tokens of the index. They have no
    docids, so the search cannot return them; the stage only reads them.

  Raises:
    ValueError: if no document answers its question.
  """
  system = prepared.system
  data, field = system.config.data, f'stages.{name}.data'
  # Twice the questions of the stage: some are dropped by `answered`.
  enough = 2 * stage.steps * stage.batch_size
  chosen = pipeline.spread(_readable(stage_data, data.train_split), enough)
  names = {name for question in chosen for name in question.document_ids}
  documents = [d for d in stage_data.documents if d.id in names]
  corpus_tokens = np.asarray(prepared.index.tokens)
  encoded = pipeline.encode_documents(system.tokenizer, documents, data)
  tokens = np.concatenate(
    [corpus_tokens, encoded.tokens.astype(corpus_tokens.dtype)]
  )
  placed = not isinstance(prepared.index.codes, np.ndarray)
  table = token_table.make(tokens, placed=placed)
  index = dataclasses.replace(prepared.index, tokens=table)
  everything = [*system.documents, *documents]
  with_documents = dataclasses.replace(
    index,
    reader_tokens=corpus.reader_passages(
      system.config,
      everything,
      system.reader_tokenizer,
      notes=True,
      placed=placed,
    ),
  )
  holder = dataclasses.replace(
    system, documents=(None,) * len(corpus_tokens) + tuple(documents)
  )
  try:
    own = holder.encode(chosen, max_tokens=data.max_query_tokens)
    found = answered(name, system.config, own, with_documents)
  except ValueError as error:
    raise ValueError(
      f'{field} {stage.data!r} must have documents that contain an answer word '
      f'for word, got none in {len(documents)} documents. Set --config.{field} '
      'to such data.'
    ) from error
  counts = (
    f'{encoded.truncated} of {len(documents)} documents are truncated; '
    f'{len(found.query)} of {len(chosen)} questions have an answer in their '
    'documents.'
  )
  cuts = batches.notes(chosen, own, data)
  for note in (*stage_data.notes, counts, *cuts):
    console.note(f'{field}: {note}')
  return found, with_documents
