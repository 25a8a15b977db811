"""The list of modules in CONTRIBUTING.md, and the imports between them."""

import ast
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / 'rag_jax'
MODULES = sorted(PACKAGE.rglob('*.py'))


def listed_modules():
  """Names below rag_jax/ in CONTRIBUTING.md, from top to bottom."""
  text = (ROOT / 'CONTRIBUTING.md').read_text()
  block = text.split('```')[1].split('rag_jax/\n')[1].split('\ntests/')[0]
  return re.findall(r'^  (\w+)(?:\.py|/) ', block, flags=re.MULTILINE)


LISTED = listed_modules()
UNLISTED = {'__init__', '__main__'}


def imported(path):
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name.split('.') for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      for alias in node.names:
        yield [*node.module.split('.'), alias.name]


def top_level(path):
  """The module or folder directly below rag_jax/."""
  return path.relative_to(PACKAGE).parts[0].removesuffix('.py')


def test_every_module_is_listed_once():
  found = {top_level(path) for path in MODULES} - UNLISTED
  assert sorted(LISTED) == sorted(found)


@pytest.mark.parametrize(
  'path', MODULES, ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_a_module_imports_only_modules_below_it(path):
  own = top_level(path)
  if own in UNLISTED:
    return
  for name in imported(path):
    if name[0] == 'rag_jax' and len(name) > 1:
      assert LISTED.index(own) <= LISTED.index(name[1]), f'{own}: {name}'


def test_imports_have_no_cycle():
  files = {
    '.'.join(path.relative_to(ROOT).with_suffix('').parts): path
    for path in MODULES
  }
  needs = {}
  for name, path in files.items():
    found = {'.'.join(parts) for parts in imported(path)}
    package = f'{name}.__init__'
    needs[name] = {
      other if other in files else f'{other}.__init__' for other in found
    } & files.keys() - {name, package}
  while needs:  # repeatedly remove modules without remaining imports
    free = [name for name, own in needs.items() if not own & needs.keys()]
    assert free, f'cycle: {sorted(needs)}'
    needs = {name: own for name, own in needs.items() if name not in free}


@pytest.mark.parametrize('path', (PACKAGE / 'ops').glob('*.py'))
def test_operators_need_no_flax_modules(path):
  heavy = {'linen', 'nnx', 'os', 'pathlib', 'tensorflow_datasets'}
  assert not [name for name in imported(path) if heavy & set(name)]


@pytest.mark.parametrize('module', ['rag_jax', 'rag_jax.ops'])
def test_import_is_light(module):
  code = (
    f'import sys, {module}; '
    'print([m for m in ("tensorflow", "torch", "tensorflow_datasets", "grain")'
    ' if m in sys.modules])'
  )
  output = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT
  )
  assert output.stdout.strip() == '[]', output.stderr


def test_no_import_starts_the_devices():
  """They must not run yet when `distributed.start` joins processes."""
  code = (
    'import importlib, pkgutil, rag_jax\n'
    'for module in pkgutil.walk_packages(rag_jax.__path__, "rag_jax."):\n'
    '  if not module.name.endswith("__main__"):\n'
    '    importlib.import_module(module.name)\n'
    'from jax._src import xla_bridge\n'
    'print(xla_bridge.backends_are_initialized())'
  )
  output = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT
  )
  assert output.stdout.strip() == 'False', output.stderr


def test_only_the_command_line_imports_flags():
  for path in MODULES:
    if path.name == 'cli.py':
      continue
    assert not any('absl' in name for name in imported(path)), path
