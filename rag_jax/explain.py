"""Explains the answers of an evaluation: why a document won or lost.

For each question, the documents that matter are the one with the answer, the
one with the largest weight and the gold document. docid-paths-SPLIT.jsonl has,
for each of them, the score of every code of its docid with the best other codes
at that level, and the parts of its score by the ranker.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from rag_jax import answers, compiled, types
from rag_jax import system as systems
from rag_jax.ops import teacher_forcing

MOST = 3  # documents of a question


def paths(
  system: systems.System,
  questions: Sequence[types.Question],
  given: Sequence[answers.Answer],
) -> Iterator[dict[str, Any]]:
  """The lines of docid-paths-SPLIT.jsonl.

  Args:
    system: the system that gave the answers.
    questions: n questions.
    given: n answers to them.

  Returns:
    n mappings: 'id' of the question, and 'paths', one per document that
    matters: 'document', its id; with `docid.further`, 'docid', the codes of its
    most probable docid, which the path leads to; 'parts', signal -> part of the
    ranker's score, nats; 'levels', one per code that was chosen: 'code',
    'score' (of the prefix that ends with it, nats), 'rank' (from 1, among the
    codes that exist there) and 'best', the codes with the highest scores as
    [code, score].
  """
  names = [
    _documents(system, question, answer)
    for question, answer in zip(questions, given, strict=True)
  ]
  # The documents whose docids `compiled.paths` follows are passed to it by the
  # argument `gold`.
  gold = np.full((len(questions), MOST), -1, np.int32)
  for rows, own in zip(gold, names, strict=True):
    rows[: len(own)] = [system.rows[name] for name in own]
  size = system.config.train.eval_batch_size
  found, codes, parts = system.run(
    compiled.paths, questions, gold=gold, batch_size=size
  )
  several = system.index.further is not None
  for row, question in enumerate(questions):
    yield {
      'id': question.id,
      'paths': [
        _path(name, codes[row, place], found, parts, (row, place), several)
        for place, name in enumerate(names[row])
      ],
    }


def _documents(
  system: systems.System, question: types.Question, answer: answers.Answer
) -> list[str]:
  """Ids of the documents that matter, without repetitions."""
  ids = [] if answer.document is None else [answer.document.id]
  retrieved = [candidate.document.id for candidate in answer.candidates]
  gold = [name for name in question.document_ids if name in system.rows]
  gold.sort(key=lambda name: name not in retrieved)  # a retrieved one first
  return list(dict.fromkeys([*ids, *retrieved[:1], *gold[:1]]))


def _path(
  name: str,
  codes: np.ndarray,
  found: teacher_forcing.Paths,
  parts: dict[str, jax.Array],
  place: tuple[int, int],
  several: bool,
) -> dict[str, Any]:
  """One document with a docid; `place` is its place in the arrays.

  `several`: whether documents have further docids, so that this one is named.
  """
  own: teacher_forcing.Paths = jax.tree.map(lambda x: x[place], found)
  levels = [
    {
      'code': int(codes[level]),
      'score': _round(own.own[level]),
      'rank': int(own.rank[level]) + 1,
      'best': [
        [int(code), _round(score)]
        for code, score, real in zip(
          own.codes[level], own.scores[level], own.where[level], strict=True
        )
        if real
      ],
    }
    for level in range(len(own.own))
    if own.chooses[level]
  ]
  values = {signal: _round(part[place]) for signal, part in parts.items()}
  which = {'docid': codes.tolist()} if several else {}
  return {'document': name} | which | {'parts': values, 'levels': levels}


def _round(value: Any) -> float | None:
  """A score with five digits; None if not finite, as JSON requires."""
  number = float(value)
  return float(f'{number:.5g}') if math.isfinite(number) else None
