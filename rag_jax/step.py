"""One training step, as a pure function of state and batch."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from rag_jax import config as configs
from rag_jax import model, objective, optimizer, parallel, types
from rag_jax import stage as stages
from rag_jax.index import index as indexes
from rag_jax.readers import base


@flax.struct.dataclass
class State:
  """The state of training: everything that a step changes."""

  step: jax.Array  # int32[]
  params: model.Params
  optimizer: optax.OptState


def init_state(
  config: configs.Config,
  stage: stages.Stage,
  index: indexes.Index,
  pretrained: model.Pretrained | None = None,
  *,
  vocab: jax.Array,
) -> State:
  """Initial state: parameters and optimiser.

  Args:
    config: the experiment.
    stage: the first stage.
    index: the corpus.
    pretrained: published weights.
    vocab: any array [vocab_size]; only its length is used.
  """
  params = model.init(
    jax.random.key(config.seed),
    config.model,
    index,
    vocab_size=vocab.shape[0],
    pretrained=pretrained,
  )
  return State(
    step=jnp.zeros((), jnp.int32),
    params=params,
    optimizer=optimizer.make(config, stage).init(params),
  )


def train_step(
  state: State,
  batch: types.Batch,
  index: indexes.Index,
  *,
  config: configs.Config,
  stage: stages.Stage,
  axis_name: str | None = None,
  shard: tuple[jax.Array | int, int] = (0, 1),
) -> tuple[State, objective.Sums]:
  """One training step: forward pass, gradients and parameter update.

  Args:
    state: parameters and optimiser state.
    batch: questions of this device.
    index: the corpus.
    config: the experiment; static.
    stage: one of its stages; static.
    axis_name: name of the pmap axis; None under jit.
    shard: (index of this device, number of devices) under pmap.

  Returns:
    The next state, and metrics: name -> (sum, count) over all devices.
  """
  rng = jax.random.fold_in(jax.random.key(config.seed + 1), state.step)

  def total_loss(params, rng, batch):
    params = _lower(params, config.train.precision)
    terms, measured = objective.loss(
      params, rng, batch, index, config=config.model, stage=stage, shard=shard
    )
    counts = parallel.sum_over(
      {name: count for name, (_, count) in terms.items()}, axis_name
    )
    return objective.total(terms, counts, stage), measured

  (loss, measured), gradients = _in_parts(
    jax.value_and_grad(total_loss, has_aux=True),
    state.params,
    rng,
    batch,
    count=config.train.accumulate,
  )
  loss, measured, gradients = parallel.sum_over(
    (loss, measured, gradients), axis_name
  )
  updates, optimizer_state = optimizer.make(config, stage).update(
    gradients, state.optimizer, state.params
  )
  one = jnp.ones(())
  measured['loss'] = (loss, one)
  for name, part in gradients.items():
    measured[f'gradient_norm/{name}'] = (optax.global_norm(part), one)
  state = State(
    step=state.step + 1,
    params=optax.apply_updates(state.params, updates),
    optimizer=optimizer_state,
  )
  return state, measured


def _lower(params: model.Params, precision: str) -> model.Params:
  """Casts published weights to `precision`; the rest stays float32."""
  if precision == 'float32':
    return params
  return {
    name: part
    | {
      own: jax.tree.map(lambda x: x.astype(precision), leaf)
      for own, leaf in part.items()
      if own in base.PUBLISHED
    }
    for name, part in params.items()
  }


def _in_parts(
  gradient_fn: Callable[..., Any],
  params: model.Params,
  rng: jax.Array,
  batch: types.Batch,
  *,
  count: int,
) -> Any:
  """Loss, metrics and gradients of a batch, by gradient accumulation.

  It averages loss and gradients over `count` parts of the batch, and sums the
  metrics.
  """
  if count == 1:
    return gradient_fn(params, rng, batch)

  def one(number, part):
    return gradient_fn(params, jax.random.fold_in(rng, number), part)

  parts = jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), batch)
  first = jax.tree.map(lambda x: x[0], parts)
  zeros = jax.tree.map(
    lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(one, 0, first)
  )

  def step(total, numbered):
    return jax.tree.map(jnp.add, total, one(*numbered)), None

  total, _ = jax.lax.scan(step, zeros, (jnp.arange(count), parts))
  (loss, measured), gradients = total
  loss, gradients = jax.tree.map(lambda x: x / count, (loss, gradients))
  return (loss, measured), gradients
