"""Functions that each device of a mesh computes for its own questions."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from rag_jax import placement
from rag_jax.ops import split_rows


def divides_steps() -> bool:
  """Whether a step is being traced for a mesh of several devices."""
  mesh = jax.sharding.get_abstract_mesh()
  return (
    mesh.axis_names == placement.AXES and mesh.size > 1 and not mesh.manual_axes
  )


def gradients(
  function: Callable[..., Any], params: Any, batch: Any, index: Any
) -> Any:
  """Values and gradients of a loss, from those of each device's questions.

  Each device computes those of its questions, and all are summed once. Left to
  itself, the compiler may sum every part of a gradient over the devices.

  Args:
    function: (params, batch, index, *, use, axis_name, shard) -> (values,
      gradients), sums over questions; `use` makes parameters whole.
    params: parameters, as they lie on the mesh.
    batch: the questions.
    index: the corpus.

  Returns:
    The values, and the gradients, which lie as the parameters do.
  """
  counts = dict(jax.sharding.get_abstract_mesh().shape)
  split = split_rows.SPLIT
  specs, whole = _layout(params, index.table_rows)

  def total(gradient, own):  # of what is split, all_gather has summed a part
    axes = (placement.AXIS,) if split in own else split_rows.BATCH
    return jax.lax.psum(gradient, axes)

  def run(params, batch, index):
    number = jax.lax.axis_index(split_rows.BATCH)
    values, gradients = function(
      params,
      batch,
      index,
      use=whole,
      axis_name=split_rows.BATCH,
      shard=(number, counts[placement.AXIS] * counts[split]),
    )
    values = jax.tree.map(
      lambda x: jax.lax.psum(jnp.asarray(x), split_rows.BATCH), values
    )
    return values, jax.tree.map(total, gradients, specs)

  run = _each(
    run,
    in_specs=(specs, placement.BATCH, index_specs(index)),
    out_specs=(PartitionSpec(), specs),
  )
  return run(params, batch, index)


def each_question(
  function: Callable[..., Any],
  params: Any,
  batch: Any,
  index: Any,
  *rest: Any,
) -> Any:
  """Results of questions, each computed by the device that has the question.

  Args:
    function: (params, batch, index, *rest) -> pytree with a row per question.
    params: parameters, as they lie on the mesh.
    batch: the questions.
    index: the corpus.
    *rest: arrays that every device has.
  """
  specs, whole = _layout(params, index.table_rows)
  others = (PartitionSpec(),) * len(rest)
  run = _each(
    lambda params, *arguments: function(whole(params), *arguments),
    in_specs=(specs, placement.BATCH, index_specs(index), *others),
    out_specs=placement.BATCH,
  )
  return run(params, batch, index, *rest)


def all_questions(
  function: Callable[..., Any], params: Any, batch: Any, index: Any
) -> Any:
  """Results of questions that every device computes, all of them.

  Args:
    function: (params, batch, index) -> pytree, the same on every device.
    params: parameters, whole on every device.
    batch: the questions, all on every device.
    index: the corpus.
  """
  whole = PartitionSpec()
  run = jax.shard_map(
    function,
    in_specs=(whole, whole, index_specs(index)),
    out_specs=whole,
    check_vma=False,
  )
  return run(params, batch, index)


def _each(run: Callable[..., Any], *, in_specs: Any, out_specs: Any):
  """`jax.shard_map` over the axes that divide the batch."""
  alone = jax.sharding.get_abstract_mesh().shape['model'] == 1
  return jax.shard_map(
    run,
    in_specs=in_specs,
    out_specs=out_specs,
    axis_names=set(placement.AXES if alone else split_rows.BATCH),
    check_vma=False,
  )


def _layout(params: Any, nodes: int) -> tuple[Any, Callable[[Any], Any]]:
  """How the axis fsdp divides parameters, and what makes them whole."""
  counts = dict(jax.sharding.get_abstract_mesh().shape)
  split = split_rows.SPLIT

  def spec(path, leaf):
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    axes = placement.spec(name, leaf.shape, counts)
    return PartitionSpec(*(axis if axis == split else None for axis in axes))

  specs = jax.tree_util.tree_map_with_path(spec, params)

  def use(path, leaf, own):
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    if split not in own:
      return leaf
    if name == placement.NODE_TABLE and own[0] == split:
      return split_rows.Rows(leaf, nodes)
    return jax.lax.all_gather(leaf, split, axis=own.index(split), tiled=True)

  def whole(params):
    return jax.tree_util.tree_map_with_path(use, params, specs)

  return specs, whole


def index_specs(index: Any) -> Any:
  """Which axes divide the arrays of an index that `place_index` placed."""

  def spec(x):
    if isinstance(x, split_rows.Rows):
      return dataclasses.replace(x, array=PartitionSpec(split_rows.SPLIT))
    return PartitionSpec()

  return jax.tree.map(
    spec, index, is_leaf=lambda x: isinstance(x, split_rows.Rows)
  )
