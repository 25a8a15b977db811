"""The embedded dataset `facts_pairs`: questions that need two documents.

It has the documents and all questions of `facts`, and questions with two gold
documents:

  comparison: "Which element was discovered first, Gallium or Indium?" The
    answer is the name of one of the two, by a year that each document states of
    its own subject. No question has a tie.
  bridge: "What is the capital of the state where Abraham Lincoln was born?" The
    first document names the second or, with a year, describes it; the second
    has the answer. The question has no word that names the second document.

Neither document is enough alone: the value of the other subject of a comparison
does not occur in a document, the answer to a bridge question does not occur in
the first document, and the subject of the first document does not occur in the
second.

`train` has those of `facts` and of both kinds. A training question uses only
(entity, relation) pairs that a training question of `facts` asks about, so that
the test splits of `facts` remain tests. Two splits are new:

  test_comparison: two entities that are in no training comparison, but whose
    years are. The order of years is learned from the questions.
  test_bridge: the first entity begins no training bridge.

`calibration` has those of `facts`, and questions of both kinds that do not
train: some comparisons, and all bridges of some first entities.
"""

import collections
import dataclasses
import itertools
import random
import re
from collections.abc import Iterator

from rag_jax import types
from rag_jax.data import facts, phrasings, templates

SPLITS = ('test_comparison', 'test_bridge')
_SEED = 20261129
_MOST = 700  # training comparisons of each relation
_MOST_TESTS = 100  # test comparisons of each relation
_SHARE = 1 / 5  # share of entities of a kind that test questions begin with
_PHRASINGS = 8  # phrasings of a bridge question in training
_TESTED = 2  # and in the test
_COMPARED = 130  # comparisons in calibration
_CALIBRATES = 1 / 10  # share of the first entities of bridges in it

# (kind, relation) -> questions for the earlier and for the later of two years.
COMPARISONS = {
  ('elements', 'year'): (
    'Which element was discovered {w}, {a} or {b}?',
    'Of {a} and {b}, which element was discovered {w}?',
  ),
  ('states', 'year'): (
    'Which state joined the union {w}, {a} or {b}?',
    'Of {a} and {b}, which was admitted to the union {w}?',
  ),
  ('presidents', 'born'): (
    'Who was born {w}, {a} or {b}?',
    'Of {a} and {b}, which president was born {w}?',
  ),
  ('presidents', 'took_office'): (
    'Who took office {w}, {a} or {b}?',
    'Of {a} and {b}, whose term as president began {w}?',
  ),
  ('books', 'year'): (
    'Which book was published {w}, {a} or {b}?',
    'Of {a} and {b}, which was published {w}?',
  ),
}
ORDERS = {'first': ('first', 'earlier'), 'last': ('last', 'later')}

# (kind, relation) -> what happened in the year, and who it happened to.
_EVENTS = {
  ('elements', 'year'): ('{a} was discovered', 'the element discovered'),
  ('states', 'year'): ('{a} joined the union', 'the state admitted'),
  ('presidents', 'born'): ('{a} was born', 'the president born'),
  ('presidents', 'took_office'): (
    '{a} took office',
    'the president who took office',
  ),
  ('books', 'year'): ('{a} was published', 'the book published'),
}
_BIRTH = ('the state where {a} was born', 'the birth state of {a}')
_BORDER = (
  'the only neighbour of {a}',
  'the only country that {a} borders on by land',
)
_AUTHOR = (
  'the other book by the author of {a}',
  'the other book that the author of {a} wrote',
)
# Questions for the name of what is described.
_NAMED = ('What is the name of {x}?', 'What is {x} called?', 'Name {x}.')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Link:
  """From a first entity to a second one, which the first document determines.

  Attributes:
    first: kind and row of the first entity.
    relation: the relation of the first entity that leads on.
    back: the relation by which that finds the second entity; '' = its name.
    second: kind and row of the second entity.
    descriptions: of the second entity by the first one.
    name: how to ask for the second entity itself; () = not at all.
  """

  first: tuple[str, facts.Row]
  relation: str
  second: tuple[str, facts.Row]
  descriptions: tuple[str, ...]
  back: str = ''
  name: tuple[str, ...] = ()


def load() -> types.Dataset:
  """Returns the documents and questions; every call returns the same.

  Example:
    >>> dataset = load()
    >>> question = dataset.splits['test_bridge'][0]
    >>> len(question.document_ids), question.answerable
    (2, True)
  """
  dataset = facts.load()
  known = {
    question.id.rsplit('/', 2)[0]
    for question in dataset.splits['train']
    if question.answerable
  }
  tables = {kind: facts.read_table(kind) for kind in templates.OPENINGS}
  texts = {d.id: f'{d.title} . {d.text}' for d in dataset.documents}
  rng = random.Random(_SEED)
  trained: list[types.Question] = []
  tests: dict[str, list[types.Question]] = {}
  asked = {name.rsplit('/', 1)[0] for name in known}
  tests['test_comparison'] = _add_comparisons(
    trained, tables, texts, known, _held_out(rng, tables, asked), rng
  )
  tests['test_bridge'] = _add_bridges(
    trained, tables, texts, known, _held_out(rng, tables, asked), rng
  )
  trained, calibrates = _hold_out(trained)
  splits = dict(dataset.splits)
  splits['train'] += tuple(trained)
  splits['calibration'] += tuple(calibrates)
  splits |= {name: tuple(tests[name]) for name in SPLITS}
  return dataclasses.replace(dataset, splits=splits)


def _hold_out(
  trained: list[types.Question],
) -> tuple[list[types.Question], list[types.Question]]:
  """Questions that train, and those that calibrate."""
  rng = random.Random(f'{_SEED} calibration')
  comparisons: list[types.Question] = []
  bridges: list[types.Question] = []
  for question in trained:
    compares = question.id.rsplit('/', 1)[1] in ORDERS
    (comparisons if compares else bridges).append(question)
  firsts = sorted({question.document_ids[0] for question in bridges})
  own = set(rng.sample(firsts, round(_CALIBRATES * len(firsts))))
  calibrates = rng.sample(comparisons, _COMPARED)
  calibrates += [q for q in bridges if q.document_ids[0] in own]
  held_out = set(calibrates)
  return [q for q in trained if q not in held_out], calibrates


def _held_out(
  rng: random.Random, tables: dict[str, list[facts.Row]], asked: set[str]
) -> set[str]:
  """Ids of the entities of test questions: those that none asks about first."""
  found: set[str] = set()
  for kind, rows in tables.items():
    names = [facts.document_id(kind, row) for row in rows]
    order = sorted(names, key=lambda name: (name in asked, rng.random()))
    new = sum(name not in asked for name in names)
    found |= set(order[: max(new, round(_SHARE * len(rows)))])
  return found


def _add_comparisons(
  trained: list[types.Question],
  tables: dict[str, list[facts.Row]],
  texts: dict[str, str],
  known: set[str],
  held_out: set[str],
  rng: random.Random,
) -> list[types.Question]:
  """Adds training comparisons to `trained`; returns those of the test."""
  values: set[str] = set()
  tests: dict[tuple[str, str], list[tuple[facts.Row, facts.Row]]] = {}
  for (kind, relation), forms in COMPARISONS.items():
    seen, unseen = [], []
    for a, b in itertools.combinations(tables[kind], 2):
      names = [facts.document_id(kind, row) for row in (a, b)]
      years = a[relation], b[relation]
      if not all(years) or int(years[0]) == int(years[1]):
        continue
      if _occurs(years[1], texts[names[0]]):
        continue
      if _occurs(years[0], texts[names[1]]):
        continue
      if all(name in held_out for name in names):
        unseen.append((a, b))
      elif all(
        name not in held_out and f'{name}/{relation}' in known for name in names
      ):
        seen.append((a, b))
    for pair in rng.sample(seen, min(_MOST, len(seen))):
      order = rng.choice(tuple(ORDERS))
      trained.append(_comparison(kind, relation, pair, order, forms, rng))
      values |= {row[relation] for row in pair}
    tests[kind, relation] = unseen
  found = []
  for (kind, relation), pairs in tests.items():
    forms = COMPARISONS[kind, relation]
    own = [
      (pair, order)
      for pair in pairs
      if all(row[relation] in values for row in pair)
      for order in ORDERS
    ]
    for pair, order in rng.sample(own, min(_MOST_TESTS, len(own))):
      found.append(_comparison(kind, relation, pair, order, forms, rng))
  return found


def _comparison(
  kind: str,
  relation: str,
  pair: tuple[facts.Row, facts.Row],
  order: str,
  forms: tuple[str, ...],
  rng: random.Random,
) -> types.Question:
  """Asks which of two rows has the smaller ('first') or larger value."""
  a, b = rng.sample(pair, 2)
  text = rng.choice(forms).replace('{w}', rng.choice(ORDERS[order]))
  right = {'first': min, 'last': max}[order](
    pair, key=lambda row: int(row[relation])
  )
  names = [facts.document_id(kind, row) for row in (a, b)]
  for slot, row in (('{a}', a), ('{b}', b)):
    text = text.replace(slot, facts.entity_name(kind, row))
  return types.Question(
    id=f'{"+".join(names)}/{relation}/{order}',
    text=facts.polish(text),
    answers=(right['name'],),
    document_ids=tuple(names),
  )


def _add_bridges(
  trained: list[types.Question],
  tables: dict[str, list[facts.Row]],
  texts: dict[str, str],
  known: set[str],
  held_out: set[str],
  rng: random.Random,
) -> list[types.Question]:
  """Adds training bridge questions to `trained`; returns those of the test."""
  tests: list[types.Question] = []
  for link in links(tables):
    first, second = (
      facts.document_id(kind, row) for kind, row in (link.first, link.second)
    )
    if _occurs(facts.entity_name(*link.first), texts[second]):
      continue
    needed = {f'{second}/{link.back}'} if link.back else set()
    if link.relation != 'neighbours':  # no question of `facts` asks for it
      needed.add(f'{first}/{link.relation}')
    is_test = first in held_out
    for relation, answer, forms in _targets(link):
      asks = needed | {f'{second}/{relation}'} if relation else needed
      if _occurs(answer, texts[first]) or not (is_test or asks <= known):
        continue
      choices = list(itertools.product(forms, link.descriptions))
      count = min(len(choices), _TESTED if is_test else _PHRASINGS)
      for number, (form, description) in enumerate(rng.sample(choices, count)):
        name = facts.entity_name(*link.first)
        text = form.replace('{x}', description.replace('{a}', name))
        if _occurs(link.second[1]['name'], text):
          continue
        question = types.Question(
          id=f'{first}+{second}/{link.relation}/{relation or "name"}/{number}',
          text=facts.polish(text),
          answers=(answer,),
          document_ids=(first, second),
        )
        (tests if is_test else trained).append(question)
  return tests


def _targets(link: Link) -> Iterator[tuple[str, str, tuple[str, ...]]]:
  """Yields (relation, answer, questions) about the second entity of a link."""
  kind, row = link.second
  if link.name:
    yield '', row['name'], link.name
  for (table, relation), forms in phrasings.QUESTIONS.items():
    if table == kind and row[relation]:
      yield relation, row[relation], forms[:-2]  # those that train in `facts`


def links(tables: dict[str, list[facts.Row]]) -> Iterator[Link]:
  """Yields all links between rows of the tables, each to exactly one row.

  Args:
    tables: kind -> its rows.
  """
  states = {row['name']: row for row in tables['states']}
  for row in tables['presidents']:
    if row['birth_state'] in states:
      yield Link(
        first=('presidents', row),
        relation='birth_state',
        second=('states', states[row['birth_state']]),
        descriptions=_BIRTH,
      )
  countries = {row['name']: row for row in tables['countries']}
  for row in tables['countries']:
    if row['neighbours'] in countries:  # exactly one
      yield Link(
        first=('countries', row),
        relation='neighbours',
        second=('countries', countries[row['neighbours']]),
        descriptions=_BORDER,
      )
  wrote = collections.defaultdict(list)
  for row in tables['books']:
    wrote[row['author']].append(row)
  for books in wrote.values():
    if len(books) == 2:
      for one, other in (books, books[::-1]):
        yield Link(
          first=('books', one),
          relation='author',
          second=('books', other),
          descriptions=_AUTHOR,
          back='author',
          name=_NAMED,
        )
  yield from _same_year(tables)


def _same_year(tables: dict[str, list[facts.Row]]) -> Iterator[Link]:
  """Links to the only row of another kind with an event in the same year."""
  for (kind, relation), (event, _) in _EVENTS.items():
    for (other, column), (_, subject) in _EVENTS.items():
      if other == kind:
        continue
      for row in tables[kind]:
        same = [r for r in tables[other] if r[column] == row[relation]]
        if row[relation] and len(same) == 1:
          yield Link(
            first=(kind, row),
            relation=relation,
            second=(other, same[0]),
            descriptions=(
              f'{subject} in the year when {event}',
              f'{subject} in the year in which {event}',
            ),
            back=column,
            name=_NAMED,
          )


def _occurs(words: str, text: str) -> bool:
  """Whether a text contains the words, as whole words in any case."""
  pattern = rf'(?<!\w){re.escape(words)}(?!\w)'
  return re.search(pattern, text, re.IGNORECASE) is not None
