"""Checks that the choices of a stage are compatible with each other.

Operator, marginal, losses and estimator are chosen independently. Each
incompatible combination raises one error that names a remedy.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from rag_jax import objective, readers
from rag_jax import stage as stages
from rag_jax.index import docids
from rag_jax.ops import estimators
from rag_jax.readers import base

LOSSES = tuple(objective.TERMS)
# Operators that have a Fenchel-Young loss.
FENCHEL_YOUNG = ('softmax', 'sparsemax', 'entmax15', 'entmax')
RELEVANCE_LOSSES = ('relevance', 'null_document', 'reranking')


def reader_of(config: Any) -> base.Reader:
  """The reader of an experiment."""
  return readers.make(config.reader)


def check_parts(config: Any) -> None:
  """Raises a ValueError if values of different parts do not fit together."""
  if not re.fullmatch('[^\0-\x1f\ud800-\udfff]+', config.name):
    raise ValueError(
      'name must be the name of a folder, without control characters, got '
      f'{config.name!r}. Set --config.name.'
    )
  if config.search.lexical_weight and not config.data.lexicon:
    raise ValueError(
      'search.lexical_weight needs whole words, got data.lexicon=False. '
      'Set --config.data.lexicon=True.'
    )
  if config.data.question_keys and not config.data.lexicon:
    raise ValueError(
      'data.question_keys adds words to the lexicon, got data.lexicon=False. '
      'Set --config.data.lexicon=True.'
    )
  if config.train.keep_best and not config.train.evaluate_every:
    raise ValueError(
      f'train.keep_best {config.train.keep_best!r} needs evaluations during '
      'training, got train.evaluate_every=0. Set '
      '--config.train.evaluate_every=100, or leave it out.'
    )
  if config.search.hops == 2:
    _check_hops(config)
  if config.docid.further:
    _check_further(config)
  for part in ('query_encoder', 'reader'):
    own = getattr(config, part)
    if own.frozen_layers > (own.num_layers if own.weights else 0):
      raise ValueError(
        f'{part}.frozen_layers must be at most the {own.num_layers} layers of '
        f'published weights, got {own.frozen_layers} with '
        f'{part}.weights={own.weights!r}. Set --config.{part}.frozen_layers=0.'
      )


def check_relevance(config: Any) -> None:
  """Raises a ValueError if fields need a relevance that the reader lacks."""
  flags = ('reranks', 'null_document')
  kind = dataclasses.replace(config.reader, **dict.fromkeys(flags, False))
  if readers.make(kind).relevance is not None:
    return
  values: dict[str, Any] = {
    f'reader.{name}': False for name in flags if getattr(config.reader, name)
  }
  for name, stage in config.stages:
    for loss in RELEVANCE_LOSSES if stage.steps else ():
      if stage.weight(loss):
        values[f'stages.{name}.losses.{loss}'] = 0
  if values:
    raise ValueError(
      f'{_need(values)} a reader that scores the relevance of passages, got '
      f'reader.kind {config.reader.kind!r}. Set {_as_flags(values)} or '
      '--config.reader.kind=extractive.'
    )


def _need(names: Mapping[str, Any]) -> str:
  """The subject and verb of a sentence about fields."""
  return f'{", ".join(names)} {"need" if len(names) > 1 else "needs"}'


def _as_flags(values: Mapping[str, Any]) -> str:
  return ' '.join(f'--config.{name}={value}' for name, value in values.items())


def _check_hops(config: Any) -> None:
  """Raises a ValueError on what knows only one search."""
  for name, what in (
    ('data.lexicon', 'words of the question alone'),
    ('train.evaluate_exact', 'the regret of one search'),
  ):
    part, field = name.split('.')
    if getattr(getattr(config, part), field):
      raise ValueError(
        f'{name}=True uses {what}, got search.hops=2. Set '
        f'--config.{name}=False or --config.search.hops=1.'
      )


def _check_further(config: Any) -> None:
  """Raises a ValueError on what knows only one docid of a document."""
  count = f'docid.further={config.docid.further}'
  docid, search, encoder = config.docid, config.search, config.query_encoder
  for name, value, fits, what, remedy in (
    (
      'docid.scheme',
      docid.scheme,
      docid.scheme in docids.QUANTISED,
      'a scheme that gives any text a docid',
      'hierarchical_kmeans',
    ),
    (
      'search.scoring',
      search.scoring,
      search.scoring == 'log_softmax',
      'probabilities of docids, which it adds up',
      'log_softmax',
    ),
    (
      'query_encoder.weights',
      encoder.weights,
      not encoder.weights,
      'a query encoder that is trained from scratch',
      "''",
    ),
  ):
    if not fits:
      raise ValueError(
        f'{count} needs {what}, got {name}={value!r}. Set '
        f'--config.docid.further=0 or --config.{name}={remedy}.'
      )
  if config.init_from:
    raise ValueError(
      f'{count} makes docids of its own, got init_from={config.init_from!r}, '
      'a run to take docids from. Leave out --init_from, or set '
      '--config.docid.further=0.'
    )


def check(config: Any, name: str, stage: stages.Stage) -> None:
  """Raises a ValueError if the choices of a stage are incompatible.

  Args:
    config: the experiment, a `config.Config`.
    name: name of the stage.
    stage: the stage.
  """
  field = f'stages.{name}'
  if not stage.losses:
    raise ValueError(
      f'{field}.losses must name a loss, got none. Set one of '
      f'--config.{field}.losses.NAME, such as answer, or '
      f'--config.{field}.steps=0.'
    )
  if not stage.trains:
    raise ValueError(
      f'{field}.trains must name a component, got none. Set one of '
      f'--config.{field}.trains.NAME, such as reader, or '
      f'--config.{field}.steps=0.'
    )
  if stage.batch_size % config.train.accumulate:
    raise ValueError(
      f'{field}.batch_size must be a multiple of train.accumulate '
      f'({config.train.accumulate}), got {stage.batch_size}. '
      f'Set --config.{field}.batch_size.'
    )
  _check_candidates(config, field, stage)
  _check_reader(config, field, stage)
  _check_estimator(config, field, stage)
  operator = stage.operator or config.ranker.operator
  for loss in ('ranking', 'reranking', 'posterior'):
    if stage.weight(loss) and operator not in FENCHEL_YOUNG:
      raise ValueError(
        f'{field}.losses.{loss} is a Fenchel-Young loss, which needs one of '
        f'{", ".join(FENCHEL_YOUNG)}, got the operator {operator!r}. Set '
        f'--config.{field}.operator, or --config.{field}.losses.list_mle=1 '
        f'and --config.{field}.losses.{loss}=0.'
      )
  raw = config.search.scoring == 'inner_product'
  for loss in ('docid', 'indexing', 'docid_posterior'):
    if stage.weight(loss) and raw:
      raise ValueError(
        f'{field}.losses.{loss} needs normalised scores, because it is '
        "unbounded below otherwise, got search.scoring='inner_product'. Set "
        '--config.search.scoring=log_softmax or '
        f'--config.{field}.losses.{loss}=0.'
      )
  if stage.weight('prefix_margin'):
    _check_prefix_margin(config, field)
  if stage.weight('indexing') and not config.pseudo_queries.batch_size:
    raise ValueError(
      f'{field}.losses.indexing needs pseudo-queries, got '
      'pseudo_queries.batch_size=0. Set --config.pseudo_queries.batch_size=64 '
      f'or --config.{field}.losses.indexing=0.'
    )


def _check_prefix_margin(config: Any, field: str) -> None:
  """Raises a ValueError on a choice in which `prefix_margin` is undefined."""
  if config.search.scoring == 'absolute':
    raise ValueError(
      f'{field}.losses.prefix_margin adds up the scores of a docid, but the '
      "search takes that of the last node alone, got search.scoring='absolute'."
      ' Set --config.search.scoring=log_softmax or '
      f'--config.{field}.losses.prefix_margin=0.'
    )
  if config.search.hops == 2:
    raise ValueError(
      f'{field}.losses.prefix_margin compares prefixes of one search, got '
      'search.hops=2. Set --config.search.hops=1 or '
      f'--config.{field}.losses.prefix_margin=0.'
    )
  if config.docid.further:
    raise ValueError(
      f'{field}.losses.prefix_margin compares prefixes of one docid a document,'
      f' got docid.further={config.docid.further}. Set '
      f'--config.docid.further=0 or --config.{field}.losses.prefix_margin=0.'
    )


def _check_candidates(config: Any, field: str, stage: stages.Stage) -> None:
  if not stage.searches:
    need_no_search = ('answer', 'relevance', 'indexing')
    values = {
      f'{field}.losses.{loss}': 0
      for loss, _ in stage.losses
      if loss not in need_no_search
    }
    if values:
      if config.reader.null_document and stage.weight('null_document'):
        values['reader.null_document'] = False
      raise ValueError(
        f'{_need(values)} a search, got '
        f'{field}.candidates={stage.candidates!r}. Set '
        f'--config.{field}.candidates=beam+gold or {_as_flags(values)}.'
      )
  if stage.candidates == 'gold+negative' and not stage.weight('relevance'):
    raise ValueError(
      f'{field}.candidates gold+negative trains the relevance of passages, '
      f'got {field}.losses.relevance=0. Set '
      f'--config.{field}.losses.relevance=1 or '
      f'--config.{field}.candidates=gold.'
    )
  if stage.candidates == 'gold' and stage.weight('relevance'):
    raise ValueError(
      f'{field}.losses.relevance needs passages that are not gold, got '
      f"{field}.candidates='gold'. Set --config.{field}.candidates="
      f'gold+negative or --config.{field}.losses.relevance=0.'
    )
  size = stage.read_size or config.search.read_size
  if stage.candidates != 'all' and size > config.search.beam_size:
    raise ValueError(
      f'{field}.read_size must be at most search.beam_size '
      f'({config.search.beam_size}), got {size}. '
      f'Set --config.{field}.read_size.'
    )


def _check_reader(config: Any, field: str, stage: stages.Stage) -> None:
  reader, kind = reader_of(config), config.reader.kind
  rerank = (
    'reader.reranks=True' if reader.relevance else 'reader.kind=extractive'
  )
  needs = {
    'reranking': (config.reader.reranks, 'reranks passages', rerank),
    'adist': (reader.attention, 'attends to all passages', 'reader.kind=fid'),
    'emdr2_token': (reader.sample_each, 'generates answers', 'reader.kind=fid'),
  }
  for loss, (has, what, remedy) in needs.items():
    if stage.weight(loss) and not has:
      raise ValueError(
        f'{field}.losses.{loss} needs a reader that {what}, got reader.kind '
        f'{kind!r} with reader.reranks={config.reader.reranks}. Set '
        f'--config.{field}.losses.{loss}=0 or --config.{remedy}.'
      )
  if stage.weight('null_document') and not config.reader.null_document:
    raise ValueError(
      f'{field}.losses.null_document needs reader.null_document=True, got '
      'False. Set --config.reader.null_document=True.'
    )
  if stage.without_gold and not (reader.cites and stage.searches):
    raise ValueError(
      f'{field}.without_gold trains empty answers of a reader with citations '
      'by a search, got '
      f'reader.citations={config.reader.citations} and {field}.candidates='
      f'{stage.candidates!r}. Set --config.{field}.without_gold=0.'
    )
  if stage.renamed and config.reader.weights:
    raise ValueError(
      f'{field}.renamed is for a reader that is trained from scratch, got '
      f'reader.weights={config.reader.weights!r}. Set '
      f'--config.{field}.renamed=0.'
    )
  if stage.hop_noise and config.search.hops == 1:
    raise ValueError(
      f'{field}.hop_noise is for the words of a second search, got '
      f'{stage.hop_noise} and search.hops=1. Set --config.{field}.hop_noise=0.'
    )
  size = stage.read_size or config.search.read_size
  gold = max(config.data.max_gold, 1)
  adds_gold = stage.candidates == 'beam+gold'
  if stage.weight('null_document') and adds_gold and size <= gold:
    raise ValueError(
      f'{field}.losses.null_document needs more documents read than '
      f'data.max_gold ({gold}), got {field}.read_size={size}. Set '
      f'--config.{field}.read_size={gold + 1}.'
    )
  if stage.marginal and stage.marginal not in reader.marginals:
    raise ValueError(
      f'{field}.marginal must be one of {", ".join(reader.marginals)} with '
      f'reader.kind {kind!r}, got {stage.marginal!r}. '
      f'Set --config.{field}.marginal.'
    )


def _check_estimator(config: Any, field: str, stage: stages.Stage) -> None:
  uses_costs = stage.estimator in stages.COST_ESTIMATORS
  has_loss = stage.weight('expected_cost')
  if uses_costs and not has_loss:
    raise ValueError(
      f'{field}.estimator {stage.estimator!r} trains the search by the loss '
      f'expected_cost, got {field}.losses.expected_cost=0. Set '
      f'--config.{field}.losses.expected_cost=1 or '
      f'--config.{field}.estimator=rescore.'
    )
  if has_loss and not uses_costs:
    raise ValueError(
      f'{field}.losses.expected_cost needs an estimator, one of '
      f'{", ".join(stages.COST_ESTIMATORS)}, got {stage.estimator!r}. Set '
      f'--config.{field}.estimator or --config.{field}.losses.expected_cost=0.'
    )
  size = stage.read_size or config.search.read_size
  least, most = {
    'leave_one_out_set': (2, min(estimators.MAX_SET, size - 1)),
    'expected_utility': (1, size),
    'top_k': (1, size),
  }.get(stage.estimator, (1, stage.samples))
  if least <= stage.samples <= most:
    return
  remedy = f'samples={min(max(stage.samples, least), most)}'
  if least > most:  # leave_one_out_set must leave a document undrawn
    remedy = f'read_size={least + 1}'
  raise ValueError(
    f'{field}.samples must be from {least} to {most} for the estimator '
    f'{stage.estimator!r} with {size} documents read, got {stage.samples}. '
    f'Set --config.{field}.{remedy}.'
  )
