"""The state of training, from its checkpoint or initial, on its devices."""

import dataclasses
import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp

from rag_jax import (
  checkpoint,
  fingerprints,
  keeper,
  optimizer,
  parallel,
  placement,
)
from rag_jax import config as configs
from rag_jax import stage as stages
from rag_jax import step as steps
from rag_jax import workdir as workdirs


def restore(
  config: configs.Config, prepared: workdirs.Prepared, folder: pathlib.Path
) -> tuple[steps.State, dict[str, Any]]:
  """The state of the last whole checkpoint and its notes, or an initial state.

  Checkpoints after it, which are damaged, are set aside.

  Raises:
    ValueError: if no checkpoint is whole, or if it has another index.
  """

  def initial(step):
    init = functools.partial(steps.init_state, config, stage_at(config, step))
    vocab = jnp.zeros(prepared.vocab_size)
    return functools.partial(init, vocab=vocab)

  args = prepared.index, prepared.pretrained
  devices = parallel.run_mesh(config.train.parallel, config.train.mesh)

  def wanted(step):
    shapes = keeper.saved(jax.eval_shape(initial(step), *args))
    if devices is None or devices.size == 1:
      return shapes
    return placement.abstract(shapes, devices)

  found = checkpoint.load(folder, wanted)
  if found is None:
    if devices is None:
      return jax.jit(initial(0))(*args), {}
    return placement.make(initial(0), *args, devices=devices), {}
  fingerprints.check(folder.parent, prepared.fingerprints, found)
  checkpoint.set_aside(folder, found.step)
  state = steps.State(params=found.parts['params'], **found.parts['training'])
  return state, found.notes


def stage_at(config: configs.Config, step: int) -> stages.Stage:
  """The stage that made the checkpoint of a step; defines its optimiser."""
  for _, stage in config.stages:
    if stage.steps and step <= stage.steps:
      return stage
    step -= stage.steps
  return stages.Stage()


def start_stage(
  state: steps.State, config: configs.Config, stage: stages.Stage
) -> steps.State:
  """The state with a new optimiser state for a stage."""
  init = optimizer.make(config, stage).init
  devices = placement.mesh_of(state.params)
  if devices is None or devices.size == 1:
    fresh = init(state.params)
  else:
    where = placement.shardings(jax.eval_shape(init, state.params), devices)
    fresh = jax.jit(init, out_shardings=where)(state.params)
  return dataclasses.replace(state, optimizer=fresh)
