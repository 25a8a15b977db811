import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]

# From top to bottom; a module may import from its own row or one below.
ROOMS = (
  ('train', 'evaluate', 'ask', 'survey'),
  ('curriculum', 'optimizer', 'workdir', 'report', 'huge_pages'),
  ('config',),
  ('rag', 'objective', 'parallel', 'checkpoint', 'baselines'),
  ('components', 'index'),
  ('data',),
  ('nn',),
  ('ops',),
  ('types',),
)
LEVELS = {room: level for level, row in enumerate(ROOMS) for room in row}
MODULES = sorted((ROOT / 'rag_jax').rglob('*.py'))


def imported(path):
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name.split('.') for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      for alias in node.names:
        yield [*node.module.split('.'), alias.name]


@pytest.mark.parametrize('path', MODULES, ids=lambda p: p.stem)
def test_no_import_points_upwards(path):
  room = path.relative_to(ROOT / 'rag_jax').parts[0].removesuffix('.py')
  if room == '__init__':
    return
  for name in imported(path):
    if name[0] == 'rag_jax' and len(name) > 1:
      assert LEVELS[room] <= LEVELS[name[1]], f'{room} imports {name}'


@pytest.mark.parametrize('path', (ROOT / 'rag_jax' / 'ops').glob('*.py'))
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
