"""Published encoders of all families: their configuration, weights and states.

The `model_type` of a config.json names the family. `bert` has the layers of
most families, `modernbert` those of ModernBERT.
"""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rag_jax.nn import (
  bert,
  bert_weights,
  modernbert,
  modernbert_weights,
  published,
  weights,
)

MODERNBERT = 'modernbert'
FAMILIES = (*bert_weights.FAMILIES, MODERNBERT)
Body = bert.BertConfig | modernbert.ModernBertConfig
SIZES = ('width', 'num_layers', 'num_heads', 'mlp_dim')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture:
  """What the config.json of published weights says besides the sizes."""

  # family of the encoder: the model_type in config.json; '' = as the weights
  family: str = ''
  # activation of the feed-forward layers; '' = as the weights
  activation: str = ''
  epsilon: float = 0.0  # epsilon of the layer norms; 0 = as the weights
  # maximum tokens of a text that the encoder takes; 0 = as the weights
  max_positions: int = 0
  # id of padding in the published files, 0 in the tokens here; -1 = as there
  pad_token: int = -1
  # 'modernbert': tokens that a local layer attends to; 0 = as the weights
  window: int = 0
  # 'modernbert': every n-th layer attends to all tokens; 0 = as the weights
  global_every: int = 0
  # 'modernbert': base of rotary positions, global layers; 0 = as the weights
  rope_base: float = 0.0
  # 'modernbert': base of rotary positions, local layers; 0 = as the weights
  local_rope_base: float = 0.0

  def __post_init__(self) -> None:
    """Raises a ValueError on an unknown family."""
    if self.family and self.family not in FAMILIES:
      raise ValueError(
        f'architecture.family must be one of {", ".join(FAMILIES)}, got '
        f"{self.family!r}. Leave it '', as in the weights."
      )


def body(config: Any) -> Body:
  """The encoder that a query encoder or reader is configured to be.

  Args:
    config: with `SIZES`, `architecture` and `remat`. Fields of the architecture
      that are not set are those of a BERT.
  """
  sizes = {name: getattr(config, name) for name in (*SIZES, 'remat')}
  own = config.architecture
  names: tuple[str, ...] = ('activation', 'epsilon', 'max_positions')
  if own.family == MODERNBERT:
    names += ('window', 'global_every', 'rope_base', 'local_rope_base')
  sizes |= {name: v for name in names if (v := getattr(own, name))}
  if own.family == MODERNBERT:
    return modernbert.ModernBertConfig(**sizes)
  return bert.BertConfig(**sizes)


def apply(
  params: dict[str, Any],
  config: Body,
  tokens: jax.Array,
  *,
  segments: jax.Array | None = None,
  where: jax.Array | None = None,
  positions: jax.Array | None = None,
  frozen_layers: int = 0,
) -> jax.Array:
  """Hidden states of the last layer, float[B, T, W]; see `bert.apply`."""
  options: dict[str, Any] = {'where': where, 'positions': positions}
  options['frozen_layers'] = frozen_layers
  if isinstance(config, modernbert.ModernBertConfig):
    return modernbert.apply(params, config, tokens, **options)
  return bert.apply(params, config, tokens, segments=segments, **options)


def read_config(folder: weights.Path) -> tuple[Body, Architecture]:
  """The sizes of a published encoder, and its architecture.

  Args:
    folder: from `published.folder`.

  Raises:
    ValueError: if a value in config.json is not supported.
  """
  path = pathlib.Path(folder) / 'config.json'
  values = published.read_json(path, weights.REMEDY)
  family = values.get('model_type')
  if family not in FAMILIES:
    raise ValueError(
      f'model_type in {str(path)!r} must be one of {", ".join(FAMILIES)}, got '
      f'{family!r}. Give the folder of a model of one of these families.'
    )
  _check_plain(path, values)
  pad_token = values.get('pad_token_id')
  if not isinstance(pad_token, int):
    pad_token = 1 if bert_weights.is_shifted(family) else 0
  if family == MODERNBERT:
    sizes: Body = modernbert_weights.read_config(folder)
  else:
    sizes = bert_weights.read_config(folder, family, pad_token)
  own = {
    field.name: getattr(sizes, field.name)
    for field in dataclasses.fields(Architecture)
    if hasattr(sizes, field.name)
  }
  return sizes, Architecture(family=family, pad_token=pad_token, **own)


def kind(folder: weights.Path) -> str:
  """The class of a published model, such as 'BertForQuestionAnswering'; ''."""
  path = pathlib.Path(folder) / 'config.json'
  names = published.read_json(path, weights.REMEDY).get('architectures')
  return str(names[0]) if isinstance(names, list) and names else ''


def pooled_state(folder: weights.Path) -> str:
  """The states that the head of a cross-encoder reads: 'cls' or 'mean'; ''."""
  if not kind(folder).endswith('ForSequenceClassification'):
    return ''
  path = pathlib.Path(folder) / 'config.json'
  values = published.read_json(path, weights.REMEDY)
  return values.get('classifier_pooling') or 'cls'


def _check_plain(path: pathlib.Path, values: dict[str, Any]) -> None:
  """Raises a ValueError on what would change the numbers of a model."""
  adapter = path.with_name('adapter_config.json')
  refused = {
    'quantization_config': 'Give the weights before quantisation.',
    'auto_map': 'The model has code of its own, which is never run here. Give '
    'a model that transformers runs without trust_remote_code.',
    'add_cross_attention': 'Give an encoder without cross-attention.',
  }
  if adapter.exists():
    raise ValueError(
      f'folder {str(path.parent)!r} holds an adapter ({adapter.name}), which '
      'is not applied here. Merge it into the weights (merge_and_unload of '
      'peft) and give the folder of the result.'
    )
  for name, remedy in refused.items():
    if values.get(name):
      raise ValueError(
        f'{name} in {str(path)!r} must be absent, got '
        f'{repr(values[name])[:60]}. {remedy}'
      )


def load(
  folder: weights.Path, sizes: Body, architecture: Architecture
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
  """The weights of a published encoder.

  Args:
    folder: as given to `read_config`.
    sizes: from `read_config`.
    architecture: from `read_config`.

  Returns:
    Parameters for `apply`, and the arrays of the file by their names, without
    the prefix of the family.

  Raises:
    ValueError: if a file is damaged, or arrays are missing or unexpected.
  """
  state = weights.read(folder)
  if isinstance(sizes, modernbert.ModernBertConfig):
    prefix = modernbert_weights.PREFIX
    params = modernbert_weights.from_state_dict(state, sizes)
  else:
    names = bert_weights.FAMILIES[architecture.family]
    prefix = names.prefix
    params = bert_weights.from_state_dict(
      state, sizes, names=names, pad_token=architecture.pad_token
    )
  return params, {n.removeprefix(prefix): array for n, array in state.items()}


def renumber(params: dict[str, Any], pad_token: int) -> dict[str, Any]:
  """Swaps the rows of two tokens, the padding and token 0.

  Args:
    params: of an encoder.
    pad_token: the id of padding in the published tokenizer.
  """
  if pad_token == 0:
    return params
  table = params['embedding']
  rows = jnp.array([0, pad_token])
  return params | {'embedding': table.at[rows].set(table[rows[::-1]])}


def publish(
  params: dict[str, Any], config: Any
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """Weights and config.json in the published form of the family.

  Args:
    params: of the encoder, for `apply`.
    config: of the query encoder or reader.

  Returns:
    name -> array, and the contents of config.json.
  """
  own, sizes = config.architecture, body(config)
  params = renumber(params, max(own.pad_token, 0))
  rows = len(params['embedding'])
  if isinstance(sizes, modernbert.ModernBertConfig):
    sizes = dataclasses.replace(sizes, vocab_size=rows)
    about = modernbert_weights.describe(sizes)
    about['pad_token_id'] = own.pad_token
    return modernbert_weights.to_state_dict(params, sizes), about
  family, pad = own.family or 'bert', max(own.pad_token, 0)
  names = bert_weights.FAMILIES[family]
  sizes = bert_weights.with_table_sizes(sizes, params)
  state = bert_weights.to_state_dict(params, sizes, names=names, pad_token=pad)
  return state, bert_weights.describe(sizes, family, pad)
