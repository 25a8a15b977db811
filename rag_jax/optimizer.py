"""The optimiser: Adam, with a learning rate a component and frozen layers.

What the reader adds to published weights starts from nothing, where they have
been trained for long: it may have a higher rate, `train.head_rate`.
"""

import functools

import jax
import optax

from rag_jax import config as configs
from rag_jax import rag


def make(config: configs.Config) -> optax.GradientTransformation:
  """Adam with clipping, linear warm-up and cosine decay, a rate a component.

  Layers that are frozen have no state and do not decay. Where the reader starts
  with other data, the rate rises and falls once for them and once for its own.
  """
  train = config.train
  rates = {name: getattr(train, f'{name}_rate') for name in configs.GROUPS}

  def rate(part, leaf):
    added = leaf not in rag.PUBLISHED
    is_head = part == 'reader' and config.reader.weights and added
    return rates[part] * (train.head_rate if is_head else 1.0)

  def scale(updates, params=None):
    del params
    return jax.tree.map_with_path(
      lambda path, x: rate(path[0].key, path[1].key) * x, updates
    )

  moves = optax.chain(
    optax.clip_by_global_norm(train.clip_norm),
    _adam(train),
    optax.stateless(scale),
  )
  return optax.partition(
    {True: moves, False: optax.set_to_zero()},
    functools.partial(_trainable, config),
  )


def _trainable(config: configs.Config, params: rag.Params) -> rag.Params:
  """Which leaves training moves: all but the frozen layers of a BERT."""
  mask = jax.tree.map(lambda _: True, params)
  for part in ('query_encoder', 'reader'):
    frozen = getattr(config, part).frozen_layers
    if 'bert' not in params[part] or not frozen:
      continue
    kept = {
      f'block_{i}' for i in range(frozen, getattr(config, part).num_layers)
    }
    mask[part]['bert'] = {
      name: jax.tree.map(lambda _, own=name in kept: own, leaf)
      for name, leaf in params[part]['bert'].items()
    }
  return mask


def _adam(config: configs.TrainConfig) -> optax.GradientTransformation:
  parts = [config.other_steps, config.steps - config.other_steps]
  schedules = [
    optax.warmup_cosine_decay_schedule(
      init_value=0.0,
      peak_value=config.learning_rate,
      warmup_steps=min(config.warmup_steps, max(steps - 1, 1)),
      decay_steps=max(steps, 2),
    )
    for steps in parts
  ]
  schedule = optax.join_schedules(schedules, [config.other_steps])
  return optax.adamw(schedule, weight_decay=config.weight_decay)
