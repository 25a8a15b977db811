"""Support of sentences and lead sentences, measured without a model.

python benchmarks/cited_answers.py
python benchmarks/cited_answers.py --data=medquad.tar.gz --split=dev \
  --run=WORKDIR/run-dev-after-ranker.trec

On `facts_summaries`: the references themselves, after tokens, spelling and the
test of support, and the first sentences of the gold document, on each test
split; then how many sentences with the cell of another entity pass the test.
With --data: Hits@1 of BM25 on other data, and ROUGE of the first sentences of
its first document. With --run the same of a run's first documents, and the
paired differences.
"""

import argparse
import random
from collections.abc import Sequence

import bm25s
import numpy as np

from rag_jax import cited, grounding, report, summaries
from rag_jax.data import (
  citations,
  fact_summaries,
  facts,
  formats,
  pipeline,
  templates,
  words,
)


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


def leads(path: str, split: str, run: str | None) -> None:
  """First documents of BM25 and of a run, and what these have of answers."""
  dataset = formats.load(path, passage_words=0)
  questions = dataset.splits[split]
  index = bm25s.BM25(k1=1.2, b=0.75)
  texts = [f'{d.title} {d.text}' for d in dataset.documents]
  index.index(words.split(texts), show_progress=False)
  asked = words.split([question.text for question in questions])
  first, _ = index.retrieve(asked, k=1, show_progress=False)
  ranked = {'BM25': [dataset.documents[place] for [place] in first]}
  if run:
    documents = {document.id: document for document in dataset.documents}
    best = {}
    with open(run, encoding='utf-8') as lines:
      for question, _, document, rank, *_ in map(str.split, lines):
        if rank == '1':
          best[question] = documents[document]
    ranked[run] = [best[question.id] for question in questions]
  rows = {}
  for name, found in ranked.items():
    rows[name] = [
      {'Hits@1': float(document.id in question.document_ids)}
      | summaries.of_text(question, summaries.lead(document))
      for question, document in zip(questions, found, strict=True)
    ]
    show(f'{name} and lead sentences', split, rows[name])
  if run:
    pairs = zip(rows[run], rows['BM25'], strict=True)
    show(
      'difference of both',
      split,
      [{key: a[key] - b[key] for key in a} for a, b in pairs],
    )


if __name__ == '__main__':
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--data', help='other data instead of facts_summaries')
  parser.add_argument('--split', default='dev')
  parser.add_argument('--run', help='TREC run of a trained search')
  options = parser.parse_args()
  if options.data:
    leads(options.data, options.split, options.run)
  else:
    references()
