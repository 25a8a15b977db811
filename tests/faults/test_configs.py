"""Random configurations: each trains a step, or is one line with its field."""

import copy
import math
import os
import random
import re

import jax
import pytest

from rag_jax import config as configs
from rag_jax import curriculum, field_help, objective, train
from rag_jax import stage as stages
from rag_jax import workdir as workdirs
from rag_jax.components import ranker

# Configurations that train a step; the whole of it takes a night.
COUNTS = {'long': 60, 'night': 1000}
COUNT = COUNTS.get(os.environ.get('RAG_JAX_FAULTS') or '', 0)
SEED = int(os.environ.get('RAG_JAX_FAULTS_SEED') or 0)
STAGE = 'stages.NAME.'
# Values of texts that are one of several words.
WORDS = {
  name: tuple(words)
  for name, words in field_help.CHOICES.items()
  if not name.endswith(('losses', 'trains'))
} | {
  'data.format': ('auto', 'jsonl', 'beir', 'facts'),
  'data.on_empty': ('error', 'skip'),
  'search.scoring': ('log_softmax', 'inner_product', 'absolute'),
  'train.precision': ('float32', 'bfloat16'),
  f'{STAGE}operator': ('', *ranker.OPERATORS),
  f'{STAGE}marginal': ('', 'sequence', 'token', 'fusion'),
  'reader.marginal': ('', 'sequence', 'token', 'fusion'),
}
# These name files, or decide how long a step takes; huge values are no fault.
KEPT = {'name', 'data.path', 'data.tokenizer', 'data.train_split'}
KEPT |= {'data.eval_splits', f'{STAGE}data', f'{STAGE}steps'}
KEPT |= {'query_encoder.weights', 'reader.weights', 'data.max_file_gib'}
SLOW = {'docid.steps', 'docid.iterations'}
WRONG = {
  int: (-1, 0, 1, 2**31, -(2**31), 10**9, 1.5, 'x', None, True),
  float: (-1.0, 0.0, math.nan, math.inf, -math.inf, 1e-300, 1e300, 'x', None),
  str: ('', 'nonsense', 'x' * 300, '\0', 3, None),
  bool: (2, 'True', None),
  tuple: ((), (0,), (-1,), (2**31,), (1.5,), ('x',), 3),
}
# What the parts do not check, but a step would fail on, or take as another.
OUT_OF_RANGE = (
  ('seed', -1),
  ('data.bm25_b', 1.5),
  ('data.bm25_k1', -0.1),
  ('data.max_vector_tokens', -1),
  ('docid.hidden_dims', (8, 0)),
  ('id_decoder.scale', 0.0),
  ('ranker.saturation', 0.0),
  ('ranker.length_norm', 2.0),
  ('ranker.temperature', 1e-300),
  ('reader.epsilon', 0.0),
  ('reader.rope_base', -1.0),
  ('reader.end_token', -1),
  ('pseudo_queries.batch_size', -1),
  ('pseudo_queries.min_tokens', 0),
  ('train.warmup_steps', -1),
  ('train.weight_decay', -0.1),
  ('train.clip_norm', 0.0),
  ('train.max_memory_gib', -1.0),
  ('stages.joint.margin', -1.0),
  ('stages.joint.losses.answer', 1e300),
  ('query_encoder.frozen_layers', 1),
  ('name', '\0'),
)


def flat(values, prefix=''):
  for name, value in values.items():
    if isinstance(value, dict):
      yield from flat(value, f'{prefix}{name}.')
    else:
      yield f'{prefix}{name}', value


def put(values, name, value):
  *groups, last = name.split('.')
  for group in groups:
    values = values[group]
  values[last] = value


def draw_value(rng, name, value):
  """A value of the same type that a user may set, most of them in range."""
  if name in WORDS:
    return rng.choice(WORDS[name])
  if isinstance(value, bool):
    return rng.random() < 0.5
  if isinstance(value, int):
    return rng.choice((value, value, 2 * value, value // 2, value + 1, 1, 2, 8))
  if isinstance(value, float):
    return value * rng.choice((0.0, 0.1, 1.0, 10.0)) + rng.choice((0, 0, 0.1))
  if isinstance(value, (tuple, list)):
    return tuple(rng.randrange(1, 9) for _ in range(rng.randrange(3)))
  return value


def draw(rng, start):
  """Nested values: those of an experiment, each drawn anew at some rate."""
  values = copy.deepcopy(start)
  rate = rng.choice((0.05, 0.1, 0.3, 1.0))
  wrong = rng.choice((0.0, 0.0, 0.01, 0.03))
  for name, value in flat(start):
    own = re.sub(r'^stages\.\w+\.', STAGE, name)
    if '.losses.' in own or '.trains.' in own:
      if rng.random() < rate / 2:
        put(values, name, rng.choice((0.0, 0.0, 1.0, 0.3)))
    elif own not in KEPT and rng.random() < rate:
      put(values, name, draw_value(rng, own, value))
    if rng.random() < wrong:
      choices = WRONG.get(type(value), WRONG[tuple])
      if own in SLOW | {f'{STAGE}steps'}:
        choices = (-1, 1.5, 2**31)
      put(values, name, rng.choice(choices))
  return values


def starts(tiny_values, published_values):
  """Experiments to draw from: complete nested values with one stage."""
  for values in (tiny_values, published_values):
    whole = configs.as_dict(configs.build(values))
    for name, stage in whole['stages'].items():
      stage['losses'] = dict.fromkeys(objective.TERMS, 0.0) | stage['losses']
      stage['trains'] = dict.fromkeys(stages.COMPONENTS, 0.0) | stage['trains']
      null = bool(stage['losses']['null_document'])
      yield whole | {
        'reader': whole['reader'] | {'null_document': null},
        'stages': {name: stage | {'steps': 1}},
      }


def accepted(rng, begin):
  """The next drawn configuration that `build` accepts."""
  while True:
    values = draw(rng, rng.choice(begin))
    try:
      return configs.build(values)
    except ValueError as error:
      check(error)


def check(error):
  text = str(error)
  assert '\n' not in text and len(text) < 1500, text
  assert re.search(r'\w+\.\w+|seed|name', text), text


@pytest.fixture(scope='module')
def begin(tiny_values, published_values):
  return list(starts(tiny_values, published_values))


def test_no_drawn_value_is_a_crash(begin):
  """Of every field, values of a wrong type, sign, size or magnitude."""
  rng = random.Random(SEED)
  built = 0
  for start in begin:
    for name, value in flat(start):
      kind = type(value) if type(value) in WRONG else tuple
      for wrong in rng.sample(WRONG[kind], 3):
        values = copy.deepcopy(start)
        put(values, name, wrong)
        try:
          configs.build(values)
          built += 1
        except ValueError as error:
          check(error)
  assert built


@pytest.mark.parametrize('name, value', OUT_OF_RANGE)
def test_values_that_no_step_can_use(begin, name, value):
  values = copy.deepcopy(begin[0])
  put(values, name, value)
  with pytest.raises(ValueError, match=f'{name} must be .*Set --config.{name}'):
    configs.build(values)


def one_step(config, workdir):
  """Trains a step; the line of an error, or ''."""
  try:
    train.check_devices(config)
    data = curriculum.load_stage_data(config)
    prepared = workdirs.open(config, workdir)
    train.fit(config, prepared, workdir, stage_data=data)
  except ValueError as error:
    check(error)
    return str(error)
  return ''


def test_random_configurations_train_a_step(begin, tmp_path):
  rng = random.Random(SEED)
  for number in range(COUNT or 1):
    config = accepted(rng, begin)
    try:
      one_step(config, tmp_path / str(number))
    except Exception as error:
      error.add_note(f'number {number} of RAG_JAX_FAULTS_SEED={SEED}: {config}')
      raise
    if number % 10 == 9:
      jax.clear_caches()
