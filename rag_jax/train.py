"""The training loop over all stages and steps; resumes exactly."""

import contextlib
import dataclasses
import functools
import os
import pathlib
import time
from collections.abc import Callable, Iterator

import jax

from rag_jax import (
  checkpoint,
  console,
  continued,
  curriculum,
  distributed,
  evaluate,
  host_memory,
  keeper,
  lock,
  objective,
  outputs,
  parallel,
  placement,
  pretrained,
  progress,
  provenance,
  queries,
  report,
  signals,
  states,
  store,
  types,
)
from rag_jax import config as configs
from rag_jax import stage as stages
from rag_jax import step as steps
from rag_jax import system as systems
from rag_jax import workdir as workdirs
from rag_jax.components import query_encoder
from rag_jax.data import batches
from rag_jax.index import index as indexes
from rag_jax.ops import token_table
from rag_jax.page import build

LENGTH_STEP = 32  # tokens; lengths are rounded up to it, for fewer compilations


def run(
  config: configs.Config,
  workdir: str | os.PathLike[str],
  *,
  show: outputs.Show | None = None,
  init_from: str | os.PathLike[str] = '',
  continue_from: str | os.PathLike[str] = '',
) -> list[report.Result]:
  """Trains an experiment to its last step and evaluates it.

  Resumes from the last checkpoint in the workdir. Errors of configuration and
  data are raised before anything is written.

  Args:
    config: the experiment.
    workdir: folder for index, checkpoints, metrics and results.
    show: called with the results before they are written.
    init_from: workdir of a run whose weights to start from, see `starts`; the
      same as `config.init_from`.
    continue_from: workdir of a run to continue in a copy, see `continued`.

  Returns:
    The results, which are also in `workdir/results.json`; see `outputs` for the
    other files.

  Raises:
    ValueError: if configuration or data are invalid, or the results cannot be
      written; `show` has been called before the latter.
  """
  began = time.monotonic()
  configs.check(config)
  if init_from:
    config = dataclasses.replace(config, init_from=os.fspath(init_from))
  config = pretrained.complete(config)
  workdir = store.local(workdir)
  check_devices(config)
  stage_data = curriculum.load_stage_data(config)
  with distributed.first_then_others('continue'):
    if continue_from:
      continued.copy(config, continue_from, workdir)
  with lock.hold(workdir):
    with distributed.first_then_others('workdir'):
      prepared = workdirs.open(config, workdir)
    system = fit(config, prepared, workdir, stage_data=stage_data)
    found = evaluate.evaluate(
      system.on_devices(), prepared.dataset, prepared.pretrained
    )
    if first := _untrained_results(workdir):
      merged = report.merge(found.results, first)
      found = dataclasses.replace(found, results=merged)
    if show is not None and distributed.is_first():
      show(found.results)
    outputs.show_notes(found)
    made = provenance.collect(
      config, prepared.dataset, seconds=time.monotonic() - began
    )
    changes = store.changes(workdir)
    with signals.deferred():
      outputs.save(workdir, found, made | {'config_changes': changes})
    outputs.save_paths(workdir, found)
    if config.train.report and distributed.is_first():
      build.add(workdir)
    distributed.wait('end')
  return found.results


def fit(
  config: configs.Config,
  prepared: workdirs.Prepared,
  workdir: pathlib.Path,
  *,
  stage_data: dict[str, types.Dataset] | None = None,
) -> systems.System:
  """Trains from the last checkpoint, if there is one, to the last step.

  Args:
    config: the experiment.
    prepared: documents, questions and index.
    workdir: folder for checkpoints and metrics.
    stage_data: from `curriculum.load_stage_data`; None = load it.

  Returns:
    The trained system.
  """
  if stage_data is None:
    stage_data = curriculum.load_stage_data(config)
  material = curriculum.prepare(config, prepared, stage_data)
  state, notes = states.restore(config, prepared, workdir / store.CHECKPOINTS)
  start = int(state.step)
  _check_unchanged(config, workdir, start)
  nodes = prepared.index.table_rows
  files = keeper.Keeper(
    config, workdir, start, notes, prepared.fingerprints, nodes
  )
  devices = parallel.run_mesh(config.train.parallel, config.train.mesh)
  placed = dataclasses.replace(prepared, system=prepared.system.on_devices())
  if devices is not None:
    state = placement.place(state, devices)
  next_state = None
  with files, progress.Progress(config.steps, start) as shown:
    if start == 0 and config.steps:
      _measure_untrained(state, config, placed, files, workdir)
    elif not notes.get('measured', True):
      _measure(state, placed, files, start)
    for step, name, stage, place in schedule(config, start):
      if place == 0 and step:
        state = states.start_stage(state, config, stage)
      if fresh := next_state is None or place == 0:
        files.compiling()
        host_memory.release()
        shown.compiling(name)
        questions, index = material[name](state.params)
        if index is prepared.index:
          index = placed.index
        next_state = step_function(config, stage, questions, index)
        if devices is not None:
          state = placement.place(state, devices)
      state, sums = next_state(state, place)
      if fresh:
        jax.block_until_ready(sums)
        host_memory.release()
        shown.compiled(step + 1)
        files.compiled()
      ends = place + 1 == stage.steps
      loss = files.record(step + 1, name, sums, is_last=ends)
      shown.step(step + 1, examples=stage.batch_size, loss=loss)
      measured = _measure_if_due(state, config, placed, files, step + 1)
      files.step(state, step + 1, name, is_last=ends, is_measured=measured)
    if config.steps == 0:
      files.step(state, 0, '', is_last=True)
  params = placement.stored(state.params, nodes)
  identity = checkpoint.identity(config.steps, params)
  return dataclasses.replace(prepared.trained(params), checkpoint=identity)


def step_function(
  config: configs.Config,
  stage: stages.Stage,
  questions: batches.Questions,
  index: indexes.Index,
) -> Callable[[steps.State, int], tuple[steps.State, objective.Sums]]:
  """Makes the function (state, step within the stage) -> (next state, sums).

  Args:
    config: the experiment.
    stage: one of its stages.
    questions: the training questions of the stage.
    index: the corpus, with the documents that the stage reads.
  """

  @functools.cache
  def compiled(stage):
    step = functools.partial(steps.train_step, config=config, stage=stage)
    return parallel.compile_step(
      step, mode=config.train.parallel, mesh=config.train.mesh
    )

  options = {'batch_size': stage.batch_size, 'seed': config.seed}
  options['prompt'] = queries.prompt(config)
  if stage.searches:
    found = batches.train_batches(questions, **options)
    return lambda state, place: compiled(stage)(state, found[place], index)

  # Without a search, passages are known: cut padding to the longest in a batch.
  lengths = token_table.lengths(index.passages)
  reading = batches.reading_batches(questions, lengths, **options)
  most = stage.passage_tokens or index.passages.shape[1]

  def next_state(state, place):
    batch, length = reading[place]
    size = min(-(-length // LENGTH_STEP) * LENGTH_STEP, most)
    step = compiled(dataclasses.replace(stage, passage_tokens=size))
    return step(state, batch, index)

  return next_state


def schedule(
  config: configs.Config, start: int
) -> Iterator[tuple[int, str, stages.Stage, int]]:
  """Yields (step, name of stage, stage, step within it) from `start` on."""
  first = 0
  for name, stage in config.stages:
    for place in range(max(start - first, 0), stage.steps):
      yield first + place, name, stage, place
    first += stage.steps


def _measure_untrained(
  state: steps.State,
  config: configs.Config,
  prepared: workdirs.Prepared,
  files: keeper.Keeper,
  workdir: pathlib.Path,
) -> None:
  """Evaluates before the first step, and saves the results.

  It evaluates everything if `train.evaluate_every` is set; otherwise only the
  search, and that only with a published query encoder.
  """
  if config.train.evaluate_every:
    results = _measure(state, prepared, files, 0)
  elif query_encoder.make(config.query_encoder).published:
    system = prepared.trained(state.params)
    results = evaluate.measure_search(system, prepared.dataset)
  else:
    return
  report.save_results(workdir / report.UNTRAINED, results)


def _measure_if_due(
  state: steps.State,
  config: configs.Config,
  prepared: workdirs.Prepared,
  files: keeper.Keeper,
  step: int,
) -> bool:
  """Evaluates at a step if that is due; False if a signal interrupts it."""
  every = config.train.evaluate_every
  if not every or step % every:
    return True
  try:
    alone = distributed.count() == 1  # others would wait in the evaluation
    _measure(state, prepared, files, step, interruptible=alone)
    return True
  except signals.Interrupted:
    return False


def _untrained_results(workdir: pathlib.Path) -> list[report.Result]:
  """The results before training, if there are any."""
  path = workdir / report.UNTRAINED
  if not path.exists():
    return []
  try:
    return report.load_results(path)
  except ValueError as error:
    console.note(f'{error} Rows before training are left out.')
    return []


def _check_unchanged(
  config: configs.Config, workdir: pathlib.Path, start: int
) -> None:
  """Raises a ValueError if documents were added, and steps are to come."""
  if start < config.steps and (workdir / store.LIVE).exists():
    raise ValueError(
      f'workdir {str(workdir)!r} has other documents than those it is trained '
      f'on: {store.LIVE} holds them with its part of the parameters. Move this '
      'file away to train on, or set another --workdir.'
    )


def _measure(
  state: steps.State,
  prepared: workdirs.Prepared,
  files: keeper.Keeper,
  step: int,
  *,
  interruptible: bool = False,
) -> list[report.Result]:
  """Evaluates during training, without baselines, which do not change."""
  parts = prepared.dataset, prepared.pretrained
  with signals.interruptible() if interruptible else contextlib.nullcontext():
    results = evaluate.measure(
      prepared.trained(state.params), *parts, with_baselines=False
    )
  for split in dict.fromkeys(r.split for r in results):
    values = {
      f'{r.system}/{r.metric}': r.value for r in results if r.split == split
    }
    files.writer.write(step, split, values)
  files.best(state.params, step, results)
  return results


def check_devices(config: configs.Config) -> None:
  """Raises a ValueError if the devices do not divide mesh and batches."""
  train = config.train
  parallel.check_mesh(train.mesh, train.parallel)
  for name, stage in config.stages:
    if not stage.steps:
      continue
    parallel.check_batch(
      stage.batch_size,
      field=f'stages.{name}.batch_size',
      mesh=train.mesh,
      parts=train.accumulate,
    )
    if stage.weight('indexing'):
      parallel.check_batch(
        config.pseudo_queries.batch_size,
        field='pseudo_queries.batch_size',
        mesh=train.mesh,
      )
