"""Published weights: reading the files, and laying them out as models take.

A file holds one array a name, in the form of PyTorch: matrices are [outputs,
inputs], those of queries, keys and values apart. A model here has them
side by side and the other way round. A table, one `Entry` a parameter, says
which is which, and serves both ways.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors

from rag_jax.nn import bert

_NAMED = 3  # how many tensors an error names


class Entry(NamedTuple):
  """A parameter: published arrays side by side on its last axis."""

  shapes: Mapping[str, tuple[int, ...]]  # name -> shape as published
  transposed: bool = False  # whether each is turned over first


def dense(
  prefix: str, names: Sequence[str], outputs: int, inputs: int
) -> Entry:
  """The entry of a product: `prefix.name.weight` [outputs, inputs] each."""
  shapes = {f'{prefix}.{name}.weight': (outputs, inputs) for name in names}
  return Entry(shapes, transposed=True)


def read(path: str | pathlib.Path) -> dict[str, np.ndarray]:
  """Reads a safetensors file.

  Args:
    path: the file.

  Returns:
    name -> array.
  """
  with safetensors.safe_open(path, 'np') as file:
    return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def check(
  state: Mapping[str, Any],
  shapes: Mapping[str, tuple[int, ...]],
  *,
  ignore: Sequence[str] = (),
) -> None:
  """Raises one ValueError that tells all that a set of weights has wrong.

  Args:
    state: name -> array, the published weights.
    shapes: name -> shape of all that the model takes.
    ignore: what starts with one of these may be there and is not used.
  """
  missing = [name for name in shapes if name not in state]
  spare = [
    name
    for name in state
    if name not in shapes and not name.startswith(tuple(ignore))
  ]
  other = [
    f'{name} {tuple(state[name].shape)}, not {shape}'
    for name, shape in shapes.items()
    if name in state and tuple(state[name].shape) != shape
  ]
  wrong = {'missing': missing, 'spare': spare, 'of another shape': other}
  found = [
    f'{len(names)} {kind} ({"; ".join(names[:_NAMED])}'
    f'{"; ..." if len(names) > _NAMED else ""})'
    for kind, names in wrong.items()
    if names
  ]
  if found:
    raise ValueError(
      f'weights must be the {len(shapes)} tensors of the model, got '
      f'{len(state)}: {", ".join(found)}. Set the sizes as in the config.json '
      'of these weights, or give the weights of such a model.'
    )


def take(
  state: Mapping[str, Any], table: Any, *, ignore: Sequence[str] = ()
) -> Any:
  """Published weights as a model takes them.

  Args:
    state: name -> array.
    table: a nested dict of `Entry`.
    ignore: as in `check`, which is called first.

  Returns:
    float32 arrays, nested as the table.
  """
  entries = jax.tree.leaves(table, is_leaf=_is_entry)
  shapes = {n: s for entry in entries for n, s in entry.shapes.items()}
  check(state, shapes, ignore=ignore)

  def one(entry):
    arrays = [np.asarray(state[name], np.float32) for name in entry.shapes]
    if entry.transposed:
      arrays = [array.T for array in arrays]
    return jnp.asarray(np.concatenate(arrays, axis=-1))  # a copy

  return jax.tree.map(one, table, is_leaf=_is_entry)


def give(params: Any, table: Any) -> dict[str, np.ndarray]:
  """The reverse of `take`: float32 arrays under their published names."""
  entries = jax.tree.leaves(table, is_leaf=_is_entry)
  state = {}
  for entry, array in zip(entries, jax.tree.leaves(params), strict=True):
    widths = [
      shape[0 if entry.transposed else -1] for shape in entry.shapes.values()
    ]
    parts = np.split(np.asarray(array), np.cumsum(widths)[:-1], axis=-1)
    for name, part in zip(entry.shapes, parts, strict=True):
      state[name] = np.ascontiguousarray(part.T if entry.transposed else part)
  return state


def bert_config(folder: str | pathlib.Path) -> bert.BertConfig:
  """The sizes of a BERT in a folder, from its config.json.

  Raises:
    ValueError: if the file describes another kind of model.
  """
  path = pathlib.Path(folder) / 'config.json'
  sizes = json.loads(path.read_text(encoding='utf-8'))
  return bert.BertConfig(
    vocab_size=sizes['vocab_size'],
    width=sizes['hidden_size'],
    num_layers=sizes['num_hidden_layers'],
    num_heads=sizes['num_attention_heads'],
    hidden=sizes['intermediate_size'],
    max_positions=sizes['max_position_embeddings'],
    num_segments=sizes['type_vocab_size'],
    epsilon=sizes['layer_norm_eps'],
  )


def _is_entry(node: Any) -> bool:
  return isinstance(node, Entry)
