"""The output files of a training run or an evaluation.

results.json              all measures with intervals, and their provenance
answers-SPLIT.jsonl       one line per question: candidates, answer, measures
calibrator.json           the calibrator of answers, if there is one
certificate.json          its certificate
run-SPLIT-SYSTEM.trec     the ranking of a system, in TREC format
qrels-SPLIT.trec          the gold documents with their relevance grades
docid-paths-SPLIT.jsonl   why a document won or lost; for the page report.html
config.json               the configuration of the evaluated experiment

Training writes them into its workdir. An evaluation writes them into a new
folder, `evaluations/001` and so on, so that nothing is overwritten.
"""

import contextlib
import dataclasses
import json
import math
import os
import pathlib
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rag_jax import (
  calibration,
  confidence,
  console,
  distributed,
  evaluate,
  explain,
  files,
  judging,
  parallel,
  per_question,
  provenance,
  report,
  signals,
  store,
  trec,
)
from rag_jax import config as configs
from rag_jax import system as systems
from rag_jax import workdir as workdirs

RESULTS = 'results.json'
CERTIFICATE = 'certificate.json'
EVALUATIONS = 'evaluations'  # folder in the workdir

Show = Callable[[Sequence[report.Result]], None]


def run_evaluation(
  system: systems.System,
  prepared: workdirs.Prepared,
  workdir: pathlib.Path,
  *,
  show: Show = report.show,
) -> pathlib.Path:
  """Evaluates a trained system, shows the table and writes the output files.

  Of several processes, each evaluates a part, and the first shows and writes.

  Args:
    system: from `loading.load`, with the configuration to evaluate.
    prepared: its data, from `workdirs.open`.
    workdir: folder of the system.
    show: called with the results before anything is written.

  Returns:
    The new folder, such as `workdir/evaluations/001`; in other processes than
    the first, that of all evaluations.

  Raises:
    ValueError: if the files cannot be written; this is tried before the
      evaluation.
  """
  began = time.monotonic()
  folder = workdir / EVALUATIONS
  with distributed.first_then_others('evaluation'):
    if distributed.is_first():
      _try_to_write(folder)
  if distributed.count() > 1:
    train = system.config.train
    parallel.check_mesh(train.mesh, train.parallel)
  found = evaluate.evaluate(
    system.on_devices(), prepared.dataset, prepared.pretrained
  )
  if distributed.is_first():
    show(found.results)
  show_notes(found)
  made = provenance.collect(
    system.config, prepared.dataset, seconds=time.monotonic() - began
  )
  if distributed.is_first():
    folder = _save_new(workdir, found, made)
  save_paths(folder, found)
  distributed.wait('evaluated')
  return folder


def _save_new(
  workdir: pathlib.Path, found: evaluate.Evaluation, made: Mapping[str, Any]
) -> pathlib.Path:
  """Writes the files of an evaluation into a new folder, all or none."""
  with signals.deferred():
    folder = new_folder(workdir)
    partial = folder.with_name(folder.name + '.partial')
    try:
      partial.mkdir()
      save(partial, found, made, config=found.system.config)
      os.replace(partial, folder)  # which is empty
    except BaseException as error:
      shutil.rmtree(partial, ignore_errors=True)
      with contextlib.suppress(OSError):
        folder.rmdir()
      if isinstance(error, OSError):
        raise _unwritable(folder, error) from error
      raise
  return folder


def show_notes(found: evaluate.Evaluation) -> None:
  """Prints the certificate and the warnings of an evaluation as notes."""
  certificate = found.system.certificate
  if certificate is not None:
    console.note(certificate.show())
  for text in found.warnings:
    console.note(f'warning: {text}')


def _try_to_write(folder: pathlib.Path) -> None:
  """Raises a ValueError if no file can be written into a folder."""
  try:
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
      file.write(b'x')
  except OSError as error:
    raise _unwritable(folder, error) from error


def save(
  folder: pathlib.Path,
  evaluation: evaluate.Evaluation,
  made: Mapping[str, Any],
  *,
  config: configs.Config | None = None,
) -> None:
  """Writes all files of an evaluation, results.json last.

  Args:
    folder: existing folder of a run or of one evaluation.
    evaluation: from `evaluate.evaluate`.
    made: from `provenance.collect`.
    config: for config.json; None keeps the existing one.

  Raises:
    ValueError: if a file cannot be written.
  """
  try:
    if config is not None:
      files.write(folder / store.CONFIG, configs.to_json(config))
    for measured in evaluation.splits:
      _save_split(folder, measured, evaluation.system)
    _save_calibrator(folder, evaluation.system)
    report.save_results(
      folder / RESULTS, evaluation.results, made, warnings=evaluation.warnings
    )
  except OSError as error:
    raise _unwritable(folder, error) from error


def save_paths(folder: pathlib.Path, evaluation: evaluate.Evaluation) -> None:
  """Writes docid-paths-SPLIT.jsonl of each split, unless `train.report` is off.

  It comes after `save`: a file that cannot be written is a note, since the
  results are kept already.
  """
  system = evaluation.system
  if not system.config.train.report:
    return
  try:
    for own in evaluation.splits:
      found = explain.paths(system, own.questions, own.answers)
      lines = (json.dumps(x, ensure_ascii=False) + '\n' for x in found)
      files.write(paths_path(folder, own.split), ''.join(lines))
  except OSError as error:
    console.note(
      f'docid paths are not written to {str(folder)!r} ({files.reason(error)})'
    )


def _save_calibrator(folder: pathlib.Path, system: systems.System) -> None:
  """Writes the calibrator and its certificate; deletes older ones if none."""
  if system.calibrator is None or system.certificate is None:
    for name in (calibration.NAME, CERTIFICATE):
      (folder / name).unlink(missing_ok=True)
    return
  calibration.save(system.calibrator, folder)
  values = system.certificate.to_dict(split=system.calibrator.split)
  files.write(folder / CERTIFICATE, json.dumps(values, indent=1) + '\n')


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
      except FileExistsError:  # made by a concurrent evaluation
        continue
  except OSError as error:
    raise _unwritable(parent, error) from error


def answers_path(folder: pathlib.Path, split: str) -> pathlib.Path:
  """Path of the answers file of a split."""
  return folder / f'answers-{slug(split)}.jsonl'


def paths_path(folder: pathlib.Path, split: str) -> pathlib.Path:
  """Path of the file with the docid paths of a split."""
  return folder / f'docid-paths-{slug(split)}.jsonl'


def slug(name: str) -> str:
  """A name with characters that are safe in a file name.

  Example:
    >>> slug('dense + BM25, exact')
    'dense-BM25-exact'
  """
  return re.sub(r'[^\w.]+', '-', name).strip('-')


def _save_split(
  folder: pathlib.Path, measured: per_question.Measured, system: systems.System
) -> None:
  """Writes answers, rankings and gold documents of one split."""
  split, questions = measured.split, measured.questions
  files.write(
    answers_path(folder, split), ''.join(_answer_lines(measured, system))
  )
  qrels = trec.qrels_lines(questions, system.documents)
  files.write(folder / f'qrels-{slug(split)}.trec', ''.join(qrels))
  for name, run in measured.runs.items():
    lines = trec.run_lines(run, questions, system.documents, tag=slug(name))
    path = folder / f'run-{slug(split)}-{slug(name)}.trec'
    files.write(path, ''.join(lines))


def _answer_lines(
  measured: per_question.Measured, system: systems.System
) -> Iterator[str]:
  """Lines with question, gold answers and documents, answer and measures."""
  for row, (question, answer) in enumerate(
    zip(measured.questions, measured.answers, strict=True)
  ):
    line: dict[str, Any] = {
      'id': question.id,
      'question': question.text,
      'gold_answers': question.answers,
      'gold_documents': trec.grades(question),
      'answerable': question.answerable,
      'kind': question.kind,
    }
    line |= answer.to_dict(text=False)
    if measured.judged is not None:
      line |= _judged(measured.judged, row, line['candidates'], system)
    line['measures'] = _measures(measured, row)
    yield json.dumps(line, ensure_ascii=False, allow_nan=False) + '\n'


def _judged(
  judged: judging.Judged,
  row: int,
  candidates: list[dict[str, Any]],
  system: systems.System,
) -> dict[str, Any]:
  """Fields about the best answer; adds what was read to the candidates."""
  left_out = {
    system.documents[place].id: value  # type: ignore[union-attr]
    for place, value in zip(
      judged.documents[row].tolist(), judged.left_out[row].tolist(), strict=True
    )
    if place >= 0
  }
  for candidate in candidates:
    name = candidate['document']['id']
    value = left_out.get(name, math.nan)
    candidate['read'] = name in left_out
    candidate['left_out'] = float(f'{value:.6g}') if value == value else None
  grounds = judged.grounds[row]
  features = judged.features[row].tolist()
  return {
    'best': judged.best[row],
    'best_right': bool(judged.right[row]) if judged.known[row] else None,
    'features': {
      name: float(f'{value:.6g}')
      for name, value in zip(confidence.FEATURES, features, strict=True)
    },
    'grounding': None if grounds is None else dataclasses.asdict(grounds),
  }


def _measures(
  measured: per_question.Measured, row: int
) -> dict[str, dict[str, float]]:
  """System -> measure -> value of one question."""
  found: dict[str, dict[str, float]] = {}
  for (system, measure), values in measured.values.items():
    value = float(values[row])
    if math.isfinite(value):
      found.setdefault(system, {})[measure] = float(f'{value:.9g}')
  return found


def _unwritable(folder: pathlib.Path, error: OSError) -> ValueError:
  return ValueError(
    f'results cannot be written to {str(folder)!r} ({files.reason(error)}). '
    'Free disk space or permit writing, and run rag-jax evaluate with the same '
    '--workdir.'
  )
