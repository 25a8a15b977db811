"""The help text of the fields of an experiment, for `--help`.

The help of a field is the comment at its dataclass field in the source.
"""

import dataclasses
import inspect
import re
import textwrap
from collections.abc import Iterator

from rag_jax import composition, parallel, readers
from rag_jax import config as configs
from rag_jax import stage as stages
from rag_jax.components import id_decoder, ranker
from rag_jax.index import docids

STAGE = 'stages.NAME'
CHOICES = {
  'docid.scheme': docids.SCHEMES,
  'id_decoder.output': id_decoder.OUTPUTS,
  'ranker.operator': tuple(ranker.OPERATORS),
  'reader.kind': tuple(readers.KINDS),
  'train.parallel': parallel.MODES,
  f'{STAGE}.candidates': tuple(stages.CANDIDATES),
  f'{STAGE}.losses': composition.LOSSES,
  f'{STAGE}.trains': stages.COMPONENTS,
  f'{STAGE}.estimator': tuple(stages.ESTIMATORS),
  f'{STAGE}.cost': stages.COSTS,
}
_FIELD = re.compile(r'^  (\w+): [^#\n]*?(?:  # (.*))?$', re.MULTILINE)
_ABOVE = re.compile(r'((?:^  # .*\n)+)\Z', re.MULTILINE)


def fields() -> Iterator[tuple[str, str, str]]:
  """Yields dotted name, default as Python text, and meaning of every field.

  Example:
    >>> {name: meaning for name, _, meaning in fields()}['search.read_size']
    'number of documents that the reader reads'
  """
  yield from _of_class(configs.Config, '')
  yield from _of_class(stages.Stage, f'{STAGE}.')


def show(group: str = '') -> str:
  """The fields as flags, by group, in 80 columns.

  Args:
    group: a group such as 'reader' or 'stages'; '' = all.
  """
  lines, last = [], None
  for name, default, meaning in fields():
    parent = name.rpartition('.')[0]
    if group and parent.partition('.')[0] != group:
      continue
    if parent != last:
      lines += ['', parent or 'experiment']
      last = parent
    lines.append(f'  --config.{name}{default}')
    choices = CHOICES.get(name)
    text = meaning + (f'; one of: {", ".join(choices)}' if choices else '')
    lines += textwrap.wrap(text, 79, initial_indent=_IN, subsequent_indent=_IN)
  return '\n'.join(lines[1:])


def _of_class(cls: type, prefix: str) -> Iterator[tuple[str, str, str]]:
  comments = _comments(cls)
  class_fields = dataclasses.fields(cls)
  for field in class_fields:
    if field.name != 'stages' and not dataclasses.is_dataclass(field.default):
      name = prefix + field.name
      yield name, _shown(field.name, field.default), comments[field.name]
  for field in class_fields:
    if dataclasses.is_dataclass(field.default):
      yield from _of_class(type(field.default), f'{prefix}{field.name}.')


def _comments(cls: type) -> dict[str, str]:
  """Field -> its comment in the source, on the same line or above."""
  source = inspect.getsource(cls)
  found = {}
  for match in _FIELD.finditer(source):
    above = _ABOVE.search(source[: match.start()])
    lines = re.findall('^  # (.*)$', above[1], re.MULTILINE) if above else []
    found[match[1]] = match[2] or ' '.join(lines)
  return found


def _shown(name: str, default: object) -> str:
  """The text after the name of a field: '=' and its default."""
  return {'losses': '.LOSS=0.0', 'trains': '.COMPONENT=1.0'}.get(
    name, f'={default!r}'
  )


_IN = ' ' * 6
