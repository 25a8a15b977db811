"""Questions of the facts dataset that no document answers, in four kinds.

  unknown_thing: about something that the corpus lacks ("What is the capital of
    Atlantis?", "Which element has the symbol Zq?").
  unstated_relation: about an entity of the corpus, but its document does not
    state the answer ("What is the population of France?").
  other_subject: about another subject ("Who painted the Mona Lisa?").
  noise: random letters, other scripts, single words.

The first two kinds occur in training, with other things and relations than in
the calibration and test splits. The last two kinds occur only in test splits.
The names, relations and questions are in `tables/`; further names of things are
made of random syllables.
"""

import csv
import importlib.resources
import itertools
import random
import re
from collections.abc import Iterator, Mapping, Sequence

from rag_jax import types
from rag_jax.data import phrasings, templates

KINDS = ('unknown_thing', 'unstated_relation', 'other_subject', 'noise')
TRAINED = KINDS[:2]  # the kinds that training and calibration have
SPLITS = tuple(f'test_{kind}' for kind in KINDS)
# split -> number of questions of each kind.
COUNTS = {
  'train': dict(zip(TRAINED, (500, 1400), strict=True)),
  'calibration': dict.fromkeys(TRAINED, 120),
  'test': dict.fromkeys(KINDS, 120),
}
_PLACES = tuple(COUNTS)  # the splits, of which each has its own questions
_OWNERS = (0.6, 0.15, 0.25)  # chance that an entity belongs to each split
_HELD_OUT = 2  # phrasings of each relation that training never uses
_FOREIGN = 0.6  # chance of a relation of another kind, or of a blank cell

Row = Mapping[str, str]
Tables = Mapping[str, Sequence[Row]]

# kind -> parts of invented names: beginnings, middles, ends.
_PARTS = {
  'countries': (
    ('Zor', 'Bel', 'Kra', 'Ost', 'Mar', 'Vel', 'Tur', 'Gal', 'Nor', 'Pel'),
    ('va', 'do', 'li', 'ke', 'ru', 'na', 'mi', 'go', 'sha', 'te'),
    ('nia', 'stan', 'land', 'ria', 'via', 'dor', 'que', 'wana', 'slavia'),
  ),
  'elements': (
    ('Bre', 'Zan', 'Qui', 'Ful', 'Tor', 'Wex', 'Nim', 'Gra', 'Pol', 'Hex'),
    ('l', 'ra', 'no', 'ki', 'ste', 'ga', 'vo', 'du', 'pha', 'xi'),
    ('kium', 'rium', 'nium', 'tium', 'gen', 'dine', 'dium', 'lium'),
  ),
  'states': (
    ('Win', 'Ten', 'Mos', 'Cal', 'Oke', 'Wab', 'Ash', 'Del', 'Nat', 'Pon'),
    ('na', 'le', 'cho', 'ta', 'ri', 'wa', 'mo', 'sco', 'hi', 'be'),
    ('sota', 'homa', 'ware', 'bama', 'gan', 'sippi', 'lina', 'tucky'),
  ),
  'presidents': (
    ('Harlan ', 'Silas ', 'Edmund ', 'Percy ', 'Luther ', 'Amos ', 'Clive '),
    ('B. ', 'Q. ', 'T. ', '', 'van ', 'Mac', 'O. '),
    ('Whitlock', 'Grimsby', 'Thornton', 'Pickett', 'Holloway', 'Ashdown'),
  ),
  'books': (
    ('The Garden', 'The Shadow', 'A Winter', 'The Mirror', 'Letters', 'Rain'),
    (' of ', ' and ', ' without ', ' beyond ', ' under '),
    ('Glass', 'the Harbour', 'Ravens', 'Tomorrow', 'the Mill', 'Marble'),
  ),
  'planets': (
    ('Xan', 'Vol', 'Kry', 'Ors', 'Thal', 'Zeb', 'Quo'),
    ('do', 'ta', 'ra', 'mi', 'le'),
    ('x', 'on', 'ris', 'nus', 'tar', 'via'),
  ),
}
# First letter and number of letters of the scripts in `noise`.
_SCRIPTS = (
  (0x0430, 32),  # Cyrillic
  (0x03B1, 25),  # Greek
  (0x0627, 28),  # Arabic
  (0x0915, 37),  # Devanagari
  (0x0E01, 46),  # Thai
  (0x3042, 80),  # Hiragana
  (0x4E00, 2000),  # Chinese
  (0xAC00, 2000),  # Hangul
)
_WORDS = (
  *('hello', 'banana', 'why', 'computer', 'music', 'yes', 'thanks', 'window'),
  *('football', 'pizza', 'lorem', 'test', 'purple', 'winter', 'elephant'),
  *('love', 'money', 'school', 'blue', 'running', 'maybe', 'ok', 'guitar'),
  *('capital', 'France', 'Gold', 'Texas', 'symbol', 'president', 'Dracula'),
  *('?', '12345', '...', 'x', 'asdf', 'qwerty', 'foo', 'NULL', '#!', ';;'),
)


def read_table(name: str) -> list[dict[str, str]]:
  """The rows of a table of the dataset, column -> value."""
  path = importlib.resources.files('rag_jax.data') / 'tables' / f'{name}.csv'
  with path.open(encoding='utf-8') as lines:
    return list(csv.DictReader(lines))


def questions(
  split: str, tables: Tables, *, seed: int
) -> dict[str, tuple[types.Question, ...]]:
  """Questions without an answer, by kind.

  Args:
    split: 'train', 'calibration' or 'test'. Each has its own things, relations
      and invented names.
    tables: kind of entity -> its rows; in training only those of entities that
      a training question may ask about.
    seed: of the random choices.

  Returns:
    Kind -> questions, of the kinds that the split has. No text occurs twice.
  """
  rng = random.Random(f'{seed} {split}')
  made: dict[str, Iterator[str]] = {
    'unknown_thing': _unknown_things(split, rng),
    'unstated_relation': _unstated_relations(split, tables, rng),
  }
  if split == 'test':
    made['other_subject'] = iter(_other_subjects(rng))
    made['noise'] = _noise(rng)
  return {
    kind: tuple(
      types.Question(
        id=f'{kind}/{split}/{number}', text=text, answerable=False, kind=kind
      )
      for number, text in enumerate(_distinct(texts, COUNTS[split][kind]))
    )
    for kind, texts in made.items()
  }


def _distinct(texts: Iterator[str], count: int) -> list[str]:
  """The first `count` distinct texts, or all if there are fewer."""
  found: dict[str, None] = {}
  for text in itertools.islice(texts, 100 * count):
    found[text[:1].upper() + text[1:]] = None
    if len(found) == count:
      break
  return list(found)


def _phrased(split: str, texts: Sequence[str]) -> Sequence[str]:
  """The phrasings that a split may use."""
  return texts[:-_HELD_OUT] if split == 'train' else texts


def _unknown_things(split: str, rng: random.Random) -> Iterator[str]:
  """Endless questions about things that the corpus lacks."""
  rows = [r for r in read_table('unknown_things') if r['split'] == split]
  names = {kind: invented(split, kind) for kind in _PARTS}
  while True:
    row = rng.choice(rows)
    kind, name = row['kind'], row['value']
    if row['relation']:
      forms = phrasings.REVERSED[kind, row['relation']]
      yield rng.choice(_phrased(split, forms)).replace('{v}', name)
      continue
    if rng.random() < 0.5:
      name = rng.choice(names[kind])
    relation = rng.choice([r for k, r in phrasings.QUESTIONS if k == kind])
    texts = phrasings.QUESTIONS[kind, relation]
    yield rng.choice(_phrased(split, texts)).replace('{x}', name)


def invented(split: str, kind: str) -> list[str]:
  """Invented names of a kind; those of different splits are disjoint."""
  begins, middles, ends = _PARTS[kind]
  names = [a + b + c for a in begins for b in middles for c in ends]
  random.Random(kind).shuffle(names)
  return names[_PLACES.index(split) :: len(_PLACES)]


def _unstated_relations(
  split: str, tables: Tables, rng: random.Random
) -> Iterator[str]:
  """Endless questions about what the document of an entity does not state."""
  own: dict[str, list[str]] = {kind: [] for kind in tables}
  for line in read_table('unstated_relations'):
    if line['split'] == split:
      own[line['kind']].append(line['question'])
  entities = [
    (kind, row)
    for kind, rows in tables.items()
    for row in rows
    if row['name'] != 'United States'  # other documents name its presidents
  ]
  while True:
    kind, row = rng.choice(entities)
    texts = own[kind]
    # Each entity has these questions in one split only.
    [owner] = random.Random(row['name']).choices(_PLACES, _OWNERS)
    if owner == split and rng.random() < _FOREIGN:
      texts = _blank(split, kind, row) or _foreign(split, kind, row)
    name = templates.NAMES.get((kind, row['name']), row['name'])
    yield rng.choice(texts).replace('{x}', name)


def _blank(split: str, kind: str, row: Row) -> list[str]:
  """Questions about values that the tables leave out, as sources disagree."""
  return [
    text
    for (table, relation), forms in phrasings.QUESTIONS.items()
    if table == kind and not row[relation]
    for text in _phrased(split, forms)
  ]


def _foreign(split: str, kind: str, row: Row) -> list[str]:
  """Questions about relations that only other kinds of entities have."""
  same = {
    _without_slots(text)
    for (table, _), forms in phrasings.QUESTIONS.items()
    if table == kind
    for text in forms
  }
  return [
    text
    for (table, relation), forms in phrasings.QUESTIONS.items()
    if table != kind and relation not in row
    for text in _phrased(split, forms)
    if _without_slots(text) not in same
  ]


def _without_slots(text: str) -> str:
  return re.sub(r'{\w}', '', text)


def _other_subjects(rng: random.Random) -> list[str]:
  """The questions about other subjects, in random order."""
  texts = [row['question'] for row in read_table('other_subjects')]
  return rng.sample(texts, len(texts))


def _noise(rng: random.Random) -> Iterator[str]:
  """Random letters and scripts, endless, after every single word."""
  yield from _WORDS
  letters = 'abcdefghijklmnopqrstuvwxyz'
  while True:
    start, size = rng.choice(_SCRIPTS)
    for first, count in ((ord('a'), len(letters)), (start, size)):
      words = [
        ''.join(
          chr(first + rng.randrange(count)) for _ in range(rng.randint(1, 9))
        )
        for _ in range(rng.randint(1, 7))
      ]
      yield ' '.join(words) + rng.choice(('', '?'))
