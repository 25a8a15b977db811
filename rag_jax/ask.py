"""Answering typed questions with a trained workdir."""

import functools
import itertools
import pathlib
from collections.abc import Iterable, Iterator

import jax
import numpy as np

from rag_jax import checkpoint, evaluate, rag, train, types
from rag_jax import config as configs
from rag_jax import workdir as workdirs
from rag_jax.data import pipeline

SHOWN = 5  # documents that are shown with an answer


def load(
  config: configs.Config, workdir: pathlib.Path
) -> tuple[workdirs.Prepared, rag.Params]:
  """Loads data, index and parameters of a trained workdir.

  Raises:
    ValueError: if the workdir holds no checkpoint, or another experiment's.
  """
  if not (workdir / 'checkpoints').is_dir():
    raise ValueError(
      f'workdir {str(workdir)!r} holds no checkpoint. '
      'Train first, with --mode=train and the same --workdir.'
    )
  prepared = workdirs.open(config, workdir)
  vocab = np.zeros(prepared.vocab_size, np.float32)
  abstract = jax.eval_shape(
    functools.partial(train.init_state, config),
    prepared.index,
    prepared.pretrained,
    vocab=vocab,
  )
  checkpointer = checkpoint.open(workdir / 'checkpoints')
  restored = checkpoint.restore(checkpointer, abstract)
  checkpoint.close(checkpointer)
  if restored is None:
    raise ValueError(
      f'workdir {str(workdir)!r} holds no finished checkpoint. '
      'Train first, with --mode=train and the same --workdir.'
    )
  return prepared, restored[1].params


def answers(
  config: configs.Config,
  prepared: workdirs.Prepared,
  params: rag.Params,
  questions: Iterable[str],
) -> Iterator[str]:
  """Yields the answer to each question, as text to show.

  Args:
    config: the experiment.
    prepared: data and index.
    params: what was trained.
    questions: questions as text; blank ones are passed over.
  """
  answer_fn = evaluate.answer_function(config.model)
  for text in questions:
    if not text.strip():
      continue
    question = types.Question(id='asked', text=text.strip())
    encoded = prepared.encode([question], config.data)
    batch = next(pipeline.eval_batches(encoded, batch_size=1))
    found = jax.device_get(answer_fn(params, batch, prepared.index))
    yield show(config, prepared, question, found)


def show(
  config: configs.Config,
  prepared: workdirs.Prepared,
  question: types.Question,
  found: rag.Answer,
) -> str:
  """One answer with its documents and their weights, as text."""
  documents = prepared.dataset.documents
  answer = evaluate.answer_text(found, 0, prepared, config)
  source = documents[found.read[0]]
  chance = float(np.exp(found.log_probability[0]))
  lines = [
    f'question  {question.text}',
    f'answer    {answer}   (probability {chance:.2f})',
    f'from      {source.title or source.id}: {_around(source.text, answer)}',
    'weight    document',
  ]
  if evaluate.abstains(found, 0, config):
    lines[1:3] = [f'answer    none; the best had probability {chance:.2f}']
  ranked = zip(found.documents[0], found.weights[0], strict=True)
  for row, weight in itertools.islice(ranked, SHOWN):
    if row < 0:
      break
    document = documents[row]
    lines.append(f'  {weight:.3f}   {document.id}  {document.title}')
  return '\n'.join(lines)


def _around(text: str, answer: str, *, width: int = 90) -> str:
  """A piece of a text with the answer inside it."""
  place = max(text.find(answer), 0)
  start = max(place - width // 2, 0)
  piece = text[start : place + len(answer) + width // 2]
  left = '...' if start else ''
  right = '...' if start + len(piece) < len(text) else ''
  return f'{left}{piece}{right}'.replace('\n', ' ')
