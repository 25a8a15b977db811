"""Converts weights between published state dicts and parameters here.

Published state dicts have the layout of PyTorch: matrices are [outputs,
inputs], with separate arrays for queries, keys and values. Parameters here are
[inputs, outputs], with these arrays concatenated. A table, nested like the
parameters with one `Entry` each, defines the conversion in both directions.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rag_jax.nn import weights


class Entry(NamedTuple):
  """A parameter: published arrays, concatenated on the last axis."""

  shapes: Mapping[str, tuple[int, ...]]  # published name -> published shape
  transposed: bool = False  # whether each array is transposed first
  offset: float = 0.0  # parameter minus published array


def dense(
  prefix: str, names: Sequence[str], outputs: int, inputs: int
) -> Entry:
  """The entry of dense layers `prefix.name.weight`, each [outputs, inputs]."""
  shapes = {f'{prefix}.{name}.weight': (outputs, inputs) for name in names}
  return Entry(shapes, transposed=True)


def from_published(
  state: Mapping[str, Any], table: Any, *, ignore: Sequence[str] = ()
) -> Any:
  """Converts a published state dict to parameters.

  Args:
    state: name -> array on the CPU.
    table: a nested dict of `Entry`.
    ignore: as in `weights.check`.

  Returns:
    float32 copies, nested as the table.

  Raises:
    ValueError: see `weights.check`.

  Example:
    >>> table = {'out': dense('layer', ['dense'], 2, 3)}
    >>> state = {'layer.dense.weight': np.ones((2, 3))}
    >>> from_published(state, table)['out'].shape
    (3, 2)
  """
  entries = jax.tree.leaves(table, is_leaf=_is_entry)
  shapes = {name: s for entry in entries for name, s in entry.shapes.items()}
  weights.check(state, shapes, ignore=ignore)

  def parameter(entry):
    arrays = [np.asarray(state[name], np.float32) for name in entry.shapes]
    if entry.transposed:
      arrays = [array.T for array in arrays]
    array = np.concatenate(arrays, axis=-1)
    return jnp.asarray(array + np.float32(entry.offset))

  return jax.tree.map(parameter, table, is_leaf=_is_entry)


def to_published(params: Any, table: Any) -> dict[str, np.ndarray]:
  """Converts parameters to float32 arrays by their published names.

  It is the inverse of `from_published`.

  Example:
    >>> table = {'out': dense('layer', ['dense'], 2, 3)}
    >>> state = to_published({'out': jnp.ones((3, 2))}, table)
    >>> state['layer.dense.weight'].shape
    (2, 3)
  """
  state = {}

  def publish(entry, array):
    axis = 0 if entry.transposed else -1
    widths = [shape[axis] for shape in entry.shapes.values()]
    array = np.asarray(array, np.float32) - np.float32(entry.offset)
    parts = np.split(array, np.cumsum(widths)[:-1], axis=-1)
    for name, part in zip(entry.shapes, parts, strict=True):
      state[name] = np.ascontiguousarray(part.T if entry.transposed else part)

  jax.tree.map(publish, table, params, is_leaf=_is_entry)
  return state


def _is_entry(node: Any) -> bool:
  return isinstance(node, Entry)
