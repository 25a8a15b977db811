"""Support of sentences and lead sentences, measured without a model.

python benchmarks/cited_answers.py
python benchmarks/cited_answers.py --data=medquad.tar.gz --split=dev \
  --run=WORKDIR/run-dev-after-ranker.trec
python benchmarks/cited_answers.py --data=medquad.tar.gz --split=dev \
  --answers=WORKDIR/answers-dev.jsonl

On `facts_summaries`: the references themselves, after tokens, spelling and the
test of support, and the first sentences of the gold document, on each test
split; then how many sentences with the cell of another entity pass the test.
With --data: Hits@1 of BM25 on other data, and ROUGE of the first sentences of
its first document. With --run the same of a run's first documents, and the
paired differences. With --answers the answers of a run, the first sentences of
its first documents, also as many as have the words of the answer, and paired
differences.
"""

import argparse
import json
import random
from collections.abc import Sequence
from typing import Any

import bm25s
import numpy as np

from rag_jax import cited, grounding, report, summaries, types
from rag_jax.data import (
  citations,
  fact_summaries,
  facts,
  formats,
  pipeline,
  templates,
  words,
)
from rag_jax.ops import summary_metrics


def show(name: str, split: str, rows: Sequence[dict[str, float]]) -> None:
  """Prints the mean of each measure with its 95% interval."""
  print(f'{split}: {name}')
  for key in rows[0]:
    values = np.asarray([row[key] for row in rows])
    if (known := values[np.isfinite(values)]).size:
      found = report.summarise(split, name, key, known)
      print(f'  {key} {found.value:.3f} {found.low:.3f}-{found.high:.3f}')


def references() -> None:
  """References through all that follows the reader, and lead sentences."""
  dataset = fact_summaries.load()
  documents = {document.id: document for document in dataset.documents}
  tokenizer = pipeline.train_tokenizer(dataset, pipeline.DataConfig())
  supports = summaries.supporter(dataset.claims, share=1.0, language='english')
  for split in ('test_entity', 'test_phrasing', 'test_comparison'):
    own, lead = [], []
    for question in dataset.splits[split]:
      gold = [documents[name] for name in question.document_ids]
      [[tokens]] = citations.encode_targets(
        tokenizer, [question.answers], max_answers=1, max_tokens=150
      )
      raw = citations.decode(tokenizer, tokens)
      text, sources = cited.finish(raw, gold, support=1.0)
      own.append(summaries.of_text(question, text, sources, supports))
      first = summaries.lead(gold[0])
      lead.append(summaries.of_text(question, first, gold[:1], supports))
    show('references', split, own)
    show('lead sentences of the gold document', split, lead)
  rng = random.Random(0)
  for kind in templates.OPENINGS:
    rows = facts.read_table(kind)
    wrong = passed = 0
    for row in rows:
      other = rng.choice([r for r in rows if r is not row])
      document = documents[facts.document_id(kind, row)]
      for claim in fact_summaries.claims(kind, other | {'name': row['name']}):
        sentence = claim.statements[0]
        if not supports(sentence, [document]):  # else the cells are equal
          wrong += 1
          passed += grounding.supports(sentence, [document])
    print(f'{kind}: {passed} of {wrong} sentences with a wrong cell pass')


def leads(path: str, split: str, run: str | None, given: str | None) -> None:
  """First documents of BM25 and of a run, and what these have of answers."""
  dataset = formats.load(path, passage_words=0)
  questions = dataset.splits[split]
  index = bm25s.BM25(k1=1.2, b=0.75)
  texts = [f'{d.title} {d.text}' for d in dataset.documents]
  index.index(words.split(texts), show_progress=False)
  asked = words.split([question.text for question in questions])
  places, _ = index.retrieve(asked, k=1, show_progress=False)
  first = [dataset.documents[place] for [place] in places]
  documents = {document.id: document for document in dataset.documents}
  rows = {'BM25, lead sentences': _of_documents(questions, first)}
  if run:
    best = {}
    with open(run, encoding='utf-8') as lines:
      for question, _, document, rank, *_ in map(str.split, lines):
        if rank == '1':
          best[question] = documents[document]
    own = [best[question.id] for question in questions]
    rows[f'{run}, lead sentences'] = _of_documents(questions, own)
  if given:
    rows = _of_answers(questions, given, documents, first) | rows
    own = zip(*list(rows.values())[:2], strict=True)
    parts: dict[float, list[dict[str, float]]] = {1.0: [], 0.0: []}
    for answer, document in own:
      parts[document['Hits@1']].append(answer)
    show('answers where the first document is gold', split, parts[1.0])
    show('answers where it is not', split, parts[0.0])
  best = next(iter(rows)) if given else list(rows)[-1]
  for name, values in rows.items():
    show(name, split, values)
  for name, values in rows.items():
    if name != best:
      pairs = zip(rows[best], values, strict=True)
      found = [
        {key: a[key] - b[key] for key in b if key in a} for a, b in pairs
      ]
      show(f'{best} - {name}', split, found)


def lead(document: types.Document, size: int) -> str:
  """The first sentences of a document that have at least `size` words."""
  found: list[str] = []
  for sentence in summary_metrics.parse(document.text):
    if len(' '.join(found).split()) >= size:
      break
    found.append(sentence.text)
  return ' '.join(found)


def count_unsupported(
  given: Sequence[dict[str, Any]], documents: dict[str, types.Document]
) -> None:
  """Prints how many sentences of answers fail the test of support."""
  count = wrong = contained = 0
  for own in given:
    cited_ones = [documents[document['id']] for document in own['cited']]
    for sentence in summary_metrics.parse(own['answer']):
      numbers = (n for n in sentence.citations if n <= len(cited_ones))
      sources = [cited_ones[n - 1] for n in numbers]
      count += 1
      if not grounding.supports(sentence.text, sources):
        wrong += 1
        contained += any(grounding.contains(d, sentence.text) for d in sources)
  print(
    f'{wrong} of {count} sentences have no support by the test; {contained} of '
    'these are in their document word for word'
  )


def _of_documents(
  questions: Sequence[types.Question], found: Sequence[types.Document]
) -> list[dict[str, float]]:
  """Whether documents are gold, and measures of their first sentences."""
  return [
    {'Hits@1': float(document.id in question.document_ids)}
    | summaries.of_text(question, summaries.lead(document))
    for question, document in zip(questions, found, strict=True)
  ]


def _of_answers(
  questions: Sequence[types.Question],
  path: str,
  documents: dict[str, types.Document],
  bm25: Sequence[types.Document],
) -> dict[str, list[dict[str, float]]]:
  """Measures of the answers of a run, and of leads of the same length."""
  with open(path, encoding='utf-8') as lines:
    answers = {own['id']: own for own in map(json.loads, lines)}
  given = [answers[question.id] for question in questions]
  texts = [own['answer'] for own in given]
  first = [documents[own['candidates'][0]['document']['id']] for own in given]
  count_unsupported(given, documents)
  sizes = [len(summary_metrics.plain(text).split()) for text in texts]
  same = [lead(*own) for own in zip(first, sizes, strict=True)]
  other = [lead(*own) for own in zip(bm25, sizes, strict=True)]

  def measured(texts):
    pairs = zip(questions, texts, strict=True)
    return [summaries.of_text(question, text) for question, text in pairs]

  return {
    'answers': [
      own | {'answered': float(bool(text))}
      for own, text in zip(measured(texts), texts, strict=True)
    ],
    'first document, lead sentences': _of_documents(questions, first),
    'first document, lead of the same length': measured(same),
    'BM25, lead of the same length': measured(other),
  }


if __name__ == '__main__':
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--data', help='other data instead of facts_summaries')
  parser.add_argument('--split', default='dev')
  parser.add_argument('--run', help='TREC run of a trained search')
  parser.add_argument('--answers', help='answers-SPLIT.jsonl of a run')
  options = parser.parse_args()
  if options.data:
    leads(options.data, options.split, options.run, options.answers)
  else:
    references()
