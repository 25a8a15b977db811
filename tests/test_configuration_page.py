"""docs/configuration.md lists exactly the fields, with their defaults."""

import dataclasses
import pathlib
import re
import runpy
import shlex

import pytest

from rag_jax import config as configs
from rag_jax import stage as stages

ROOT = pathlib.Path(__file__).parents[1]
PAGE = (ROOT / 'docs' / 'configuration.md').read_text(encoding='utf-8')
METHODS = (ROOT / 'docs' / 'methods.md').read_text(encoding='utf-8')


def rows(heading):
  """Field -> the other cells of its row in a table."""
  lines = PAGE.split(f'| {heading} |', 1)[1].split('\n\n')[0].splitlines()
  cells = [[c.strip() for c in x.strip('|').split('|')] for x in lines[2:]]
  return {field.strip('`'): rest for field, *rest in cells}


FIELDS, OF_STAGES = rows('field'), rows('field of `stages.NAME`')


def fields(cls, prefix=''):
  """Yields every field of nested dataclasses, with its default."""
  for field in dataclasses.fields(cls):
    if dataclasses.is_dataclass(field.default):
      yield from fields(type(field.default), f'{prefix}{field.name}.')
    elif (cls, field.name) != (configs.Config, 'stages'):
      yield prefix + field.name, field.default


def shown(name, default):
  if name == 'losses':
    return 'none' if default == () else repr(default)
  if name == 'trains':
    names = ' '.join(f'`{component}`' for component, _ in default)
    return f'{names}: ' + ', '.join(sorted({f'`{x}`' for _, x in default}))
  return f'`{default!r}`'


def value(config, field):
  for name in field.split('.'):
    config = getattr(config, name)
  return config


@pytest.mark.parametrize(
  'cls, table', [(configs.Config, FIELDS), (stages.Stage, OF_STAGES)]
)
def test_the_page_lists_every_field_with_its_default(cls, table):
  expected = {name: shown(name, own) for name, own in fields(cls)}
  assert {name: cells[0] for name, cells in table.items()} == expected
  assert all(meaning for _, meaning, _ in table.values())


def settings(monkeypatch):
  """Experiments: name -> configuration; methods: name -> flags."""
  monkeypatch.syspath_prepend(str(ROOT))  # experiments import each other
  found = {}
  for path in (ROOT / 'experiments').glob('*.py'):
    get_config = runpy.run_path(str(path)).get('get_config')
    if get_config is not None:
      found[path.stem] = configs.build(get_config())
  methods = {}
  for block in re.findall(r'```bash\n(.*?)```', METHODS, flags=re.DOTALL):
    for line in block.replace('\\\n', ' ').splitlines():
      flags = dict(x.partition('=')[::2] for x in shlex.split(line))
      if '--workdir' in flags:
        methods[pathlib.Path(flags['--workdir']).name] = flags
  return found, methods


def test_the_column_set_by_is_correct(monkeypatch):
  experiments, methods = settings(monkeypatch)
  default, stage = configs.Config(), stages.Stage()

  def sets(name, field, of_stage):
    if name in methods:
      place = r'stages\.\w+\.' if of_stage else ''
      flag = rf'--config\.{place}{re.escape(field)}(\.\w+)?'
      if any(re.fullmatch(flag, own) for own in methods[name]):
        return True
    if name not in experiments:
      return False
    own = experiments[name]
    if of_stage:
      start = getattr(stage, field)
      return any(getattr(each, field) != start for _, each in own.stages)
    return value(own, field) != value(default, field)

  wrong = [
    (field, name)
    for of_stage, table in ((False, FIELDS), (True, OF_STAGES))
    for field, (_, _, names) in table.items()
    for name in filter(None, names.split(', '))
    if not sets(name, field, of_stage)
  ]
  assert wrong == []
