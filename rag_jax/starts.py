"""Weights of another run to start from: `init_from`, the workdir of that run.

A new run takes over the tokenizer, each component of the same sizes, and, where
documents and docid scheme are the same, the docids and the node table. After
its first checkpoint it no longer needs the other run.
"""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tokenizers as hf_tokenizers

from rag_jax import checkpoint, corpus, fingerprints, model, parallel, store
from rag_jax import config as configs
from rag_jax.components import query_encoder
from rag_jax.data import tokenizers
from rag_jax.index import docids
from rag_jax.index import index as indexes

# Fields of a component that change neither its parameters nor what they mean.
MAY_DIFFER = frozenset(
  (
    *('frozen_layers', 'remat', 'scale', 'max_answer_tokens'),
    *('shared_softmax', 'span_relevance', 'reranks', 'abstention_threshold'),
    *('marginal', 'num_beams', 'copy', 'threshold'),
  )
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
  """The run to start from."""

  config: configs.Config
  params: model.Params  # of its last checkpoint
  index: indexes.Index
  quantiser: docids.Quantiser


def read(config: configs.Config) -> Source:
  """Reads the run that `config.init_from` names; writes nothing.

  Its arrays stay on the host where a mesh divides tables of documents.

  Raises:
    ValueError: if it is no trained run, or a file of it is damaged.
  """
  path = pathlib.Path(config.init_from)
  train = config.train
  on_host = parallel.divides_tables(train.parallel, train.mesh)
  wanted = {'params': None}
  try:
    source = store.read_config(path)
    found = checkpoint.load(path / store.CHECKPOINTS, wanted, on_host=on_host)
    if found is None:
      raise ValueError(
        f'workdir {str(path)!r} has no finished checkpoint. Train it first.'
      )
    index, quantiser = indexes.load(path / store.INDEX, placed=not on_host)
    own = {store.INDEX: fingerprints.of_index(index)}
    fingerprints.check(path, own, found)
  except ValueError as error:
    raise ValueError(f'init_from: {error}') from error
  return Source(
    config=source,
    params=found.parts['params'],
    index=index,
    quantiser=quantiser,
  )


def tokenizer(config: configs.Config) -> hf_tokenizers.Tokenizer:
  """The tokenizer of the run that `config.init_from` names.

  Raises:
    ValueError: if the experiment asks for another tokenizer.
  """
  path = pathlib.Path(config.init_from)
  try:
    source = store.read_config(path).data
    found = tokenizers.load(path / store.TOKENIZER)
  except ValueError as error:
    raise ValueError(f'init_from: {error}') from error
  names = (
    ['tokenizer'] if config.data.tokenizer else ['tokenizer', 'vocab_size']
  )
  for name in names:
    ours, theirs = getattr(config.data, name), getattr(source, name)
    if ours != theirs:
      raise ValueError(
        f'data.{name} must be {theirs!r}, that of the tokenizer of init_from '
        f'{str(path)!r}, got {ours!r}. Set --config.data.{name}={theirs}.'
      )
  return found


def with_components(
  source: Source,
  config: configs.Config,
  weights: model.Pretrained,
  *,
  vocab_size: int,
) -> model.Pretrained:
  """Adds the query encoder, ranker and reader of a run that fit an experiment.

  Args:
    source: from `read`.
    config: the experiment.
    weights: its published weights.
    vocab_size: number of token ids.

  Returns:
    The weights with these components in `start`.
  """
  # The shapes of these components do not depend on the corpus.
  one = indexes.from_codes(np.ones((1, 1), np.int32), np.zeros((1, 1), int))
  width = query_encoder.vector_width(config.query_encoder)
  vectors = jnp.zeros((1, width))
  own = dataclasses.replace(weights, vectors=vectors)
  wanted = _shapes(config, own, one, vocab_size)
  start = {
    name: source.params[name]
    for name, shapes in wanted.items()
    if name != 'id_decoder'
    and _same(shapes, source.params[name])
    and not differences(source, config, name)
  }
  return dataclasses.replace(weights, start=start)


def has_docids(
  source: Source,
  config: configs.Config,
  weights: model.Pretrained,
  tokens: np.ndarray,
) -> bool:
  """Whether an experiment can take over the docids of a run.

  It has the same documents and docid scheme, and takes over the query encoder.
  """
  return (
    'query_encoder' in weights.start
    and source.config.docid == config.docid
    and np.array_equal(np.asarray(source.index.tokens), tokens)
  )


def with_decoder(
  source: Source,
  config: configs.Config,
  weights: model.Pretrained,
  index: indexes.Index,
) -> model.Pretrained:
  """Adds the parts of the docid decoder of a run that fit an experiment.

  Args:
    source: from `read`.
    config: the experiment.
    weights: from `with_components`.
    index: its index. The output table is taken over if the run has this index.

  Returns:
    The weights with these parts in `start`.
  """
  if 'query_encoder' not in weights.start:  # whose states it works on
    return weights
  if differences(source, config, 'id_decoder'):
    return weights
  own = source.params['id_decoder']
  size = len(source.params['ranker']['log_token_weight'])
  wanted = _shapes(config, weights, index, size)['id_decoder']
  found = fingerprints.of_index(index)
  of_index = ('table', 'codebook')  # made for its docids
  same_index = fingerprints.of_index(source.index) == found
  parts = {
    name: own[name]
    for name, shapes in wanted.items()
    if _same(shapes, own.get(name)) and (name not in of_index or same_index)
  }
  start = weights.start | {'id_decoder': parts}
  return dataclasses.replace(weights, start=start)


def note(source: Source, config: configs.Config, start: model.Params) -> str:
  """What is taken over, and what is not and why, for the user.

  Raises:
    ValueError: if no component is taken over.
  """
  parts = source.params['id_decoder']
  taken = [name for name in source.params if start.get(name)]
  count = len(jax.tree.leaves(start))
  total = len(jax.tree.leaves(source.params))
  missing = []
  for name in source.params:
    if not start.get(name):
      why = ', '.join(differences(source, config, name))
      if name == 'id_decoder' and not start.get('query_encoder'):
        why = 'made for another query encoder'
      missing.append(f'{name} ({why or "other sizes"})')
    elif name == 'id_decoder':
      left = [f'{name}/{part}' for part in parts if part not in start[name]]
      missing += [f'{part} (another index)' for part in left]
  if not {'query_encoder', 'reader'} & set(taken):
    raise ValueError(
      f'init_from {config.init_from!r} has no query encoder and no reader of '
      f'these sizes: {"; ".join(missing)}. Set these fields as there, or leave '
      'out --init_from.'
    )
  text = f'init_from {config.init_from!r}: {count} of {total} arrays are taken '
  text += f'over ({", ".join(taken)})'
  return text + (f'; not taken over: {"; ".join(missing)}' * bool(missing))


def differences(
  source: Source, config: configs.Config, component: str
) -> list[str]:
  """Fields of a component that differ and matter, in words."""
  if component == 'ranker':
    return []
  found = []
  ours, theirs = getattr(config, component), getattr(source.config, component)
  for field in dataclasses.fields(ours):
    a, b = getattr(ours, field.name), getattr(theirs, field.name)
    if field.name == 'weights':  # their names may differ, if not their sizes
      differs = bool(a) != bool(b)
    else:
      differs = field.name not in MAY_DIFFER and a != b
    if differs:
      found.append(f'{component}.{field.name} is {a!r} here, {b!r} there')
  return found


def _shapes(
  config: configs.Config,
  weights: model.Pretrained,
  index: indexes.Index,
  vocab_size: int,
) -> model.Params:
  """Shapes of the initial parameters of all components."""

  def initial(rng, index, weights):
    return model.init(
      rng, config.model, index, vocab_size=vocab_size, pretrained=weights
    )

  index = corpus.with_slots(config, index)
  return jax.eval_shape(initial, jax.random.key(0), index, weights)


def _same(shapes: Any, params: Any) -> bool:
  """Whether parameters have these shapes and types, and this structure."""
  wanted, found = (
    {
      jax.tree_util.keystr(path): (leaf.shape, leaf.dtype)
      for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    for tree in (shapes, params)
  )
  return wanted == found
