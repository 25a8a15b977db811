"""The files that a training run or an evaluation leaves.

results.json              every measure with its interval, and what made it
answers-SPLIT.jsonl       a line a question: candidates, answer, measures
run-SPLIT-SYSTEM.trec     what a system returned, for TREC's tools
qrels-SPLIT.trec          the gold documents with their grades
config.json               the experiment with the values that were measured

Training writes them into its workdir, where config.json is already; an
evaluation into a folder of its own, `evaluations/001` and so on, so that
nothing is written over.
"""

import json
import math
import os
import pathlib
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rag_jax import config as configs
from rag_jax import evaluate, provenance, report, store, trec
from rag_jax import system as systems
from rag_jax import workdir as workdirs

RESULTS = 'results.json'
EVALUATIONS = 'evaluations'  # folder in the workdir

Show = Callable[[Sequence[report.Result]], None]


def run_evaluation(
  system: systems.System,
  prepared: workdirs.Prepared,
  workdir: pathlib.Path,
  *,
  show: Show = report.show,
) -> pathlib.Path:
  """Measures a trained system, shows the table and writes its files.

  Args:
    system: from `loading.load`, with the configuration to measure.
    prepared: its data, from `workdirs.open`.
    workdir: of the system.
    show: what to do with the results before anything is written.

  Returns:
    The new folder, such as `workdir/evaluations/001`.

  Raises:
    ValueError: if the files cannot be written.
  """
  began = time.monotonic()
  found = evaluate.evaluate(system, prepared.dataset, prepared.pretrained)
  show(found.results)
  made = provenance.collect(
    system.config, prepared.dataset, seconds=time.monotonic() - began
  )
  folder = new_folder(workdir)
  save(folder, found, made, config=system.config)
  return folder


def save(
  folder: pathlib.Path,
  evaluation: evaluate.Evaluation,
  made: Mapping[str, Any],
  *,
  config: configs.Config | None = None,
) -> None:
  """Writes all files of an evaluation; results.json, the last, ends it.

  Args:
    folder: of a run or of one evaluation; it has to be there.
    evaluation: from `evaluate.evaluate`.
    made: from `provenance.collect`.
    config: for config.json; None leaves the one that is there.

  Raises:
    ValueError: if a file cannot be written.
  """
  try:
    if config is not None:
      text = json.dumps(configs.as_dict(config), indent=2)
      report.write(folder / store.CONFIG, text + '\n')
    for own in evaluation.splits:
      _save_split(folder, own, evaluation.system)
    report.save_results(folder / RESULTS, evaluation.results, made)
  except OSError as error:
    raise _unwritable(folder, error) from error


def new_folder(workdir: pathlib.Path) -> pathlib.Path:
  """Makes the next folder for an evaluation: 001, 002 and so on.

  Raises:
    ValueError: if it cannot be made.
  """
  parent = workdir / EVALUATIONS
  try:
    parent.mkdir(exist_ok=True)
    names = (path.name for path in parent.iterdir())
    last = max([0, *(int(name) for name in names if name.isdecimal())])
    while True:
      last += 1
      folder = parent / f'{last:03}'
      try:
        folder.mkdir()
        return folder
      except FileExistsError:  # another evaluation was faster
        continue
  except OSError as error:
    raise _unwritable(parent, error) from error


def answers_path(folder: pathlib.Path, split: str) -> pathlib.Path:
  """Where the answers to a split are."""
  return folder / f'answers-{slug(split)}.jsonl'


def slug(name: str) -> str:
  """A name as a part of a file name.

  Example:
    >>> slug('dense + BM25, exact')
    'dense-BM25-exact'
  """
  return re.sub(r'[^\w.]+', '-', name).strip('-')


def _save_split(
  folder: pathlib.Path, own: evaluate.Measured, system: systems.System
) -> None:
  """Answers, runs and gold documents of one split."""
  report.write(answers_path(folder, own.split), ''.join(_answer_lines(own)))
  qrels = trec.qrels_lines(own.questions, system.rows)
  report.write(folder / f'qrels-{slug(own.split)}.trec', ''.join(qrels))
  for name, run in own.runs.items():
    lines = trec.run_lines(run, own.questions, system.documents, tag=slug(name))
    path = folder / f'run-{slug(own.split)}-{slug(name)}.trec'
    report.write(path, ''.join(lines))


def _answer_lines(own: evaluate.Measured) -> Iterator[str]:
  """A question, its gold answers and documents, the answer, its measures."""
  for row, (question, answer) in enumerate(
    zip(own.questions, own.answers, strict=True)
  ):
    line = {
      'id': question.id,
      'question': question.text,
      'gold_answers': question.answers,
      'gold_documents': trec.grades(question),
      'answerable': question.answerable,
    }
    line |= answer.to_dict(text=False)
    line['measures'] = _measures(own, row)
    yield json.dumps(line, ensure_ascii=False, allow_nan=False) + '\n'


def _measures(own: evaluate.Measured, row: int) -> dict[str, dict[str, float]]:
  """What each system is worth on one question, by system and measure."""
  found: dict[str, dict[str, float]] = {}
  for (system, measure), values in own.values.items():
    value = float(values[row])
    if math.isfinite(value):
      found.setdefault(system, {})[measure] = float(f'{value:.9g}')
  return found


def _unwritable(folder: pathlib.Path, error: OSError) -> ValueError:
  reason = os.strerror(error.errno) if error.errno else str(error)
  return ValueError(
    f'results cannot be written to {str(folder)!r} ({reason}). Make room there '
    'or allow writing, and run rag-jax evaluate with the same --workdir.'
  )
