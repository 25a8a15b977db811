"""What the stages train on: which questions, of which documents.

A stage that reads gold documents trains on questions that these answer; one
without a loss of the reader on questions with gold documents, if there are
some; all others on every question. A stage with `data` of its own reads the
questions and documents of that.
"""

import dataclasses
import functools
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from rag_jax import compiled, corpus, forward, model, objective, readers, types
from rag_jax import config as configs
from rag_jax import stage as stages
from rag_jax import trace as traces
from rag_jax import workdir as workdirs
from rag_jax.data import formats, pipeline
from rag_jax.index import index as indexes
from rag_jax.readers import spans

Material = tuple[pipeline.Questions, indexes.Index]


def prepare(
  config: configs.Config,
  prepared: workdirs.Prepared,
  stage_data: dict[str, types.Dataset],
) -> dict[str, Callable[[model.Params], Material]]:
  """What each stage trains on, by its name.

  All that can be missing is found out here, before the first step; hard
  negatives are searched for when a stage begins, by the parameters of then.

  Args:
    config: the experiment.
    prepared: documents, questions and index.
    stage_data: data of the stages that name their own, by the stage.

  Returns:
    Stage -> function of the parameters -> questions, and the index that they
    are asked of.

  Raises:
    ValueError: if a stage has no question to train on.
  """
  questions = training_questions(prepared)
  found: dict[str, Callable[[model.Params], Material]] = {}
  for name, stage in config.stages:
    if not stage.steps:
      continue
    own, index = questions, prepared.index
    if name in stage_data:
      own, index = stage_questions(name, stage, prepared, stage_data[name])
    elif not stage.searches:
      own = answered(name, config, own, index)
    elif not any(loss in objective.READER_LOSSES for loss, _ in stage.losses):
      own = labelled(own)
    if stage.candidates == 'gold+negative':
      found[name] = functools.partial(_with_negative, config, own, index)
    else:
      found[name] = functools.partial(_as_they_are, own, index)
  return found


def _as_they_are(
  questions: pipeline.Questions, index: indexes.Index, params: model.Params
) -> Material:
  del params
  return questions, index


def _with_negative(
  config: configs.Config,
  questions: pipeline.Questions,
  index: indexes.Index,
  params: model.Params,
) -> Material:
  return with_negative(config, params, questions, index), index


def training_questions(prepared: workdirs.Prepared) -> pipeline.Questions:
  """The questions to train on, as arrays."""
  config = prepared.system.config
  return prepared.system.encode(
    pipeline.train_questions(prepared.dataset, config.data)
  )


def labelled(questions: pipeline.Questions) -> pipeline.Questions:
  """Those with gold documents, which search alone learns from; or all."""
  rows = np.flatnonzero((questions.gold >= 0).any(axis=1))
  return pipeline.keep(questions, rows) if rows.size else questions


def answered(
  name: str,
  config: configs.Config,
  questions: pipeline.Questions,
  index: indexes.Index,
) -> pipeline.Questions:
  """The questions whose gold documents hold an answer, word for word.

  A reader that writes its answers needs no place where they stand.
  """
  points = readers.make(config.reader).points

  @jax.jit
  def holds(tokens, batch):
    found = (batch.read_answers != types.PAD).any((1, 2))[:, None]
    if points:
      found = spans.find_answers(tokens[batch.gold], batch.answers).any((2, 3))
    return (found & (batch.gold >= 0)).any(1) & batch.where

  batches = pipeline.eval_batches(questions, batch_size=256)
  parts = [np.asarray(holds(index.tokens, batch)) for batch in batches]
  rows = np.flatnonzero(np.concatenate(parts))
  if not rows.size:
    raise ValueError(
      f'stages.{name} reads gold documents, and needs training questions that '
      'one of them answers, a reader that points in its own words, got none. '
      f'Set --config.stages.{name}.steps=0.'
    )
  return pipeline.keep(questions, rows)


def with_negative(
  config: configs.Config,
  params: model.Params,
  questions: pipeline.Questions,
  index: indexes.Index,
) -> pipeline.Questions:
  """Questions with a hard negative: the best ranked document that is not gold.

  Where the index knows which documents are gold in training, it is one of
  these; see `trace.contrasted`. It may hold the answer by chance, or be a gold
  document beyond the first `data.max_gold`, and still counts as a negative.

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
    if index.gold_nodes is not None:
      allowed = index.gold_nodes[: len(index.tokens)]
    encoding, found = compiled.find(config.model, params, batch, index, allowed)
    others = found.where & ~traces.gold_among(found, batch.gold)
    found = dataclasses.replace(found, where=others)
    ranking = forward.rank(params, config.model, index, batch, encoding, found)
    best = forward.choose(index, ranking, 1)
    return jnp.where(best.where, best.documents, -1)[:, 0]

  # So many at a time whatever else changes: a run that is taken up again has
  # to find the same.
  batches = pipeline.eval_batches(questions, batch_size=32)
  rows = np.concatenate([find(params, batch, index) for batch in batches])
  return dataclasses.replace(questions, negative=rows[: len(questions.query)])


def load_stage_data(config: configs.Config) -> dict[str, types.Dataset]:
  """The data of the stages that name their own, by the stage.

  Raises:
    ValueError: if one has no question to train on with answer and document.
  """
  found, split = {}, config.data.train_split
  for name, stage in config.stages:
    if not stage.data or not stage.steps:
      continue
    field = f'stages.{name}.data'
    try:
      dataset = formats.load(stage.data, on_empty=config.data.on_empty)
    except ValueError as error:  # its remedies are for data.path
      raise ValueError(str(error).replace('data.path', field)) from error
    if not _readable(dataset, split):
      raise ValueError(
        f'{field} {stage.data!r} must have questions in split {split!r} with '
        'answers and documents, got none; its splits are '
        f'{", ".join(sorted(dataset.splits)) or "none"}. Set --config.{field} '
        'to data that has.'
      )
    found[name] = dataset
  return found


def _readable(dataset: types.Dataset, split: str) -> list[types.Question]:
  asked = dataset.splits.get(split, ())
  return [q for q in asked if q.answers and q.document_ids]


def stage_questions(
  name: str,
  stage: stages.Stage,
  prepared: workdirs.Prepared,
  stage_data: types.Dataset,
) -> Material:
  """Questions of other data, and an index whose tokens hold its documents.

  What was met on the way is printed.

  Args:
    name: of the stage.
    stage: that reads it.
    prepared: the experiment's own documents, questions and index.
    stage_data: what `load_stage_data` found.

  Returns:
    The questions that one of their documents answers, and the index; the other
    documents come after its own, to be read: no search finds them.

  Raises:
    ValueError: if no document holds an answer word for word.
  """
  system = prepared.system
  data, field = system.config.data, f'stages.{name}.data'
  # Some hold no answer that can be pointed at; more are not needed.
  enough = 2 * stage.steps * stage.batch_size
  chosen = pipeline.spread(_readable(stage_data, data.train_split), enough)
  names = {name for question in chosen for name in question.document_ids}
  documents = [d for d in stage_data.documents if d.id in names]
  own = prepared.index.tokens
  encoded = pipeline.encode_documents(system.tokenizer, documents, data)
  tokens = jnp.concatenate([own, jnp.asarray(encoded.tokens, own.dtype)])
  index = dataclasses.replace(prepared.index, tokens=tokens)
  everything = [*system.documents, *documents]
  with_documents = dataclasses.replace(
    index,
    reader_tokens=corpus.reader_passages(
      system.config, everything, system.reader_tokenizer
    ),
  )
  holder = dataclasses.replace(
    system, documents=(None,) * len(own) + tuple(documents)
  )
  try:
    found = answered(name, system.config, holder.encode(chosen), with_documents)
  except ValueError as error:
    raise ValueError(
      f'{field} {stage.data!r} must have documents that hold an answer word '
      f'for word, got none in {len(documents)}. Set --config.{field} to data '
      'that has.'
    ) from error
  cut = f'{encoded.truncated} of {len(documents)} documents are cut'
  used = (
    f'{len(found.query)} of {len(chosen)} questions have an answer to point'
  )
  for note in (*stage_data.notes, f'{cut}, {used} at.'):
    print(f'note: {field}: {note}', file=sys.stderr)
  return found, with_documents
