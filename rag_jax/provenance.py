"""Provenance of results: version, command, data, packages, machine and time."""

import dataclasses
import datetime
import hashlib
import importlib.metadata
import json
import pathlib
import platform
import shlex
import subprocess
import sys
from typing import Any

import jax

import rag_jax
from rag_jax import config as configs
from rag_jax import types

PACKAGES = (
  *('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy'),
  *('bm25s', 'tokenizers', 'grain'),
)


def collect(
  config: configs.Config, dataset: types.Dataset, *, seconds: float
) -> dict[str, Any]:
  """Collects what is needed to reproduce results.

  Args:
    config: the experiment.
    dataset: its data.
    seconds: run time of the command so far.

  Returns:
    JSON-serialisable values; 'git' is None if the package is no git checkout.
  """
  devices = jax.devices()
  return {
    'version': rag_jax.__version__,
    'git': git(pathlib.Path(rag_jax.__file__).parent),
    'command': shlex.join(sys.argv),
    'seed': config.seed,
    'data': {
      'path': config.data.path,
      'sha256': data_hash(dataset),
      'documents': len(dataset.documents),
      'questions': {name: len(q) for name, q in dataset.splits.items()},
    },
    'packages': {name: _version(name) for name in PACKAGES},
    'python': platform.python_version(),
    'devices': {
      'backend': jax.default_backend(),
      'kind': devices[0].device_kind,
      'count': len(devices),
    },
    'platform': platform.platform(),
    'date': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
    'seconds': round(seconds, 1),
  }


def git(folder: pathlib.Path) -> dict[str, Any] | None:
  """The commit of a git checkout, and whether its files have changed.

  Returns:
    None if the folder is not tracked by git, such as a package installed inside
    another repository.
  """
  try:
    tracked = _git(folder, 'ls-files', '--', '.')
    if not tracked:
      return None
    changed = _git(folder, 'status', '--porcelain', '--untracked-files=no')
    return {'commit': _git(folder, 'rev-parse', 'HEAD'), 'dirty': bool(changed)}
  except (OSError, subprocess.SubprocessError):
    return None


def data_hash(dataset: types.Dataset) -> str:
  """SHA-256 of all documents and questions, in order.

  Example:
    >>> documents = (types.Document(id='a', text='A cat.'),)
    >>> data_hash(types.Dataset(documents=documents, splits={}))[:12]
    '709ed8b6d1ec'
  """
  digest = hashlib.sha256()
  for document in dataset.documents:
    line = [document.id, document.title, document.text, document.summary]
    line += [document.parent] if document.parent else []
    digest.update(json.dumps(line).encode())
  for name in sorted(dataset.splits):
    digest.update(json.dumps(name).encode())
    for q in dataset.splits[name]:
      fields: list[object] = [q.id, q.text, q.answers, q.document_ids, q.grades]
      fields += [q.answerable, *q.answer_patterns]
      fields += [dataclasses.asdict(claim) for claim in q.claims]
      digest.update(json.dumps(fields).encode())
  return digest.hexdigest()


def _git(folder: pathlib.Path, *arguments: str) -> str:
  return subprocess.run(
    ['git', '-C', str(folder), *arguments],
    capture_output=True,
    check=True,
    text=True,
    timeout=10,
  ).stdout.strip()


def _version(name: str) -> str | None:
  try:
    return importlib.metadata.version(name)
  except importlib.metadata.PackageNotFoundError:
    return None
