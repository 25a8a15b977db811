"""Hits@1 of a trained run on polite and on mistyped questions.

  python benchmarks/noisy_questions.py WORKDIR PATH

WORKDIR is a trained run and PATH its data. Each question of the first split
that is measured is asked as it is, after ten polite words, and with two
neighbouring letters of its longest word swapped. Nothing is trained again.
"""

import dataclasses
import random
import sys

import numpy as np

import rag_jax
from rag_jax import baselines, compiled, evaluate, measures, trec
from rag_jax import workdir as workdirs

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


def main():
  system = rag_jax.load(sys.argv[1])
  data = dataclasses.replace(system.config.data, path=sys.argv[2])
  config = dataclasses.replace(system.config, data=data)
  dataset = workdirs.load_data(config)
  _, questions = next(evaluate.splits(system.with_config(config), dataset))
  gold, grades = measures.gold(questions, system.rows)
  words = baselines.bm25_index(
    dataset.documents,
    k1=data.bm25_k1,
    b=data.bm25_b,
    language=data.language,
    title_weight=data.title_weight,
  )

  def hits(rows):
    scores = np.broadcast_to(-np.arange(rows.shape[1]), rows.shape)
    run = trec.Run(rows=rows, scores=scores, where=rows >= 0)
    found = measures.retrieval(run, gold, grades, depths=(1,))
    return f'{np.nanmean(found["Hits@1"]):.3f}'

  print('| question | index | after ranker | BM25 |\n|---|---|---|---|')
  for name, change in CHANGES.items():
    asked = [
      dataclasses.replace(question, text=change(question.text, number))
      for number, question in enumerate(questions)
    ]
    found = evaluate.run(system, compiled.rank, asked)
    rows = [np.asarray(found.candidates.documents), np.asarray(found.documents)]
    texts = [question.text for question in asked]
    rows.append(baselines.bm25_search(words, texts, k=10)[0])
    print(f'| {name} | {" | ".join(map(hits, rows))} |', flush=True)


if __name__ == '__main__':
  main()
