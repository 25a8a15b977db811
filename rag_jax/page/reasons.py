"""Why the gold document of a question won or lost, in one sentence."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

Line = Mapping[str, Any]  # of answers-SPLIT.jsonl
Path = Mapping[str, Any]  # of docid-paths-SPLIT.jsonl: one document
SIGNALS = {'docid': 'docid', 'vector': 'vector', 'lexical': 'words'}


def outcome(line: Line) -> str:
  """'right', 'wrong', 'abstained', or 'unknown' without gold answers.

  To abstain is right for a question without an answer.

  Without a trained reader, an answer counts as right if the document with the
  largest weight is a gold document.

  Example:
    >>> outcome({'abstained': False, 'measures': {'answers': {'EM': 0.0}}})
    'wrong'
  """
  measures = line['measures']
  if 'answers' not in measures:
    hit = measures.get('after ranker', {}).get('Hits@1')
    return 'unknown' if hit is None else ('right' if hit else 'wrong')
  if line['abstained']:
    return 'abstained' if line['answerable'] else 'right'
  exact = measures['answers'].get('EM')
  return 'unknown' if exact is None else ('right' if exact else 'wrong')


def gold_candidates(line: Line) -> list[tuple[int, Line]]:
  """Place, from 0, and candidate for each retrieved gold document."""
  return [
    (place, own)
    for place, own in enumerate(line['candidates'])
    if own['document']['id'] in line['gold_documents']
  ]


def was_read(candidate: Line) -> bool:
  """Whether a candidate was read, with a weight above 0."""
  return bool(candidate.get('read', True) and candidate['weight'] > 0)


def fate(line: Line, known: Mapping[str, int]) -> str:
  """What happened to the gold documents of a question.

  Args:
    line: the question.
    known: ids of the documents in the index.

  Returns:
    'none' (no gold document is known), 'missing' (none is in the index),
    'not retrieved', 'not chosen' (retrieved, but not read or
    with weight 0), 'read wrongly' or
    'read'.
  """
  gold = list(line['gold_documents'])
  if not gold:
    return 'none'
  found = gold_candidates(line)
  if not found:
    there = any(name in known for name in gold) or not known
    return 'not retrieved' if there else 'missing'
  if not any(was_read(own) for _, own in found):
    return 'not chosen'
  return 'read wrongly' if outcome(line) == 'wrong' else 'read'


def why(
  line: Line,
  paths: Sequence[Path],
  titles: Mapping[str, str],
  *,
  scoring: str,
  known: Mapping[str, int],
) -> str:
  """The sentence on a question.

  Args:
    line: the question.
    paths: its line of docid-paths-SPLIT.jsonl; empty if there is none.
    titles: id -> title of documents.
    scoring: `search.scoring` of the experiment.
    known: ids of the documents in the index.
  """
  if not line['answerable']:
    return _without_answer(line, titles)
  kind = fate(line, known)
  if kind == 'none':
    return 'The data name no gold document for this question.'
  gold = next(iter(line['gold_documents']))
  if kind == 'missing':
    return f'The gold document {_name(gold, titles)} is not in the index.'
  by_id = {path['document']: path for path in paths}
  if kind == 'not retrieved':
    own = next((n for n in line['gold_documents'] if n in by_id), gold)
    name = _name(own, titles)
    lost = f'The search did not find the gold document {name}'
    return lost + _where_lost(line, by_id.get(own), scoring)
  place, candidate = gold_candidates(line)[0]
  name = _name(candidate['document']['id'], titles)
  if kind == 'not chosen':
    return _not_chosen(line, place, candidate, by_id, titles)
  if kind == 'read wrongly':
    return _read_wrongly(line, place, candidate, titles)
  first = 'has the largest weight' if place == 0 else f'is number {place + 1}'
  weight = f'{candidate["weight"]:.2f}'
  end = f'The gold document {name} {first} (weight {weight})'
  if line['abstained']:
    return f'{end}, but the system abstained{_confidence(line)}.'
  return f'{end}, and the answer is {outcome(line)}.'.replace(
    ', and the answer is unknown', ''
  )


def _without_answer(line: Line, titles: Mapping[str, str]) -> str:
  """The sentence on a question that has no answer."""
  if line['abstained']:
    return (
      f'The question has no answer: the system abstained{_confidence(line)}.'
    )
  cited = line['document']
  source = '' if cited is None else f' from {_name(cited["id"], titles)}'
  return (
    f'The question has no answer, but the system answered "{line["answer"]}"'
    f'{source}{_confidence(line)}.'
  )


def _where_lost(line: Line, path: Path | None, scoring: str) -> str:
  """How the docid of a gold document scores, as the end of a sentence."""
  if path is None or not path['levels']:
    return '.'
  gaps = [_gap(level) for level in path['levels']]
  worst = max(range(len(gaps)), key=gaps.__getitem__)
  level, total = path['levels'][worst], path['levels'][-1]['score']
  last = min(
    (own['log_probability'] for own in line['candidates']), default=None
  )
  text = ''
  if gaps[worst] > 0:
    best, value = level['best'][0]
    before = path['levels'][worst - 1]['score'] if worst else 0.0
    text = (
      f': at level {worst + 1} of its docid, code {level["code"]} has '
      f'{_value(level["score"], before, scoring)}, code {best} '
      f'{_value(value, before, scoring)}'
    )
  if last is None or total is None:
    return f'{text}.'
  if total > last:
    return (
      f'{text}. Its score {total:.2f} is above {last:.2f}, the lowest of the '
      'documents found: a larger search.beam_size would find it.'
    )
  return (
    f'{text}. Its score is {total:.2f}; the lowest of the documents found has '
    f'{last:.2f}.'
  )


def _gap(level: Mapping[str, Any]) -> float:
  """By how much the best code of a level exceeds the docid's own, nats."""
  if not level['best'] or level['score'] is None:
    return 0.0
  return (level['best'][0][1] or 0.0) - level['score']


def _value(score: float, before: float, scoring: str) -> str:
  """The score of a code: a probability where scores are log-probabilities."""
  if scoring != 'log_softmax':
    return f'score {score:.2f}'
  return f'probability {math.exp(min(score - before, 0.0)):.2g}'


def _not_chosen(
  line: Line,
  place: int,
  candidate: Line,
  paths: Mapping[str, Path],
  titles: Mapping[str, str],
) -> str:
  """The sentence on a gold document that was retrieved but not read."""
  first = line['candidates'][0]
  own, other = candidate['document']['id'], first['document']['id']
  text = (
    f'The search found the gold document {_name(own, titles)}, but the ranker '
    f'puts it at {place + 1}, with score {_number(candidate["score"])} against '
    f'{_number(first["score"])} of {_name(other, titles)}'
  )
  if own in paths and other in paths:
    parts = [
      (signal, value - paths[other]['parts'][signal])
      for signal, value in paths[own]['parts'].items()
      if value is not None and paths[other]['parts'].get(signal) is not None
    ]
    parts.sort(key=lambda part: part[1])
    text += ': ' + ', '.join(
      f'{SIGNALS.get(signal, signal)} {change:+.2f}' for signal, change in parts
    )
  return f'{text}.'


def _read_wrongly(
  line: Line, place: int, candidate: Line, titles: Mapping[str, str]
) -> str:
  """The sentence on a gold document that was read, with a wrong answer."""
  gold = candidate['document']['id']
  cited = (line['document'] or {}).get('id')
  start = (
    f'The reader read the gold document {_name(gold, titles)} (weight '
    f'{candidate["weight"]:.2f}), but answered "{line["answer"]}"'
  )
  if cited == gold:
    return f'{start} from it.'
  if cited is None:
    return f'{start}.'
  return f'{start} from {_name(cited, titles)}.'


def _confidence(line: Line) -> str:
  score = line.get('score')
  value = line['probability'] if score is None else score
  return '' if value is None else f' at confidence {value:.2f}'


def _name(document: str, titles: Mapping[str, str]) -> str:
  return f'"{titles.get(document) or document}"'


def _number(value: float | None) -> str:
  return '?' if value is None else f'{value:.2f}'
