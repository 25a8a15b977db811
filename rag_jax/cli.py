"""The command line: `rag-jax COMMAND [flags]`, or `python launch.py [flags]`.

This module turns flags into a configuration and one call. No other module
reads flags.
"""

import contextlib
import os
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

from absl import app, flags, logging
from ml_collections import config_flags

from rag_jax import usage

QUICKSTART = 'quickstart'

_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Folder of the run. Default: runs/NAME.'
)
_MODE = flags.DEFINE_enum(
  'mode',
  'train',
  [*usage.COMMANDS, *usage.ALIASES],
  'The command, given as a flag.',
)
_QUESTION = flags.DEFINE_string(
  'question', None, 'ask: one question. Default: standard input.'
)
_JSON = flags.DEFINE_bool('json', False, 'ask: print answers as lines of JSON.')
_GRID = flags.DEFINE_multi_string(
  'grid', [], 'sweep: FIELD=VALUE,VALUE; repeat for more fields.'
)
_INIT_FROM = flags.DEFINE_string(
  'init_from', None, 'train: workdir of a run whose weights to start from.'
)
_CONTINUE_FROM = flags.DEFINE_string(
  'continue_from', None, 'train: workdir of a run to continue in a copy.'
)
_SHARD = flags.DEFINE_string(
  'shard', '0/1', 'corpus: this process of a job array, NUMBER/COUNT from 0.'
)
_BLOCK = flags.DEFINE_integer(
  'block', 0, 'corpus: documents of a block; 0 = 16384, or as before.'
)
_DOCUMENTS = flags.DEFINE_integer('documents', 0, 'plan: number of documents.')
_TOKENS = flags.DEFINE_integer('tokens', 0, 'plan: tokens of a document.')
_WORDS = flags.DEFINE_integer('words', -1, 'plan: different words of one.')
_DEVICES = flags.DEFINE_integer('devices', 0, 'plan: number of devices.')
_DEVICE_MEMORY = flags.DEFINE_float('device_memory', 0, 'plan: GiB of one.')
_HOST_MEMORY = flags.DEFINE_float('host_memory', 0, 'plan: GiB of the host.')
_TO = flags.DEFINE_string(
  'to', None, 'export: folder to write to. report: file to write.'
)
_BEST = flags.DEFINE_bool(
  'best', False, 'ask, evaluate, export: the parameters of train.keep_best.'
)
_DISTRIBUTED = flags.DEFINE_bool(
  'distributed', None, 'train, evaluate: join others of the same command.'
)
_COORDINATOR = flags.DEFINE_string(
  'coordinator', '', 'With --distributed: HOST:PORT of the first process.'
)
_NUM_PROCESSES = flags.DEFINE_integer(
  'num_processes', 0, 'With --distributed: number of processes.'
)
_PROCESS_ID = flags.DEFINE_integer(
  'process_id', -1, 'With --distributed: number of this process, from 0.'
)


def main() -> None:
  """Runs the command of `sys.argv`; the entry point of `rag-jax`."""
  from rag_jax import host_memory, signals

  host_memory.use_huge_pages()
  signals.install()
  with _one_line_errors():
    app.run(_run, flags_parser=_parse)


def _parse(argv: list[str]) -> list[str]:
  """Parses flags; loads the experiment and defines its `--config` flags."""
  if len(argv) > 1 and argv[1] in (*usage.COMMANDS, *usage.ALIASES):
    argv = [argv[0], f'--mode={argv[1]}', *argv[2:]]
  if {'-h', '--help', '-help', 'help'} & set(argv[1:]):
    print(usage.show())
    sys.exit()
  from rag_jax import config as configs
  from rag_jax import experiment_files

  argv, name = _take(argv, 'config')
  try:
    for argument in argv[1:]:
      field = argument.lstrip('-').partition('=')[0]
      if argument[0] == '-' and field.startswith('config.'):
        configs.check_field(field.removeprefix('config.'))
    workdir = _take(argv, 'workdir')[1] or f'runs/{configs.Config().name}'
    source = _take(argv, 'continue_from')[1]
    if not name and (pathlib.Path(workdir) / 'config.json').exists():
      values = experiment_files.saved(workdir)
    elif not name and source:
      values = experiment_files.saved(source)
    else:
      values = experiment_files.load(name or QUICKSTART)
    config_flags.DEFINE_config_dict('config', values, sys_argv=argv)
    return flags.FLAGS(argv)
  except (flags.Error, ValueError) as error:
    sys.exit(f'error: {error}')
  except KeyError as error:  # only names of stages are not checked above
    hint = str(error.args[0]).replace('\n', '. ').rstrip('?.')
    sys.exit(
      f'error: the experiment has no stage {hint}. '
      'Set --config.stages.NAME of one that it has.'
    )


def _take(argv: list[str], name: str) -> tuple[list[str], str]:
  """The arguments without a flag, and the flag's last value."""
  rest, value, words = argv[:1], '', iter(argv[1:])
  for word in words:
    flag, equals, text = word.lstrip('-').partition('=')
    if word[:1] == '-' and flag == name:
      value = text if equals else next(words, '')
    else:
      rest.append(word)
  return rest, value


@contextlib.contextmanager
def _one_line_errors() -> Iterator[None]:
  """Turns errors and signals into one line and an exit code."""
  from rag_jax import distributed, files, signals

  try:
    with distributed.ending_together():
      yield
  except ValueError as error:
    sys.exit(f'error: {error}')
  except signals.Stopped as error:
    sys.stdout.flush()
    print(error, file=sys.stderr, flush=True)
    os._exit(error.code)  # without waiting for threads: all files are closed
  except BrokenPipeError:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(0)
  except OSError as error:
    name = f'{error.filename!r} cannot be used' if error.filename else 'failed'
    sys.exit(
      f'error: {name} ({files.reason(error)}). Free disk space, permit access, '
      'or use another path.'
    )


def _run(argv: list[str]) -> None:
  """Runs the command that the flags name."""
  mode = usage.ALIASES.get(_MODE.value, _MODE.value)
  if len(argv) > 1 and mode not in ('compare', 'report', 'corpus'):
    sys.exit(
      f'error: unknown argument {argv[1]!r}. Flags start with --; commands '
      f'are {", ".join(usage.COMMANDS)}.'
    )
  logging.set_verbosity(logging.WARNING)  # Orbax logs every save
  _join(mode)
  _use_compilation_cache()
  _command(mode, argv[1:])


def _join(mode: str) -> None:
  """Joins other processes by --distributed; refuses tasks that do not."""
  from rag_jax import distributed

  flag = _DISTRIBUTED.value
  if flag and mode not in ('train', 'evaluate'):
    sys.exit(f'error: {mode} runs in one process. Leave out --distributed.')
  if flag:
    distributed.watch()
    distributed.start(
      coordinator=_COORDINATOR.value,
      num_processes=_NUM_PROCESSES.value,
      process_id=_PROCESS_ID.value,
    )
  elif _COORDINATOR.value or _NUM_PROCESSES.value or _PROCESS_ID.value >= 0:
    sys.exit(
      'error: --coordinator, --num_processes and --process_id join processes, '
      'got no --distributed. Set --distributed.'
    )
  elif flag is None and mode in ('train', 'sweep', 'evaluate'):
    distributed.check_alone()


def _use_compilation_cache() -> None:
  """Caches compiled programs in the user's cache folder across runs."""
  import jax

  if getattr(jax.config, 'jax_compilation_cache_dir', None):
    return
  base = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
  folder = pathlib.Path(base).expanduser() / 'rag_jax' / 'compiled'
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError:  # run without a cache
    return
  jax.config.update('jax_compilation_cache_dir', str(folder))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.2)


def _command(mode: str, arguments: list[str]) -> None:
  from rag_jax import config as configs

  if mode == 'compare':
    from rag_jax import compare, report

    color = report.wants_color(sys.stdout)
    print(compare.compare(arguments, color=color))
    return
  if mode == 'report':
    from rag_jax.page import build

    given = [_WORKDIR.value] if _WORKDIR.value else []
    print(f'page: {_shown(build.write([*given, *arguments], _TO.value))}')
    return
  from rag_jax import signals, store

  if mode in ('train', 'sweep'):
    signals.set_hint('run the same command to resume')
  store.local(_WORKDIR.value or '')
  _set_start(mode)
  config = configs.build(flags.FLAGS['config'].value)
  name = config.name + ('-docids' if mode == 'compare-docids' else '')
  workdir = pathlib.Path(_WORKDIR.value or f'runs/{name}').resolve()
  if mode == 'train':
    _train(config, workdir)
  elif mode == 'plan':
    _plan(config)
  elif mode == 'compare-docids':
    from rag_jax import compare_docids

    print(compare_docids.run(config, workdir))
  elif mode == 'corpus':
    from rag_jax.offline import run

    print(run.step(config, workdir, arguments, _SHARD.value, _BLOCK.value))
  elif mode == 'sweep':
    from rag_jax import sweep

    print(sweep.run(flags.FLAGS['config'].value, _GRID.value, workdir))
  else:
    _use(mode, config, workdir)


def _set_start(mode: str) -> None:
  """Sets `config.init_from` by its flag; checks the commands of both flags."""
  if _INIT_FROM.value and mode not in ('train', 'sweep', 'compare-docids'):
    sys.exit(f'error: {mode} has no --init_from. Leave out this flag.')
  if _CONTINUE_FROM.value and mode != 'train':
    sys.exit(f'error: {mode} has no --continue_from. Leave out this flag.')
  if _INIT_FROM.value:
    values: Any = flags.FLAGS['config'].value
    values['init_from'] = str(pathlib.Path(_INIT_FROM.value).resolve())


def _train(config, workdir: pathlib.Path) -> None:
  from rag_jax import distributed, report, train

  train.run(
    config,
    workdir,
    show=report.show,
    continue_from=_CONTINUE_FROM.value or '',
  )
  if not distributed.is_first():
    return
  print(f'\nresults: {workdir / "results.json"}')
  _print_page(workdir)


def _plan(config) -> None:
  import jax

  from rag_jax import plan

  size = plan.size_of(
    config,
    _DOCUMENTS.value,
    tokens=_TOKENS.value,
    words=_WORDS.value,
    devices=_DEVICES.value or jax.device_count(),
    device_memory=_DEVICE_MEMORY.value,
    host_memory=_HOST_MEMORY.value,
  )
  print(plan.show(config, size))


def _use(mode: str, config, workdir: pathlib.Path) -> None:
  """Runs a command that needs a trained workdir."""
  from rag_jax import pretrained, store

  config = pretrained.filled(config, workdir)
  store.check_use(workdir, config)  # raises an error for another experiment
  if mode == 'export' and not _TO.value:
    sys.exit('error: export needs a folder. Set --to=FOLDER.')
  print(f'loading {_shown(workdir)} ...', file=sys.stderr, flush=True)
  from rag_jax import loading

  own = {'vector_type': config.search.vector_type, 'mesh': config.train.mesh}
  system = loading.load(workdir, best=_BEST.value, **own)
  system = system.with_config(config)
  if mode == 'ask':
    from rag_jax import ask, console

    if system.certificate is not None:
      console.note(system.certificate.show())
    ask.loop(system, _QUESTION.value, as_json=_JSON.value)
  elif mode == 'export':
    from rag_jax import export

    print(export.export(system, _TO.value or ''))
  else:
    _evaluate(system, workdir)


def _evaluate(system, workdir: pathlib.Path) -> None:
  from rag_jax import distributed, outputs
  from rag_jax import workdir as workdirs
  from rag_jax.page import build

  data = workdirs.open(system.config, workdir, writes=False)
  folder = outputs.run_evaluation(system, data, workdir)
  if not distributed.is_first():
    return
  print(f'\nresults: {folder / "results.json"}')
  if system.config.train.report:
    build.add(folder)
  _print_page(folder)


def _print_page(folder: pathlib.Path) -> None:
  from rag_jax.page import build

  if (folder / build.FILE).exists():
    print(f'page: {folder / build.FILE}')


def _shown(path: pathlib.Path) -> str:
  """The shorter of the absolute path and that relative to this folder."""
  return min(str(path), os.path.relpath(path), key=len)
