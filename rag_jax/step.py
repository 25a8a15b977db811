"""One training step, as a pure function of state and batch."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from rag_jax import config as configs
from rag_jax import model, objective, optimizer, parallel, per_device, types
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

  def found(params, batch, index, *, use, axis_name, shard):
    """(loss, metrics) and gradients of some questions."""

    def losses(params, rng, batch):
      return objective.loss(
        _lower(use(params), config.train.precision),
        rng,
        batch,
        index,
        config=config.model,
        stage=stage,
        shard=shard,
      )

    def total_loss(params, rng, batch, counts=None):
      terms, measured = losses(params, rng, batch)
      if counts is None:
        counts = parallel.sum_over(_counts(terms), axis_name)
      return objective.total(terms, counts, stage), measured

    gradient_fn = jax.value_and_grad(total_loss, has_aux=True)
    if config.train.accumulate == 1:
      return gradient_fn(params, rng, batch)
    parts = _split(rng, batch, config.train.accumulate)
    # The parts may have different numbers of questions with labels: the loss
    # is a mean over all questions of the batch, not a mean of means. XLA leaves
    # out of this pass what the counts do not depend on, mostly the whole model.
    counts = parallel.sum_over(
      _sum_over(lambda *part: _counts(losses(params, *part)[0]), parts),
      axis_name,
    )
    return _sum_over(lambda *part: gradient_fn(params, *part, counts), parts)

  if axis_name is None and per_device.divides_steps():
    total = per_device.gradients(found, state.params, batch, index)
  else:
    total = found(
      *(state.params, batch, index),
      use=lambda params: params,
      axis_name=axis_name,
      shard=shard,
    )
    total = parallel.sum_over(total, axis_name)
  (loss, measured), gradients = total
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


def _counts(terms: objective.Sums) -> dict[str, jax.Array]:
  """How many questions each loss is defined for."""
  return {name: count for name, (_, count) in terms.items()}


def _split(
  rng: jax.Array, batch: types.Batch, count: int
) -> tuple[jax.Array, types.Batch]:
  """`count` keys and parts of a batch, along a new first axis."""
  keys = jax.vmap(jax.random.fold_in, (None, 0))(rng, jnp.arange(count))
  return keys, jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), batch)


def _sum_over(function: Callable[..., Any], parts: Any) -> Any:
  """The sum of function(key, batch), a pytree, over the parts of a batch."""
  first = jax.tree.map(lambda x: x[0], parts)
  zeros = jax.tree.map(
    lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(function, *first)
  )

  def add(total, part):
    return jax.tree.map(jnp.add, total, function(*part)), None

  return jax.lax.scan(add, zeros, parts)[0]
