"""The optimiser of a stage: Adam with learning-rate multipliers per component.

A reader on published weights has a head that is trained from scratch;
`train.head_lr_multiplier` raises its learning rate.
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
# Parameters of an encoder that all layers build on.
_EMBEDDINGS = frozenset(
  ('embedding', 'positions', 'segments', 'norm', 'norm_bias', 'relative')
)


def make(
  config: configs.Config, stage: stages.Stage
) -> optax.GradientTransformation:
  """Adam with gradient clipping, linear warm-up and cosine decay.

  Frozen components and frozen layers have no optimiser state, and get no weight
  decay.
  """
  head = config.train.head_lr_multiplier

  def scale(updates, params=None):
    del params
    return {
      part: {
        name: jax.tree.map(
          functools.partial(_times, stage.rate(part), head, leaves, name), leaf
        )
        for name, leaf in leaves.items()
      }
      for part, leaves in updates.items()
    }

  trained = optax.chain(
    optax.clip_by_global_norm(config.train.clip_norm),
    _adam(config, stage),
    optax.stateless(scale),
  )
  return optax.partition(
    {True: trained, False: optax.set_to_zero()},
    functools.partial(_trainable, config, stage),
  )


def _times(
  rate: float, head: float, part: dict[str, Any], name: str, x: jax.Array
) -> jax.Array:
  """An update times the multiplier of its component, and that of a head."""
  is_head = name not in base.PUBLISHED and any(
    n in part for n in base.PUBLISHED
  )
  return rate * (head if is_head else 1.0) * x


def _trainable(
  config: configs.Config, stage: stages.Stage, params: model.Params
) -> model.Params:
  """Mask of the leaves that a stage trains.

  If any layer of a BERT is frozen, so are its embeddings.
  """
  mask = {
    part: jax.tree.map(lambda _, part=part: stage.rate(part) > 0, leaves)
    for part, leaves in params.items()
  }
  for part in ('query_encoder', 'reader'):
    sizes = getattr(config, part)
    if not stage.rate(part) or 'bert' not in params[part]:
      continue
    if not sizes.frozen_layers:
      continue
    frozen = _EMBEDDINGS | {f'block_{i}' for i in range(sizes.frozen_layers)}
    mask[part]['bert'] = {
      name: jax.tree.map(lambda _, trains=name not in frozen: trains, leaf)
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
