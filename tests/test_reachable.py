"""Every public function of ops, components and readers is used.

Static reachability: from the modules that commands and users call, along the
references between functions in the source. Files and functions stay short.
"""

import ast
import functools
import pathlib

ROOT = pathlib.Path(__file__).parents[1]
STARTS = ('train', 'evaluate', 'ask', 'compare_docids', 'loading', 'system')
STARTS += ('plan', 'offline.run')
# Public for other code only, and documented as such.
OWN_CODE = {
  # Measures of retrieval that the results tables do not have.
  ('ops.metrics', 'precision'),
  ('ops.metrics', 'dcg'),
  # The chance of a set of documents, for estimators of one's own.
  ('ops.estimators', 'set_chance'),
  # Beam search with the output vocabulary of a model.
  ('nn.t5', 'search_step'),
}


@functools.cache
def sources():
  """Module name in the package -> its syntax tree."""
  found = {}
  for path in sorted((ROOT / 'rag_jax').rglob('*.py')):
    name = '.'.join(path.relative_to(ROOT / 'rag_jax').with_suffix('').parts)
    found[name.removesuffix('.__init__')] = ast.parse(path.read_text())
  return found


def aliases(tree):
  """Local name -> module of the package."""
  found = {}
  for node in ast.walk(tree):
    if isinstance(node, ast.ImportFrom) and node.module.startswith('rag_jax'):
      base = node.module.removeprefix('rag_jax').lstrip('.')
      for alias in node.names:
        name = f'{base}.{alias.name}' if base else alias.name
        found[alias.asname or alias.name] = name
  return found


def definitions(tree):
  """Name -> node of each definition of a module; '' = all other code."""
  named = (ast.FunctionDef, ast.ClassDef)
  found = {node.name: node for node in tree.body if isinstance(node, named)}
  rest = [node for node in tree.body if not isinstance(node, named)]
  return found | {'': ast.Module(rest, [])}


def references(module, node):
  """Yields (module, name) for each reference in a node."""
  known = aliases(sources()[module])
  for part in ast.walk(node):
    if isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name):
      target = known.get(part.value.id)
      if target in sources():
        yield target, part.attr
    elif isinstance(part, ast.Name):
      yield module, part.id
      target = known.get(part.id, '')
      owner, _, name = target.rpartition('.')
      if owner in sources() and target not in sources():
        yield owner, name


def reached():
  """(module, name) of all definitions reachable from `STARTS`."""
  everything = {
    (module, name): node
    for module, tree in sources().items()
    for name, node in definitions(tree).items()
  }
  todo = [key for key in everything if key[0] in STARTS]
  seen = set(todo)
  while todo:
    module, name = todo.pop()
    found = set(references(module, everything[module, name]))
    # A reference to a module runs its top-level code.
    found |= {(other, '') for other, _ in found}
    for key in found:
      if key in everything and key not in seen:
        seen.add(key)
        todo.append(key)
  return seen


def test_every_public_function_is_reachable():
  seen = reached()
  lost = [
    (module, name)
    for module, tree in sources().items()
    if module.split('.')[0] in ('ops', 'components', 'readers')
    for name, node in definitions(tree).items()
    if isinstance(node, ast.FunctionDef) and not name.startswith('_')
    if (module, name) not in seen | OWN_CODE
  ]
  assert not lost


def test_an_unreferenced_function_is_not_reachable():
  assert ('ops.estimators', 'leave_one_out') in reached()
  assert ('nn.t5', 'search_step') not in reached()


def test_files_and_functions_stay_short():
  for path in (ROOT / 'rag_jax').rglob('*.py'):
    lines = path.read_text().splitlines()
    assert len(lines) <= 400, path
    for node in ast.walk(ast.parse('\n'.join(lines))):
      if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        body = node.body
        text = isinstance(body[0], ast.Expr) and isinstance(
          getattr(body[0], 'value', None), ast.Constant
        )
        start = body[0].end_lineno if text else node.lineno
        assert node.end_lineno - start <= 60, (path.name, node.name)
