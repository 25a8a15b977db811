"""What a sentence-transformers folder says about the vector of a text.

modules.json                      the modules, applied in order
sentence_bert_config.json         maximum length, lower case
1_Pooling/config.json             how token states become one vector
2_Dense/config.json, weights      dense layers on that vector
config_sentence_transformers.json prompts, similarity

A folder without modules.json, of a model of transformers, says nothing.
"""

import dataclasses
import pathlib
from typing import Any

import jax.numpy as jnp

from rag_jax.nn import published, weights

REMEDY = 'Correct it, or download the folder again.'
_MODES = {
  'cls': ('cls', 'pooling_mode_cls_token'),
  'max': ('max', 'pooling_mode_max_tokens'),
  'mean': ('mean', 'pooling_mode_mean_tokens'),
  'mean_sqrt_len_tokens': (
    'mean_sqrt_length',
    'pooling_mode_mean_sqrt_len_tokens',
  ),
  'weightedmean': ('weighted_mean', 'pooling_mode_weightedmean_tokens'),
  'lasttoken': ('last_token', 'pooling_mode_lasttoken'),
}
_DOCUMENT_PROMPTS = ('document', 'passage', 'corpus')
_SIMILARITIES = {'cosine': 'cosine', 'cos_sim': 'cosine'} | dict.fromkeys(
  ('dot', 'dot_score', 'dot_product'), 'dot'
)
_ACTIVATIONS = {
  'Identity': 'none',
  'Tanh': 'tanh',
  'ReLU': 'relu',
  'GELU': 'gelu',
  'SiLU': 'silu',
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Said:
  """What a folder says; None where it says nothing."""

  pooling: str | None = None  # one of `pooling.POOLINGS`
  similarity: str | None = None  # 'cosine' or 'dot'
  dense: tuple[str, ...] = ()  # activation of each dense layer
  dense_folders: tuple[str, ...] = ()  # where their weights are
  width: int | None = None  # of a vector, after the dense layers
  max_tokens: int | None = None  # maximum tokens of a text
  lowercase: bool = False  # whether texts are lower-cased
  query_prompt: str | None = None  # text before each question
  document_prompt: str | None = None  # text before each document
  notes: tuple[str, ...] = ()  # what a user should know


def read(folder: weights.Path, *, width: int) -> Said:
  """Reads what a folder says.

  Args:
    folder: from `published.folder`.
    width: of the states of the encoder.

  Raises:
    ValueError: if it names a module, a pooling or a setting that is not
      supported here.
  """
  path = pathlib.Path(folder)
  lengths = _lengths(path)
  if not (path / 'modules.json').is_file():
    return Said(
      **lengths,
      notes=(
        f'{path.name!r} has no modules.json, so the vector of a text is the '
        'mean of its token states, at unit length. If the model was trained '
        'otherwise: --config.query_encoder.pooling, '
        '--config.query_encoder.similarity.',
      ),
    )
  modules = _modules(path)
  kinds = [kind for kind, _ in modules]
  if kinds[:2] != ['Transformer', 'Pooling'] or kinds.count('Pooling') > 1:
    raise ValueError(
      f'modules in {str(path / "modules.json")!r} must begin with Transformer '
      f'and Pooling, got {", ".join(kinds)[:120]}. Give a folder of such a '
      'model.'
    )
  if (normalised := 'Normalize' in kinds) and kinds[-1] != 'Normalize':
    raise ValueError(
      f'Normalize in {str(path / "modules.json")!r} must be the last module, '
      f'got {", ".join(kinds)[:120]}. Give a folder of such a model.'
    )
  dense = [name for kind, name in modules if kind == 'Dense']
  pooling = _pooling(path / modules[1][1] / 'config.json', width)
  activations = []
  for name in dense:
    activation, width = _dense(path / name / 'config.json', width)
    activations.append(activation)
  about = _about(path)
  prompts = _prompts(path, about, pooling)
  similarity, notes = _similarity(path, about, normalised)
  return Said(
    pooling=pooling[0],
    similarity=similarity,
    dense=tuple(activations),
    dense_folders=tuple(dense),
    width=width,
    notes=notes,
    **lengths,
    **prompts,
  )


def lowercases(folder: weights.Path) -> bool:
  """Whether a folder asks for lower case, whatever its tokenizer does."""
  return bool(_lengths(pathlib.Path(folder)).get('lowercase'))


def load_dense(folder: weights.Path, said: Said) -> dict[str, Any]:
  """The parameters of the dense layers, for `pooling.dense`."""
  layers = {}
  for number, name in enumerate(said.dense_folders):
    state = weights.read(pathlib.Path(folder) / name / published.WEIGHTS)
    layer = {'kernel': jnp.asarray(state['linear.weight'].T)}
    if 'linear.bias' in state:
      layer['bias'] = jnp.asarray(state['linear.bias'])
    layers[f'layer_{number}'] = layer
  return layers


def describe(
  config: Any, data: Any, dense: dict[str, Any]
) -> dict[str, dict[str, Any] | list[Any]]:
  """The files of a folder, without weights: the inverse of `read`.

  Args:
    config: of the query encoder.
    data: with `query_prompt`, `document_prompt` and `max_vector_tokens`.
    dense: parameters of the dense layers.

  Returns:
    Name of a file -> its contents.
  """
  cosine = config.similarity != 'dot'
  old = {ours: name for ours, name in _MODES.values()}
  pooling = config.pooling or 'mean'
  found: dict[str, Any] = {
    '1_Pooling/config.json': {
      'word_embedding_dimension': config.width,
      **{name: ours == pooling for ours, name in old.items()},
    },
    'sentence_bert_config.json': {
      'max_seq_length': data.max_vector_tokens or None,
      'do_lower_case': False,
    },
    'config_sentence_transformers.json': {
      'prompts': {
        name: '' if text == 'auto' else text
        for name, text in (
          ('query', data.query_prompt),
          ('document', data.document_prompt),
        )
      },
      'default_prompt_name': None,
      'similarity_fn_name': 'cosine' if cosine else 'dot',
    },
  }
  kinds = ['Transformer', 'Pooling']
  names = {ours: name for name, ours in _ACTIVATIONS.items()}
  for number, layer in enumerate(dense.values()):
    inputs, outputs = layer['kernel'].shape
    found[f'{number + 2}_Dense/config.json'] = {
      'in_features': inputs,
      'out_features': outputs,
      'bias': 'bias' in layer,
      'activation_function': _activation_path(names[config.dense[number]]),
    }
    kinds.append('Dense')
  kinds += ['Normalize'] * cosine
  found['modules.json'] = [
    {
      'idx': place,
      'name': str(place),
      'path': f'{place}_{kind}' if place else '',
      'type': f'sentence_transformers.models.{kind}',
    }
    for place, kind in enumerate(kinds)
  ]
  return found


def _activation_path(name: str) -> str:
  group = 'linear' if name == 'Identity' else 'activation'
  return f'torch.nn.modules.{group}.{name}'


def _modules(path: pathlib.Path) -> list[tuple[str, str]]:
  """Kind and folder of each module, in order."""
  file = path / 'modules.json'
  modules = published.read_json(file, REMEDY, kind=list)
  supported = ('Transformer', 'Pooling', 'Dense', 'Normalize')
  found = []
  for module in modules:
    name = str(module.get('type')) if isinstance(module, dict) else ''
    kind = name.rpartition('.')[2]
    # Modules outside the package are code of the model's own.
    if kind not in supported or not name.startswith('sentence_transformers.'):
      raise ValueError(
        f'modules in {str(file)!r} must be of {", ".join(supported)}, got '
        f'{name or module!r}. Give a folder without this module.'
      )
    found.append((kind, str(module.get('path', ''))))
  if found and found[0][1]:
    raise ValueError(
      f'the Transformer in {str(file)!r} must lie in the folder itself, got '
      f'{found[0][1]!r}. Move its files there, and set its path to ""; or '
      'save the model again with sentence-transformers.'
    )
  return found


def _pooling(file: pathlib.Path, width: int) -> tuple[str, bool]:
  """The pooling, and whether it includes the tokens of a prompt."""
  values = published.read_json(file, REMEDY)
  given = values.get('pooling_mode')
  modes = [given] if isinstance(given, str) else list(given or ())
  if given is None:
    modes = [mode for mode, (_, old) in _MODES.items() if values.get(old)]
  unknown = [
    name
    for name in values
    if name.startswith('pooling_mode_')
    and values[name]
    and name not in {old for _, old in _MODES.values()}
  ]
  if len(modes) != 1 or modes[0] not in _MODES or unknown:
    raise ValueError(
      f'pooling in {str(file)!r} must be one of {", ".join(_MODES)}, got '
      f'{" + ".join(map(str, modes + unknown)) or "none"}. Give a model with '
      'one of these, or set another pooling in this file.'
    )
  size = values.get(
    'embedding_dimension', values.get('word_embedding_dimension')
  )
  if size not in (None, width):
    raise ValueError(
      f'word_embedding_dimension in {str(file)!r} must be {width}, the width '
      f'of the encoder, got {size!r}. {REMEDY}'
    )
  return _MODES[modes[0]][0], values.get('include_prompt', True)


def _dense(file: pathlib.Path, width: int) -> tuple[str, int]:
  """Activation and output width of a dense layer."""
  values = published.read_json(file, REMEDY)
  name = str(values.get('activation_function', 'torch.nn.Tanh'))
  activation = _ACTIVATIONS.get(name.rpartition('.')[2])
  if activation is None or not name.startswith('torch.nn.'):
    raise ValueError(
      f'activation_function in {str(file)!r} must be one of '
      f'{", ".join(_ACTIVATIONS)} of torch.nn, got {name!r}. Give a model with '
      'one of these.'
    )
  if values.get('use_residual'):
    raise _refused(file, 'use_residual', True, 'false')
  for key in ('module_input_name', 'module_output_name'):
    if values.get(key) not in (None, 'sentence_embedding'):
      raise _refused(file, key, values[key], "'sentence_embedding'")
  if values.get('in_features') != width or not values.get('out_features'):
    raise ValueError(
      f'in_features in {str(file)!r} must be {width}, got '
      f'{values.get("in_features")!r} (out_features '
      f'{values.get("out_features")!r}). {REMEDY}'
    )
  return activation, int(values['out_features'])


def _lengths(path: pathlib.Path) -> dict[str, Any]:
  """Maximum length and lower case, of the encoder's tokenizer."""
  found: dict[str, Any] = {}
  file = path / 'sentence_bert_config.json'
  if file.is_file():
    values = published.read_json(file, REMEDY)
    found['lowercase'] = bool(values.get('do_lower_case'))
    if isinstance(values.get('max_seq_length'), int):
      found['max_tokens'] = values['max_seq_length']
  file = path / 'tokenizer_config.json'
  if 'max_tokens' not in found and file.is_file():
    most = published.read_json(file, REMEDY).get('model_max_length')
    if isinstance(most, int | float) and 0 < most < 2**31:
      found['max_tokens'] = int(most)
  return found


def _about(path: pathlib.Path) -> dict[str, Any]:
  file = path / 'config_sentence_transformers.json'
  return published.read_json(file, REMEDY) if file.is_file() else {}


def _prompts(
  path: pathlib.Path, about: dict[str, Any], pooling: tuple[str, bool]
) -> dict[str, Any]:
  """Prompts of questions and documents, with the default for both."""
  file = path / 'config_sentence_transformers.json'
  given = about.get('prompts') or {}
  default = about.get('default_prompt_name')
  if not isinstance(given, dict) or default not in (None, *given):
    raise ValueError(
      f'prompts in {str(file)!r} must map names to texts and hold '
      f'default_prompt_name {default!r}, got {repr(given)[:60]}. {REMEDY}'
    )
  found: dict[str, Any] = {}
  for ours, names in (
    ('query_prompt', ('query',)),
    ('document_prompt', _DOCUMENT_PROMPTS),
  ):
    name = next((name for name in names if name in given), default)
    if name is not None:
      found[ours] = given[name] or ''
  if any(found.values()) and not pooling[1]:
    raise ValueError(
      f'include_prompt in {str(path)!r} must be true, got false, with prompts '
      f'in {file.name}: vectors over a text without its prompt are not '
      'supported. Give a model without prompts.'
    )
  return found


def _similarity(
  path: pathlib.Path, about: dict[str, Any], normalised: bool
) -> tuple[str, tuple[str, ...]]:
  """'cosine' or 'dot', and notes."""
  given = about.get('similarity_fn_name')
  if given is not None and given not in _SIMILARITIES:
    raise _refused(
      path / 'config_sentence_transformers.json',
      'similarity_fn_name',
      given,
      "'cosine' or 'dot'",
    )
  if normalised:
    return 'cosine', ()
  if given is not None:
    return _SIMILARITIES[given], ()
  return 'dot', (
    f'{path.name!r} does not normalise its vectors and names no similarity, so '
    'documents are compared by the dot product. For the cosine: '
    '--config.query_encoder.similarity=cosine.',
  )


def _refused(
  path: pathlib.Path, name: str, value: Any, supported: str
) -> ValueError:
  return ValueError(
    f'{name} in {str(path)!r} must be {supported}, got {value!r}, which is not '
    'supported. Give the folder of another model.'
  )
