"""The embedded dataset `facts`: real facts in templated sentences.

It covers countries (the 193 members of the United Nations), chemical elements,
US states, US presidents, books and planets. The facts in `tables/` are real;
sentences come from `templates.py` and questions from `phrasings.py`. The
dataset shows that a system works, not that it copes with natural text. A table
cell is blank if sources disagree (a disputed capital, a year of discovery, a
country on two continents), and no question asks for it. Oceania counts as a
continent.

Each question has one gold document. A forward question asks for a value
("Paris"). A reverse question asks for the entity ("Which element has the symbol
Au?") and exists only if exactly one entity has that value. Splits:

  train: up to three training phrasings of most questions.
  test_phrasing: held-out phrasings of questions (entity, relation, direction)
    that are in train. Every content word of a held-out phrasing occurs in train
    or in the documents, so the split measures new wording, not unknown words.
  test_pair: (entity, relation) pairs that no training question asks about, in
    either direction; other training questions ask about the entity.
  test_entity: entities that no training question asks about, a tenth of each
    kind.
  test_unknown_thing, test_unstated_relation, test_other_subject, test_noise:
    questions that no document answers; see `unanswerable`. The training split
    has the first two kinds, a sixth of its questions.
  calibration: held out from training, to fit the calibrator of answers. It has
    held-out phrasings, pairs and entities, a twentieth of each kind, and the
    two kinds of unanswerable questions, none of which is in another split.
"""

import itertools
import random
import re
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds

from rag_jax import types
from rag_jax.data import phrasings, templates, unanswerable

ANSWERED = ('test_phrasing', 'test_pair', 'test_entity')
SPLITS = ('train', *ANSWERED, *unanswerable.SPLITS, 'calibration')
_HELD_OUT = 2  # held-out phrasings of each relation
_TEST_SIZE = 600  # maximum number of questions in a test split
_CALIBRATION = 260  # maximum questions of each held-out kind in calibration
_CALIBRATES = 1 / 20  # share of entities, and of pairs, in calibration
_MIN_WORDS = 52  # minimum document length; filler sentences make it up
_SEED = 20261123

Row = dict[str, str]


def load() -> types.Dataset:
  """Returns the documents and questions; every call returns the same.

  Example:
    >>> dataset = load()
    >>> len(dataset.documents), sorted(dataset.splits)
    (478, ['calibration', 'test_entity', 'test_noise', 'test_other_subject', \
'test_pair', 'test_phrasing', 'test_unknown_thing', 'test_unstated_relation', \
'train'])
  """
  tables = {kind: read_table(kind) for kind in templates.OPENINGS}
  documents = tuple(
    document(kind, row, rows) for kind, rows in tables.items() for row in rows
  )
  return types.Dataset(documents=documents, splits=_splits(tables))


def read_table(kind: str) -> list[Row]:
  """The rows of a fact table, column -> value; an unknown value is ''."""
  return unanswerable.read_table(kind)


def document(kind: str, row: Row, rows: list[Row]) -> types.Document:
  """The document of an entity; other `rows` supply distractor names."""
  rng = random.Random(f'{_SEED} {kind} {row["name"]}')
  parts = [
    rng.choice(forms).replace('{v}', value(row, relation))
    for (table, relation), forms in templates.SENTENCES.items()
    if table == kind and row[relation]
  ]
  fillers = list(templates.FILLERS[kind])
  rng.shuffle(fillers)
  others = [r for r in rows if r is not row]
  opening = rng.choice(templates.OPENINGS[kind])
  for count, filler in enumerate(fillers):
    words = len(' '.join([opening, *parts]).split())
    if count and words >= _MIN_WORDS:
      break
    names = [entity_name(kind, r) for r in rng.sample(others, 2)]
    parts.append(filler.replace('{n}', ' and '.join(names)))
  rng.shuffle(parts)
  name = entity_name(kind, row)
  return types.Document(
    id=document_id(kind, row),
    title=row['name'] if name.endswith(f'the {row["name"]}') else polish(name),
    text=' '.join(
      polish(part.replace('{x}', name)) for part in (opening, *parts)
    ),
    summary=summary(kind, row),
  )


def summary(kind: str, row: Row) -> str:
  """A reference summary: one or two sentences with key facts."""
  parts = []
  for template in templates.SUMMARIES[kind]:
    names = re.findall(r'{(\w+)}', template)
    if all(row[n] for n in names if n != 'x'):
      values = {n: row[n] for n in names if n != 'x'}
      text = template.format(x=entity_name(kind, row), **values)
      parts.append(polish(text))
  return ' '.join(parts)


def entity_name(kind: str, row: Row) -> str:
  """The name of an entity in texts; it is unique to one document."""
  return templates.NAMES.get((kind, row['name']), row['name'])


def document_id(kind: str, row: Row) -> str:
  """A stable id, such as countries/france."""
  return f'{kind}/{row["name"].lower().replace(" ", "_")}'


def value(row: Row, relation: str) -> str:
  """A value as written in a sentence, with at most three neighbours."""
  if relation != 'neighbours':
    return row[relation]
  names = [
    templates.NAMES.get(('countries', name), name)
    for name in row[relation].split('; ')[:3]
  ]
  return ' and '.join(filter(None, [', '.join(names[:-1]), names[-1]]))


def questions(
  kind: str, row: Row, rows: list[Row]
) -> Iterator[tuple[str, list[types.Question]]]:
  """Yields (relation, questions) of an entity, forward and reverse.

  Each list has one question per phrasing; the last two phrasings are held out.
  Reverse questions are omitted if another of the `rows` has the same value.
  """
  directions = (
    ('forward', phrasings.QUESTIONS),
    ('reverse', phrasings.REVERSED),
  )
  for direction, forms in directions:
    for (table, relation), texts in forms.items():
      if table != kind or not row[relation]:
        continue
      same = [r for r in rows if r[relation] == row[relation]]
      reverse = direction == 'reverse'
      if reverse and len(same) > 1:
        continue
      slots = {'{x}': entity_name(kind, row), '{v}': row[relation]}
      yield (
        relation,
        [
          types.Question(
            id=f'{document_id(kind, row)}/{relation}/{direction}/{number}',
            text=polish(_fill(phrasing, slots)),
            answers=(row['name'] if reverse else row[relation],),
            document_ids=(document_id(kind, row),),
          )
          for number, phrasing in enumerate(texts)
        ],
      )


def _splits(
  tables: dict[str, list[Row]],
) -> dict[str, tuple[types.Question, ...]]:
  splits: dict[str, list[types.Question]] = {
    name: [] for name in ('train', *ANSWERED)
  }
  held_out: dict[str, list[types.Question]] = {name: [] for name in ANSWERED}
  rng = random.Random(_SEED)
  own = random.Random(f'{_SEED} calibration')
  trained_rows: dict[str, list[Row]] = {kind: [] for kind in tables}
  for kind, rows in tables.items():
    unseen = rng.sample(range(len(rows)), max(1, round(len(rows) / 10)))
    seen = [number for number in range(len(rows)) if number not in unseen]
    calibrates = own.sample(seen, round(len(rows) * _CALIBRATES))
    for number, row in enumerate(rows):
      draws: dict[str, float] = {}  # by relation, shared by both directions
      if number not in unseen and number not in calibrates:
        trained_rows[kind].append(row)
      for relation, phrased in questions(kind, row, rows):
        draw = draws.setdefault(relation, rng.random())
        trained = rng.sample(phrased[:-_HELD_OUT], len(phrased) - _HELD_OUT)
        if number in unseen:
          splits['test_entity'] += trained[:2]
          continue
        if draw < 0.1:
          if number in calibrates:
            held_out['test_entity'] += trained[:2]
          else:
            splits['test_pair'] += trained[:2]
          continue
        new_phrasing = rng.choice(phrased[-_HELD_OUT:])
        if number in calibrates:
          held_out['test_entity'] += trained[:2]
        elif draw < 0.1 + _CALIBRATES:
          held_out['test_pair'] += trained[:2]
        else:
          splits['train'] += trained[:3]
          splits['test_phrasing'].append(new_phrasing)
  for name in ANSWERED:
    order = rng.sample(range(len(splits[name])), len(splits[name]))
    kept, rest = sorted(order[:_TEST_SIZE]), order[_TEST_SIZE:]
    if name == 'test_phrasing':
      held_out[name] = [splits[name][k] for k in rest]
    splits[name] = [splits[name][k] for k in kept]
  calibration = [
    question
    for some in held_out.values()
    for question in own.sample(some, min(_CALIBRATION, len(some)))
  ]
  _add_unanswerable(splits, calibration, tables, trained_rows)
  splits['calibration'] = own.sample(calibration, len(calibration))
  return {name: tuple(splits[name]) for name in SPLITS}


def _add_unanswerable(
  splits: dict[str, list[types.Question]],
  calibration: list[types.Question],
  tables: dict[str, list[Row]],
  trained_rows: dict[str, list[Row]],
) -> None:
  """Adds questions without an answer to training, calibration and tests."""
  made = {
    split: unanswerable.questions(split, rows, seed=_SEED)
    for split, rows in (
      ('train', trained_rows),
      ('calibration', tables),
      ('test', tables),
    )
  }
  splits['train'] += itertools.chain(*made['train'].values())
  calibration += itertools.chain(*made['calibration'].values())
  for kind, some in made['test'].items():
    splits[f'test_{kind}'] = list(some)


def _fill(text: str, slots: dict[str, str]) -> str:
  """Fills the slots of a template; braces inside a value are kept."""
  return re.sub(r'{\w+}', lambda slot: slots[slot[0]], text)


def polish(text: str) -> str:
  """Fixes the initial capital, the article a/an and a double full stop."""
  text = re.sub(r'\ba (?=[aeio])', 'an ', text).replace('D.C..', 'D.C.')
  return text[:1].upper() + text[1:]


class Facts(tfds.core.GeneratorBasedBuilder):
  """The dataset as a TFDS builder (array_record; TensorFlow is not needed).

  Questions are in the splits of `load`, documents in the split `documents`.
  Both have the same features; those that do not apply are empty.
  """

  VERSION = tfds.core.Version('2.0.0')
  RELEASE_NOTES = {
    '1.0.0': 'First release.',
    '2.0.0': 'Unanswerable questions and a calibration split.',
  }

  def _info(self) -> tfds.core.DatasetInfo:
    texts = tfds.features.Sequence(tfds.features.Text())
    return self.dataset_info_from_configs(
      disable_shuffling=True,  # the order of `load`
      features=tfds.features.FeaturesDict(
        {
          'id': tfds.features.Text(),
          'title': tfds.features.Text(),
          'text': tfds.features.Text(),
          'summary': tfds.features.Text(),
          'answers': texts,
          'document_ids': texts,
          'answerable': tfds.features.Scalar(np.bool_),
          'kind': tfds.features.Text(),
        }
      ),
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # nothing is downloaded
    return {
      name: self._generate_examples(name) for name in (*SPLITS, 'documents')
    }

  def _generate_examples(self, split):
    dataset = load()
    empty = {'title': '', 'summary': '', 'answers': [], 'document_ids': []}
    empty |= {'answerable': True, 'kind': ''}
    if split == 'documents':
      for doc in dataset.documents:
        texts = {'title': doc.title, 'summary': doc.summary, 'text': doc.text}
        yield doc.id, empty | texts | {'id': doc.id}
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
          'answerable': question.answerable,
          'kind': question.kind,
        },
      )
