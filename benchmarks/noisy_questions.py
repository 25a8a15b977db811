"""A trained run on other questions than those it was calibrated on.

  python benchmarks/noisy_questions.py WORKDIR PATH [OTHER]

WORKDIR is a trained run and PATH its data, such as facts. Each
question of the measured splits that has an answer is asked as it is, after ten
polite words, and with two neighbouring letters of its longest word swapped.
OTHER is data on other subjects, such as a folder: its questions have no answer
in the run's documents. Nothing is trained or calibrated again, so the
certificate promises nothing here.
"""

import dataclasses
import random
import sys
import warnings

import numpy as np

import rag_jax
from rag_jax import (
  baselines,
  evaluate,
  measures,
  per_question,
  reliability,
  trec,
)
from rag_jax import workdir as workdirs
from rag_jax.data import pipeline

POLITE = 'Hello there, could you please kindly help me find out'


def mistyped(text, seed):
  """The text with two neighbouring letters of its longest word swapped."""
  words = text.split()
  place = max(range(len(words)), key=lambda i: (len(words[i]), -i))
  word = words[place]
  if len(word) > 3:
    at = random.Random(seed).randrange(1, len(word) - 2)
    word = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
  return ' '.join([*words[:place], word, *words[place + 1 :]])


CHANGES = {
  'as it is': lambda text, number: text,
  'ten polite words before it': lambda text, number: f'{POLITE} {text}',
  'one typo': mistyped,
}


COLUMNS = (
  *('index Hits@1', 'ranker Hits@1', 'BM25 Hits@1', 'EM', 'answered', 'wrong'),
  *('certified', 'wrong of these', 'AUROC', 'ECE'),
)


def row(system, questions, words):
  """The columns of a row, for questions asked in one way."""
  measured = per_question.measure(system, '', questions, {})
  judged, given = measured.judged, measured.answers
  texts = [question.text for question in questions]
  found = baselines.bm25_search(words, texts, k=10)[0]
  gold, grades = measures.gold(questions, system.rows)
  scores = np.broadcast_to(-np.arange(found.shape[1]), found.shape)
  ranked = trec.Run(rows=found, scores=scores, where=found >= 0)
  of_bm25 = measures.retrieval(ranked, gold, grades, depths=(1,))['Hits@1']
  answered = np.array([not answer.abstained for answer in given])
  certified = np.array([bool(answer.certified) for answer in given])
  known, right = judged.known, judged.right
  quality = reliability.of_answers(judged.scores[known], right[known])
  none = np.array([np.nan])  # without gold documents
  return (
    np.nanmean(measured.values.get((per_question.INDEX, 'Hits@1'), none)),
    np.nanmean(measured.values.get((per_question.RANKED, 'Hits@1'), none)),
    np.nanmean(of_bm25),
    right[known].mean(),
    answered.mean(),
    share(~right, answered & known),
    certified.mean(),
    share(~right, certified & known),
    quality['AUROC'][0],
    quality['ECE'][0],
  )


def share(values, where):
  """The mean of the values at some places; NaN if there are none."""
  return values[where].mean() if where.any() else np.nan


def main():
  system = rag_jax.load(sys.argv[1])
  data = dataclasses.replace(system.config.data, path=sys.argv[2])
  config = dataclasses.replace(system.config, data=data)
  system = system.with_config(config)
  dataset = workdirs.load_data(config)
  questions = [
    question
    for _, split in evaluate.splits(system, dataset)
    for question in split
    if question.answerable
  ]
  words = baselines.bm25_index(
    dataset.documents,
    k1=data.bm25_k1,
    b=data.bm25_b,
    language=data.language,
    title_weight=data.title_weight,
  )
  rows = {
    name: [
      dataclasses.replace(question, text=change(question.text, number))
      for number, question in enumerate(questions)
    ]
    for name, change in CHANGES.items()
  }
  if len(sys.argv) > 3:
    data = dataclasses.replace(data, path=sys.argv[3], eval_splits=())
    other = workdirs.load_data(dataclasses.replace(config, data=data))
    rows['another collection'] = [
      dataclasses.replace(q, answerable=False, answers=(), document_ids=())
      for split in pipeline.check_splits(other, data)
      for q in pipeline.spread(other.splits[split], data.eval_questions)
    ]
  print(f'| questions | {" | ".join(COLUMNS)} |\n|---|{"---|" * len(COLUMNS)}')
  with warnings.catch_warnings():
    warnings.simplefilter('ignore', RuntimeWarning)  # means of no values
    for name, asked in rows.items():
      cells = ' | '.join(f'{x:.3f}' for x in row(system, asked, words))
      print(f'| {name} ({len(asked)}) | {cells} |', flush=True)


if __name__ == '__main__':
  main()
