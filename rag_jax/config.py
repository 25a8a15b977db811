"""One experiment as frozen dataclasses, built from what a user typed.

`default` gives every field as an `ml_collections.ConfigDict`, which an
experiment file changes and flags override; `build` turns it into a `Config`
at once, so that a misspelt field or a value out of range is named before
anything is written.
"""

import dataclasses
import difflib
from typing import Any

import ml_collections

from rag_jax import parallel, rag
from rag_jax.components import id_decoder as decoders
from rag_jax.components import query_encoder as encoders
from rag_jax.components import ranker as rankers
from rag_jax.components import reader as readers
from rag_jax.data import pipeline
from rag_jax.index import docids
from rag_jax.index import pseudo_queries as crops

GROUPS = ('query_encoder', 'id_decoder', 'ranker', 'reader')
PRECISIONS = ('float32', 'bfloat16')


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
  """The optimiser, the loop, and how it is spread over devices."""

  steps: int = 1000
  batch_size: int = 32  # questions a step, over all devices
  learning_rate: float = 1e-3  # peak; cosine decay to zero
  warmup_steps: int = 50  # of each stage, and of the reader's own data
  weight_decay: float = 0.0
  clip_norm: float = 1.0
  log_every: int = 50  # steps between records in metrics.jsonl
  checkpoint_every: int = 500
  keep_checkpoints: int = 2
  parallel: str = 'jit'  # one of parallel.MODES
  search_steps: int = 0  # of `steps`, the first, that train without the reader
  search_batch_size: int = 64  # questions a step in these
  search_learning_rate: float = 1e-3  # peak in these
  reader_steps: int = 0  # the next, that train the reader on gold documents
  other_steps: int = 0  # of these, the first, that read data.other_path
  reader_negatives: bool = False  # in the others, a found one beside the gold
  reader_batch_size: int = 16
  reader_learning_rate: float = 3e-4
  freeze_search: bool = False  # after these; True = the reader trains alone
  query_encoder_rate: float = 1.0  # factors on the learning rate, a component
  id_decoder_rate: float = 1.0  # each; 0 freezes it
  ranker_rate: float = 1.0
  reader_rate: float = 1.0
  head_rate: float = 1.0  # a factor more on what the reader adds to a BERT
  accumulate: int = 1  # parts of a batch, one after the other: less memory
  precision: str = 'float32'  # or 'bfloat16', of published weights in a step
  evaluate_every: int = 0  # steps between measurements; 0: only at the end
  eval_batch_size: int = 64

  def __post_init__(self) -> None:
    """Raises a ValueError on a value out of range."""
    parallel.check_mode(self.parallel)
    sizes = ('batch_size', 'search_batch_size', 'reader_batch_size')
    rest = ('eval_batch_size', 'accumulate', 'log_every')
    for name in (*sizes, *rest, 'checkpoint_every', 'keep_checkpoints'):
      if getattr(self, name) < 1:
        raise ValueError(
          f'train.{name} must be at least 1, got {getattr(self, name)}. '
          f'Set --config.train.{name}.'
        )
    rates = [f'{name}_rate' for name in (*GROUPS, 'head')]
    counts = ('steps', 'evaluate_every', 'search_steps', 'reader_steps')
    for name in (*counts, 'other_steps', *rates):
      if getattr(self, name) < 0:
        raise ValueError(
          f'train.{name} must be at least 0, got {getattr(self, name)}. '
          f'Set --config.train.{name}.'
        )
    if self.search_steps + self.reader_steps > self.steps:
      raise ValueError(
        'train.search_steps and reader_steps must add up to at most steps '
        f'({self.steps}), got {self.search_steps} and {self.reader_steps}. '
        'Set --config.train.steps.'
      )
    if self.other_steps > self.reader_steps:
      raise ValueError(
        'train.other_steps are the first of reader_steps, so at most '
        f'{self.reader_steps}, got {self.other_steps}. '
        'Set --config.train.other_steps.'
      )
    for name in sizes:
      if getattr(self, name) % self.accumulate:
        raise ValueError(
          f'train.{name} must be a multiple of accumulate '
          f'({self.accumulate}), got {getattr(self, name)}. '
          f'Set --config.train.{name}.'
        )
    if self.precision not in PRECISIONS:
      raise ValueError(
        f'train.precision must be one of {", ".join(PRECISIONS)}, got '
        f'{self.precision!r}. Set --config.train.precision.'
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """Everything an experiment is."""

  name: str = 'facts'
  seed: int = 0
  data: pipeline.DataConfig = pipeline.DataConfig()
  docid: docids.DocidConfig = docids.DocidConfig()
  query_encoder: encoders.QueryEncoderConfig = encoders.QueryEncoderConfig()
  id_decoder: decoders.IdDecoderConfig = decoders.IdDecoderConfig()
  ranker: rankers.RankerConfig = rankers.RankerConfig()
  reader: readers.ReaderConfig = readers.ReaderConfig()
  search: rag.SearchConfig = rag.SearchConfig()
  loss: rag.LossConfig = rag.LossConfig()
  pseudo_queries: crops.PseudoQueryConfig = crops.PseudoQueryConfig()
  train: TrainConfig = TrainConfig()

  @property
  def model(self) -> rag.RagConfig:
    """The part that a compiled step depends on."""
    fields = dataclasses.fields(rag.RagConfig)
    return rag.RagConfig(**{f.name: getattr(self, f.name) for f in fields})


def stages(config: Config) -> list[Config]:
  """The stages of training: search alone, the reader alone, then everything.

  Each has the number of its own steps, its batch size and learning rate in
  `train`; one without steps is left out.

  Example:
    >>> train = {'steps': 100, 'search_steps': 30, 'reader_steps': 20}
    >>> config = build({'train': train})
    >>> [stage.train.steps for stage in stages(config)]
    [30, 20, 50]
  """
  train = config.train
  still = {f'{name}_rate': 0.0 for name in GROUPS if name != 'reader'}
  left = train.steps - train.search_steps - train.reader_steps
  everything = _stage(config, left, **still if train.freeze_search else {})
  search = _stage(
    dataclasses.replace(
      config,
      ranker=dataclasses.replace(config.ranker, reads=False),
      reader=dataclasses.replace(config.reader, null_document=False),
      loss=dataclasses.replace(
        config.loss, answer=0.0, distillation=0.0, docid_distillation=0.0
      ),
    ),
    train.search_steps,
    batch_size=train.search_batch_size,
    learning_rate=train.search_learning_rate,
    reader_rate=0.0,
  )
  reading = _stage(
    dataclasses.replace(
      config,
      search=dataclasses.replace(
        config.search, gold_only=True, train_passage_tokens=0
      ),
    ),
    train.reader_steps,
    batch_size=train.reader_batch_size,
    learning_rate=train.reader_learning_rate,
    reader_steps=train.reader_steps,
    other_steps=train.other_steps,
    **still,
  )
  found = [s for s in (search, reading, everything) if s.train.steps]
  return found or [everything]


def _stage(config: Config, steps: int, **changes: Any) -> Config:
  none = {'search_steps': 0, 'reader_steps': 0, 'other_steps': 0}
  changes = none | changes | {'steps': steps}
  train = dataclasses.replace(config.train, **changes)
  return dataclasses.replace(config, train=train)


# Fields that may differ when a run is taken up again.
MAY_CHANGE = (
  'train.log_every',
  'train.checkpoint_every',
  'train.keep_checkpoints',
  'train.parallel',
  'train.eval_batch_size',
  'reader.null_threshold',
  'data.eval_splits',
  'data.eval_questions',
)


def default() -> ml_collections.ConfigDict:
  """Every field with its default value, locked against new names."""
  return ml_collections.ConfigDict(dataclasses.asdict(Config()))


def build(values: ml_collections.ConfigDict | dict[str, Any]) -> Config:
  """Checks values and freezes them.

  Args:
    values: nested fields; those left out keep their defaults.

  Returns:
    The experiment.

  Raises:
    ValueError: if a field does not exist or a value is out of range.

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
  config = _fill(Config, values, prefix='')
  _ = config.model  # checks values that must go together
  if config.search.gold_only:
    raise ValueError(
      'search.gold_only belongs to the stage that trains the reader, got True. '
      'Set --config.train.reader_steps.'
    )
  for part in ('query_encoder', 'reader'):
    own = getattr(config, part).weights
    if own and not config.data.tokenizer:
      raise ValueError(
        f'{part}.weights {own!r} need their own tokenizer, got '
        f"data.tokenizer=''. Set --config.data.tokenizer={own}."
      )
  if bool(config.data.other_path) != bool(config.train.other_steps):
    raise ValueError(
      'data.other_path is what the reader reads in train.other_steps, got '
      f'{config.data.other_path!r} and {config.train.other_steps}. Set both '
      '--config.data.other_path and --config.train.other_steps, or neither.'
    )
  if config.reader.null_document:
    _check_null_document(config)
  if config.train.reader_negatives:
    _check_negatives(config)
  if config.search.lexical_weight and not config.data.max_query_words:
    raise ValueError(
      'search.lexical_weight needs whole words, got data.max_query_words=0. '
      'Set --config.data.max_query_words=16.'
    )
  if config.data.max_answer_tokens > config.reader.max_answer_tokens:
    raise ValueError(
      f'data.max_answer_tokens must be at most reader.max_answer_tokens '
      f'({config.reader.max_answer_tokens}), got '
      f'{config.data.max_answer_tokens}. Set '
      '--config.data.max_answer_tokens.'
    )
  return config


def _check_negatives(config: Config) -> None:
  """Raises a ValueError where nothing would be learned from them."""
  train = config.train
  for name, value in (
    ('ranker.reads=True', config.ranker.reads),
    ('loss.ranking=1', config.loss.ranking),
    ('train.reader_steps=300', train.reader_steps > train.other_steps),
  ):
    if not value:
      raise ValueError(
        'train.reader_negatives teach how relevant a passage is in steps of '
        'the reader on its own data, for ranker.reads and by the weight of '
        f'loss.ranking, got {train.reader_steps - train.other_steps} such '
        f'steps, {config.ranker.reads} and {config.loss.ranking}. Set '
        f'--config.{name} or --config.train.reader_negatives=False.'
      )


def _check_null_document(config: Config) -> None:
  """Raises a ValueError where it would never see passages without an answer."""
  train, search = config.train, config.search
  if train.search_steps + train.reader_steps == train.steps:
    raise ValueError(
      'reader.null_document is trained in the steps that are left for all '
      f'parts, got train.steps={train.steps}, of which search_steps and '
      'reader_steps leave none. Set --config.train.steps or '
      '--config.reader.null_document=False.'
    )
  name = 'train_read_size' if search.train_read_size else 'read_size'
  if search.join_gold and getattr(search, name) <= config.data.max_gold:
    raise ValueError(
      'reader.null_document needs passages beside the gold ones, of which '
      f'there may be data.max_gold={config.data.max_gold}, got '
      f'search.{name}={getattr(search, name)}. Set '
      f'--config.search.{name}={config.data.max_gold + 1}.'
    )


def as_dict(config: Config) -> dict[str, Any]:
  """Plain nested values, for config.json."""
  return dataclasses.asdict(config)


def check_field(name: str) -> None:
  """Raises a ValueError that names the nearest field, if there is none such.

  Args:
    name: dotted, such as 'search.beam_size'.
  """
  cls: type = Config
  prefix = ''
  for part in name.split('.'):
    fields = {field.name: field for field in dataclasses.fields(cls)}
    _check_name(fields, part, prefix)
    if not dataclasses.is_dataclass(fields[part].default):
      return
    cls, prefix = type(fields[part].default), f'{prefix}{part}.'


def _check_name(fields: dict[str, Any], name: str, prefix: str) -> None:
  if name in fields:
    return
  close = difflib.get_close_matches(name, fields, n=1)
  hint = f'There are: {", ".join(fields)}.'
  if close:
    hint = f"Did you mean '{prefix}{close[0]}'?"
  raise ValueError(f"config has no field '{prefix}{name}'. {hint}")


def _fill(cls: type, values: dict[str, Any], *, prefix: str) -> Any:
  fields = {field.name: field for field in dataclasses.fields(cls)}
  filled = {}
  for name, value in values.items():
    _check_name(fields, name, prefix)
    start = fields[name].default
    if dataclasses.is_dataclass(start):
      if not isinstance(value, dict):
        raise ValueError(
          f"config field '{prefix}{name}' is a group, got {value!r}. Set one "
          f"of its fields, such as '{prefix}{name}."
          f"{dataclasses.fields(start)[0].name}'."
        )
      filled[name] = _fill(type(start), value, prefix=f'{prefix}{name}.')
    else:
      filled[name] = _cast(value, start, f'{prefix}{name}')
  return cls(**filled)


def _cast(value: Any, start: Any, name: str) -> Any:
  """The value in the type of the default, if nothing is lost."""
  if isinstance(start, tuple) and isinstance(value, (list, tuple)):
    return tuple(value)
  if isinstance(start, float) and type(value) is int:
    return float(value)
  if type(value) is not type(start):
    raise ValueError(
      f'{name} must be {type(start).__name__}, got {value!r}. '
      f'Set --config.{name}.'
    )
  return value
