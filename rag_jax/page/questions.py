"""The questions of a run, as the page shows them."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from rag_jax import types
from rag_jax.page import reasons

Line = Mapping[str, Any]  # of answers-SPLIT.jsonl
CANDIDATES = 8  # shown per question, beside those that were read or are gold
TEXT = 6000  # characters of a document that are shown
EXAMPLES = 3  # documents that stand for all below a prefix of a docid
COPIED = ('certified', 'kind', 'best', 'grounding', 'features')  # if present


@dataclasses.dataclass
class Documents:
  """The documents that a page shows, each kept once.

  Attributes:
    rows: [id, title, text or None, docid or None] of each.
  """

  rows: list[list[Any]] = dataclasses.field(default_factory=list)
  _places: dict[tuple[int, str], int] = dataclasses.field(default_factory=dict)

  def place(
    self,
    run: 'Corpus',
    name: str,
    title: str = '',
    *,
    text: bool = False,
  ) -> int:
    """The number of a document on the page; `text` shows its text, too."""
    key = id(run), name
    known = run.documents.get(name)
    if key not in self._places:
      self._places[key] = len(self.rows)
      found = title if known is None else known.title
      self.rows.append([name, found, None, run.docid(name)])
    row = self.rows[self._places[key]]
    if text and row[2] is None and known is not None:
      row[2] = known.text[:TEXT] + ('…' if len(known.text) > TEXT else '')
    return self._places[key]


@dataclasses.dataclass(frozen=True, eq=False)
class Corpus:
  """The documents of a run.

  Attributes:
    documents: id -> document.
    rows: id -> row in the index.
    codes: docids, by row.
    further: rows of documents with further docids, and these.
  """

  documents: Mapping[str, types.Document]
  rows: Mapping[str, int]
  codes: Sequence[Sequence[int]]
  further: Sequence[tuple[int, Sequence[int]]] = ()

  def docid(self, name: str) -> list[int] | None:
    """The docid of a document; None if it is not in the index."""
    row = self.rows.get(name)
    return None if row is None else list(self.codes[row])

  @property
  def docids(self) -> list[Sequence[int]]:
    """All docids of the documents of the run."""
    return [
      *(self.codes[row] for row in self.rows.values()),
      *(codes for _, codes in self.further),
    ]


def records(
  split: str,
  lines: Sequence[Line],
  paths: Mapping[str, Sequence[Mapping[str, Any]]],
  corpus: Corpus,
  documents: Documents,
  *,
  scoring: str,
) -> list[dict[str, Any]]:
  """The questions of a split as JSON-serialisable values.

  Args:
    split: its name.
    lines: of answers-SPLIT.jsonl.
    paths: question -> its paths, of docid-paths-SPLIT.jsonl.
    corpus: the documents of the run.
    documents: those of the page; gets those that the questions need.
    scoring: `search.scoring` of the experiment.
  """
  titles = {name: own.title for name, own in corpus.documents.items()}
  return [
    _record(
      split, line, paths.get(line['id'], ()), corpus, documents, titles, scoring
    )
    for line in lines
  ]


def worst_first(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """Wrong answers first, the most confident of these first; right ones last.

  Example:
    >>> rows = [
    ...   {'outcome': 'right', 'confidence': 0.9},
    ...   {'outcome': 'wrong', 'confidence': 0.2},
    ...   {'outcome': 'wrong', 'confidence': 0.7},
    ... ]
    >>> [row['confidence'] for row in worst_first(rows)]
    [0.7, 0.2, 0.9]
  """
  order = ('wrong', 'abstained', 'unknown', 'right')

  def key(row):
    place = order.index(row['outcome'])
    confidence = row['confidence'] or 0.0
    return place, confidence if row['outcome'] == 'right' else -confidence

  return sorted(rows, key=key)


def _record(
  split: str,
  line: Line,
  paths: Sequence[Mapping[str, Any]],
  corpus: Corpus,
  documents: Documents,
  titles: Mapping[str, str],
  scoring: str,
) -> dict[str, Any]:
  """One question."""
  score = line.get('score')
  cited = line['document']
  fate = reasons.fate(line, corpus.rows)
  record = {
    'split': split,
    'id': line['id'],
    'question': line['question'],
    'answers': line['gold_answers'],
    'gold': [
      documents.place(corpus, name, text=True)
      for name in list(line['gold_documents'])[:CANDIDATES]
    ],
    'answerable': line['answerable'],
    'answer': line['answer'],
    'abstained': line['abstained'],
    'probability': _round(line['probability']),
    'confidence': _round(line['probability'] if score is None else score),
    'outcome': reasons.outcome(line),
    'fate': fate,
    'why': reasons.why(line, paths, titles, scoring=scoring, known=corpus.rows),
    'cited': None
    if cited is None
    else documents.place(corpus, cited['id'], cited['title'], text=True),
    'span': line['span'],
    'retrieved': len(line['candidates']),
    'candidates': _candidates(line, corpus, documents),
    'paths': [_path(path, corpus, documents) for path in paths],
    'values': line['measures'].get('answers', {}),
  }
  extra = {name: _rounded(line[name]) for name in COPIED if line.get(name)}
  return record | extra


def _candidates(
  line: Line, corpus: Corpus, documents: Documents
) -> list[list[Any]]:
  """[place, document, log-probability, score, weight, read, left out] of each.

  Of the first ones, and of all that were read or are gold documents.
  """
  rows = []
  for place, own in enumerate(line['candidates']):
    document, read = own['document'], reasons.was_read(own)
    if place < CANDIDATES or read or document['id'] in line['gold_documents']:
      rows.append(
        [
          place,
          documents.place(corpus, document['id'], document['title'], text=read),
          _round(own['log_probability'], 2),
          _round(own['score'], 2),
          _round(own['weight']),
          int(read),
          _round(own.get('left_out')),
        ]
      )
  return rows


def _path(
  path: Mapping[str, Any], corpus: Corpus, documents: Documents
) -> dict[str, Any]:
  """One document: [code, score, rank, [[code, score], ...]] of each level."""
  return {
    'document': documents.place(corpus, path['document']),
    'docid': path.get('docid'),  # if the document has several
    'parts': _rounded(path['parts']),
    'levels': [
      [
        level['code'],
        _round(level['score'], 2),
        level['rank'],
        [[code, _round(score, 2)] for code, score in level['best']],
      ]
      for level in path['levels']
    ],
  }


def below(
  rows: Sequence[dict[str, Any]], corpus: Corpus, documents: Documents
) -> dict[str, list[Any]]:
  """What is below the prefixes of docids that paths name.

  Args:
    rows: from `records`.
    corpus: the documents of the run.
    documents: those of the page; gets the examples.

  Returns:
    Prefix, such as '4/0' -> [number of documents, some of these].
  """
  wanted: set[tuple[int, ...]] = set()
  for row in rows:
    for path in row['paths']:
      codes = tuple(level[0] for level in path['levels'])
      for depth, level in enumerate(path['levels']):
        wanted.add(codes[: depth + 1])
        wanted |= {(*codes[:depth], code) for code, _ in level[3]}
  counts: dict[tuple[int, ...], int] = dict.fromkeys(wanted, 0)
  examples: dict[tuple[int, ...], list[int]] = {key: [] for key in wanted}
  depths = sorted({len(key) for key in wanted})
  several: dict[int, list[Sequence[int]]] = {}
  for place, docid in corpus.further:
    several.setdefault(place, []).append(docid)
  for name, place in corpus.rows.items():
    every = [corpus.codes[place], *several.get(place, ())]
    prefixes = {tuple(own[:depth]) for own in every for depth in depths}
    for prefix in prefixes:  # a document counts once
      if prefix in counts:
        counts[prefix] += 1
        if len(examples[prefix]) < EXAMPLES:
          examples[prefix].append(documents.place(corpus, name))
  return {
    '/'.join(map(str, key)): [counts[key], examples[key]] for key in wanted
  }


def _rounded(value: Any) -> Any:
  """A value with all its numbers rounded."""
  if isinstance(value, dict):
    return {name: _rounded(own) for name, own in value.items()}
  return _round(value) if isinstance(value, float) else value


def _round(value: float | None, digits: int = 3) -> float | None:
  """As many digits after the point as the page needs."""
  return None if value is None else round(value, digits)
