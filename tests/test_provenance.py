"""The commit and the data hash of results."""

import dataclasses
import shutil
import subprocess

import pytest

from rag_jax import provenance
from rag_jax.data import formats

needs_git = pytest.mark.skipif(
  not shutil.which('git'), reason='git is not installed'
)


def git(folder, *arguments):
  person = ['-c', 'user.name=a', '-c', 'user.email=a@example.org']
  subprocess.run(
    ['git', '-C', str(folder), *person, *arguments],
    check=True,
    capture_output=True,
  )


def test_a_folder_outside_any_checkout_has_no_commit(tmp_path):
  assert provenance.git(tmp_path) is None
  assert provenance.git(tmp_path / 'nowhere') is None


@needs_git
def test_the_commit_is_that_of_the_package_only(tmp_path):
  package, installed = tmp_path / 'package', tmp_path / '.venv' / 'package'
  for folder in (package, installed):
    folder.mkdir(parents=True)
    (folder / 'a.py').write_text('a = 1\n')
  git(tmp_path, 'init')
  git(tmp_path, 'add', 'package')
  assert provenance.git(package) is None  # nothing is committed yet
  git(tmp_path, 'commit', '-m', 'one')
  clean = provenance.git(package)
  assert clean is not None and len(clean['commit']) == 40
  assert not clean['dirty']
  (package / 'a.py').write_text('a = 2\n')
  changed = provenance.git(package)
  assert changed == clean | {'dirty': True}
  # An untracked folder inside a repository has no commit.
  assert provenance.git(installed) is None


def test_the_data_hash_covers_documents_and_questions():
  dataset = formats.load('facts')
  small = dataclasses.replace(
    dataset,
    documents=dataset.documents[:3],
    splits={'dev': dataset.splits['train'][:3]},
  )
  first, *rest = small.splits['dev']
  documents = small.documents[::-1]
  other = {
    'notes': dataclasses.replace(small, notes=('a note',)),
    'order': dataclasses.replace(small, documents=documents),
    **{
      field: dataclasses.replace(
        small,
        splits={'dev': (dataclasses.replace(first, **{field: value}), *rest)},
      )
      for field, value in (
        ('answers', ('x',)),
        ('document_ids', ()),
        ('grades', (2,)),
        ('text', 'Why?'),
        ('answerable', False),
      )
    },
  }
  hashes = {name: provenance.data_hash(data) for name, data in other.items()}
  assert hashes.pop('notes') == provenance.data_hash(small)
  assert provenance.data_hash(small) not in hashes.values()
  assert len(set(hashes.values())) == len(hashes)
