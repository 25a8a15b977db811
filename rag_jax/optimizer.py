"""The optimiser of a stage: Adam, a learning rate a component, frozen layers.

What a reader adds to published weights (its head) starts from nothing, where
they have been trained for long: `train.head_lr_multiplier` raises its rate.
"""

import functools
from typing import Any

import jax
import optax

from rag_jax import config as configs
from rag_jax import model
from rag_jax import stage as stages
from rag_jax.readers import base

COMPONENTS = stages.COMPONENTS


def make(
  config: configs.Config, stage: stages.Stage
) -> optax.GradientTransformation:
  """Adam with clipping, linear warm-up and cosine decay, for one stage.

  Components that the stage does not train, and layers that are frozen, have no
  state and do not decay.
  """
  head = config.train.head_lr_multiplier

  def scale(updates, params=None):
    del params
    return {
      part: {
        name: jax.tree.map(
          functools.partial(_times, stage.rate(part), head, own, name), leaf
        )
        for name, leaf in own.items()
      }
      for part, own in updates.items()
    }

  moves = optax.chain(
    optax.clip_by_global_norm(config.train.clip_norm),
    _adam(config, stage),
    optax.stateless(scale),
  )
  return optax.partition(
    {True: moves, False: optax.set_to_zero()},
    functools.partial(_trainable, config, stage),
  )


def _times(
  rate: float, head: float, part: dict[str, Any], name: str, x: jax.Array
) -> jax.Array:
  """An update times its component's rate, and more for a head."""
  is_head = name not in base.PUBLISHED and any(
    n in part for n in base.PUBLISHED
  )
  return rate * (head if is_head else 1.0) * x


def _trainable(
  config: configs.Config, stage: stages.Stage, params: model.Params
) -> model.Params:
  """Which leaves a stage moves: those of its components, less frozen layers."""
  mask = {
    part: jax.tree.map(lambda _, part=part: stage.rate(part) > 0, own)
    for part, own in params.items()
  }
  for part in ('query_encoder', 'reader'):
    own = getattr(config, part)
    if not stage.rate(part) or 'bert' not in params[part]:
      continue
    if not own.frozen_layers:
      continue
    kept = {f'block_{i}' for i in range(own.frozen_layers, own.num_layers)}
    mask[part]['bert'] = {
      name: jax.tree.map(lambda _, own=name in kept: own, leaf)
      for name, leaf in params[part]['bert'].items()
    }
  return mask


def _adam(
  config: configs.Config, stage: stages.Stage
) -> optax.GradientTransformation:
  schedule = optax.warmup_cosine_decay_schedule(
    init_value=0.0,
    peak_value=stage.learning_rate,
    warmup_steps=min(config.train.warmup_steps, max(stage.steps - 1, 1)),
    decay_steps=max(stage.steps, 2),
  )
  return optax.adamw(schedule, weight_decay=config.train.weight_decay)
