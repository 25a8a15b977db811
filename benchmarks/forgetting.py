r"""Forgetting of an index that learns new documents, with and without replay.

python benchmarks/forgetting.py [--documents=4000 --width=64]
python benchmarks/forgetting.py --data=FOLDER --split=dev \\
  --documents=documents.npy --questions=questions.npy \\
  --train_split=train --train_questions=train_questions.npy

The second command takes a dataset that rag_jax reads, and float32 vectors of
unit length: one row per document in corpus order, one row per question of a
split. Without --data, vectors are synthetic. A document is its content (a topic
vector plus an individual one) plus noise; a question is the content under a
linear map that all questions share, plus noise. Training can thus learn both
the shared map and individual documents.

80% of the documents are indexed and trained on; the rest are added live. Two
fifths of the training queries are pseudo-queries (document vectors plus noise),
which are also the only queries for the replay of old documents. Printed: Hits@k
on questions about old and about new documents, and the three metrics of DSI++.
"""

import argparse
import dataclasses
import time

import numpy as np

from rag_jax.data import formats
from rag_jax.index import docids, forgetting


def unit(x):
  x = x / np.linalg.norm(x, axis=-1, keepdims=True)
  return x.astype(np.float32)


def noisy(rng, vectors, size):
  """Adds noise of relative length `size` to unit vectors."""
  noise = rng.normal(size=vectors.shape) / np.sqrt(vectors.shape[1])
  return unit(vectors + size * noise)


def draw(count, width, noise):
  """Draws documents, training questions and test questions."""
  rng = np.random.default_rng(0)
  topics = unit(rng.normal(size=(max(count // 20, 1), width)))
  content = unit(
    topics[rng.integers(len(topics), size=count)] * 0.8
    + unit(rng.normal(size=(count, width)))
  )
  documents = noisy(rng, content, noise)
  shared = np.eye(width) + 0.5 * rng.normal(size=(width,) * 2) / np.sqrt(width)

  def ask(rows):
    return forgetting.Questions(
      vectors=noisy(rng, unit(content[rows] @ shared), noise), documents=rows
    )

  train = ask(np.repeat(np.arange(count), 3))
  return documents, train, ask(rng.integers(count, size=2000))


def read(flags):
  """As `draw`, from files; drops questions without a gold document."""
  dataset = formats.load(flags.data)
  documents = np.load(flags.documents)
  rows = {document.id: i for i, document in enumerate(dataset.documents)}
  sets = []
  for split, path in (
    (flags.train_split, flags.train_questions),
    (flags.split, flags.questions),
  ):
    questions, vectors = dataset.splits[split], np.load(path)
    if (len(questions), len(documents)) != (len(vectors), len(rows)):
      raise SystemExit(
        f'error: {split!r} has {len(questions)} questions and {len(rows)} '
        f'documents, got {len(vectors)} and {len(documents)} vectors.'
      )
    known = [i for i, question in enumerate(questions) if question.document_ids]
    gold = [rows[questions[i].document_ids[0]] for i in known]
    sets.append(
      forgetting.Questions(vectors=vectors[known], documents=np.array(gold))
    )
  return documents, *sets


def show(rows):
  """Prints the results of `continual`, one line per run and depth."""
  heads = ('old before', 'old after', 'new', 'average', 'forgotten', 'learned')
  print(f'{"":<20}{"":>8}' + ''.join(f'{head:>12}' for head in heads))
  for name, run in rows.items():
    for k, hits in run.items():
      found = forgetting.summarise(hits)
      values = (
        hits[0, 0],
        hits[1, 0],
        hits[1, 1],
        found.average,
        found.forgetting,
        found.learning,
      )
      cells = ''.join(f'{value:>12.3f}' for value in values)
      print(f'{name:<20}{f"Hits@{k}":>8}' + cells)


def main():
  parser = argparse.ArgumentParser()
  for name in ('data', 'questions', 'train_questions'):
    parser.add_argument(f'--{name}')
  parser.add_argument(
    '--documents', default='4000', help='number of documents, or a .npy file'
  )
  parser.add_argument('--split', default='dev')
  parser.add_argument('--train_split', default='train')
  parser.add_argument('--width', type=int, default=64)
  parser.add_argument('--noise', type=float, default=1.0)
  parser.add_argument('--replay', type=float, default=0.5)
  parser.add_argument('--steps', type=int, default=600)
  parser.add_argument('--later_steps', type=int, default=600)
  flags = parser.parse_args()
  begin = time.perf_counter()
  if flags.data:
    vectors, train, test = read(flags)
  else:
    vectors, train, test = draw(int(flags.documents), flags.width, flags.noise)
  rng = np.random.default_rng(1)
  everyone = np.tile(np.arange(len(vectors)), 2)
  memory = forgetting.Questions(
    vectors=noisy(rng, vectors[everyone], flags.noise), documents=everyone
  )
  train = forgetting.Questions(
    vectors=np.concatenate([train.vectors, memory.vectors]),
    documents=np.concatenate([train.documents, memory.documents]),
  )
  sessions = (rng.random(len(vectors)) < 0.2).astype(int)
  config = docids.DocidConfig(branching=24, leaf_size=24)
  training = forgetting.TrainConfig(
    steps=flags.steps, later_steps=flags.later_steps
  )
  untrained = dataclasses.replace(training, steps=0)
  rows = {}
  for names, replays, trains in (
    (('never trained',), (None,), untrained),
    (
      ('added, not trained', 'new only', f'replay {flags.replay}'),
      (None, 0.0, flags.replay),
      training,
    ),
  ):
    runs = forgetting.continual(
      vectors,
      sessions,
      train,
      test,
      config,
      replays=replays,
      memory=memory,
      training=trains,
    )
    rows |= dict(zip(names, runs, strict=True))
  new = int(sessions.sum())
  print(
    f'{len(sessions) - new:,} old documents, {new:,} new; questions: '
    f'{len(train.vectors):,} to train on, {len(test.vectors):,} to test'
  )
  show(rows)
  print(f'{time.perf_counter() - begin:.0f} s')


if __name__ == '__main__':
  main()
