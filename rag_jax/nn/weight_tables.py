"""Published weights laid out as a model takes them, and the other way round.

A published file holds one array a name, in the form of PyTorch: matrices are
[outputs, inputs], those of queries, keys and values apart. A model here has
them side by side, [inputs, outputs]. A table, nested like the parameters with
one `Entry` each, says which is which and serves both ways.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rag_jax.nn import weights


class Entry(NamedTuple):
  """A parameter: published arrays side by side on its last axis."""

  shapes: Mapping[str, tuple[int, ...]]  # name -> shape as published
  transposed: bool = False  # whether each is turned over first


def dense(
  prefix: str, names: Sequence[str], outputs: int, inputs: int
) -> Entry:
  """The entry of a product: each `prefix.name.weight` [outputs, inputs]."""
  shapes = {f'{prefix}.{name}.weight': (outputs, inputs) for name in names}
  return Entry(shapes, transposed=True)


def take(
  state: Mapping[str, Any], table: Any, *, ignore: Sequence[str] = ()
) -> Any:
  """Published weights as a model takes them.

  Args:
    state: name -> array on the CPU.
    table: a nested dict of `Entry`.
    ignore: as in `weights.check`.

  Returns:
    float32 arrays, nested as the table; copies.

  Raises:
    ValueError: what `weights.check` finds.

  Example:
    >>> table = {'out': dense('layer', ['dense'], 2, 3)}
    >>> state = {'layer.dense.weight': np.ones((2, 3))}
    >>> take(state, table)['out'].shape
    (3, 2)
  """
  entries = jax.tree.leaves(table, is_leaf=_is_entry)
  shapes = {name: s for entry in entries for name, s in entry.shapes.items()}
  weights.check(state, shapes, ignore=ignore)

  def parameter(entry):
    arrays = [np.asarray(state[name], np.float32) for name in entry.shapes]
    if entry.transposed:
      arrays = [array.T for array in arrays]
    return jnp.asarray(np.concatenate(arrays, axis=-1))

  return jax.tree.map(parameter, table, is_leaf=_is_entry)


def give(params: Any, table: Any) -> dict[str, np.ndarray]:
  """The reverse of `take`: float32 arrays under their published names.

  Example:
    >>> table = {'out': dense('layer', ['dense'], 2, 3)}
    >>> give({'out': jnp.ones((3, 2))}, table)['layer.dense.weight'].shape
    (2, 3)
  """
  state = {}

  def publish(entry, array):
    axis = 0 if entry.transposed else -1
    widths = [shape[axis] for shape in entry.shapes.values()]
    array = np.asarray(array, np.float32)
    parts = np.split(array, np.cumsum(widths)[:-1], axis=-1)
    for name, part in zip(entry.shapes, parts, strict=True):
      state[name] = np.ascontiguousarray(part.T if entry.transposed else part)

  jax.tree.map(publish, table, params, is_leaf=_is_entry)
  return state


def _is_entry(node: Any) -> bool:
  return isinstance(node, Entry)
