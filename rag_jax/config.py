"""The configuration of an experiment, as frozen dataclasses.

`default` returns all fields as an `ml_collections.ConfigDict`. An experiment
file changes it, and flags override it. `build` checks all fields and freezes
them into a `Config`, before anything is written.
"""

import dataclasses
import json
from typing import Any

import ml_collections

from rag_jax import calibration as calibrations
from rag_jax import composition, field_values, parallel, placement
from rag_jax import model as models
from rag_jax import stage as training
from rag_jax.components import id_decoder as decoders
from rag_jax.components import query_encoder as encoders
from rag_jax.components import ranker as rankers
from rag_jax.data import pipeline, widths
from rag_jax.generation import settings as generation
from rag_jax.index import docids
from rag_jax.index import pseudo_queries as crops
from rag_jax.readers import base as readers

# Fields of a stage that map names to numbers.
NAMED = {'losses': composition.LOSSES, 'trains': training.COMPONENTS}
PRECISIONS = ('float32', 'bfloat16')
START = training.Stage(
  steps=1000,
  losses=(('answer', 1.0), ('docid', 1.0), ('ranking', 1.0), ('indexing', 1.0)),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
  """Options of training that all stages share."""

  warmup_steps: int = 50  # steps of linear warm-up of each stage
  weight_decay: float = 0.0  # Adam's decoupled weight decay
  clip_norm: float = 1.0  # maximum norm of a gradient
  # learning-rate multiplier of a reader's head on published weights
  head_lr_multiplier: float = 1.0
  # precision of published weights in a step: 'float32' or 'bfloat16'
  precision: str = 'float32'
  # gradient accumulation: parts of a batch, to save memory
  accumulate: int = 1
  parallel: str = 'jit'  # 'jit' over a mesh of all devices, or 'pmap'
  mesh: str = ''  # such as 'data=2,fsdp=4'; '' = all devices on data
  log_every: int = 50  # steps between records in metrics.jsonl
  checkpoint_every: int = 500  # steps between checkpoints
  keep_checkpoints: int = 2  # checkpoints that are kept
  # measure whose best parameters are kept in best/, such as 'answers/EM'
  keep_best: str = ''
  # limit of the estimated memory, in GiB; 0 = what the machine has
  max_memory_gib: float = 0.0
  evaluate_every: int = 0  # steps between evaluations; 0 = only at the end
  # also score every document, to measure the beam's regret
  evaluate_exact: bool = False
  # also answer with the gold documents taken out of the index
  evaluate_without_gold: bool = False
  eval_batch_size: int = 64  # questions per batch in evaluation
  # write report.html, and docid-paths-SPLIT.jsonl for it, after an evaluation
  report: bool = True

  def __post_init__(self) -> None:
    """Raises a ValueError on a value out of range."""
    parallel.check_mode(self.parallel)
    placement.sizes(self.mesh)
    sizes = ('eval_batch_size', 'accumulate', 'log_every', 'checkpoint_every')
    numbers = dict.fromkeys((*sizes, 'keep_checkpoints'), 1)
    numbers |= {'evaluate_every': 0, 'head_lr_multiplier': 0}
    for name, least in (numbers | {'max_memory_gib': 0}).items():
      if getattr(self, name) < least:
        raise ValueError(
          f'train.{name} must be at least {least}, got {getattr(self, name)}. '
          f'Set --config.train.{name}.'
        )
    if self.precision not in PRECISIONS:
      raise ValueError(
        f'train.precision must be one of {", ".join(PRECISIONS)}, got '
        f'{self.precision!r}. Set --config.train.precision.'
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """The configuration of an experiment."""

  # name of the experiment; the default workdir is runs/NAME
  name: str = 'facts'
  seed: int = 0  # seed of parameters, batches and docids
  # workdir of a run whose weights to start from; '' = none
  init_from: str = ''
  data: pipeline.DataConfig = pipeline.DataConfig()
  docid: docids.DocidConfig = docids.DocidConfig()
  query_encoder: encoders.QueryEncoderConfig = encoders.QueryEncoderConfig()
  id_decoder: decoders.IdDecoderConfig = decoders.IdDecoderConfig()
  ranker: rankers.RankerConfig = rankers.RankerConfig()
  reader: readers.ReaderConfig = readers.ReaderConfig()
  search: models.SearchConfig = models.SearchConfig()
  pseudo_queries: crops.PseudoQueryConfig = crops.PseudoQueryConfig()
  generator: generation.GeneratorConfig = generation.GeneratorConfig()
  calibration: calibrations.CalibrationConfig = calibrations.CalibrationConfig()
  train: TrainConfig = TrainConfig()
  stages: tuple[tuple[str, training.Stage], ...] = (('joint', START),)

  @property
  def model(self) -> models.ModelConfig:
    """The part that determines the compiled model."""
    fields = dataclasses.fields(models.ModelConfig)
    return models.ModelConfig(**{f.name: getattr(self, f.name) for f in fields})

  @property
  def steps(self) -> int:
    """Total steps of all stages."""
    return sum(stage.steps for _, stage in self.stages)

  def trains_with(self, losses: frozenset[str]) -> bool:
    """Whether any stage with steps has one of these losses."""
    return any(
      stage.steps and any(name in losses for name, _ in stage.losses)
      for _, stage in self.stages
    )


# Fields that may differ from config.json in any command: parameters do not
# depend on them, nor on the batches and records of earlier steps.
MAY_CHANGE = (
  *('train.log_every', 'train.checkpoint_every', 'train.keep_checkpoints'),
  *('train.parallel', 'train.mesh', 'train.report', 'train.max_memory_gib'),
  *('train.evaluate_every', 'train.keep_best'),  # which change no state
  *('train.eval_batch_size', 'train.evaluate_exact'),
  'train.evaluate_without_gold',
  *('calibration.threshold', 'calibration.certified'),  # compared with scores
  *('calibration.alpha', 'calibration.delta', 'data.calibration_split'),
  'reader.abstention_threshold',  # compared with a probability at the end
  *('data.eval_splits', 'data.eval_questions', 'data.max_file_gib'),
  'data.host_tokens',  # where the same tokens are
)
# Where the same documents and training questions lie; `workdir.open` compares
# them with those that the run began with.
MAY_CHANGE_WITH_SAME_DATA = (
  'data.path',
  'data.format',
  'data.fields',
  'data.on_dangling',
)
# Fields of a stage that is not finished: the steps so far have happened, and
# only those to come depend on the new value.
MAY_CHANGE_UNFINISHED = ('learning_rate', 'steps')
# Fields that may differ when a trained run is used, not trained: no shape of a
# parameter depends on how many documents are searched and read.
MAY_CHANGE_IN_USE = (
  *MAY_CHANGE,
  *MAY_CHANGE_WITH_SAME_DATA,
  'init_from',
  'search.beam_size',
  *('search.read_size', 'search.vector_type', 'reader.threshold'),
)


def default() -> ml_collections.ConfigDict:
  """All fields with their defaults, locked against new names."""
  return values(Config())


def values(config: Config) -> ml_collections.ConfigDict:
  """The fields of an experiment as values that can be changed.

  Args:
    config: the experiment.

  Returns:
    Nested fields, locked against new names; the inverse of `build`.

  Example:
    >>> build(values(Config(seed=3))).seed
    3
  """
  fields = as_dict(config)
  named = fields.pop('stages')
  found = ml_collections.ConfigDict(fields)
  found.unlock()
  found.stages = stages(**named)
  return found.lock()


class Ordered(ml_collections.ConfigDict):
  """A `ConfigDict` that keeps the order of its fields, also in copies."""

  def __init__(self, *args: Any, **kwargs: Any):
    """Takes the arguments of `ml_collections.ConfigDict`."""
    super().__init__(*args, **kwargs | {'sort_keys': False})


def stages(**named: dict[str, Any]) -> ml_collections.ConfigDict:
  """The stages of an experiment file, in order; flags can set every field.

  Args:
    **named: stage name -> fields of `stage.Stage`; `losses` and `trains` are
      dicts. Fields left out keep their defaults.

  Example:
    >>> named = stages(search={'steps': 30, 'losses': {'docid': 1.0}},
    ...                joint={'steps': 50})
    >>> list(named), named.search.losses.docid, named.search.losses.answer
    (['search', 'joint'], 1.0, 0.0)
  """
  found = {}
  for name, fields in named.items():
    start = dataclasses.asdict(training.Stage())
    values = start | fields
    values['losses'] = dict.fromkeys(composition.LOSSES, 0.0) | dict(
      values['losses']
    )
    values['trains'] = dict.fromkeys(training.COMPONENTS, 0.0) | dict(
      values['trains']
    )
    found[name] = ml_collections.ConfigDict(values)
  return Ordered(found)


def build(values: ml_collections.ConfigDict | dict[str, Any]) -> Config:
  """Checks the fields of an experiment and freezes them.

  Args:
    values: nested fields; those left out keep their defaults.

  Returns:
    The experiment.

  Raises:
    ValueError: if a field does not exist, a value is out of range, or values
      are incompatible.

  Example:
    >>> build({'search': {'beam_size': 8}}).search.beam_size
    8
    >>> build({'search': {'beam_sise': 8}})
    Traceback (most recent call last):
    ValueError: config has no field 'search.beam_sise'. Did you mean \
'search.beam_size'?
  """
  if isinstance(values, ml_collections.ConfigDict):
    values = values.to_dict()
  if not isinstance(values, dict):
    raise ValueError(
      f'config must be nested fields, got {values!r}. Pass '
      'rag_jax.config.default() with changes, or the result of '
      'rag_jax.experiment_files.load(name).'
    )
  values = dict(values)
  named = values.pop('stages', None)
  config = _fill(Config, values, prefix='')
  if named is not None:
    field_values.check_group(named, 'stages', 'joint.steps')
    built = tuple((n, _stage(n, fields)) for n, fields in named.items())
    config = dataclasses.replace(config, stages=built)
  composition.check_relevance(config)
  _ = config.model  # checks the compatibility of the components
  _check(config)
  for name, stage in config.stages:
    if stage.steps:
      composition.check(config, name, stage)
  return config


def check(config: Any) -> None:
  """Raises a ValueError if `config` is not a `Config`."""
  if not isinstance(config, Config):
    raise ValueError(
      f'config must be a rag_jax.config.Config, got {type(config).__name__}. '
      'Pass rag_jax.config.build(values).'
    )


def _stage(name: str, fields: dict[str, Any]) -> training.Stage:
  """Builds a stage from plain values; errors contain its name."""
  known = {field.name: field for field in dataclasses.fields(training.Stage)}
  filled: dict[str, Any] = {}
  prefix = f'stages.{name}.'
  field_values.check_group(fields, prefix[:-1], 'steps')
  for field, value in fields.items():
    field_values.check_name(known, field, prefix)
    if field in NAMED:
      field_values.check_group(value, f'{prefix}{field}', NAMED[field][0])
      own = {}
      for key, weight in value.items():
        field_values.check_name(
          dict.fromkeys(NAMED[field]), key, f'{prefix}{field}.'
        )
        label = f'{prefix}{field}.{key}'
        own[key] = field_values.number(weight, float, label, flag=label)
      filled[field] = tuple(
        (key, own[key]) for key in NAMED[field] if own.get(key)
      )
    else:
      filled[field] = field_values.cast(value, known[field], prefix + field)
  try:
    return training.Stage(**filled)
  except ValueError as error:
    raise ValueError(str(error).replace('STAGE', name)) from error


def _check(config: Config) -> None:
  """Raises a ValueError on incompatible values of different parts."""
  composition.check_parts(config)
  for part in ('query_encoder', 'reader'):
    weights = getattr(config, part).weights
    if not weights or config.data.tokenizer:
      continue
    if not _brings_tokenizer(config, part):
      raise ValueError(
        f'{part}.weights {weights!r} need their own tokenizer, got '
        f"data.tokenizer=''. Set --config.data.tokenizer={weights}."
      )
  room = models.query_limit(config.model, config.data.max_document_tokens)
  if room < widths.LEAST:
    name, got = 'data.max_document_tokens', config.data.max_document_tokens
    raise ValueError(
      f'{name} must leave {widths.LEAST} positions of a reader to a question, '
      f'got {got}. Set --config.{name}={got + room - widths.LEAST}.'
    )
  writes = config.reader.kind != 'sentences'  # else references may be longer
  if writes and config.data.max_answer_tokens > config.reader.max_answer_tokens:
    raise ValueError(
      f'data.max_answer_tokens must be at most reader.max_answer_tokens '
      f'({config.reader.max_answer_tokens}), got '
      f'{config.data.max_answer_tokens}. Set --config.data.max_answer_tokens.'
    )
  trained = config.trains_with(frozenset(['null_document']))
  if config.reader.null_document and not trained:
    raise ValueError(
      'reader.null_document is trained by the loss null_document, got no stage '
      'with steps and this loss. Set '
      '--config.stages.STAGE.losses.null_document=1 or '
      '--config.reader.null_document=False.'
    )


def _brings_tokenizer(config: Config, part: str) -> bool:
  """Whether a part is a reader that can have its own tokenizer."""
  return (
    part == 'reader' and composition.reader_of(config).text_inputs is not None
  )


def as_dict(config: Config) -> dict[str, Any]:
  """Plain nested values, for config.json; `build` reads them again."""
  values = dataclasses.asdict(config)
  values['stages'] = {
    name: stage
    | {'losses': dict(stage['losses']), 'trains': dict(stage['trains'])}
    for name, stage in values['stages']
  }
  return values


def to_json(config: Config) -> str:
  """The text of config.json."""
  return json.dumps(as_dict(config), indent=2) + '\n'


def check_field(name: str) -> None:
  """Raises a ValueError with the most similar field if a field is unknown.

  Args:
    name: dotted name, such as 'search.beam_size'.
  """
  known, prefix = default().to_dict(), ''
  for part in name.split('.'):
    if not isinstance(known, dict):
      raise ValueError(
        f'config field {prefix[:-1]!r} is one value, got {name!r}. '
        f'Set --config.{prefix[:-1]}.'
      )
    if prefix == 'stages.':  # the name of a stage is free
      known = known['joint']
    else:
      field_values.check_name(known, part, prefix)
      known = known[part]
    prefix += f'{part}.'


def _fill(cls: type, values: dict[str, Any], *, prefix: str) -> Any:
  fields = {field.name: field for field in dataclasses.fields(cls)}
  filled = {}
  for name, value in values.items():
    field_values.check_name(fields, name, prefix)
    start = fields[name].default
    if dataclasses.is_dataclass(start):
      first = dataclasses.fields(start)[0].name
      field_values.check_group(value, f'{prefix}{name}', first)
      filled[name] = _fill(type(start), value, prefix=f'{prefix}{name}.')
    else:
      filled[name] = field_values.cast(value, fields[name], f'{prefix}{name}')
  return cls(**filled)
