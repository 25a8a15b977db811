"""Checks that a run keeps its documents and training questions."""

import dataclasses
import hashlib
import json
import pathlib
from typing import Any

import numpy as np

from rag_jax import checkpoint, files, store, types
from rag_jax import config as configs
from rag_jax.ops import token_table


def _questions_hash(config: configs.Config, dataset: types.Dataset) -> str:
  """SHA-256 of the training questions, in order."""
  digest = hashlib.sha256()
  for question in dataset.splits.get(config.data.train_split, ()):
    fields = dataclasses.asdict(question)
    if not question.claims:
      del fields['claims']  # the hash of older runs lacks them
    digest.update(json.dumps(fields, sort_keys=True).encode())
  return digest.hexdigest()


def check(
  config: configs.Config, dataset: types.Dataset, workdir: pathlib.Path
) -> None:
  """Raises a ValueError if a run has other documents or training questions."""
  stored = [
    d and dataclasses.replace(d, questions=())
    for d in store.load_documents(workdir)
  ]
  if stored != list(dataset.documents):
    raise other_documents(config, workdir)
  check_questions(config, dataset, workdir)


def check_documents(
  config: configs.Config,
  stored: Any,
  tokens: np.ndarray,
  workdir: pathlib.Path,
) -> None:
  """Raises a ValueError if an index has other tokens than the documents.

  Args:
    config: the experiment.
    stored: int[N, P], tokens of the index.
    tokens: int32[N, P], tokens of the documents.
    workdir: folder of the run.
  """
  same, start = stored.shape == tokens.shape, 0
  for own in token_table.host_blocks(stored) if same else ():
    same = same and np.array_equal(own, tokens[start : start + len(own)])
    start += len(own)
  if not same:
    raise other_documents(config, workdir)


def other_documents(
  config: configs.Config, workdir: pathlib.Path
) -> ValueError:
  """The error that a run has other documents."""
  return ValueError(
    f'data.path {config.data.path!r} holds other documents than the index '
    f'in {str(workdir)!r}, or its {store.TOKENIZER} is not that of the run. '
    'Use another --workdir, or the original files.'
  )


def check_questions(
  config: configs.Config, dataset: types.Dataset, workdir: pathlib.Path
) -> None:
  """Raises a ValueError if a run goes on with other training questions."""
  path = workdir / store.DATA
  if not path.exists() or not checkpoint.steps(workdir / store.CHECKPOINTS):
    return
  try:
    stored = json.loads(path.read_text(encoding='utf-8'))['train_questions']
  except (ValueError, KeyError, TypeError) as error:
    remedy = 'Delete it, if data.path is unchanged; it is made again.'
    raise store.damaged(path, type(error).__name__, remedy) from error
  if stored != _questions_hash(config, dataset):
    raise ValueError(
      f'data.path {config.data.path!r} holds other training questions than '
      f'those that the run in {str(workdir)!r} began with. Use another '
      '--workdir, or the original data.'
    )


def save(
  dataset: types.Dataset, config: configs.Config, workdir: pathlib.Path
) -> None:
  """Writes the hash of the training questions."""
  values = {'train_questions': _questions_hash(config, dataset)}
  files.write(workdir / store.DATA, json.dumps(values) + '\n')
