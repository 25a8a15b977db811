"""Generated questions as keys: BM25, and documents that are added live.

  python launch.py --config=generated_questions:both --workdir=runs/both
  python benchmarks/generated_questions.py \
    --questions=runs/both/generated-questions.jsonl
  python benchmarks/generated_questions.py --bm25 \
    --questions=runs/both/generated-questions.jsonl

With `--bm25`: Hits of BM25 with and without the keys, on questions about
documents that no training question asks for; as a control, with as many random
crops of the document, of the same lengths, as keys.

Otherwise, documents that no training question asks for are left out of the
corpus, the search is trained on the rest, and they are added without training.
Hits on questions about old and new documents, before and after:
without keys, and with generated questions as keys of all documents.
"""

import dataclasses
import json
import pathlib
import random
import tempfile

import numpy as np
from absl import app, flags

from rag_jax import (
  baselines,
  compare,
  experiment_files,
  measures,
  report,
  train,
)
from rag_jax import config as configs
from rag_jax import workdir as workdirs
from rag_jax.data import formats, pipeline
from rag_jax.generation import cache, corpus_questions

DATA = flags.DEFINE_string('data', 'facts', 'The data.')
QUESTIONS = flags.DEFINE_string('questions', None, 'Generated questions.')
EXPERIMENT = flags.DEFINE_string(
  'experiment', 'generated_questions:crops', 'The experiment.'
)
BM25 = flags.DEFINE_bool('bm25', False, 'Measures BM25 alone.')
K1 = flags.DEFINE_float('k1', 1.2, 'k1 of BM25.')
B = flags.DEFINE_float('b', 0.75, 'b of BM25.')
TITLE = flags.DEFINE_integer('title_weight', 1, 'Repetitions of the title.')
MOST = flags.DEFINE_integer('most', 600, 'Questions about old and about new.')
DEPTHS = (1, 10, 100)


def split(dataset):
  """Documents that training questions ask for, and the others."""
  asked = {i for q in dataset.splits['train'] for i in q.document_ids}
  old = [d for d in dataset.documents if d.id in asked]
  return old, [d for d in dataset.documents if d.id not in asked]


def write(folder, documents, questions):
  """A corpus with training questions, as JSON lines."""
  rows = [{'id': d.id, 'title': d.title, 'text': d.text} for d in documents]
  asked = [
    {'id': q.id, 'question': q.text, 'answers': list(q.answers)}
    | {'document_ids': list(q.document_ids)}
    for q in questions
    if q.document_ids
  ]
  named = {'documents': rows, 'questions-train': asked}
  for name, lines in named.items():
    text = ''.join(json.dumps(line) + '\n' for line in lines)
    (folder / f'{name}.jsonl').write_text(text, encoding='utf-8')


def hits(system, questions):
  """Share of questions whose gold document is among the first k."""
  found = system.search([q.text for q in questions])
  ranks = []
  for question, candidates in zip(questions, found, strict=True):
    gold = set(question.document_ids)
    places = [i for i, c in enumerate(candidates) if c.document.id in gold]
    ranks.append(places[0] if places else np.inf)
  return [float(np.mean(np.asarray(ranks) < k)) for k in DEPTHS]


def distinct(system, new):
  """The new documents without copies, by their first tokens, of others.

  An index refuses a document with the tokens of another one.
  """

  def tokens(documents):
    encoded = pipeline.encode_documents(
      system.tokenizer, documents, system.config.data
    )
    return [row.tobytes() for row in encoded.tokens]

  known = set(tokens(system.documents))
  found = dict(zip(tokens(new), new, strict=True))
  return [d for key, d in found.items() if key not in known]


def measure(folder, old, new, asked, found, keys):
  """Prints the hits of one system, before and after the addition."""
  values = experiment_files.load(EXPERIMENT.value)
  values.data.path = str(folder)
  values.data.eval_splits = ('train',)
  values.data.question_keys = keys
  if keys:
    values.generator.path = str(folder / 'keys.jsonl')
    kept = {d.id: found.get(d.id, ()) for d in old}
    cache.write(folder / 'keys.jsonl', {}, kept)
  config = configs.build(values)
  run = folder / f'run-{keys}'
  system = train.fit(config, workdirs.open(config, run), run)
  system = dataclasses.replace(system, workdir=None)
  about_old, about_new = asked
  new = distinct(system, new)
  names = {document.id for document in new}
  about_new = [q for q in about_new if names & {*q.document_ids}]
  print(f'{len(new)} new documents, {len(about_new)} questions about them')
  print(f'keys {keys}: old, before', hits(system, about_old), flush=True)
  if keys:
    new = [dataclasses.replace(d, questions=found.get(d.id, ())) for d in new]
  system = system.add(new)
  print(f'keys {keys}: old, after ', hits(system, about_old), flush=True)
  print(f'keys {keys}: new        ', hits(system, about_new), flush=True)


def crops(document, questions, rng):
  """As many random spans of a document, with as many words each."""
  words = f'{document.title} {document.text}'.split()
  sizes = [len(question.split()) for question in questions]
  starts = [rng.randrange(max(len(words) - n, 0) + 1) for n in sizes]
  return tuple(
    ' '.join(words[i : i + n]) for i, n in zip(starts, sizes, strict=True)
  )


def bm25(dataset, found):
  """Prints the hits of BM25 with and without keys, on unseen documents."""
  data = pipeline.DataConfig(
    bm25_k1=K1.value, bm25_b=B.value, title_weight=TITLE.value
  )
  rng = random.Random(0)
  control = {
    d.id: crops(d, found.get(d.id, ()), rng) for d in dataset.documents
  }
  rows = {d.id: i for i, d in enumerate(dataset.documents)}
  new = {d.id for d in split(dataset)[1]}
  for name, questions in dataset.splits.items():
    asked = [q for q in questions if q.document_ids and new & {*q.document_ids}]
    if name in ('train', 'calibration') or not asked:
      continue
    gold = measures.gold(asked, rows)[0]
    hits = {}
    for kind, keys in (('none', {}), ('questions', found), ('crops', control)):
      documents = corpus_questions.attach(dataset.documents, keys)
      index = corpus_questions.bm25(data, documents, keys=True)
      texts = [question.text for question in asked]
      ranked, _ = baselines.bm25_search(index, texts, k=max(DEPTHS))
      is_gold = (ranked[..., None] == gold[:, None]) & (ranked >= 0)[..., None]
      hits[kind] = is_gold.any(-1)
    for k in DEPTHS:
      first = hits['none'][:, :k].any(1).astype(float)
      for kind in ('questions', 'crops'):
        other = hits[kind][:, :k].any(1).astype(float)
        mean = report.summarise(name, kind, 'difference', other - first)
        print(
          f'{name} ({len(asked)}) Hits@{k}: {first.mean():.3f}, with {kind} '
          f'{other.mean():.3f}, difference {mean.value:+.3f} '
          f'({mean.low:+.3f} to {mean.high:+.3f}), '
          f'p {compare.sign_flip(other - first):.4f}',
          flush=True,
        )


def main(_):
  """Measures BM25, or trains and measures both systems."""
  dataset = formats.load(DATA.value)
  old, new = split(dataset)
  found = cache.read(
    pathlib.Path(QUESTIONS.value), [d.id for d in dataset.documents]
  )
  if BM25.value:
    bm25(dataset, found)
    return
  names = {d.id for d in old}
  tests = [
    question
    for name, own in dataset.splits.items()
    for question in own
    if name not in ('train', 'calibration') and question.document_ids
  ]
  rng = np.random.default_rng(0)
  tests = [tests[i] for i in rng.permutation(len(tests))]
  about_old = [q for q in tests if names & {*q.document_ids}][: MOST.value]
  about_new = [q for q in tests if not names & {*q.document_ids}][: MOST.value]
  print(f'{len(old)} old and {len(new)} new documents; questions:', end=' ')
  print(f'{len(about_old)} and {len(about_new)}; Hits@{DEPTHS}', flush=True)
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    write(folder, old, dataset.splits['train'])
    for keys in (False, True):
      measure(folder, old, new, (about_old, about_new), found, keys)


if __name__ == '__main__':
  flags.mark_flag_as_required('questions')
  app.run(main)
