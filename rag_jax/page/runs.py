"""Reads the files of a run, or of one evaluation, for the page."""

import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from rag_jax import changes, outputs, store
from rag_jax.index import further
from rag_jax.index import index as indexes
from rag_jax.page import curves, questions, reasons

MOST = 2400  # questions on the page, per run
ALL = 'all splits'
CERTIFICATE, CALIBRATOR = 'certificate.json', 'calibrator.json'


def read(
  folder: pathlib.Path, documents: questions.Documents
) -> dict[str, Any]:
  """A run as JSON-serialisable values.

  Args:
    folder: a workdir, or the folder of one of its evaluations.
    documents: those of the page; gets the ones of this run.

  Raises:
    ValueError: if the folder has no results, or a file is damaged.
  """
  results = _results(folder)
  parent = folder.parent
  inside = parent.name == outputs.EVALUATIONS
  workdir = parent.parent if inside else folder
  config = _json(folder / store.CONFIG) or _json(workdir / store.CONFIG) or {}
  corpus = _corpus(workdir)
  scoring = config.get('search', {}).get('scoring', 'log_softmax')
  splits = dict(_answers(folder))
  rows = _questions(folder, splits, corpus, documents, scoring)
  command = f'rag-jax evaluate --workdir={workdir}'
  return {
    'folder': str(folder),
    'provenance': results.get('provenance', {}),
    'warnings': results.get('warnings', []),
    'results': [list(row.values()) for row in results['results']],
    'curves': _metrics(workdir / 'metrics.jsonl'),
    'config': dict(_flat(config)),
    'scoring': scoring,
    'certificate': _certificate(_first(CERTIFICATE, folder, workdir)),
    'calibrator': _calibrator(_first(CALIBRATOR, folder, workdir)),
    'splits': _confidence(splits),
    'docids': _docids(corpus, splits),
    'questions': rows,
    'asked': {name: len(lines) for name, lines in splits.items()},
    'below': questions.below(rows, corpus, documents),
    'command': command,
  }


def _results(folder: pathlib.Path) -> dict[str, Any]:
  path = folder / outputs.RESULTS
  found = _json(path)
  if found is None:
    kind = 'has no results' if folder.is_dir() else 'is no folder'
    raise ValueError(
      f'{str(folder)!r} {kind}. Name a trained workdir, or a folder in its '
      f'{outputs.EVALUATIONS}/; rag-jax train writes {outputs.RESULTS}.'
    )
  if not isinstance(found, dict) or 'results' not in found:
    raise store.damaged(path, 'no results', _REMEDY)
  return found


_REMEDY = 'Delete it, and run rag-jax evaluate with the same --workdir.'


def _json(path: pathlib.Path) -> Any:
  """The content of a JSON file; None if there is no such file."""
  if not path.is_file():
    return None
  try:
    return json.loads(path.read_text(encoding='utf-8'))
  except ValueError as error:
    raise store.damaged(path, error, _REMEDY) from error


def _first(name: str, *folders: pathlib.Path) -> Any:
  return next(filter(None, (_json(own / name) for own in folders)), None)


def _lines(path: pathlib.Path) -> list[dict[str, Any]]:
  """The records of a file of JSON lines; none if there is no such file."""
  if not path.is_file():
    return []
  try:
    # Not splitlines, which also splits at Unicode separators inside a text.
    parts = path.read_text(encoding='utf-8').split('\n')
    return [json.loads(line) for line in parts if line]
  except ValueError as error:
    raise store.damaged(path, error, _REMEDY) from error


def _answers(
  folder: pathlib.Path,
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
  """Split -> lines of its answers file."""
  for path in sorted(folder.glob('answers-*.jsonl')):
    yield path.stem.removeprefix('answers-'), _lines(path)


def _corpus(workdir: pathlib.Path) -> questions.Corpus:
  """The documents of a workdir with their docids; empty without these files."""
  live = workdir / store.LIVE
  documents: store.Documents = ()
  arrays = {'codes': np.zeros((0, 1), np.int32)}
  if live.exists():
    documents, arrays = changes.documents_and_codes(live)
  elif (workdir / store.DOCUMENTS).exists():
    documents = store.load_documents(workdir)
    arrays = indexes.read(workdir / store.INDEX, ['codes'])
  more = further.from_arrays(indexes.group('further', arrays))
  real = {d.id: (row, d) for row, d in enumerate(documents) if d is not None}
  return questions.Corpus(
    documents={name: own for name, (_, own) in real.items()},
    rows={name: row for name, (row, _) in real.items()},
    codes=arrays['codes'].tolist(),
    further=[] if more is None else further.listed(more),
  )


def _questions(
  folder: pathlib.Path,
  splits: Mapping[str, Sequence[dict[str, Any]]],
  corpus: questions.Corpus,
  documents: questions.Documents,
  scoring: str,
) -> list[dict[str, Any]]:
  """At most `MOST` questions, evenly spaced in each split, worst first."""
  total = sum(map(len, splits.values()))
  share = min(1.0, MOST / max(total, 1))
  rows = []
  for split, lines in splits.items():
    count = max(1, int(len(lines) * share)) if lines else 0
    chosen = np.linspace(0, len(lines) - 1, count).round().astype(int)
    paths = {
      line['id']: line['paths']
      for line in _lines(outputs.paths_path(folder, split))
    }
    rows += questions.records(
      split,
      [lines[place] for place in chosen.tolist()],
      paths,
      corpus,
      documents,
      scoring=scoring,
    )
  return questions.worst_first(rows)


def _metrics(path: pathlib.Path) -> dict[str, dict[str, list[list[float]]]]:
  """Split -> measure -> [step, value] of each record of metrics.jsonl."""
  found: dict[str, dict[str, list[list[float]]]] = {}
  for record in _lines(path):
    step, split = record.pop('step'), record.pop('split')
    for name, value in record.items():
      own = found.setdefault(split, {}).setdefault(name, [])
      own.append([step, float(f'{value:.4g}')])
  return found


def _flat(
  values: Mapping[str, Any], prefix: str = ''
) -> Iterator[tuple[str, Any]]:
  """Dotted name and value of each field of a configuration."""
  for name, value in values.items():
    if isinstance(value, Mapping):
      yield from _flat(value, f'{prefix}{name}.')
    else:
      yield prefix + name, value


def _certificate(found: Any) -> Any:
  return found or None


def _calibrator(found: Any) -> Any:
  """The calibrator without its questions."""
  if not found:
    return None
  return {name: own for name, own in found.items() if name != 'held_out'}


def _confidence(
  splits: Mapping[str, Sequence[dict[str, Any]]],
) -> list[dict[str, Any]]:
  """Risk-coverage and reliability of each split, and of all together."""
  groups = dict(splits)
  if len(splits) > 1:
    groups = {ALL: [x for lines in splits.values() for x in lines]} | groups
  found = []
  for name, lines in groups.items():
    by_score = any(line.get('score') is not None for line in lines)
    field = 'score' if by_score else 'probability'
    pairs = [(line.get(field), _is_right(line)) for line in lines]
    known = [pair for pair in pairs if None not in pair]
    if not known:
      continue
    confidence = np.array([own for own, _ in known], np.float64)
    right = np.array([own for _, own in known], bool)
    certified = [line.get('certified') for line in lines]
    found.append(
      {
        'name': name,
        'field': field,
        'count': len(known),
        'risk': curves.risk_coverage(confidence, right),
        'bins': curves.reliability(confidence, right),
        'certified': certified.count(True) if any(certified) else None,
        'accuracy': round(float(right.mean()), 4),
      }
    )
  return found


def _is_right(line: Mapping[str, Any]) -> bool | None:
  """Whether the best answer is right, also where the system abstained."""
  if 'best_right' in line:
    return line['best_right']
  if not line['answerable']:
    return False
  known = reasons.outcome(line) in ('right', 'wrong')
  return reasons.outcome(line) == 'right' if known else None


def _docids(
  corpus: questions.Corpus,
  splits: Mapping[str, Sequence[dict[str, Any]]],
) -> dict[str, Any] | None:
  """Use of codes by the documents, and by the first document of questions."""
  if not corpus.rows:
    return None
  codes = np.array(corpus.docids)
  first = [
    line['candidates'][0]['codes']
    for lines in splits.values()
    for line in lines
    if line['candidates']
  ]
  found = np.array(first, np.int64).reshape(-1, codes.shape[1])
  return {
    'documents': len(corpus.rows),
    'levels': curves.code_use(codes, found),
  }
