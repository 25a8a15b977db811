"""A copy of a run that trains on: `continue_from`, the workdir of that run.

The copy has the files that training needs and the last checkpoint with its
optimiser state. The original is only read. The copy is made beside the new
workdir and renamed when it is whole, so that a killed process leaves no half of
a run.
"""

import json
import os
import pathlib
import shutil

from rag_jax import checkpoint, console, files, lock, report, same_data, store
from rag_jax import config as configs
from rag_jax import workdir as workdirs
from rag_jax.generation import corpus_questions

FIELD = 'continue_from'  # in config-changes.jsonl
# What is copied besides configuration and checkpoint, if it exists.
COPIED = (
  *(store.DATA, store.DOCUMENTS, store.TOKENIZER, store.READER_TOKENIZER),
  *(store.INDEX, report.UNTRAINED, report.METRICS),
  *(corpus_questions.QUESTIONS, corpus_questions.MODEL),
)


def copy(
  config: configs.Config,
  source: str | os.PathLike[str],
  workdir: str | os.PathLike[str],
) -> None:
  """Copies a run into a new workdir, with the configuration to train on with.

  The learning rate and the number of steps of stages that are not finished may
  change, and those of the last stage. It does nothing if the workdir is such a
  copy already.

  Args:
    config: the experiment of the copy.
    source: workdir of the run.
    workdir: the new workdir.

  Raises:
    ValueError: if the source has no checkpoint, other documents, questions or
      fields, or no steps to come, or if the workdir is not new. Nothing is
      written then.
  """
  source, workdir = store.local(source), store.local(workdir)
  if _is_copy(source, workdir):
    return
  step, changed = _check(config, source, workdir)
  partial = workdir.resolve().with_name(f'.{workdir.name}.continued-partial')
  try:
    shutil.rmtree(partial, ignore_errors=True)  # of a killed process
    partial.mkdir(parents=True)
    for name in COPIED:
      if (source / name).exists():
        shutil.copyfile(source / name, partial / name)
    checkpoints = f'{store.CHECKPOINTS}/{step}'
    shutil.copytree(source / checkpoints, partial / checkpoints)
    files.write(partial / store.CHANGES, changed)
    files.write(partial / store.CONFIG, configs.to_json(config))
    for name in store.LEFTOVERS:
      (workdir / name).unlink(missing_ok=True)
    os.replace(partial, workdir)
  except (OSError, shutil.Error) as error:
    shutil.rmtree(partial, ignore_errors=True)
    if isinstance(error, shutil.Error):
      error = OSError(str(error))
    raise lock.unwritable(workdir, error) from error
  console.note(
    f'workdir {str(workdir)!r} continues the run in {str(source)!r} from step '
    f'{step}.'
  )
  if (source / store.LIVE).exists():
    console.note(
      f'documents that were added to or deleted from {str(source)!r} after '
      'training are not part of the copy.'
    )


def _is_copy(source: pathlib.Path, workdir: pathlib.Path) -> bool:
  """Whether a workdir already is a copy of a run, which goes on by itself."""
  if not (workdir / store.CONFIG).exists():
    return False
  found = [own for own in store.changes(workdir) if own['field'] == FIELD]
  if found and found[-1]['now'] == str(source.resolve()):
    return True
  raise ValueError(
    f'workdir {str(workdir)!r} holds another run, which does not continue '
    f'{str(source)!r}. Set --workdir to a new folder, or leave out '
    '--continue_from.'
  )


def _check(
  config: configs.Config, source: pathlib.Path, workdir: pathlib.Path
) -> tuple[int, str]:
  """The step to continue from, and the text of config-changes.jsonl."""
  if workdir.resolve().is_relative_to(source.resolve()):
    raise ValueError(
      f'workdir {str(workdir)!r} must be outside of continue_from '
      f'{str(source)!r}, which is not written. Set --workdir to a new folder.'
    )
  store.check(workdir, config)
  try:
    store.read_config(source)
    changed = store.check(source, config, resumes=True, extends=True)
    found = checkpoint.load(source / store.CHECKPOINTS, {'params': None})
    if found is None:
      raise ValueError(
        f'workdir {str(source)!r} has no finished checkpoint. Train it first.'
      )
    same_data.check(config, workdirs.load_data(config), source)
  except ValueError as error:
    raise ValueError(f'continue_from: {error}') from error
  if found.step >= config.steps:
    name = config.stages[-1][0] if config.stages else 'STAGE'
    raise ValueError(
      f'the run in continue_from {str(source)!r} has made all its '
      f'{config.steps} steps. Set a larger --config.stages.{name}.steps.'
    )
  origin = {'field': FIELD, 'was': None, 'now': str(source.resolve())}
  lines = [*store.changes(source), {'step': found.step} | origin, *changed]
  return found.step, ''.join(json.dumps(line) + '\n' for line in lines)
