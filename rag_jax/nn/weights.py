"""Published weights: reads, checks and writes the files of pretrained models.

`resolve` locates a file. `read` and `write` convert between safetensors and
NumPy arrays. `t5_config` reads the config.json of a T5; so do `encoders` and
`llama_config` for other models.
"""

import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
from safetensors import numpy as safetensors_numpy

from rag_jax import files
from rag_jax.nn import published, t5

Path = str | os.PathLike[str]
_NAMED = 3  # maximum number of tensor names in an error, per kind

REMEDY = 'Download it again, with all its shards if it has any.'
resolve = published.resolve


def read(path: Path) -> dict[str, np.ndarray]:
  """Reads safetensors; half precision becomes float32.

  Args:
    path: a .safetensors file, the .index.json of its shards, or a folder that
      holds model.safetensors or its index.

  Returns:
    name -> array.

  Raises:
    ValueError: if a file is missing or damaged.
  """
  path = pathlib.Path(path)
  if path.is_dir():
    whole = path / 'model.safetensors'
    path = whole if whole.exists() else path / published.INDEX
  if path.name.endswith('.index.json'):
    state: dict[str, np.ndarray] = {}
    for shard, names in _shards(path).items():
      part = _read_file(path.parent / shard)
      if absent := [name for name in names if name not in part]:
        raise ValueError(
          f'{shard!r} must hold the {len(names)} tensors that {str(path)!r} '
          f'lists, got it without {len(absent)} ({absent[0]}; ...). Download '
          'both again.'
        )
      state |= part
    return state
  return _read_file(path)


def _shards(index: pathlib.Path) -> dict[str, list[str]]:
  """Shard -> names of its tensors."""
  places = published.read_json(index, REMEDY).get('weight_map')
  if not isinstance(places, dict) or not places:
    raise ValueError(
      f'{str(index)!r} must hold weight_map, the shard of each tensor, got '
      f'{repr(places)[:60]}. {REMEDY}'
    )
  shards: dict[str, list[str]] = {}
  for name, shard in places.items():
    if not isinstance(shard, str) or pathlib.PurePath(shard).name != shard:
      raise ValueError(
        f'weight_map in {str(index)!r} must name files in the same folder, got '
        f'{repr(shard)[:60]} for {name!r}. {REMEDY}'
      )
    shards.setdefault(shard, []).append(name)
  return shards


def _read_file(path: pathlib.Path) -> dict[str, np.ndarray]:
  half = (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))
  try:
    state = safetensors_numpy.load_file(path)
  except Exception as error:  # of several types where NumPy lacks a dtype
    if isinstance(error, OSError) or not (dtypes := _dtypes(path)):
      raise published.unreadable(path, error, REMEDY) from error
    raise ValueError(
      f'file {str(path)!r} must hold tensors of a dtype that NumPy has, got '
      f'{", ".join(dtypes)}. Give these weights in float32, bfloat16 or '
      'float16.'
    ) from error
  return {
    name: array.astype(np.float32) if array.dtype in half else array
    for name, array in state.items()
  }


def _dtypes(path: pathlib.Path) -> list[str]:
  """The dtypes in a safetensors file; none if its header is damaged."""
  try:
    with safetensors.safe_open(path, 'np') as file:
      names = file.keys()
      return sorted({file.get_slice(name).get_dtype() for name in names})
  except safetensors.SafetensorError:
    return []


def write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
  """Writes a safetensors file atomically.

  Args:
    path: the file; it must not exist.
    arrays: name -> array, as from `to_state_dict`.

  Raises:
    ValueError: if the file exists.
  """
  path = pathlib.Path(path)
  if path.exists():
    raise ValueError(
      f'weights file must be a new one, got {str(path)!r}, which exists. '
      'Give another path, or delete the file.'
    )
  # `safetensors` writes the raw memory, so arrays must be contiguous.
  plain = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
  with files.replacing(path) as partial:
    # Other programs expect this metadata: names as in PyTorch.
    safetensors_numpy.save_file(plain, partial, metadata={'format': 'pt'})


def check(
  state: Mapping[str, Any],
  shapes: Mapping[str, tuple[int, ...]],
  *,
  ignore: Sequence[str] = (),
) -> None:
  """Checks published weights against the tensors of a model.

  Args:
    state: name -> array, the published weights.
    shapes: name -> shape of every tensor of the model.
    ignore: prefixes of further names that are allowed and unused.

  Raises:
    ValueError: if tensors are missing, unexpected, of the wrong shape or of
      integers; one error lists all.

  Example:
    >>> check({'a': np.ones(2)}, {'a': (2,)})
  """
  missing = [name for name in shapes if name not in state]
  unexpected = [
    name
    for name in state
    if name not in shapes and not name.startswith(tuple(ignore))
  ]
  misshapen = [
    f'{name} {tuple(state[name].shape)}, not {shape}'
    for name, shape in shapes.items()
    if name in state and tuple(state[name].shape) != shape
  ]
  whole = [
    f'{name} {state[name].dtype}'
    for name in shapes
    if name in state and np.dtype(state[name].dtype).kind in 'biucSU'
  ]
  wrong = {
    'missing': missing,
    'unexpected': unexpected,
    'of the wrong shape': misshapen,
    'not of a float dtype': whole,
  }
  problems = [
    f'{len(names)} {kind} ({"; ".join(names[:_NAMED])}'
    f'{"; ..." if len(names) > _NAMED else ""})'
    for kind, names in wrong.items()
    if names
  ]
  if problems:
    raise ValueError(
      f'weights must be the {len(shapes)} tensors of the model, got '
      f'{", ".join(problems)}. Set the sizes as in the config.json of these '
      'weights, or give the weights of a model with these sizes.'
    )


_MOST_LAYERS = 10_000
# Fields of config.json that may be absent or null.
_OPTIONAL = {
  'num_decoder_layers': int,
  'relative_attention_max_distance': int,
  'num_key_value_heads': int,
  'head_dim': int,
  'tie_word_embeddings': bool,
  'scale_decoder_outputs': bool,
}


def t5_config(folder: Path) -> t5.T5Config:
  """The configuration of a T5 of any version, from the config.json of a folder.

  Raises:
    ValueError: if it describes another kind of model.
  """
  names = {
    'vocab_size': 'vocab_size',
    'width': 'd_model',
    'num_layers': 'num_layers',
    'num_heads': 'num_heads',
    'head_size': 'd_kv',
    'mlp_dim': 'd_ff',
    'num_buckets': 'relative_attention_num_buckets',
    'epsilon': 'layer_norm_epsilon',
  }
  supported = {
    'model_type': ('t5', 'mt5'),
    'feed_forward_proj': ('relu', 'gated-gelu', None),
  }
  sizes, fields = read_config(folder, names, supported)
  # Newer files set tie_word_embeddings for every T5; scale_decoder_outputs is
  # then the actual value.
  tied = sizes.get('tie_word_embeddings', True)
  return t5.T5Config(
    **fields,
    num_decoder_layers=sizes.get('num_decoder_layers') or fields['num_layers'],
    gated=sizes.get('feed_forward_proj') == 'gated-gelu',
    tied=sizes.get('scale_decoder_outputs', tied),
    max_distance=sizes.get('relative_attention_max_distance', 128),
  )


def read_config(
  folder: Path,
  names: Mapping[str, str],
  supported: Mapping[str, Sequence[Any]],
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Reads config.json: all its fields, and those for a configuration here.

  Args:
    folder: holds config.json.
    names: field here -> field of config.json.
    supported: field of config.json -> supported values; None = field missing.

  Raises:
    ValueError: if the file is missing or damaged, or a value is not supported.
  """
  path = pathlib.Path(folder) / 'config.json'
  sizes = published.read_json(path, REMEDY)
  for name, values in supported.items():
    if sizes.get(name) not in values:
      raise ValueError(
        f'{name} in {str(path)!r} must be one of {values}, got '
        f'{sizes.get(name)!r}. Give the folder of a model with one of these.'
      )
  if absent := [name for name in names.values() if name not in sizes]:
    raise ValueError(
      f'{str(path)!r} must hold all sizes, got it without {absent}. Add them, '
      'or download the file again.'
    )
  for field, name in names.items():
    check_size(path, name, sizes[name], float if field == 'epsilon' else int)
  for name, kind in _OPTIONAL.items():
    if sizes.get(name) is not None:
      check_size(path, name, sizes[name], kind)
  return sizes, {field: sizes[name] for field, name in names.items()}


def check_size(path: pathlib.Path, name: str, value: Any, kind: type) -> None:
  """Raises a ValueError unless a value of config.json is of this kind."""
  if kind is bool:
    right, wanted = isinstance(value, bool), 'true or false'
  elif kind is float:
    right = type(value) in (int, float) and 0 < value < math.inf
    wanted = 'a positive number'
  else:
    most = _MOST_LAYERS if name.endswith('layers') else 2**31 - 1
    right = type(value) is int and 0 < value <= most
    wanted = f'a whole number from 1 to {most}'
  if not right:
    raise ValueError(
      f'{name} in {str(path)!r} must be {wanted}, got {repr(value)[:60]}. '
      'Correct it, or download the file again.'
    )
