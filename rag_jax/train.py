"""The one train loop: prepare, step, log, save, resume, evaluate."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from rag_jax import (
  checkpoint,
  curriculum,
  evaluate,
  objective,
  optimizer,
  parallel,
  rag,
  report,
  types,
)
from rag_jax import config as configs
from rag_jax import workdir as workdirs
from rag_jax.data import pipeline
from rag_jax.index import index as indexes

UNTRAINED = 'results-untrained.json'  # in the workdir, if measured
LENGTH_STEP = 32  # tokens; lengths are rounded up, so that few are compiled


@flax.struct.dataclass
class State:
  """All that a step changes."""

  step: jax.Array  # int32[]
  params: rag.Params
  optimizer: optax.OptState


def run(config: configs.Config, workdir: pathlib.Path) -> list[report.Result]:
  """Trains an experiment to its last step and measures it.

  Takes up again from what the workdir holds. All that can be wrong with the
  configuration or the data is said before the workdir is touched.

  Args:
    config: the experiment.
    workdir: where index, checkpoints, metrics and results are kept.

  Returns:
    The results, which are in `workdir/results.json` too.
  """
  check_devices(config)
  other = curriculum.load_other(config)
  prepared = workdirs.open(config, workdir)
  state = fit(config, prepared, workdir, other=other)
  results = evaluate.measure(state.params, config, prepared)
  if (workdir / UNTRAINED).exists():
    first = report.load_results(workdir / UNTRAINED)
    results = report.merge(results, first)
  report.save_results(workdir / 'results.json', results)
  return results


def fit(
  config: configs.Config,
  prepared: workdirs.Prepared,
  workdir: pathlib.Path,
  *,
  other: types.Dataset | None = None,
) -> State:
  """Runs the steps that are missing.

  Args:
    config: the experiment.
    prepared: documents, questions and index.
    workdir: where checkpoints and metrics are kept.
    other: what `curriculum.load_other` found; None loads it.
  """
  questions = curriculum.training_questions(config, prepared)
  to_find = curriculum.labelled(questions)
  to_read, first, library = questions, None, prepared.index
  if config.train.reader_steps > config.train.other_steps:
    to_read = curriculum.answered(config, questions, prepared.index)
  other = other or curriculum.load_other(config)
  if other is not None:
    first, library = curriculum.other_questions(config, prepared, other)
  state = jax.jit(functools.partial(init_state, config))(
    prepared.index, prepared.pretrained, vocab=jnp.zeros(prepared.vocab_size)
  )
  checkpointer = checkpoint.open(
    workdir / 'checkpoints', keep=config.train.keep_checkpoints
  )
  restored = checkpoint.restore(checkpointer, state)
  if restored is not None:
    state = restored[1]
  start, steps = int(state.step), config.train.steps
  writer = report.MetricsWriter(workdir, start)
  if start == 0 and config.train.evaluate_every:
    untrained = _measure(state, config, prepared, writer)
    report.save_results(workdir / UNTRAINED, untrained)
  elif start == 0 and config.query_encoder.weights:
    untrained = evaluate.measure_search(state.params, config, prepared)
    report.save_results(workdir / UNTRAINED, untrained)
  recent: list[Any] = []
  with report.Progress(steps, start) as progress:
    for step, stage, place in plan(config, start):
      if place == 0 or step == start:
        own, index = questions, prepared.index
        if stage.search.gold_only:
          own, index = to_read, library
          if config.train.reader_negatives:
            own = curriculum.with_negative(
              config, state.params, to_read, prepared.index
            )
        elif not stage.loss.reads:
          own = to_find
        next_state = step_function(stage, own, index, first=first)
      if place == 0 and step:
        state = start_stage(state, stage)
      state, sums = next_state(state, place)
      recent.append(sums)
      ends = place + 1 == stage.train.steps
      if (step + 1) % config.train.log_every == 0 or ends:
        values = averages(recent)
        check_finite(values, step + 1)
        writer.write(step + 1, 'train', values)
        progress.update(
          step + 1,
          loss=values['loss'],
          examples=len(recent) * stage.train.batch_size,
        )
        recent = []
      every = config.train.evaluate_every
      if every and (step + 1) % every == 0:
        _measure(state, config, prepared, writer)
      if (step + 1) % config.train.checkpoint_every == 0 or ends:
        checkpoint.save(checkpointer, step + 1, state)
  writer.close()
  checkpoint.close(checkpointer)
  return state


def start_stage(state: State, stage: configs.Config) -> State:
  """The state with an optimiser that has not seen the stages before."""
  fresh = optimizer.make(stage).init(state.params)
  return dataclasses.replace(state, optimizer=fresh)


def step_function(
  stage: configs.Config,
  questions: pipeline.Questions,
  index: indexes.Index,
  *,
  first: pipeline.Questions | None = None,
) -> Callable[[State, int], tuple[State, objective.Sums]]:
  """Makes the function (state, place in the stage) -> (next state, sums).

  Args:
    stage: one of `config.stages`.
    questions: what to train on.
    index: the corpus; for the reader alone, of all that it reads.
    first: what the first `train.other_steps` of the reader alone are on.
  """

  @functools.cache
  def compiled(config):
    step = functools.partial(train_step, config=config)
    return parallel.compile_step(step, mode=config.train.parallel)

  options = {'batch_size': stage.train.batch_size, 'seed': stage.seed}
  if not stage.search.gold_only:
    batches = pipeline.train_batches(questions, **options)
    return lambda state, place: compiled(stage)(state, batches[place], index)

  # What is read is known beforehand: read no more of it than there is.
  lengths = np.asarray((index.tokens != types.PAD).sum(axis=1))
  reading = pipeline.reading_batches(questions, lengths, **options)
  most = stage.search.train_passage_tokens or index.tokens.shape[1]
  begin = stage.train.other_steps
  others = reading
  if first is not None:
    others = pipeline.reading_batches(first, lengths, **options)

  def next_state(state, place):
    batch, length = others[place] if place < begin else reading[place - begin]
    size = min(-(-length // LENGTH_STEP) * LENGTH_STEP, most)
    search = dataclasses.replace(stage.search, train_passage_tokens=size)
    step = compiled(dataclasses.replace(stage, search=search))
    return step(state, batch, index)

  return next_state


def plan(
  config: configs.Config, start: int
) -> Iterator[tuple[int, configs.Config, int]]:
  """The steps from `start` on: number, stage, and number within the stage."""
  first = 0
  for stage in configs.stages(config):
    for place in range(max(start - first, 0), stage.train.steps):
      yield first + place, stage, place
    first += stage.train.steps


def init_state(
  config: configs.Config,
  index: indexes.Index,
  pretrained: rag.Pretrained | None = None,
  *,
  vocab: jax.Array,
) -> State:
  """Fresh parameters and optimiser state; `vocab` only carries its length."""
  params = rag.init(
    workdirs.init_key(config),
    config.model,
    index,
    vocab_size=vocab.shape[0],
    pretrained=pretrained,
  )
  return State(
    step=jnp.zeros((), jnp.int32),
    params=params,
    optimizer=optimizer.make(configs.stages(config)[0]).init(params),
  )


def train_step(
  state: State,
  batch: types.Batch,
  index: indexes.Index,
  *,
  config: configs.Config,
  axis_name: str | None = None,
  shard: tuple[jax.Array | int, int] = (0, 1),
) -> tuple[State, objective.Sums]:
  """From question tokens to new parameters, as one pure function.

  Args:
    state: parameters and optimiser state.
    batch: this device's questions.
    index: the corpus.
    config: the experiment; static.
    axis_name: axis of the pmap this runs in, None under jit.
    shard: (number of this device, number of devices) under pmap.

  Returns:
    The next state, and name -> (sum, count) over all devices.
  """
  rng = jax.random.fold_in(jax.random.key(config.seed + 1), state.step)

  def total_loss(params, rng, batch):
    params = _lower(params, config.train.precision)
    terms, measured = objective.loss(
      params, rng, batch, index, config=config.model, shard=shard
    )
    counts = parallel.sum_over(
      {name: count for name, (_, count) in terms.items()}, axis_name
    )
    total = sum(
      getattr(config.loss, objective.WEIGHTS.get(name, name))
      * value
      / jnp.maximum(counts[name], 1.0)
      for name, (value, _) in terms.items()
    )
    return total, measured

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
  updates, optimizer_state = optimizer.make(config).update(
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


def _lower(params: rag.Params, precision: str) -> rag.Params:
  """Published weights in the precision of a step; the rest stays float32."""
  if precision == 'float32':
    return params
  return {
    name: part
    | {
      own: jax.tree.map(lambda x: x.astype(precision), leaf)
      for own, leaf in part.items()
      if own in rag.PUBLISHED
    }
    for name, part in params.items()
  }


def _in_parts(
  gradient_fn: Callable[..., Any],
  params: rag.Params,
  rng: jax.Array,
  batch: types.Batch,
  *,
  count: int,
) -> Any:
  """Loss, metrics and gradients of a batch, a part after the other.

  Losses and gradients of the parts are averaged, metrics added up.
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


def _measure(
  state: State,
  config: configs.Config,
  prepared: workdirs.Prepared,
  writer: report.MetricsWriter,
) -> list[report.Result]:
  """Measures between steps; BM25 does not learn and is left out."""
  results = evaluate.measure(
    state.params, config, prepared, with_baselines=False
  )
  for split in dict.fromkeys(r.split for r in results):
    values = {
      f'{r.system}/{r.metric}': r.value for r in results if r.split == split
    }
    writer.write(int(state.step), split, values)
  return results


def averages(records: list[objective.Sums]) -> dict[str, float]:
  """Divides sums by counts, once, over several steps; not all have all."""
  values: dict[str, list[Any]] = {}
  for record in jax.device_get(records):
    for name, value in record.items():
      values.setdefault(name, []).append(value)
  totals = {name: np.sum(own, axis=0) for name, own in values.items()}
  return {name: float(s / c) for name, (s, c) in totals.items() if c > 0}


def check_finite(values: dict[str, float], step: int) -> None:
  """Raises a ValueError when training has diverged."""
  bad = [name for name, value in values.items() if not np.isfinite(value)]
  if bad:
    raise ValueError(
      f'{", ".join(bad)} is not finite at step {step}. Lower '
      '--config.train.learning_rate; the last checkpoint is kept.'
    )


def check_devices(config: configs.Config) -> None:
  """Raises a ValueError if the devices cannot share the batches evenly."""
  fields = ['batch_size']
  for part in ('search', 'reader'):
    if getattr(config.train, f'{part}_steps'):
      fields.append(f'{part}_batch_size')
  for name in fields:
    size = getattr(config.train, name)
    parallel.check_batch(size, field=f'train.{name}')
  if config.loss.self_index:
    parallel.check_batch(
      config.pseudo_queries.batch_size, field='pseudo_queries.batch_size'
    )
