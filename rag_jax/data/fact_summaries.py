"""The embedded dataset `facts_summaries`: answers of several sentences.

It has the documents of `facts`. A question asks for a summary of an entity
("Tell me about Gold.") or for a comparison of two entities of one kind. Its
reference has one sentence for each cell of a table, in a fixed order, and the
mark [n] after a sentence cites number n of the gold documents:

  The symbol of Gold is Au. [1] The atomic number of Gold is 79. [1] ...

A question that names a number of sentences ("in two sentences") has as many in
its reference. `Question.claims` has the cells that the reference states, and
`Dataset.claims` all that the documents state. Splits:

  train: questions about nine tenths of the entities of each kind, comparisons
    of pairs of them, and questions about things that the corpus lacks.
  test_entity: entities that no training question names.
  test_phrasing: held-out phrasings, about entities of training.
  test_comparison: pairs that no training question compares; half of them have
    an entity that none names.
  test_unknown_thing: things that the corpus lacks, others than in training.
"""

import random
from collections.abc import Sequence

from rag_jax import types
from rag_jax.data import facts, templates, unanswerable

SPLITS = (
  *('train', 'test_entity', 'test_phrasing', 'test_comparison'),
  'test_unknown_thing',
)
# (kind, relation) -> the sentence of the reference, in this order. Its words
# occur in nearly every sentence by which a document states the cell; cells for
# which no such sentence reads well are left out.
SENTENCES = {
  ('countries', 'continent'): 'The continent of {x} is {v}.',
  ('countries', 'capital'): 'The capital of {x} is {v}.',
  ('countries', 'currency'): 'The currency code of {x} is {v}.',
  ('countries', 'demonym'): 'The demonym of {x} is {v}.',
  ('countries', 'calling_code'): 'The calling code of {x} is {v}.',
  ('countries', 'domain'): 'The internet domain of {x} is {v}.',
  ('elements', 'symbol'): 'The symbol of {x} is {v}.',
  ('elements', 'number'): 'The atomic number of {x} is {v}.',
  ('elements', 'category'): '{x} is a {v}.',
  ('elements', 'period'): '{x} is in period {v} of the table.',
  ('elements', 'group'): '{x} is in group {v}.',
  ('elements', 'year'): '{x} was discovered in {v}.',
  ('states', 'capital'): 'The capital of {x} is {v}.',
  ('states', 'largest_city'): 'The largest city of {x} is {v}.',
  ('states', 'year'): '{x} is in the union as of {v}.',
  ('states', 'nickname'): 'The nickname of {x} is {v}.',
  ('states', 'abbreviation'): 'The abbreviation of {x} is {v}.',
  ('presidents', 'ordinal'): '{x} was the {v} president.',
  ('presidents', 'party'): 'The party of {x} was the {v} Party.',
  ('presidents', 'birth_state'): 'The birthplace of {x} is {v}.',
  ('presidents', 'took_office'): '{x} was in office as of {v}.',
  ('books', 'author'): '{x} is by {v}.',
  ('books', 'year'): '{x} was published in {v}.',
  ('books', 'language'): '{x} is in {v}.',
  ('books', 'character'): 'A character of {x} is {v}.',
  ('planets', 'ordinal'): '{x} is the {v} planet from the Sun.',
  ('planets', 'type'): '{x} is of the {v} type.',
  ('planets', 'moon'): 'The largest moon of {x} is {v}.',
}
PHRASINGS = (
  'Tell me about {x}.',
  'Describe {x}.',
  'What is known about {x}?',
  'Give a summary of the facts about {x}.',
  'Write a few sentences about {x}.',
  'What should I know about {x}?',
  'Give me an overview of {x}.',
  'Summarise what is known about {x}.',
)
HELD_OUT = (
  'What can you tell me about {x}?',
  'Please give me a few facts about {x}.',
  'Write a summary about {x}.',
)
SHORT = (
  'Tell me about {x} in {n} sentences.',
  'Describe {x} in {n} sentences.',
)
COMPARISONS = (
  'Compare {x} and {y}.',
  'How do {x} and {y} compare?',
  'What are the differences between {x} and {y}?',
  'Describe {x} and {y} side by side.',
)
NUMBERS = {2: 'two', 3: 'three', 4: 'four'}
COMPARED = 3  # relations of a comparison
_UNSEEN = 1 / 10  # share of the entities of a kind in test_entity
_PAIRS = {'train': 1500, 'test_comparison': 60}  # 60 of each of its halves
_UNKNOWN = {'train': 600, 'test_unknown_thing': 120}
_TEST_SIZE = 150  # questions in test_phrasing
_SEED = 20261129

Entity = tuple[str, facts.Row]  # its kind and its row


def load() -> types.Dataset:
  """Returns the documents and questions; every call returns the same.

  Example:
    >>> dataset = load()
    >>> len(dataset.documents), sorted(dataset.splits)
    (478, ['test_comparison', 'test_entity', 'test_phrasing', \
'test_unknown_thing', 'train'])
    >>> asked = next(
    ...   q for q in dataset.splits['train'] if q.text == 'Describe Oxygen.'
    ... )
    >>> asked.answers[0][:61]
    'The symbol of Oxygen is O. [1] The atomic number of Oxygen is'
  """
  tables = {kind: facts.read_table(kind) for kind in templates.OPENINGS}
  everything = [(kind, row) for kind, rows in tables.items() for row in rows]
  rng = random.Random(_SEED)
  unseen: list[Entity] = []
  seen: list[Entity] = []
  for kind, rows in tables.items():
    chosen = rng.sample(range(len(rows)), max(1, round(len(rows) * _UNSEEN)))
    for number, row in enumerate(rows):
      (unseen if number in chosen else seen).append((kind, row))
  splits: dict[str, list[types.Question]] = {name: [] for name in SPLITS}
  for entity in seen:
    splits['train'] += _about(entity, PHRASINGS) + _short(entity, rng)
  for entity in unseen:
    splits['test_entity'] += _about(entity, rng.sample(PHRASINGS, 2))
    splits['test_entity'] += _short(entity, rng)[:1]
  for number, entity in enumerate(rng.sample(seen, _TEST_SIZE)):
    phrasing = HELD_OUT[number % len(HELD_OUT)]
    splits['test_phrasing'] += _about(entity, (phrasing,))
  taken: set[frozenset[str]] = set()
  for split, others in (
    ('train', seen),
    ('test_comparison', seen),
    ('test_comparison', unseen),
  ):
    for pair in _pairs(others, seen, _PAIRS[split], taken, rng):
      splits[split].append(compare(*pair, rng.choice(COMPARISONS)))
  for split, count in _UNKNOWN.items():
    splits[split] += _unknown(split.split('_')[0], count, rng)
  return types.Dataset(
    documents=tuple(
      facts.document(kind, row, tables[kind]) for kind, row in everything
    ),
    splits={name: tuple(own) for name, own in splits.items()},
    claims=tuple(c for entity in everything for c in claims(*entity)),
  )


def claims(kind: str, row: facts.Row) -> tuple[types.Claim, ...]:
  """What the document of an entity states, in the order of `SENTENCES`."""
  found = []
  for table, relation in SENTENCES:
    if table != kind or not row[relation]:
      continue
    forms = (
      SENTENCES[table, relation],
      *templates.SENTENCES[table, relation],
    )
    name, cell = facts.entity_name(kind, row), facts.value(row, relation)
    found.append(
      types.Claim(
        text=row[relation],
        document_id=facts.document_id(kind, row),
        statements=tuple(
          facts.polish(form.replace('{v}', cell).replace('{x}', name))
          for form in forms
        ),
      )
    )
  return tuple(found)


def compare(one: Entity, other: Entity, phrasing: str) -> types.Question:
  """A comparison of two entities of a kind, relation by relation."""
  (kind, first), (_, second) = one, other
  relations = [
    relation
    for table, relation in SENTENCES
    if table == kind and first[relation] and second[relation]
  ][:COMPARED]
  both = [
    {r: row[r] if r in (*relations, 'name') else '' for r in row}
    for row in (first, second)
  ]
  stated = [claims(kind, row) for row in both]
  names = [facts.entity_name(kind, row) for row in both]
  ids = tuple(facts.document_id(kind, row) for row in (first, second))
  return _question(
    f'{ids[0]}/compared/{ids[1]}',
    phrasing.replace('{x}', names[0]).replace('{y}', names[1]),
    [claim for pair in zip(*stated, strict=True) for claim in pair],
    ids,
  )


def _about(entity: Entity, phrasings: Sequence[str]) -> list[types.Question]:
  """A question about an entity for each phrasing."""
  kind, row = entity
  name, own = facts.entity_name(kind, row), facts.document_id(kind, row)
  return [
    _question(
      f'{own}/summary/{phrasing.replace("{x}", "X")}',
      phrasing.replace('{x}', name),
      claims(kind, row),
      (own,),
    )
    for phrasing in phrasings
  ]


def _short(entity: Entity, rng: random.Random) -> list[types.Question]:
  """Two questions that name a number of sentences."""
  kind, row = entity
  name, own = facts.entity_name(kind, row), facts.document_id(kind, row)
  found = []
  for place, phrasing in enumerate(SHORT):
    number = rng.choice(list(NUMBERS))
    text = phrasing.replace('{x}', name).replace('{n}', NUMBERS[number])
    found.append(
      _question(
        f'{own}/short/{place}', text, claims(kind, row)[:number], (own,)
      )
    )
  return found


def _question(
  name: str,
  text: str,
  stated: Sequence[types.Claim],
  ids: tuple[str, ...],
) -> types.Question:
  """A question whose reference states some claims, each with its citation."""
  sentences = [
    f'{claim.statements[0]} [{ids.index(claim.document_id) + 1}]'
    for claim in stated
  ]
  return types.Question(
    id=name,
    text=facts.polish(text),
    answers=(' '.join(sentences),),
    document_ids=ids,
    claims=tuple(stated),
  )


def _pairs(
  firsts: Sequence[Entity],
  seconds: Sequence[Entity],
  count: int,
  taken: set[frozenset[str]],
  rng: random.Random,
) -> list[tuple[Entity, Entity]]:
  """New pairs of entities of a kind, in random order; adds them to `taken`."""
  found: list[tuple[Entity, Entity]] = []
  while len(found) < count:
    one, other = rng.choice(firsts), rng.choice(seconds)
    names = frozenset(facts.document_id(*entity) for entity in (one, other))
    if one[0] == other[0] and len(names) == 2 and names not in taken:
      taken.add(names)
      found.append((one, other) if rng.random() < 0.5 else (other, one))
  return found


def _unknown(
  split: str, count: int, rng: random.Random
) -> list[types.Question]:
  """Questions about things that the corpus lacks."""
  real = [
    row['value']
    for row in unanswerable.read_table('unknown_things')
    if row['split'] == split and not row['relation']
  ]
  made = [
    name
    for kind in templates.OPENINGS
    for name in unanswerable.invented(split, kind)
  ]
  phrasings = PHRASINGS if split == 'train' else (*PHRASINGS, *HELD_OUT)
  texts: dict[str, None] = {}
  while len(texts) < count:
    name = rng.choice(real if rng.random() < 0.5 else made)
    texts[facts.polish(rng.choice(phrasings).replace('{x}', name))] = None
  return [
    types.Question(
      id=f'unknown_thing/{split}/{number}',
      text=text,
      answerable=False,
      kind='unknown_thing',
    )
    for number, text in enumerate(texts)
  ]
