"""Converts weights between `bert` and Hugging Face's encoders of its family.

`FAMILIES` has the names of each family of encoders with the layers of BERT, by
the `model_type` of their config.json.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from rag_jax.nn import bert, weight_tables, weights


@dataclasses.dataclass(frozen=True, kw_only=True)
class Names:
  """How a family names its sizes and arrays, with the differences to BERT."""

  prefix: str  # of all arrays, if the model has a head
  sizes: Mapping[str, str]  # size here -> field of config.json
  activation: str = 'hidden_act'  # field of config.json
  fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  layer: str = 'encoder.layer'
  qkv: tuple[str, ...] = (
    'attention.self.query',
    'attention.self.key',
    'attention.self.value',
  )
  out: str = 'attention.output.dense'
  norm: str = 'attention.output.LayerNorm'
  up: str = 'intermediate.dense'
  down: str = 'output.dense'
  hidden_norm: str = 'output.LayerNorm'
  # Rows of the position table before that of the first token; None = one more
  # than the id of padding.
  skip: int | None = 0


_SIZES = {
  'vocab_size': 'vocab_size',
  'width': 'hidden_size',
  'num_layers': 'num_hidden_layers',
  'num_heads': 'num_attention_heads',
  'mlp_dim': 'intermediate_size',
  'max_positions': 'max_position_embeddings',
  'epsilon': 'layer_norm_eps',
}
_WITH_SEGMENTS = _SIZES | {'num_segments': 'type_vocab_size'}
_ROBERTA = Names(prefix='roberta.', sizes=_WITH_SEGMENTS, skip=None)
FAMILIES = {
  'bert': Names(prefix='bert.', sizes=_WITH_SEGMENTS),
  'electra': Names(prefix='electra.', sizes=_WITH_SEGMENTS),
  'roberta': _ROBERTA,
  'xlm-roberta': _ROBERTA,
  'camembert': _ROBERTA,
  'mpnet': Names(
    prefix='mpnet.',
    sizes=_SIZES,
    fixed={'num_segments': 0, 'relative': True},
    qkv=('attention.attn.q', 'attention.attn.k', 'attention.attn.v'),
    out='attention.attn.o',
    norm='attention.LayerNorm',
    skip=2,
  ),
  'distilbert': Names(
    prefix='distilbert.',
    sizes={
      'vocab_size': 'vocab_size',
      'width': 'dim',
      'num_layers': 'n_layers',
      'num_heads': 'n_heads',
      'mlp_dim': 'hidden_dim',
      'max_positions': 'max_position_embeddings',
    },
    activation='activation',
    fixed={'num_segments': 0, 'epsilon': 1e-12},
    layer='transformer.layer',
    qkv=('attention.q_lin', 'attention.k_lin', 'attention.v_lin'),
    out='attention.out_lin',
    norm='sa_layer_norm',
    up='ffn.lin1',
    down='ffn.lin2',
    hidden_norm='output_layer_norm',
  ),
}
_BERT = FAMILIES['bert']
_ELECTRA_WIDTH = 128  # of embeddings, if config.json of an ELECTRA says nothing
# Heads of other tasks, and buffers that are not weights.
_UNUSED = [
  'cls.',
  'classifier.',
  'pre_classifier.',
  'qa_outputs.',
  'pooler.',
  'lm_head.',
  'vocab_layer_norm.',
  'vocab_projector.',
  'vocab_transform.',
  'discriminator_predictions.',
  'generator_predictions.',
  'generator_lm_head.',
  'embeddings.position_ids',
  'embeddings.token_type_ids',
]


def read_config(
  folder: weights.Path, family: str, pad_token: int
) -> bert.BertConfig:
  """The configuration of an encoder, from the config.json of a folder.

  Args:
    folder: the folder of the model.
    family: a key of `FAMILIES`.
    pad_token: its id of padding.

  Raises:
    ValueError: if it describes another kind of model.
  """
  names = FAMILIES[family]
  supported = {
    'model_type': (family,),
    names.activation: tuple(bert.ACTIVATIONS),
    'position_embedding_type': ('absolute', None),
    'relative_attention_num_buckets': (bert.BUCKETS, None),
    'is_decoder': (False, None),
  }
  values, fields = weights.read_config(folder, names.sizes, supported)
  fields['max_positions'] -= skipped(names, pad_token)
  default = _ELECTRA_WIDTH if family == 'electra' else fields['width']
  if (narrow := values.get('embedding_size', default)) != fields['width']:
    raise ValueError(
      f'embedding_size in {str(folder)!r} must be hidden_size '
      f'({fields["width"]}), got {narrow}. Give the folder of a model whose '
      'embeddings are as wide as its layers.'
    )
  return bert.BertConfig(
    **fields, activation=values[names.activation], **names.fixed
  )


def is_shifted(family: str) -> bool:
  """Whether positions of a family begin after the id of padding."""
  return family in FAMILIES and FAMILIES[family].skip != 0


def skipped(names: Names, pad_token: int) -> int:
  """Rows of the published position table that no token uses."""
  return pad_token + 1 if names.skip is None else names.skip


def describe(
  config: bert.BertConfig, family: str, pad_token: int
) -> dict[str, Any]:
  """The contents of config.json: the inverse of `read_config`."""
  names = FAMILIES[family]
  sizes = {
    theirs: getattr(config, ours) for ours, theirs in names.sizes.items()
  }
  sizes['max_position_embeddings'] += skipped(names, pad_token)
  if family == 'electra':
    sizes['embedding_size'] = config.width
  return {
    'model_type': family,
    names.activation: config.activation,
    'pad_token_id': pad_token,
  } | sizes


def from_state_dict(
  state: Mapping[str, Any],
  config: bert.BertConfig,
  *,
  names: Names = _BERT,
  pad_token: int = 0,
) -> dict[str, Any]:
  """Converts published weights; by default those of a `BertModel`.

  Args:
    state: name -> array on the CPU, as from `weights.read`, with or without the
      prefix of the family, such as `bert.`.
    config: the configuration of that model.
    names: the family.
    pad_token: its id of padding.

  Returns:
    Parameters as from `bert.init`.

  Raises:
    ValueError: if arrays are missing, unexpected or of the wrong shape.
  """
  plain = {_current(name, names): array for name, array in state.items()}
  if (unused := skipped(names, pad_token)) and _POSITIONS in plain:
    plain[_POSITIONS] = plain[_POSITIONS][unused:]
  table = _table(config, names)
  return weight_tables.from_published(plain, table, ignore=_UNUSED)


def to_state_dict(
  params: dict[str, Any],
  config: bert.BertConfig,
  *,
  names: Names = _BERT,
  pad_token: int = 0,
) -> dict[str, np.ndarray]:
  """Converts parameters to published names; the inverse of `from_state_dict`.

  Args:
    params: parameters from `bert.init`.
    config: the model configuration.
    names: the family.
    pad_token: its id of padding.

  Returns:
    name -> float32 array, for `weights.write`.
  """
  state = weight_tables.to_published(params, _table(config, names))
  if unused := skipped(names, pad_token):
    rows = np.zeros((unused, config.width), np.float32)
    state[_POSITIONS] = np.concatenate([rows, state[_POSITIONS]])
  return state


def with_table_sizes(
  config: bert.BertConfig, params: dict[str, Any]
) -> bert.BertConfig:
  """A configuration with the sizes of the embedding tables."""
  return dataclasses.replace(
    config,
    vocab_size=len(params['embedding']),
    max_positions=len(params['positions']),
    num_segments=len(params.get('segments', ())),
    relative='relative' in params,
  )


_POSITIONS = 'embeddings.position_embeddings.weight'


def _current(name, names):
  """Removes the prefix and updates old names of the layer norms."""
  name = name.removeprefix(names.prefix)
  name = name.replace('LayerNorm.gamma', 'LayerNorm.weight')
  return name.replace('LayerNorm.beta', 'LayerNorm.bias')


def _table(config, names):
  """The published arrays of each parameter."""
  width, mlp_dim = config.width, config.mlp_dim

  def rows(name, *shape):
    return weight_tables.Entry({f'{name}.weight': shape})

  def norm(prefix, name):
    scale, shift = f'{prefix}.weight', f'{prefix}.bias'
    return {
      name: weight_tables.Entry({scale: (width,)}),
      f'{name}_bias': weight_tables.Entry({shift: (width,)}),
    }

  def product(name, prefix, parts, outputs, inputs):
    return {
      name: weight_tables.dense(prefix, parts, outputs, inputs),
      f'{name}_bias': weight_tables.Entry(
        {f'{prefix}.{part}.bias': (outputs,) for part in parts}
      ),
    }

  def block(prefix):
    return (
      product('qkv', prefix, names.qkv, width, width)
      | product('out', prefix, (names.out,), width, width)
      | norm(f'{prefix}.{names.norm}', 'norm')
      | product('up', prefix, (names.up,), mlp_dim, width)
      | product('down', prefix, (names.down,), width, mlp_dim)
      | norm(f'{prefix}.{names.hidden_norm}', 'hidden_norm')
    )

  table = {
    'embedding': rows('embeddings.word_embeddings', config.vocab_size, width),
    'positions': rows(
      'embeddings.position_embeddings', config.max_positions, width
    ),
    **norm('embeddings.LayerNorm', 'norm'),
  }
  if config.num_segments:
    table['segments'] = rows(
      'embeddings.token_type_embeddings', config.num_segments, width
    )
  if config.relative:
    table['relative'] = rows(
      'encoder.relative_attention_bias', bert.BUCKETS, config.num_heads
    )
  return table | {
    f'block_{i}': block(f'{names.layer}.{i}') for i in range(config.num_layers)
  }
