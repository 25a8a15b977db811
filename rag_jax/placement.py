"""Where the arrays of a run lie: a mesh of devices, and the rules for it.

Axes of the mesh: `data` and `fsdp` divide the batch; `fsdp` also divides
parameters, their optimiser state and the tables of documents; `model` divides
heads and hidden units.
"""

import dataclasses
import functools
import re
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from rag_jax.ops import split_lexicon, split_rows, token_table

AXIS = 'data'
AXES = (AXIS, split_rows.SPLIT, 'model')
BATCH = PartitionSpec(split_rows.BATCH)
NODE_TABLE = 'id_decoder/table'  # the parameter with a row per node
T = TypeVar('T')

# End of a parameter's name -> axes of the mesh that divide its dimensions. Of
# the lines with this name and number of dimensions, the first counts whose axes
# divide the sizes; if there is none, the first without those that do not.
# Optimiser state has the names of its parameters.
RULES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
  (NODE_TABLE, ('fsdp', None)),
  (NODE_TABLE, (None, 'fsdp')),  # in a checkpoint, which has no added rows
  # Heads: [width, heads, size] and [heads, size, width].
  ('(query|key|value)/kernel', ('fsdp', 'model', None)),
  ('out/kernel', ('model', None, 'fsdp')),
  # Hidden units: [width, hidden] and [hidden, width]; published weights too.
  ('(qkv|cross_query|cross_key_value|up)(/kernel)?', ('fsdp', 'model')),
  ('(out|cross_out|down)(/kernel)?', ('model', 'fsdp')),
  ('(embedding|output|positions)', (None, 'fsdp')),
  ('kernel', ('fsdp', None)),
)


def sizes(text: str) -> dict[str, int]:
  """Axis of the mesh -> number of devices, as the field `train.mesh` says.

  Args:
    text: such as 'data=4,fsdp=2'; axes left out have one device. '' = {}.

  Raises:
    ValueError: if an axis is unknown or a size is no positive number.

  Example:
    >>> sizes('fsdp=2,model=4')
    {'fsdp': 2, 'model': 4}
  """
  found: dict[str, int] = {}
  for part in filter(None, text.split(',')):
    name, _, number = (word.strip() for word in part.partition('='))
    known = name in AXES and name not in found
    if not known or not number.isdecimal() or not int(number):
      raise ValueError(
        f'train.mesh must give each of {", ".join(AXES)} at most one number of '
        f'devices, got {text!r}. Set --config.train.mesh=data=4,fsdp=2, for '
        'example.'
      )
    found[name] = int(number)
  return found


def mesh(text: str = '') -> jax.sharding.Mesh:
  """All devices of all processes, on the axes data, fsdp and model.

  Args:
    text: the field `train.mesh`; '' = all devices on the axis data.
  """
  found = sizes(text) or {AXIS: jax.device_count()}
  return jax.make_mesh(
    tuple(found.get(axis, 1) for axis in AXES),
    AXES,
    axis_types=(jax.sharding.AxisType.Auto,) * len(AXES),
  )


def shardings(tree: Any, devices: jax.sharding.Mesh) -> Any:
  """Where each array of a state lies, by `RULES`.

  Args:
    tree: a pytree of arrays or shapes, such as a state or parameters.
    devices: from `mesh`.

  Example:
    >>> state = {'reader': {'up': jnp.ones((4, 8))}, 'step': jnp.zeros(())}
    >>> devices = mesh(f'fsdp={jax.device_count()}')
    >>> shardings(state, devices)['step'].is_fully_replicated
    True
  """

  def place(path, leaf):
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    return NamedSharding(devices, spec(name, leaf.shape, dict(devices.shape)))

  return jax.tree_util.tree_map_with_path(place, tree)


def abstract(tree: Any, devices: jax.sharding.Mesh) -> Any:
  """Shapes with where they lie, to load a checkpoint onto the devices.

  Args:
    tree: a pytree of arrays or shapes.
    devices: from `mesh`.
  """
  return jax.tree.map(
    lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
    tree,
    shardings(tree, devices),
  )


def spec(
  name: str, shape: tuple[int, ...], counts: dict[str, int]
) -> PartitionSpec:
  """Axes that divide an array; those of one device are left out."""
  found = []
  for end, axes in RULES:
    if len(axes) != len(shape) or not re.search(f'(^|/){end}$', name):
      continue
    both = list(zip(axes, shape, strict=True))
    fits = [axis is None or size % counts[axis] == 0 for axis, size in both]
    own = [
      axis if fit and counts.get(axis or '', 1) > 1 else None
      for axis, fit in zip(axes, fits, strict=True)
    ]
    if all(fits):
      return PartitionSpec(*own)
    found.append(own)
  return PartitionSpec(*found[0]) if found else PartitionSpec()


def make(
  function: Callable[..., T],
  index: Any,
  pretrained: Any = None,
  *,
  devices: jax.sharding.Mesh,
) -> T:
  """Computes a state where it will lie: no device holds all of it.

  Args:
    function: (index, pretrained weights) -> state or parameters.
    index: the corpus; its lexicon and the passages of the reader are left out.
    pretrained: `model.Pretrained`. All processes have the same of both.
    devices: from `mesh`.
  """
  if devices.size == 1:
    return jax.jit(function)(index, pretrained)
  index = dataclasses.replace(index, lexicon=None, reader_tokens=None)
  index = place_index(index, devices, with_keys=True)
  pretrained = jax.tree_util.tree_map_with_path(
    lambda path, x: _place_weights(path, x, devices), pretrained
  )
  run = functools.partial(_padded, function, devices.shape['fsdp'])
  with jax.set_mesh(devices):
    where = shardings(jax.eval_shape(run, index, pretrained), devices)
    return jax.jit(run, out_shardings=where)(index, pretrained)


def _place_weights(path: Any, x: Any, devices: jax.sharding.Mesh) -> jax.Array:
  """Weights on every device; vectors of documents are divided by columns."""
  name = jax.tree_util.keystr(path, simple=True, separator='/')
  if name.endswith(NODE_TABLE):  # of another run
    return put(x, NamedSharding(devices, spec(name, x.shape, devices.shape)))
  fits = name.endswith('vectors') and x.ndim == 2
  fits = fits and x.shape[1] % devices.shape['fsdp'] == 0
  axes = (None, 'fsdp') if fits else ()
  return put(x, NamedSharding(devices, PartitionSpec(*axes)))


def place(state: T, devices: jax.sharding.Mesh) -> T:
  """Places a state on the devices by `RULES`, and pads its node table.

  A first state that is placed otherwise would compile the step twice.
  """
  state = _pad(state, devices.shape['fsdp'])
  return jax.tree.map(put, state, shardings(state, devices))


def stored(state: T, nodes: int) -> T:
  """A state as a checkpoint has it: the node table without added rows.

  Args:
    state: a state or parameters.
    nodes: rows of the node table.
  """
  devices = mesh_of(state)
  if devices is None or devices.size == 1:
    return state

  def cut(x):
    if len(x) == nodes:
      return x
    shape = {NODE_TABLE: jax.ShapeDtypeStruct((nodes, x.shape[1]), x.dtype)}
    where = shardings(shape, devices)[NODE_TABLE]
    return jax.jit(lambda x: x[:nodes], out_shardings=where)(x)

  return _map_tables(cut, state)


def place_index(
  index: T, devices: jax.sharding.Mesh, *, with_keys: bool = False
) -> T:
  """Places an index on the devices: tables by rows, the lexicon by documents.

  The trie is a few bytes a document, so each device has it, and masks too, and
  further docids, but for the keys that they are made from.

  Args:
    index: the corpus.
    devices: from `mesh`.
    with_keys: whether it has the keys, too, whose vectors a node table starts
      with.
  """
  if devices.size == 1:
    return index
  split = {
    name: _split(getattr(index, name), devices)
    for name in ('tokens', 'reader_tokens', 'codes')
    if getattr(index, name, None) is not None
  }
  lexicon = getattr(index, 'lexicon', None)
  if lexicon is not None and devices.shape['fsdp'] > 1:
    split['lexicon'] = _divide(lexicon, index, devices)
  rest: Any = index
  if split:
    rest = dataclasses.replace(rest, **dict.fromkeys(split))
  more = getattr(rest, 'further', None)
  if more is not None and not with_keys:
    more = dataclasses.replace(more, tokens=None)
    rest = dataclasses.replace(rest, further=more)
  each = NamedSharding(devices, PartitionSpec())
  rest = jax.tree.map(lambda x: put(x, each), rest)
  return dataclasses.replace(rest, **split) if split else rest


def _divide(lexicon: Any, index: Any, devices: jax.sharding.Mesh) -> Any:
  """A lexicon over the axis fsdp, of which a process makes its parts."""
  if isinstance(lexicon, split_lexicon.Lexicon):
    return lexicon
  axis = AXES.index('fsdp')
  own = [
    place[axis]
    for place, device in np.ndenumerate(devices.devices)
    if device.process_index == jax.process_index()
  ]
  divided = split_lexicon.divide(
    lexicon, index.trie, devices.shape['fsdp'], sorted(set(own))
  )

  def lay(x):
    axes = ('fsdp',) if isinstance(x, split_rows.Rows) else ()
    where = NamedSharding(devices, PartitionSpec(*axes))
    return jax.tree.map(lambda x: put(x, where), x)

  return jax.tree.map(
    lay, divided, is_leaf=lambda x: isinstance(x, split_rows.Rows)
  )


def _split(table: Any, devices: jax.sharding.Mesh) -> Any:
  """A table of tokens by rows; one on the host stays there."""
  if isinstance(table, split_rows.Rows | token_table.OnHost):
    return table
  if isinstance(table, token_table.Packed):
    return dataclasses.replace(table, tokens=_split(table.tokens, devices))
  rows, parts = len(table), devices.shape['fsdp']
  where = NamedSharding(devices, PartitionSpec('fsdp'))
  host = np.asanyarray(table)  # memory-mapped, each process reads its part

  def part(index):
    own = host[index[0]]
    size = len(range(*index[0].indices(rows + -rows % parts)))
    return np.pad(own, ((0, size - len(own)), *((0, 0),) * (host.ndim - 1)))

  shape = (rows + -rows % parts, *host.shape[1:])
  array = jax.make_array_from_callback(shape, where, part)
  return split_rows.Rows(array, rows)


def place_batch(batch: T, devices: jax.sharding.Mesh) -> T:
  """Divides a batch over the devices; each process keeps its questions."""
  count = devices.shape['data'] * devices.shape['fsdp']

  def divide(x):
    rows = BATCH if x.shape[0] % count == 0 else PartitionSpec()
    return put(x, NamedSharding(devices, rows))

  return jax.tree.map(divide, batch)


def put(x: Any, where: NamedSharding) -> jax.Array:
  """Places an array that every process has whole, or that lies on a mesh."""
  if getattr(x, 'sharding', None) == where:
    return x
  if where.is_fully_addressable:
    return jax.device_put(x, where)
  if isinstance(x, jax.Array) and not x.is_fully_addressable:
    return jax.jit(lambda x: x, out_shardings=where)(x)
  host = np.asarray(x)
  return jax.make_array_from_callback(host.shape, where, lambda i: host[i])


def mesh_of(tree: Any) -> jax.sharding.Mesh | None:
  """The mesh on which arrays lie; None if it is none of `mesh`."""
  for leaf in jax.tree.leaves(tree):
    devices = getattr(getattr(leaf, 'sharding', None), 'mesh', None)
    if devices is not None and devices.axis_names == AXES:
      return devices
  return None


def gathered(params: Any, index: T) -> tuple[Any, T]:
  """Parameters and an index whole on one device, without a divided lexicon.

  Args:
    params: parameters, as `place` returns them.
    index: from `place_index`.
  """
  devices = mesh_of(params)
  if devices is None or devices.size == 1:
    return params, index
  rest: Any = index
  params = stored(params, rest.table_rows)
  both = params, dataclasses.replace(rest, lexicon=None)
  return jax.tree.map(
    lambda x: jnp.asarray(np.asarray(x)),
    both,
    is_leaf=lambda x: isinstance(x, split_rows.Rows),
  )


def _padded(function, parts, *arguments):
  return _pad(function(*arguments), parts)


def _pad(state: Any, parts: int) -> Any:
  """Adds rows of zeros to the node table, as many as `parts` need."""

  def pad(x):
    return jnp.pad(x, ((0, -len(x) % parts), (0, 0))) if len(x) % parts else x

  return _map_tables(pad, state)


def _map_tables(function: Callable[[Any], Any], state: T) -> T:
  """Applies a function to the node table and to its optimiser state."""

  def change(path, leaf):
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    is_table = re.search(f'(^|/){NODE_TABLE}$', name) and leaf.ndim == 2
    return function(leaf) if is_table else leaf

  return jax.tree_util.tree_map_with_path(change, state)
