"""The embedded set `facts`: real facts in templated sentences.

Countries, chemical elements, states of the United States, presidents, books
and planets. The facts are real and live in `tables/`; the sentences are made
from `templates.py`, so the set shows that a system works, not that it copes
with natural text. Splits:

  train: 3 of the 4 trained phrasings of most questions.
  test_phrasing: questions that were trained, in phrasings that never were.
    Their words do occur in training, so this measures a new wording and not
    an unknown word.
  test_pair: a relation of an entity that was never asked in training, neither
    forwards nor backwards.
  test_entity: documents that no training question is about.
"""

import csv
import importlib.resources
import random
import re
from collections.abc import Iterator

import tensorflow_datasets as tfds

from rag_jax import types
from rag_jax.data import templates

SPLITS = ('train', 'test_phrasing', 'test_pair', 'test_entity')
_HELD_OUT = 2  # phrasings of each relation that are never trained
_SEED = 20261123

Row = dict[str, str]
Pair = tuple[str, str, str]  # kind, name of the entity, relation


def load() -> types.Dataset:
  """The documents and questions; the same at every call.

  Example:
    >>> dataset = load()
    >>> len(dataset.documents), sorted(dataset.splits)
    (451, ['test_entity', 'test_pair', 'test_phrasing', 'train'])
  """
  tables = {kind: read_table(kind) for kind in templates.OPENINGS}
  documents = tuple(
    document(kind, row, rows) for kind, rows in tables.items() for row in rows
  )
  return types.Dataset(documents=documents, splits=_splits(tables))


def read_table(kind: str) -> list[Row]:
  """The rows of a fact table, column -> value; an unknown value is ''."""
  path = importlib.resources.files('rag_jax.data') / 'tables' / f'{kind}.csv'
  with path.open(encoding='utf-8') as lines:
    return list(csv.DictReader(lines))


def document(kind: str, row: Row, rows: list[Row]) -> types.Document:
  """The document of an entity; `rows` lend it names as distractors."""
  rng = random.Random(f'{_SEED} {kind} {row["name"]}')
  name = entity_name(kind, row)
  relations = [
    relation
    for table, relation in templates.SENTENCES
    if table == kind and row[relation]
  ]
  rng.shuffle(relations)
  others = rng.sample([r['name'] for r in rows if r is not row], 2)
  parts = [rng.choice(templates.OPENINGS[kind])]
  parts += [
    rng.choice(templates.SENTENCES[kind, r]).replace('{v}', value(row, r))
    for r in relations
  ]
  closing = rng.choice(templates.CLOSINGS[kind])
  parts.append(closing.replace('{n}', ' and '.join(others)))
  return types.Document(
    id=document_id(kind, row),
    title=_sentence(name),
    text=' '.join(_sentence(p.replace('{x}', name)) for p in parts),
    summary=summary(kind, row),
  )


def summary(kind: str, row: Row) -> str:
  """A reference summary: one or two sentences of key facts."""
  parts = []
  for template in templates.SUMMARIES[kind]:
    names = re.findall(r'{(\w+)}', template)
    if all(row[n] for n in names if n != 'x'):
      values = {n: row[n] for n in names if n != 'x'}
      text = template.format(x=entity_name(kind, row), **values)
      parts.append(_sentence(text))
  return ' '.join(parts)


def entity_name(kind: str, row: Row) -> str:
  """What texts call an entity, so that it fits one document only."""
  return templates.AMBIGUOUS.get((kind, row['name']), row['name'])


def document_id(kind: str, row: Row) -> str:
  """A stable id, such as countries/france."""
  return f'{kind}/{row["name"].lower().replace(" ", "_")}'


def value(row: Row, relation: str) -> str:
  """A value as it is written in a sentence."""
  if relation != 'neighbours':
    return row[relation]
  names = row[relation].split('; ')[:3]
  return ' and '.join(filter(None, [', '.join(names[:-1]), names[-1]]))


def _splits(
  tables: dict[str, list[Row]],
) -> dict[str, tuple[types.Question, ...]]:
  rng = random.Random(_SEED)
  new_entities: set[tuple[str, str]] = set()
  for kind, rows in tables.items():
    names = [row['name'] for row in rows]
    count = max(1, round(len(names) / 10))
    new_entities |= {(kind, name) for name in rng.sample(names, count)}
  splits: dict[str, list[types.Question]] = {name: [] for name in SPLITS}
  for kind, rows in tables.items():
    for row in rows:
      for relation, forms in _relations(kind, row, rows):
        draw = rng.random()
        trained, held_out = forms[:-_HELD_OUT], forms[-_HELD_OUT:]
        trained = rng.sample(trained, len(trained))  # shuffled
        if (kind, row['name']) in new_entities:
          splits['test_entity'] += trained[:2]
        elif draw < 0.08:
          splits['test_pair'] += trained[:3]
        else:
          splits['train'] += trained[:3]
          if draw > 0.75:
            splits['test_phrasing'].append(rng.choice(held_out))
  return {name: tuple(questions) for name, questions in splits.items()}


def _relations(
  kind: str, row: Row, rows: list[Row]
) -> Iterator[tuple[str, list[types.Question]]]:
  """Each relation of an entity with its questions, held-out forms last.

  A reverse question takes the place of a forward one in half of the cases, so
  that both directions of a pair are always in the same split.
  """
  rng = random.Random(f'{_SEED} {kind} {row["name"]} questions')
  for (table, relation), forward in templates.QUESTIONS.items():
    if table != kind or not row[relation]:
      continue
    answer, forms, direction = row[relation], forward, 'forward'
    same = [r for r in rows if r[relation] == row[relation]]
    backward = templates.REVERSED.get((kind, relation))
    if backward and len(same) == 1 and rng.random() < 0.5:
      answer, forms, direction = row['name'], backward, 'reverse'
    yield (
      relation,
      [
        types.Question(
          id=f'{document_id(kind, row)}/{relation}/{direction}/{number}',
          text=_sentence(
            form.format(x=entity_name(kind, row), v=row[relation])
          ),
          answers=(answer,),
          document_ids=(document_id(kind, row),),
        )
        for number, form in enumerate(forms)
      ],
    )


def _sentence(text: str) -> str:
  """A text with a capital at its start and the right indefinite article."""
  text = re.sub(r'\ba (?=[aeio])', 'an ', text)
  return text[:1].upper() + text[1:]


class Facts(tfds.core.GeneratorBasedBuilder):
  """The set as a TensorFlow dataset, in array_record and without TensorFlow.

  Questions are in the splits of `load`, documents in the split `documents`;
  both have the same features, those that do not apply are empty.
  """

  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES = {'1.0.0': 'First release.'}

  def _info(self) -> tfds.core.DatasetInfo:
    texts = tfds.features.Sequence(tfds.features.Text())
    return self.dataset_info_from_configs(
      features=tfds.features.FeaturesDict(
        {
          'id': tfds.features.Text(),
          'title': tfds.features.Text(),
          'text': tfds.features.Text(),
          'summary': tfds.features.Text(),
          'answers': texts,
          'document_ids': texts,
        }
      )
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # nothing is downloaded
    return {
      name: self._generate_examples(name) for name in (*SPLITS, 'documents')
    }

  def _generate_examples(self, split):
    dataset = load()
    empty = {'title': '', 'summary': '', 'answers': [], 'document_ids': []}
    if split == 'documents':
      for doc in dataset.documents:
        own = {'title': doc.title, 'summary': doc.summary, 'text': doc.text}
        yield doc.id, empty | own | {'id': doc.id}
      return
    for question in dataset.splits[split]:
      yield (
        question.id,
        empty
        | {
          'id': question.id,
          'text': question.text,
          'answers': list(question.answers),
          'document_ids': list(question.document_ids),
        },
      )
