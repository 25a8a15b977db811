"""What the documentation names is there: links, commands, flags, extras."""

import pathlib
import re
import shlex
import tomllib

import pytest
from absl import flags
from ml_collections import config_flags

from rag_jax import config as configs
from rag_jax import experiment_files, sweep, usage

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / 'docs'
PAGES = sorted(DOCS.rglob('*.md'))
OF_ROOT = [ROOT / f'{x}.md' for x in ('README', 'CHANGELOG', 'CONTRIBUTING')]
# A block after such a comment needs code that its page tells how to write.
NEEDS = re.compile(r'<!-- needs [^>]*-->\n```bash\n.*?```', re.DOTALL)


def name(path):
  return str(path.relative_to(ROOT))


def prose(path):
  """A page without its code blocks."""
  text = path.read_text(encoding='utf-8')
  return re.sub(r'^```.*?^```', '', text, flags=re.DOTALL | re.MULTILINE)


def anchors(path):
  """The anchors of a page's headings, as GitHub and the site have them."""
  text = path.read_text(encoding='utf-8')
  if path.suffix == '.py':
    return set()
  headings = re.findall(r'^#+ (.*)$', text, flags=re.MULTILINE)
  plain = [re.sub(r'[^\w -]', '', x.lower()).strip() for x in headings]
  return {re.sub(r' ', '-', x) for x in plain}


@pytest.mark.parametrize('path', [*PAGES, *OF_ROOT], ids=name)
def test_links_lead_to_files_and_headings(path):
  for target in re.findall(r'\]\(([^)\s]+)\)', prose(path)):
    if re.match(r'https?:|mailto:', target):
      continue
    file, _, anchor = target.partition('#')
    found = (path.parent / file).resolve() if file else path
    assert found.exists(), target
    assert not anchor or anchor in anchors(found), target


def test_the_site_shows_every_page():
  text = (ROOT / 'mkdocs.yml').read_text(encoding='utf-8')
  shown = set(re.findall(r'[\w/-]+\.md', text.split('\nnav:\n')[1]))
  made = {'tutorial.md', 'changelog.md', 'contributing.md'}  # by docs/hooks.py
  assert shown == made | {str(p.relative_to(DOCS)) for p in PAGES}


def commands(path):
  """The commands in the bash blocks of a page, as words."""
  text = NEEDS.sub('', path.read_text(encoding='utf-8'))
  blocks = re.findall(r'```bash\n(.*?)```', text, flags=re.DOTALL)
  for line in '\n'.join(blocks).replace('\\\n', ' ').splitlines():
    for part in line.split(' && '):
      words = shlex.split(part, comments=True)
      while words and re.match(r'[A-Z_]+=', words[0]):  # of the environment
        words = words[1:]
      if words:
        yield [words[0].removeprefix('.venv/bin/'), *words[1:]]


EVERY = [
  (path, words) for path in [*PAGES, *OF_ROOT] for words in commands(path)
]
RAG_JAX = [words[1:] for _, words in EVERY if words[0] == 'rag-jax']


@pytest.mark.parametrize('words', RAG_JAX, ids=' '.join)
def test_a_command_is_one_and_its_experiment_builds(words):
  command, *arguments = words
  assert command in usage.COMMANDS
  plain = [word for word in arguments if not word.startswith('--')]
  given = [w.removeprefix('--') for w in arguments if w.startswith('--')]
  most = {'compare': 2, 'report': 2, 'corpus': 1}.get(command, 0)
  least = {'compare': 2, 'report': 1, 'corpus': 1}.get(command, 0)
  assert least <= len(plain) <= most
  fields = [word for word in given if word.startswith('config.')]
  text = usage.show()
  for own in set(given) - set(fields):
    assert re.search(rf'^  --{own.partition("=")[0]}\b', text, re.M), own
  for own in fields:
    configs.check_field(own.partition('=')[0].removeprefix('config.'))
  named = dict(word.partition('=')[::2] for word in given)
  values = experiment_files.load(named.get('config', 'quickstart'))
  argv = ['rag-jax', *(f'--{own}' for own in fields)]
  parsed = flags.FlagValues()
  config_flags.DEFINE_config_dict(
    'config', values, flag_values=parsed, sys_argv=argv
  )
  parsed(argv)
  untrained = named.get('config', '').startswith('zero_shot')
  assert bool(configs.build(values).steps) != untrained
  grid = [own.removeprefix('grid=') for own in given if own[:5] == 'grid=']
  assert (command == 'sweep') == bool(grid)
  assert not grid or len(list(sweep.expand(grid))) > 1


def test_other_commands_are_known():
  known = {'rag-jax', 'pip', 'python3', 'python', 'source', 'tensorboard'}
  known |= {'ir_measures', 'mkdocs', 'mypy', 'ruff'}
  assert {words[0] for _, words in EVERY} <= known
  for _, words in EVERY:
    if words[0] == 'python' and words[1] not in ('-m', '-c'):
      assert (ROOT / words[1]).exists(), words


def test_extras_that_pages_install_exist():
  project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
  for path in [*PAGES, *OF_ROOT]:
    text = path.read_text(encoding='utf-8')
    for extras in re.findall(r"pip install (?:-\w )*'?\.\[([\w,]+)\]", text):
      unknown = set(extras.split(',')) - set(project['optional-dependencies'])
      assert not unknown, path
