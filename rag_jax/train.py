"""The one train loop: prepare, step, log, save, resume, evaluate."""

import functools
import pathlib
import sys
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tokenizers as hf_tokenizers

from rag_jax import checkpoint, evaluate, parallel, rag, report, types
from rag_jax import config as configs
from rag_jax.data import formats, pipeline, tokenizers
from rag_jax.index import index as indexes


@flax.struct.dataclass
class State:
  """All that a step changes."""

  step: jax.Array  # int32[]
  params: rag.Params
  optimizer: optax.OptState


@flax.struct.dataclass
class Prepared:
  """Data, tokenizer and index of an experiment; the index is on the device."""

  dataset: types.Dataset = flax.struct.field(pytree_node=False)
  tokenizer: hf_tokenizers.Tokenizer = flax.struct.field(pytree_node=False)
  index: indexes.Index
  notes: tuple[str, ...] = flax.struct.field(pytree_node=False)


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
  dataset = formats.load(
    config.data.path, format=config.data.format, on_empty=config.data.on_empty
  )
  pipeline.check_splits(dataset, config.data)
  checkpoint.claim_workdir(
    workdir, configs.as_dict(config), may_change=configs.MAY_CHANGE
  )
  prepared = prepare(config, dataset, workdir)
  for note in prepared.notes:
    print(f'note: {note}', file=sys.stderr)
  state = fit(config, prepared, workdir)
  results = evaluate.measure(
    state.params,
    config,
    prepared.dataset,
    prepared.tokenizer,
    prepared.index,
  )
  report.save_results(workdir / 'results.json', results)
  return results


def prepare(
  config: configs.Config, dataset: types.Dataset, workdir: pathlib.Path
) -> Prepared:
  """Makes the tokenizer and the index, or loads those the workdir holds."""
  tokenizer_path = workdir / 'tokenizer.json'
  if tokenizer_path.exists():
    tokenizer = tokenizers.load(tokenizer_path)
  else:
    tokenizer = pipeline.train_tokenizer(dataset, config.data)
    tokenizers.save(tokenizer, tokenizer_path)
  encoded = pipeline.encode_documents(tokenizer, dataset.documents, config.data)
  notes = list(dataset.notes)
  if encoded.truncated:
    notes.append(
      f'{encoded.truncated} of {len(dataset.documents)} documents are cut '
      f'after {config.data.max_document_tokens} tokens '
      '(--config.data.max_document_tokens).'
    )
  if config.search.beam_size > len(dataset.documents):
    notes.append(
      f'search.beam_size is {config.search.beam_size}, but there are only '
      f'{len(dataset.documents)} documents; empty places are masked.'
    )
  index_path = workdir / 'index.npz'
  if index_path.exists():
    index = indexes.load(index_path)
    if not np.array_equal(np.asarray(index.tokens), encoded.tokens):
      raise ValueError(
        f'data.path {config.data.path!r} holds other documents than the index '
        f'in {str(workdir)!r}. Use another --workdir, or the same data.'
      )
  else:
    vectors = rag.document_vectors(
      init_key(config),
      config.model,
      jnp.asarray(encoded.tokens),
      vocab_size=tokenizer.get_vocab_size(),
    )
    index = indexes.build(
      encoded.tokens, np.asarray(vectors), config.docid, seed=config.seed
    )
    indexes.save(index, index_path)
  return Prepared(
    dataset=dataset, tokenizer=tokenizer, index=index, notes=tuple(notes)
  )


def fit(
  config: configs.Config, prepared: Prepared, workdir: pathlib.Path
) -> State:
  """Runs the steps that are missing."""
  rows = {d.id: i for i, d in enumerate(prepared.dataset.documents)}
  questions = pipeline.encode_questions(
    prepared.tokenizer,
    prepared.dataset.splits[config.data.train_split],
    rows,
    config.data,
  )
  batches = pipeline.train_batches(
    questions, batch_size=config.train.batch_size, seed=config.seed
  )
  state = jax.jit(functools.partial(init_state, config))(
    prepared.index, vocab=jnp.zeros(prepared.tokenizer.get_vocab_size())
  )
  checkpointer = checkpoint.open(
    workdir / 'checkpoints', keep=config.train.keep_checkpoints
  )
  restored = checkpoint.restore(checkpointer, state)
  if restored is not None:
    state = restored[1]
  start, steps = int(state.step), config.train.steps
  step_fn = parallel.compile_step(
    functools.partial(train_step, config=config), mode=config.train.parallel
  )
  writer = report.MetricsWriter(workdir, start)
  recent: list[Any] = []
  with report.Progress(steps, start) as progress:
    for step in range(start, steps):
      state, sums = step_fn(state, batches[step], prepared.index)
      recent.append(sums)
      if (step + 1) % config.train.log_every == 0 or step + 1 == steps:
        values = averages(recent)
        check_finite(values, step + 1)
        writer.write(step + 1, 'train', values)
        progress.update(
          step + 1,
          loss=values['loss'],
          examples=len(recent) * config.train.batch_size,
        )
        recent = []
      if (step + 1) % config.train.checkpoint_every == 0 or step + 1 == steps:
        checkpoint.save(checkpointer, step + 1, state)
  writer.close()
  checkpoint.close(checkpointer)
  return state


def init_key(config: configs.Config) -> jax.Array:
  """The key that parameters are made from."""
  return jax.random.key(config.seed)


def init_state(
  config: configs.Config, index: indexes.Index, *, vocab: jax.Array
) -> State:
  """Fresh parameters and optimiser state; `vocab` only carries its length."""
  params = rag.init(
    init_key(config), config.model, index, vocab_size=vocab.shape[0]
  )
  return State(
    step=jnp.zeros((), jnp.int32),
    params=params,
    optimizer=optimizer(config.train).init(params),
  )


def optimizer(config: configs.TrainConfig) -> optax.GradientTransformation:
  """Adam with clipping, linear warm-up and cosine decay."""
  schedule = optax.warmup_cosine_decay_schedule(
    init_value=0.0,
    peak_value=config.learning_rate,
    warmup_steps=min(config.warmup_steps, max(config.steps - 1, 1)),
    decay_steps=max(config.steps, 2),
  )
  return optax.chain(
    optax.clip_by_global_norm(config.clip_norm),
    optax.adamw(schedule, weight_decay=config.weight_decay),
  )


def train_step(
  state: State,
  batch: types.Batch,
  index: indexes.Index,
  *,
  config: configs.Config,
  axis_name: str | None = None,
  shard: tuple[jax.Array | int, int] = (0, 1),
) -> tuple[State, rag.Sums]:
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

  def objective(params):
    terms, measured = rag.loss(
      params, rng, batch, index, config=config.model, shard=shard
    )
    counts = parallel.sum_over(
      {name: count for name, (_, count) in terms.items()}, axis_name
    )
    total = sum(
      getattr(config.loss, name) * value / jnp.maximum(counts[name], 1.0)
      for name, (value, _) in terms.items()
    )
    return total, measured

  (loss, measured), gradients = jax.value_and_grad(objective, has_aux=True)(
    state.params
  )
  loss, measured, gradients = parallel.sum_over(
    (loss, measured, gradients), axis_name
  )
  updates, optimizer_state = optimizer(config.train).update(
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


def averages(records: list[rag.Sums]) -> dict[str, float]:
  """Divides sums by counts, once, over several steps."""
  records = jax.device_get(records)
  totals = jax.tree.map(lambda *x: float(np.sum(x)), *records)
  return {name: s / c for name, (s, c) in totals.items() if c > 0}


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
  parallel.check_batch(config.train.batch_size, field='train.batch_size')
  if config.loss.self_index:
    parallel.check_batch(
      config.pseudo_queries.batch_size, field='pseudo_queries.batch_size'
    )
