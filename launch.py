"""Runs an experiment: python launch.py [--config=experiments/x.py] [flags].

Without flags it trains the quickstart on the embedded facts. Any field of the
experiment is a flag: --config.search.beam_size=8.
"""

import pathlib
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from rag_jax import huge_pages

QUICKSTART = pathlib.Path(__file__).parent / 'experiments' / 'quickstart.py'

_CONFIG = config_flags.DEFINE_config_file(
  'config',
  None,
  'The experiment; change a field with --config.field=value. '
  'Default: experiments/quickstart.py.',
)
_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Where everything is kept. Default: runs/NAME.'
)
_MODE = flags.DEFINE_enum(
  'mode',
  'train',
  ['train', 'evaluate', 'ask', 'index'],
  'train (resumes by itself), evaluate a workdir, ask it questions, or compare '
  'the docid schemes on the corpus, untrained.',
)
_QUESTION = flags.DEFINE_string(
  'question', None, 'The question for --mode=ask. Default: standard input.'
)


def parse_flags(argv: list[str]) -> list[str]:
  """Parses flags; a mistake in them is one line, not a traceback."""
  from rag_jax import config as configs

  names = [a.partition('=')[0].lstrip('-') for a in argv[1:] if a[:1] == '-']
  if 'config' not in names:
    argv = [argv[0], f'--config={QUICKSTART}', *argv[1:]]
  try:
    for name in names:
      if name.startswith('config.'):
        configs.check_field(name.removeprefix('config.'))
    rest = flags.FLAGS(argv)
  except (flags.Error, ValueError) as error:
    sys.exit(f'error: {error}')
  except KeyError as error:  # all other names have been checked
    hint = str(error.args[0]).replace('\n', '. ').rstrip('?.')
    sys.exit(
      f'error: the experiment has no stage {hint}. '
      'Set --config.stages.NAME of one that it has.'
    )
  path = config_flags.get_config_filename(flags.FLAGS['config']).split(':')[0]
  if not pathlib.Path(path).is_file():
    sys.exit(
      f'error: --config {path!r} does not exist. '
      'Set it to an experiment, such as experiments/quickstart.py.'
    )
  return rest


def main(argv: list[str]) -> None:
  """Turns flags into one call."""
  if len(argv) > 1:
    sys.exit(f'error: unknown argument {argv[1]!r}. Flags start with --.')
  from rag_jax import config as configs

  logging.set_verbosity(logging.WARNING)  # Orbax tells of every save
  try:
    config = configs.build(_CONFIG.value)
    name = config.name + ('-docids' if _MODE.value == 'index' else '')
    workdir = pathlib.Path(_WORKDIR.value or f'runs/{name}').resolve()
    run(config, workdir)
  except ValueError as error:
    sys.exit(f'error: {error}')


def run(config, workdir: pathlib.Path) -> None:
  """Does what --mode says."""
  from rag_jax import report

  if _MODE.value == 'index':
    from rag_jax import compare_docids

    print(compare_docids.run(config, workdir))
    return
  if _MODE.value == 'train':
    from rag_jax import train

    results = train.run(config, workdir)
    print(report.table(results))
    print(f'\nresults: {workdir / "results.json"}')
    return
  from rag_jax import ask, evaluate, loading, store
  from rag_jax import workdir as workdirs

  store.check_trained(workdir)
  store.claim(workdir, config)  # the same experiment, or an error
  system = loading.load(workdir).with_config(config)
  if _MODE.value == 'evaluate':
    data = workdirs.open(config, workdir)
    results = evaluate.measure(system, data.dataset, data.pretrained)
    report.save_results(workdir / 'results.json', results)
    print(report.table(results))
    return
  questions = [_QUESTION.value] if _QUESTION.value else sys.stdin
  for text in ask.texts(system, questions):
    print(text, end='\n\n', flush=True)


if __name__ == '__main__':
  huge_pages.use()
  app.run(main, flags_parser=parse_flags)
