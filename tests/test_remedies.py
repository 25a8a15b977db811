"""Applies the remedy of every error of incompatible values, as flags."""

import copy
import re
from unittest import mock

import pytest
from absl import flags
from ml_collections import config_flags

from rag_jax import composition
from rag_jax import config as configs

STAGE = 'stages.joint'
BERT = {
  'reader.kind': 'bert',
  'reader.weights': 'tiny',
  'data.tokenizer': 'tiny',
}
SELECTS = {'reader.kind': 'sentences', 'reader.citations': True}
# Values for fields that a remedy names without a value.
OPEN = {
  f'{STAGE}.batch_size': 32,
  f'{STAGE}.read_size': 4,
  f'{STAGE}.operator': 'sparsemax',
  f'{STAGE}.marginal': '',
  f'{STAGE}.samples': 2,
  f'{STAGE}.estimator': 'enumerate',
  f'{STAGE}.losses.answer': 1.0,
  f'{STAGE}.losses.docid': 1.0,
  f'{STAGE}.trains.reader': 1.0,
  f'{STAGE}.steps': 0,
  f'{STAGE}.learning_rate': 0.001,
  f'{STAGE}.temperature': 1.0,
  f'{STAGE}.candidates': 'beam',
  f'{STAGE}.cost': 'f1',
  f'{STAGE}.without_gold': 0.1,
  f'{STAGE}.renamed': 0.5,
  f'{STAGE}.hop_noise': 0.0,
  'reader.weights': 'tiny',
  'data.tokenizer': 'tiny',
}


def losses(*names):
  values = dict.fromkeys(composition.LOSSES, 0.0) | dict.fromkeys(names, 1.0)
  return {f'{STAGE}.losses.{name}': own for name, own in values.items()}


def estimated(name, samples):
  own = {f'{STAGE}.estimator': name, f'{STAGE}.samples': samples}
  return losses('expected_cost') | own


FROZEN = {
  f'{STAGE}.trains.{name}': 0.0
  for name in ('query_encoder', 'id_decoder', 'ranker', 'reader')
}
# (field in the error, value in the error, incompatible values).
CASES = [
  ('losses', 'none', losses()),
  ('trains', 'none', FROZEN),
  ('batch_size', '31', {f'{STAGE}.batch_size': 31, 'train.accumulate': 2}),
  *(
    (
      f'losses.{loss}',
      "'capped_simplex'",
      losses(loss) | {'ranker.operator': 'capped_simplex'},
    )
    for loss in ('ranking', 'posterior')
  ),
  (
    'losses.reranking',
    "'capped_simplex'",
    losses('reranking')
    | BERT
    | {'reader.reranks': True, f'{STAGE}.operator': 'capped_simplex'},
  ),
  ('losses.indexing', 'batch_size=0', {'pseudo_queries.batch_size': 0}),
  *(
    (
      f'losses.{loss}',
      "'inner_product'",
      losses(loss, 'answer') | {'search.scoring': 'inner_product'},
    )
    for loss in ('docid', 'indexing', 'docid_posterior')
  ),
  (
    'losses.prefix_margin',
    "'absolute'",
    losses('prefix_margin', 'answer') | {'search.scoring': 'absolute'},
  ),
  (
    'losses.prefix_margin',
    'search.hops=2',
    losses('prefix_margin', 'answer') | {'search.hops': 2},
  ),
  (
    'losses.prefix_margin',
    'docid.further=2',
    losses('prefix_margin', 'answer') | {'docid.further': 2},
  ),
  *(
    (
      f'losses.{loss}',
      "candidates='gold'",
      losses(loss, 'answer') | {f'{STAGE}.candidates': 'gold'},
    )
    for loss in ('docid', 'list_mle', 'margin', 'pdist')
  ),
  (
    'losses.docid',
    "candidates='gold.negative'",
    losses('docid', 'answer', 'relevance')
    | BERT
    | {f'{STAGE}.candidates': 'gold+negative'},
  ),
  (
    'candidates',
    'losses.relevance=0',
    losses('answer') | BERT | {f'{STAGE}.candidates': 'gold+negative'},
  ),
  (
    'losses.relevance',
    "candidates='gold'",
    losses('answer', 'relevance') | BERT | {f'{STAGE}.candidates': 'gold'},
  ),
  ('read_size', '17', {f'{STAGE}.read_size': 17}),
  *(
    (f'losses.{loss}', "'extractive'", losses('answer', loss))
    for loss in ('reranking', 'adist', 'emdr2_token')
  ),
  *(
    (f'losses.{loss}', "'fid'", losses('answer', loss) | {'reader.kind': 'fid'})
    for loss in ('relevance', 'null_document')
  ),
  *(
    (f'losses.{loss}', "'sentences'", losses('answer', loss) | SELECTS)
    for loss in ('reranking', 'adist', 'emdr2_token', 'relevance')
  ),
  ('losses.reranking', "'bert'", losses('answer', 'reranking') | BERT),
  ('losses.adist', "'bert'", losses('answer', 'adist') | BERT),
  ('losses.null_document', 'False', losses('null_document') | BERT),
  (
    'losses.null_document',
    'read_size=1',
    losses('null_document')
    | BERT
    | {'reader.null_document': True, f'{STAGE}.read_size': 1},
  ),
  ('without_gold', 'citations=False', {f'{STAGE}.without_gold': 0.1}),
  (
    'without_gold',
    "candidates='gold'",
    losses('answer')
    | {'reader.kind': 'fid', 'reader.citations': True}
    | {f'{STAGE}.candidates': 'gold', f'{STAGE}.without_gold': 0.1},
  ),
  (
    'without_gold',
    '1.0',
    losses('answer')
    | {'reader.kind': 'fid', 'reader.citations': True}
    | {f'{STAGE}.without_gold': 1.0},
  ),
  ('renamed', "'tiny'", losses('answer') | BERT | {f'{STAGE}.renamed': 0.5}),
  ('renamed', '1.5', {f'{STAGE}.renamed': 1.5}),
  ('hop_noise', '0.5', {f'{STAGE}.hop_noise': 0.5}),
  ('hop_noise', '-1', {f'{STAGE}.hop_noise': -1.0}),
  ('marginal', "'token'", {f'{STAGE}.marginal': 'token'}),
  ('estimator', 'expected_cost=0', {f'{STAGE}.estimator': 'top_k'}),
  ('losses.expected_cost', "'rescore'", losses('answer', 'expected_cost')),
  ('samples', '1', estimated('leave_one_out_set', 1)),
  ('samples', '9', estimated('leave_one_out_set', 9)),
  ('samples', '9', estimated('expected_utility', 9)),
  (
    'samples',
    'from 2 to 1 .*got 2',
    estimated('leave_one_out_set', 2) | {f'{STAGE}.read_size': 2},
  ),
  ('samples', '0', {f'{STAGE}.samples': 0}),
  ('samples', '1', estimated('leave_one_out', 1)),
  ('steps', '-1', {f'{STAGE}.steps': -1}),
  ('learning_rate', 'nan', {f'{STAGE}.learning_rate': float('nan')}),
  ('temperature', '0.0', {f'{STAGE}.temperature': 0.0}),
  ('losses.docid', '-1.0', {f'{STAGE}.losses.docid': -1.0}),
  ('trains.reader', '-1.0', {f'{STAGE}.trains.reader': -1.0}),
  ('candidates', "'beams'", {f'{STAGE}.candidates': 'beams'}),
  (
    'candidates',
    "'beam.gold'",
    losses('answer') | {f'{STAGE}.data': 'other.json'},
  ),
  ('operator', "'argmax'", {f'{STAGE}.operator': 'argmax'}),
  ('cost', "'bleu'", {f'{STAGE}.cost': 'bleu'}),
]


def set_flags(values, settings):
  """Values changed by command line flags."""
  own = flags.FlagValues()
  argv = ['launch.py']
  argv += [f'--config.{name}={value}' for name, value in settings]
  with mock.patch('sys.argv', argv):  # config_flags reads sys.argv
    config_flags.DEFINE_config_dict(
      'config', copy.deepcopy(values), flag_values=own
    )
    own(argv)
    return own.config


def remedies(message):
  """Each remedy of a message, as a list of (field, value)."""
  text = message.rsplit('Set ', 1)[1]
  such = re.search(r'such as (\w+)', text)
  found = []
  for way in re.split(r',? or (?=--config)', text):
    settings = re.findall(r'--config\.([\w.]*\w)(?:=([^\s,]*[^\s,.]))?', way)
    for place, (name, value) in enumerate(settings):
      if name.endswith('.NAME'):
        name = name.replace('NAME', such[1])
      own = value.strip("'") if value else OPEN.get(name)
      settings[place] = name, own
    if settings:
      found.append(settings)
  return found


def error_of(values):
  try:
    configs.build(values)
  except ValueError as error:
    return str(error)
  return None


@pytest.mark.parametrize(
  'field, got, settings', CASES, ids=lambda x: x if type(x) is str else ''
)
def test_every_remedy_works(field, got, settings):
  values = set_flags(configs.default(), settings.items())
  message = error_of(values)
  assert '\n' not in message
  assert re.search(rf'\b{re.escape(f"{STAGE}.{field}")}\b', message), message
  assert re.search(got, message), message
  ways = remedies(message)
  assert ways, message
  for way in ways:
    assert all(value is not None for _, value in way), (way, message)
    after = set_flags(values, way)
    for _ in range(4):  # another kind of reader needs other fields too
      again = error_of(after)
      if again is None:
        break
      assert again != message
      assert 'reader.kind' in dict(way), (way, again)
      after = set_flags(after, remedies(again)[-1])
    assert error_of(after) is None, (way, error_of(after))
