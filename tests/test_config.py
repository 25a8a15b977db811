import copy
import dataclasses
import json
from unittest import mock

import pytest
from absl import flags
from ml_collections import config_flags

from rag_jax import composition
from rag_jax import config as configs
from rag_jax import stage as stages

ORDER = (
  'warmup',
  'search',
  'read',
  'joint',
  'again',
)  # not in alphabetical order


@pytest.fixture
def values():
  """The values of an experiment with five stages."""
  own = configs.default()
  own.stages = configs.stages(
    **{
      name: {'steps': place + 1, 'losses': {'docid': 1.0 + place}}
      for place, name in enumerate(ORDER)
    }
  )
  return own


def names(config):
  return tuple(name for name, _ in config.stages)


def flagged(values, *argv):
  own = flags.FlagValues()
  argv = ['launch.py', *argv]
  with mock.patch('sys.argv', argv):  # config_flags reads sys.argv
    config_flags.DEFINE_config_dict('config', values, flag_values=own)
    own(argv)
    return own.config


def test_stages_keep_the_order_of_the_experiment(values):
  config = configs.build(values)
  assert names(config) == ORDER
  assert [stage.steps for _, stage in config.stages] == [1, 2, 3, 4, 5]
  assert config.steps == 15
  for own in (
    values.to_dict(),
    copy.deepcopy(values),
    values.copy_and_resolve_references(),
    flagged(values, '--config.seed=0'),
    json.loads(json.dumps(configs.as_dict(config))),
  ):
    assert configs.build(own) == config
  moved = list(config.stages[::-1])
  other = configs.build(
    configs.as_dict(dataclasses.replace(config, stages=tuple(moved)))
  )
  assert names(other) == ORDER[::-1]


def test_every_field_of_a_stage_is_a_flag(values):
  before = configs.build(values)
  own = flagged(
    values,
    '--config.stages.read.steps=9',
    '--config.stages.read.losses.pdist=0.5',
    '--config.stages.read.losses.docid=0',
    '--config.stages.read.trains.reader=0',
    '--config.stages.read.candidates=beam',
    '--config.train.log_every=7',
  )
  after = configs.build(own)
  assert names(after) == ORDER
  stage = dict(after.stages)['read']
  assert (stage.steps, stage.losses) == (9, (('pdist', 0.5),))
  assert stage.candidates == 'beam' and stage.rate('reader') == 0.0
  assert stage.rate('ranker') == 1.0 and after.train.log_every == 7
  others = [pair for pair in after.stages if pair[0] != 'read']
  assert others == [pair for pair in before.stages if pair[0] != 'read']
  for field in dataclasses.fields(stages.Stage):
    configs.check_field(f'stages.read.{field.name}')
    assert field.name in values.stages.read
  assert [*values.stages.read.losses] == sorted(composition.LOSSES)
  assert [*values.stages.read.trains] == sorted(stages.COMPONENTS)


def test_losses_and_components_of_weight_zero_are_removed():
  config = configs.build(
    {
      'stages': {
        'a': {'losses': {'docid': 0, 'ranking': 2}, 'trains': {'ranker': 0.0}}
      }
    }
  )
  [(_, stage)] = config.stages
  assert stage.losses == (('ranking', 2.0),) and stage.trains == ()
  assert (stage.weight('ranking'), stage.weight('docid')) == (2.0, 0.0)
  # The order of the losses in the file does not matter.
  pairs = [('ranking', 1.0), ('answer', 1.0), ('docid', 1.0)]
  first, second = (
    configs.build({'stages': {'a': {'losses': dict(own)}}})
    for own in (pairs, pairs[::-1])
  )
  assert first == second and hash(first) == hash(second)


def test_defaults_survive_a_round_trip():
  config = configs.Config()
  assert configs.build({}) == config
  assert configs.build(configs.default()) == config
  assert configs.build(configs.as_dict(config)) == config


@pytest.mark.parametrize(
  'values, message',
  [
    ({'serch': {}}, "no field 'serch'. Did you mean 'search'"),
    ({'search': 3}, "'search' is a group, got 3.*'search.beam_size'"),
    (
      {'search': {'beam_size': 'four'}},
      "search.beam_size must be int, got 'fo",
    ),
    ({'stages': 3}, "'stages' is a group, got 3"),
    ({'stages': {'a': 3}}, "'stages.a' is a group, got 3.*'stages.a.steps'"),
    ({'stages': {'a': {'stps': 3}}}, "'stages.a.stps'.*mean 'stages.a.steps'"),
    ({'stages': {'a': {'steps': 'x'}}}, "stages.a.steps must be int, got 'x'"),
    ({'stages': {'a': {'losses': 3}}}, "'stages.a.losses' is a group, got 3"),
    (
      {'stages': {'a': {'losses': {'docid': 'x'}}}},
      "stages.a.losses.docid must be float, got 'x'",
    ),
    (
      {'stages': {'a': {'losses': {'dcid': 1}}}},
      "'stages.a.losses.dcid'.*mean 'stages.a.losses.docid'",
    ),
    (
      {'stages': {'a': {'trains': {'raeder': 1}}}},
      "'stages.a.trains.raeder'.*mean 'stages.a.trains.reader'",
    ),
    (
      {'stages': {'a': {'losses': {'docid': -1}}}},
      'stages.a.losses.docid must be at least 0, got -1.*stages.a.losses.docid',
    ),
    (
      {'train': {'accumulate': 0}},
      'train.accumulate must be at least 1, got 0',
    ),
    ({'train': {'precision': 'int8'}}, "float32, bfloat16, got 'int8'.*Set"),
  ],
)
def test_an_invalid_value_raises_a_one_line_error_with_its_field(
  values, message
):
  with pytest.raises(ValueError, match=message) as error:
    configs.build(values)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  'name, message',
  [
    ('serch.beam_size', "'serch'. Did you mean 'search'"),
    ('search.beam_sise', "'search.beam_sise'. Did you mean 'search.beam_size'"),
    ('search.beam_size.x', "'search.beam_size' is one value"),
    ('stages.any.stps', "'stages.any.stps'. Did you mean 'stages.any.steps'"),
    ('stages.any.losses.pdits', "Did you mean 'stages.any.losses.pdist'"),
    ('stages.any.losses.pdist.x', "'stages.any.losses.pdist' is one value"),
    ('train.search_steps', "no field 'train.search_steps'"),
    ('loss.answer', "no field 'loss'"),
  ],
)
def test_an_unknown_field_raises_an_error_with_a_suggestion(name, message):
  with pytest.raises(ValueError, match=message):
    configs.check_field(name)
  for known in ('search', 'search.beam_size', 'stages', 'stages.any.losses'):
    configs.check_field(known)
  configs.check_field('stages.any.losses.pdist')


def test_trains_with_ignores_stages_without_steps():
  steps = {'a': {'losses': {'answer': 1.0}}, 'b': {'losses': {'docid': 1.0}}}
  steps['b']['steps'] = 3
  config = configs.build({'stages': steps})
  assert config.trains_with(frozenset(['docid']))
  assert not config.trains_with(frozenset(['answer', 'pdist']))


def floats_of(cls, prefix=''):
  """Dotted names of every field that holds a number with a point."""
  for field in dataclasses.fields(cls):
    if dataclasses.is_dataclass(field.default):
      yield from floats_of(type(field.default), f'{prefix}{field.name}.')
    elif isinstance(field.default, float):
      yield prefix + field.name


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf')])
@pytest.mark.parametrize(
  'name',
  [
    *floats_of(configs.Config),
    *(f'stages.joint.{name}' for name in floats_of(stages.Stage)),
    'stages.joint.losses.answer',
    'stages.joint.trains.reader',
  ],
)
def test_no_field_takes_what_is_not_finite(name, value):
  values = {}
  inner = values
  *groups, field = name.split('.')
  for group in groups:
    inner = inner.setdefault(group, {})
  inner[field] = value
  with pytest.raises(ValueError, match=rf'^{name} must be a finite') as error:
    configs.build(values)
  assert f'--config.{name}' in str(error.value)


@pytest.mark.parametrize(
  'values, words',
  [
    (
      {'docid': {'hidden_dims': (4, 'x')}},
      r'docid.hidden_dims\[1\] must be int',
    ),
    (
      {'data': {'eval_splits': [3]}},
      r'data.eval_splits\[0\] must be str, got 3',
    ),
    ({'seed': 2**31}, 'seed must be at most 2147483647, got 2147483648'),
    ({'search': {'beam_size': True}}, 'search.beam_size must be int, got True'),
  ],
)
def test_elements_and_sizes_are_checked(values, words):
  with pytest.raises(ValueError, match=words):
    configs.build(values)
